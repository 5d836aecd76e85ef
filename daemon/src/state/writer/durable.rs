//! Idempotency keys.

use super::super::batch::Batch;
use super::{ExecutionId, StoreError, Timestamp};
use crate::idempotency::{KEPT, NewKey};

pub(super) fn put_key<'a>(batch: &mut Batch<'a>, key: &'a NewKey, execution: &'a ExecutionId) -> Result<(), StoreError> {
    let (account, name) = (&*key.account, key.key.as_str());
    let values = [account.into(), name.into(), key.at.before(KEPT).0.into()];
    batch.add("DELETE FROM idempotency WHERE account = ? AND key = ? AND created_at <= ?", values)?;
    let values = [account.into(), name.into(), key.request.as_str().into(), execution.as_str().into(), key.at.0.into()];
    batch.add("INSERT INTO idempotency (account, key, request, execution, created_at) VALUES (?, ?, ?, ?, ?)", values)
}

pub(super) fn remove_keys(batch: &mut Batch<'_>, moment: Timestamp, most: u32) -> Result<(), StoreError> {
    batch.add(
        "DELETE FROM idempotency WHERE execution IN (SELECT execution FROM idempotency WHERE created_at <= ? ORDER BY created_at LIMIT ?)",
        [moment.0.into(), i64::from(most).into()],
    )
}
