//! Accounts, and who has one.

use super::ended::{REMOVED_AT_ONCE, removable};
use super::{Store, StoreError, account, small, uint};
use crate::accounts::token::{Token, TokenId};
use crate::accounts::{Account, Known, Role, Uid};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::sync::Arc;

/// What belongs to an account, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Belongings {
    /// Tasks.
    pub tasks: u64,
    /// Secrets.
    pub secrets: u64,
    /// Schedules.
    pub schedules: u64,
    /// Executions that have not ended.
    pub going_on: u64,
    /// Executions that have.
    pub ended: u64,
}

impl Belongings {
    /// For people; nothing where there is nothing.
    #[must_use]
    pub fn said(&self) -> Option<String> {
        let parts = [
            (self.tasks, "tasks"),
            (self.secrets, "secrets"),
            (self.schedules, "schedules"),
            (self.going_on, "executions that have not ended"),
            (self.ended, "executions that ended and are kept (--with-history removes them)"),
        ];
        let said: Vec<String> = parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        (!said.is_empty()).then(|| said.join(", "))
    }
}

fn role(row: &SqliteRow) -> Result<Role, StoreError> {
    let name: String = row.try_get("role")?;
    Role::from_name(&name).ok_or_else(|| StoreError::damaged("role")(name))
}

fn token(row: &SqliteRow) -> Result<Token, StoreError> {
    let (id, hash): (String, Vec<u8>) = (row.try_get("id")?, row.try_get("hash")?);
    Ok(Token {
        id: TokenId::parse(&id).ok_or_else(|| StoreError::damaged("token")(id))?,
        account: account(row)?,
        role: role(row)?,
        hash: blake3::Hash::from_slice(&hash).map_err(StoreError::damaged("token"))?,
        note: row.try_get("note")?,
        created_at: Timestamp(row.try_get("created_at")?),
        expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(Timestamp),
    })
}

impl Store {
    /// All accounts, user ids and tokens.
    pub async fn known_accounts(&self) -> Result<Known, StoreError> {
        let mut known = Known::default();
        for row in sqlx::query("SELECT * FROM accounts").fetch_all(&self.reads).await? {
            let name = AccountName::try_from(row.try_get::<String, _>("name")?).map_err(StoreError::damaged("account"))?;
            let weight = small(row.try_get("weight")?, "weight")?.max(1);
            let created_at = Timestamp(row.try_get("created_at")?);
            known.accounts.insert(name.clone(), Account { name, weight, created_at });
        }
        for row in sqlx::query("SELECT * FROM account_uids").fetch_all(&self.reads).await? {
            let uid = small(row.try_get("uid")?, "user id")?;
            let created_at = Timestamp(row.try_get("created_at")?);
            known.uids.insert(uid, Uid { uid, account: account(&row)?, role: role(&row)?, created_at });
        }
        for row in sqlx::query("SELECT * FROM account_tokens").fetch_all(&self.reads).await? {
            let token = Arc::new(token(&row)?);
            known.tokens.insert(token.id.clone(), token);
        }
        Ok(known)
    }

    /// What belongs to an account.
    pub async fn belongs_to(&self, account: &AccountName) -> Result<Belongings, StoreError> {
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM tasks WHERE account = $1) AS tasks, (SELECT count(*) FROM secrets WHERE account = $1) AS secrets, \
             (SELECT count(*) FROM schedules WHERE account = $1) AS schedules, \
             (SELECT count(*) FROM executions WHERE account = $1 AND finished_at IS NULL) AS going_on, \
             (SELECT count(*) FROM executions WHERE account = $1 AND finished_at IS NOT NULL) AS ended",
        )
        .bind(account.as_str())
        .fetch_one(&self.reads)
        .await?;
        let count = |column| uint(row.try_get(column)?, "count");
        Ok(Belongings {
            tasks: count("tasks")?,
            secrets: count("secrets")?,
            schedules: count("schedules")?,
            going_on: count("going_on")?,
            ended: count("ended")?,
        })
    }

    /// Some executions of an account that have ended, as many as may be removed at once; none if there are none.
    pub async fn history(&self, account: &AccountName) -> Result<Vec<ExecutionId>, StoreError> {
        let sql = "SELECT id, coalesce(length(result), 0) AS bytes FROM executions WHERE account = $1 AND finished_at IS NOT NULL ORDER BY id LIMIT $2";
        let rows = sqlx::query(sql).bind(account.as_str().to_owned()).bind(i64::from(REMOVED_AT_ONCE.0)).fetch_all(&self.reads).await?;
        removable(&rows)
    }
}
