//! How long things took, and what a further attempt finds of an earlier one.

use super::{Store, StoreError, calls_to, id_of};
use crate::manifest::AccountName;
use crate::schedule::estimates::{Kind, Of, Seen};
use crate::state::id::ExecutionId;
use crate::state::waiting::CallKey;
use sqlx::Row;
use std::collections::HashMap;
use std::sync::Arc;

/// Most rows that are read: the newest.
const MOST: i64 = 20_000;

impl Store {
    /// What earlier daemons have seen, oldest first.
    pub async fn durations(&self) -> Result<Vec<Seen>, StoreError> {
        let rows = sqlx::query("SELECT account, task, version, portion, kind, sketch FROM durations ORDER BY changed_at DESC LIMIT $1")
            .bind(MOST)
            .fetch_all(&self.reads)
            .await?;
        let mut seen = Vec::with_capacity(rows.len());
        for row in rows.iter().rev() {
            let text = |column| row.try_get::<String, _>(column).map(Arc::from);
            let of = Of { account: text("account")?, task: text("task")?, version: text("version")?, portion: text("portion")? };
            let (kind, sketch): (String, String) = (row.try_get("kind")?, row.try_get("sketch")?);
            let kind = Kind::from_name(&kind).ok_or_else(|| StoreError::damaged("durations")(kind))?;
            // A guess that can't be read is none.
            match serde_json::from_str(&sketch) {
                Ok(sketch) => seen.push(Seen { of, kind, sketch }),
                Err(error) => tracing::warn!(task = &*of.task, %error, "what is known of its durations can't be read and is left out"),
            }
        }
        Ok(seen)
    }

    /// The calls of an account's execution that succeeded, in whatever attempt.
    pub async fn done_calls(&self, account: &AccountName, parent: &ExecutionId) -> Result<HashMap<CallKey, ExecutionId>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, call_key FROM executions WHERE parent = $1 AND call_key IS NOT NULL AND state = 'succeeded' \
             AND account = $2 ORDER BY id",
        )
        .bind(parent.as_str().to_owned())
        .bind(account.as_str().to_owned())
        .fetch_all(&self.reads)
        .await?;
        rows.iter().filter_map(|row| calls_to(row).and_then(|key| Ok(key.zip(Some(id_of(row, "id")?)))).transpose()).collect()
    }
}
