//! What is asked of the database when an execution moves to another host.

use super::{Store, StoreError, calls_to, execution, id_of, result, uint};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use sqlx::Row;

impl Store {
    /// Executions of an account that this one has started and that have ended.
    pub async fn ended_below(&self, account: &AccountName, id: &ExecutionId) -> Result<Vec<ExecutionId>, StoreError> {
        // A child's id is larger than its parent's.
        let rows = sqlx::query("SELECT id FROM executions WHERE id > $1 AND parent = $1 AND account = $2 AND finished_at IS NOT NULL")
            .bind(id.as_str().to_owned())
            .bind(account.as_str().to_owned())
            .fetch_all(&self.reads)
            .await?;
        rows.iter().map(|row| id_of(row, "id")).collect()
    }

    /// One execution that has ended, with its result and without its timeline.
    pub async fn end(&self, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
        let row = sqlx::query("SELECT * FROM executions WHERE id = $1 AND finished_at IS NOT NULL").bind(id.as_str().to_owned());
        let Some(row) = row.fetch_optional(&self.reads).await? else { return Ok(None) };
        let mut end = execution(&row)?;
        end.result = result(&row)?;
        end.call_key = calls_to(&row)?;
        Ok(Some(end))
    }

    /// How many events of an execution were signalled, and the bytes of all data together.
    pub async fn signalled(&self, id: &ExecutionId) -> Result<(u64, u64), StoreError> {
        let row = sqlx::query(
            "SELECT count(*) AS n, coalesce(sum(length(signals.data)), 0) AS bytes FROM events JOIN signals ON signals.token = events.token \
             WHERE events.execution = $1",
        )
        .bind(id.as_str().to_owned())
        .fetch_one(&self.reads)
        .await?;
        Ok((uint(row.try_get("n")?, "events")?, uint(row.try_get("bytes")?, "events")?))
    }

    /// Tokens of all events of an execution, and what they were signalled with.
    pub async fn events(&self, id: &ExecutionId) -> Result<Vec<(String, Option<Vec<u8>>)>, StoreError> {
        let rows = sqlx::query(
            "SELECT events.token AS token, signals.data AS data FROM events LEFT JOIN signals ON signals.token = events.token \
             WHERE events.execution = $1 ORDER BY events.created_at, events.token",
        )
        .bind(id.as_str().to_owned())
        .fetch_all(&self.reads)
        .await?;
        rows.iter().map(|row| Ok((row.try_get("token")?, row.try_get("data")?))).collect()
    }
}
