//! What is asked of the database for executions that wait: how others ended, what was signalled, whose machines are on disk.

use super::{Store, StoreError, TIMELINES, WITHOUT_RESULT, account, execution, id_of, machine, uint};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use crate::state::waiting::Parked;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

fn owned_event(row: &SqliteRow) -> Result<(ExecutionId, Option<Vec<u8>>), StoreError> {
    Ok((id_of(row, "execution")?, row.try_get("data")?))
}

impl Store {
    /// How executions ended, those of `ids` that have, without their results.
    pub async fn ends(&self, ids: &[ExecutionId]) -> Result<Vec<Execution>, StoreError> {
        let mut ends = Vec::new();
        for some in ids.chunks(TIMELINES) {
            let marks = vec!["?"; some.len()].join(", ");
            let sql = format!("SELECT {WITHOUT_RESULT} FROM executions WHERE id IN ({marks}) AND finished_at IS NOT NULL");
            let query = some.iter().fold(sqlx::query(&sql), |query, id| query.bind(id.as_str().to_owned()));
            for row in query.persistent(some.len() == 1).fetch_all(&self.reads).await? {
                ends.push(execution(&row)?);
            }
        }
        Ok(ends)
    }

    /// The execution that made an event, and what it was signalled with.
    pub async fn event(&self, token: &str) -> Result<Option<(ExecutionId, Option<Vec<u8>>)>, StoreError> {
        let row = sqlx::query(
            "SELECT events.execution AS execution, signals.data AS data FROM events LEFT JOIN signals ON signals.token = events.token \
             WHERE events.token = $1",
        )
        .bind(token.to_owned())
        .fetch_optional(&self.reads)
        .await?;
        row.as_ref().map(owned_event).transpose()
    }

    /// The same for an event of an account.
    pub async fn event_of(&self, account: &AccountName, token: &str) -> Result<Option<(ExecutionId, Option<Vec<u8>>)>, StoreError> {
        let row = sqlx::query(
            "SELECT events.execution AS execution, signals.data AS data FROM events JOIN executions ON executions.id = events.execution \
             LEFT JOIN signals ON signals.token = events.token WHERE events.token = $1 AND executions.account = $2",
        )
        .bind(token.to_owned())
        .bind(account.as_str())
        .fetch_optional(&self.reads)
        .await?;
        row.as_ref().map(owned_event).transpose()
    }

    /// How many events an execution has made.
    pub async fn events_of(&self, id: &ExecutionId) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS n FROM events WHERE execution = $1")
            .bind(id.as_str().to_owned())
            .fetch_one(&self.reads)
            .await?;
        uint(row.try_get("n")?, "events")
    }

    /// The machines of all executions that are parked.
    pub async fn machines(&self) -> Result<Vec<(AccountName, Parked)>, StoreError> {
        let rows = sqlx::query("SELECT account, parked FROM executions WHERE finished_at IS NULL AND parked IS NOT NULL")
            .fetch_all(&self.reads)
            .await?;
        rows.iter().map(|row| Ok((account(row)?, machine(&row.try_get::<String, _>("parked")?)?))).collect()
    }

    /// What is kept of the executions of each account that have ended, in bytes.
    pub async fn history_sizes(&self) -> Result<HashMap<AccountName, u64>, StoreError> {
        let rows = sqlx::query("SELECT account, bytes FROM history").fetch_all(&self.reads).await?;
        rows.iter().map(|row| Ok((account(row)?, uint(row.try_get("bytes")?, "history")?))).collect()
    }

    /// Bytes of the inputs that are kept.
    pub async fn input_sizes(&self) -> Result<HashMap<ExecutionId, u64>, StoreError> {
        let rows = sqlx::query("SELECT execution, length(body) AS bytes FROM inputs").fetch_all(&self.reads).await?;
        rows.iter().map(|row| Ok((id_of(row, "execution")?, uint(row.try_get("bytes")?, "input")?))).collect()
    }
}
