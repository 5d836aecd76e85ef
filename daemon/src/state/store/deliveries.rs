//! Deliveries of ends.

use super::{Store, StoreError, small};
use crate::manifest::notify::Destination;
use crate::manifest::{AccountName, SecretName};
use crate::notify::outbox::Due;
use crate::notify::{Delivery, Notify, Told};
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use crate::state::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

const WHAT: &str = "delivery";

fn delivery(row: &SqliteRow) -> Result<Delivery, StoreError> {
    let (url, state): (String, String) = (row.try_get("url")?, row.try_get("state")?);
    let secret: Option<String> = row.try_get("secret")?;
    Ok(Delivery {
        id: row.try_get::<String, _>("id")?.into(),
        notify: Notify {
            url: Destination::parse(&url).map_err(StoreError::damaged(WHAT))?,
            secret: secret.map(SecretName::try_from).transpose().map_err(StoreError::damaged(WHAT))?,
        },
        state: Told::from_name(&state).ok_or_else(|| StoreError::damaged(WHAT)(&state))?,
        attempts: small(row.try_get("attempts")?, WHAT)?,
        next_at: row.try_get::<Option<i64>, _>("next_at")?.map(Timestamp),
        last: row.try_get("last")?,
        settled_at: row.try_get::<Option<i64>, _>("settled_at")?.map(Timestamp),
    })
}

/// One that can't be read holds up nothing else.
fn readable(row: &SqliteRow) -> Option<Delivery> {
    let execution = || row.try_get::<String, _>("execution").unwrap_or_default();
    delivery(row)
        .inspect_err(|error| tracing::warn!(execution = execution(), %error, "where this execution's end is told can't be read"))
        .ok()
}

impl Store {
    /// Adds to an execution where its end is told.
    pub(super) async fn add_delivery(&self, execution: &mut Execution) -> Result<(), StoreError> {
        let query = sqlx::query("SELECT * FROM deliveries WHERE execution = $1").bind(execution.id.as_str().to_owned());
        execution.notify = query.fetch_optional(&self.reads).await?.as_ref().and_then(readable);
        Ok(())
    }

    /// The same for all that have not ended.
    pub(super) async fn add_deliveries(&self, executions: &mut [Execution]) -> Result<(), StoreError> {
        let rows = sqlx::query("SELECT * FROM deliveries WHERE state = 'waiting'").fetch_all(&self.reads).await?;
        let found = rows.iter().filter_map(|row| Some((row.try_get("execution").ok()?, readable(row)?)));
        let mut found: HashMap<String, Delivery> = found.collect();
        for execution in executions {
            execution.notify = found.remove(execution.id.as_str());
        }
        Ok(())
    }

    /// Deliveries that were not tried yet, are due now, or only after `far`; at most `each` of an account to a server. Those that were tried least come first.
    pub async fn due_deliveries(&self, now: Timestamp, far: Timestamp, each: u32, most: usize) -> Result<Vec<Due>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY account, authority ORDER BY attempts, next_at, execution) AS place \
             FROM deliveries WHERE state = 'pending' AND (attempts = 0 OR next_at <= $1 OR next_at > $2)) AS due \
             WHERE place <= $3 ORDER BY attempts, next_at, execution LIMIT $4",
        )
        .bind(now.0)
        .bind(far.0)
        .bind(i64::from(each))
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .fetch_all(&self.reads)
        .await?;
        let due = |row: &SqliteRow| {
            let id: String = row.try_get("execution")?;
            Ok(Due {
                execution: ExecutionId::parse(&id).ok_or_else(|| StoreError::damaged(WHAT)(&id))?,
                account: AccountName::try_from(row.try_get::<String, _>("account")?).map_err(StoreError::damaged(WHAT))?,
                ended_at: Timestamp(row.try_get::<Option<i64>, _>("ended_at")?.unwrap_or_default()),
                delivery: delivery(row)?,
            })
        };
        rows.iter().map(due).collect()
    }
}
