//! Idempotency keys.

use super::{Store, StoreError, uint};
use crate::idempotency::{KEPT, Key};
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use sqlx::Row;
use std::collections::HashMap;

/// A key that is there.
#[derive(Debug)]
pub struct KnownKey {
    /// Hash of the request that came with it.
    pub request: String,
    /// What became of that.
    pub execution: ExecutionId,
}

impl Store {
    /// What a key of an account stands for, unless it is too old.
    pub async fn key(&self, account: &str, key: &Key, now: Timestamp) -> Result<Option<KnownKey>, StoreError> {
        let row = sqlx::query("SELECT request, execution FROM idempotency WHERE account = $1 AND key = $2 AND created_at > $3")
            .bind(account)
            .bind(key.as_str())
            .bind(now.before(KEPT).0)
            .fetch_optional(&self.reads)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let id: String = row.try_get("execution")?;
        let execution = ExecutionId::parse(&id).ok_or_else(|| StoreError::damaged("idempotency key")(&id))?;
        Ok(Some(KnownKey { request: row.try_get("request")?, execution }))
    }

    /// How many keys, `most` at most, were made at or before a moment.
    pub async fn old_keys(&self, moment: Timestamp, most: u32) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS n FROM (SELECT 1 FROM idempotency WHERE created_at <= $1 LIMIT $2) AS old")
            .bind(moment.0)
            .bind(i64::from(most))
            .fetch_one(&self.reads)
            .await?;
        uint(row.try_get("n")?, "idempotency keys")
    }

    /// How many keys each account has.
    pub async fn key_counts(&self) -> Result<HashMap<String, u64>, StoreError> {
        let rows = sqlx::query("SELECT account, count(*) AS n FROM idempotency GROUP BY account").fetch_all(&self.reads).await?;
        rows.iter().map(|row| Ok((row.try_get("account")?, uint(row.try_get("n")?, "idempotency keys")?))).collect()
    }
}
