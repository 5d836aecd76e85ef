//! Accounts, and who has one.

use super::super::batch::{Batch, Value};
use super::StoreError;
use crate::accounts::token::Token;
use crate::accounts::{Account, Uid};
use crate::manifest::AccountName;

pub(super) fn put<'a>(batch: &mut Batch<'a>, account: &'a Account) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO accounts (name, weight, created_at) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET weight = excluded.weight",
        [account.name.as_str().into(), i64::from(account.weight).into(), account.created_at.0.into()],
    )
}

/// Tasks and secrets refer to their account, executions and schedules do not: where it has one, the name that is put is null, which the table refuses.
pub(super) fn remove<'a>(batch: &mut Batch<'a>, name: &'a AccountName) -> Result<(), StoreError> {
    let account = || Value::from(name.as_str());
    for table in ["executions", "schedules"] {
        batch.add(
            &format!(
                "INSERT INTO accounts (name, weight, created_at) SELECT NULL, 1, 0 WHERE EXISTS (SELECT 1 FROM {table} WHERE account = ?)"
            ),
            [account()],
        )?;
    }
    for table in ["durations", "idempotency"] {
        batch.add(&format!("DELETE FROM {table} WHERE account = ?"), [account()])?;
    }
    batch.add("DELETE FROM accounts WHERE name = ?", [account()])
}

pub(super) fn put_uid<'a>(batch: &mut Batch<'a>, uid: &'a Uid) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO account_uids (uid, account, role, created_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (uid) DO UPDATE SET account = excluded.account, role = excluded.role, created_at = excluded.created_at",
        [i64::from(uid.uid).into(), uid.account.as_str().into(), uid.role.name().into(), uid.created_at.0.into()],
    )
}

pub(super) fn put_token<'a>(batch: &mut Batch<'a>, token: &'a Token) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO account_tokens (id, account, role, hash, note, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            token.id.as_str().into(),
            token.account.as_str().into(),
            token.role.name().into(),
            token.hash.as_bytes().as_slice().into(),
            token.note.as_str().into(),
            token.created_at.0.into(),
            token.expires_at.map(|at| at.0).into(),
        ],
    )
}
