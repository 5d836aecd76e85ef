//! Schedules.

use super::{Store, StoreError, name, small};
use crate::cron::rule::Rule;
use crate::cron::{Fired, Missed, Need, Overlap, Schedule, Skipped};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::sync::Arc;
use torpor_protocol::ask::OnLate;

/// The schedule that made an execution.
pub(super) fn fired(row: &SqliteRow) -> Result<Option<Fired>, StoreError> {
    let (id, at): (Option<String>, Option<i64>) = (row.try_get("schedule")?, row.try_get("fire_at")?);
    Ok(id.zip(at).map(|(id, at)| Fired { id: id.into(), at: Timestamp(at) }))
}

const WHAT: &str = "schedule";

fn need(row: &SqliteRow) -> Result<Option<Need>, StoreError> {
    let (by_s, on_late): (Option<i64>, Option<String>) = (row.try_get("need_by_s")?, row.try_get("on_late")?);
    let Some(by_s) = by_s else { return Ok(None) };
    let known = |name: &str| OnLate::from_name(name).ok_or_else(|| StoreError::damaged(WHAT)(name));
    let on_late = on_late.as_deref().map(known).transpose()?.unwrap_or_default();
    Ok(Some(Need { by_s: small(by_s, WHAT)?, on_late }))
}

fn schedule(row: &SqliteRow) -> Result<Schedule, StoreError> {
    let (missed, overlap): (String, String) = (row.try_get("missed")?, row.try_get("overlap")?);
    let rule = Rule::parse(row.try_get("cron")?, row.try_get("timezone")?).map_err(StoreError::damaged(WHAT))?;
    let notify: Option<String> = row.try_get("notify")?;
    let last: Option<String> = row.try_get("last")?;
    let (skipped, skipped_at): (Option<String>, Option<i64>) = (row.try_get("skipped")?, row.try_get("skipped_at")?);
    Ok(Schedule {
        id: row.try_get::<String, _>("id")?.into(),
        account: AccountName::try_from(row.try_get::<String, _>("account")?).map_err(StoreError::damaged(WHAT))?,
        name: name(row.try_get("name")?)?,
        task: row.try_get("task")?,
        rule,
        missed: Missed::from_name(&missed).ok_or_else(|| StoreError::damaged(WHAT)(&missed))?,
        overlap: Overlap::from_name(&overlap).ok_or_else(|| StoreError::damaged(WHAT)(&overlap))?,
        need: need(row)?,
        notify: notify.map(|text| serde_json::from_str(&text)).transpose().map_err(StoreError::damaged(WHAT))?,
        paused: row.try_get::<i64, _>("paused")? != 0,
        created_at: Timestamp(row.try_get("created_at")?),
        fired_to: Timestamp(row.try_get("fired_to")?),
        last: last.map(|id| ExecutionId::parse(&id).ok_or_else(|| StoreError::damaged(WHAT)(&id))).transpose()?,
        skipped: skipped.zip(skipped_at).map(|(message, at)| Skipped { at: Timestamp(at), message }),
    })
}

/// A schedule that can't be read: written by another version, whose zones or expressions this one does not know, or damaged.
#[derive(Debug)]
pub struct Unreadable {
    /// Whose it is.
    pub account: String,
    /// What people call it.
    pub name: String,
    /// Its id.
    pub id: Arc<str>,
    /// Why.
    pub why: StoreError,
}

fn readable(row: &SqliteRow) -> Result<Result<Schedule, Unreadable>, StoreError> {
    let (account, name, id) = (row.try_get("account")?, row.try_get("name")?, row.try_get::<String, _>("id")?.into());
    Ok(schedule(row).map_err(|why| Unreadable { account, name, id, why }))
}

impl Store {
    /// All of them.
    pub async fn schedules(&self) -> Result<Vec<Result<Schedule, Unreadable>>, StoreError> {
        let rows = sqlx::query(
            "SELECT account, name, id, task, cron, timezone, missed, overlap, need_by_s, on_late, notify, paused, created_at, fired_to, last, skipped, skipped_at \
             FROM schedules ORDER BY account, name",
        )
        .fetch_all(&self.reads)
        .await?;
        rows.iter().map(readable).collect()
    }

    /// What the executions of a schedule get.
    pub async fn schedule_input(&self, id: &str) -> Result<Vec<u8>, StoreError> {
        let row = sqlx::query("SELECT input FROM schedules WHERE id = $1").bind(id.to_owned()).fetch_optional(&self.reads).await?;
        let row = row.ok_or_else(|| StoreError::damaged("schedules")(format!("{id} is not there")))?;
        Ok(row.try_get("input")?)
    }
}
