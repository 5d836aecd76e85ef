//! Executions that ended: what of them is listed, and what may be removed.

use super::{Store, StoreError, WITHOUT_RESULT, execution, id_of, uint};
use crate::manifest::AccountName;
use crate::notify::Told;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Most executions, and bytes of their results, that are removed at once: while they are, other commits wait.
pub(super) const REMOVED_AT_ONCE: (u32, u64) = (64, 16 << 20);

/// Which executions to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this account.
    pub account: AccountName,
    /// Of this task only.
    pub task: Option<String>,
    /// In this state only.
    pub state: Option<State>,
    /// Whose end is told so far only.
    pub notify: Option<Told>,
    /// At most so many.
    pub limit: u32,
}

/// The first of these, with ids and sizes of results: as many as may be removed at once.
pub(super) fn removable(rows: &[SqliteRow]) -> Result<Vec<ExecutionId>, StoreError> {
    let (mut ids, mut bytes) = (Vec::with_capacity(rows.len()), 0);
    for row in rows {
        bytes += uint(row.try_get("bytes")?, "result")?;
        if bytes > REMOVED_AT_ONCE.1 && !ids.is_empty() {
            break;
        }
        ids.push(id_of(row, "id")?);
    }
    Ok(ids)
}

impl Store {
    /// Executions of an account that ended, newest first, without their results.
    pub async fn ended(&self, filter: &Filter) -> Result<Vec<Execution>, StoreError> {
        let rows = sqlx::query(&format!(
            "SELECT {WITHOUT_RESULT} FROM executions \
             WHERE account = $4 AND finished_at IS NOT NULL AND ($1 IS NULL OR task = $1) AND ($2 IS NULL OR state = $2) \
             AND ($5 IS NULL OR EXISTS (SELECT 1 FROM deliveries WHERE execution = executions.id AND deliveries.state = $5)) \
             ORDER BY id DESC LIMIT $3"
        ))
        .bind(filter.task.as_deref())
        .bind(filter.state.map(State::name))
        .bind(i64::from(filter.limit))
        .bind(filter.account.as_str())
        .bind(filter.notify.map(Told::name))
        .fetch_all(&self.reads)
        .await?;
        let mut executions = rows.iter().map(execution).collect::<Result<Vec<_>, _>>()?;
        self.add_timelines(&mut executions).await?;
        self.add_deliveries_to(&mut executions).await?;
        Ok(executions)
    }

    /// Where ids end of what ended at or before a moment: it was accepted by then. That bounds what is looked at, without an index that every end would have to write.
    /// None where ids are ahead of the clock, since that went back: then they say nothing.
    pub async fn ids_until(&self, moment: Timestamp, now: Timestamp) -> Result<Option<ExecutionId>, StoreError> {
        let after = |moment: Timestamp| ExecutionId::first_of(moment.later(1000));
        let ahead = self.last_id().await?.is_some_and(|last| last >= after(now));
        Ok((!ahead).then(|| after(moment)))
    }

    /// Some executions that ended at or before this moment, with ids between these two, the first of those; none if there are none. Left out is what an idempotency key
    /// names, what is still to be told, and what has a parent that has not ended.
    pub async fn ended_by(
        &self,
        moment: Timestamp,
        (after, until): (Option<&ExecutionId>, Option<&ExecutionId>),
    ) -> Result<Vec<ExecutionId>, StoreError> {
        let text = |id: Option<&ExecutionId>, none: &str| id.map_or(none, ExecutionId::as_str).to_owned();
        let rows = sqlx::query(
            "SELECT id, coalesce(length(result), 0) AS bytes FROM executions WHERE id > $1 AND id < $2 AND finished_at <= $3 \
             AND NOT EXISTS (SELECT 1 FROM idempotency WHERE execution = executions.id) \
             AND NOT EXISTS (SELECT 1 FROM executions AS parents WHERE parents.id = executions.parent AND parents.finished_at IS NULL) \
             AND NOT EXISTS (SELECT 1 FROM deliveries WHERE execution = executions.id AND state = 'pending') ORDER BY id LIMIT $4",
        )
        .bind(text(after, ""))
        // After every id.
        .bind(text(until, "f"))
        .bind(moment.0)
        .bind(i64::from(REMOVED_AT_ONCE.0))
        .fetch_all(&self.reads)
        .await?;
        removable(&rows)
    }
}
