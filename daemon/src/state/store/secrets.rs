//! Secrets, as unreadable as they are stored.

use super::{Store, StoreError, account};
use crate::manifest::SecretName;
use crate::secrets::StoredSecret;
use crate::secrets::seal::{KeyId, Sealed};
use crate::state::time::Timestamp;
use sqlx::Row;

impl Store {
    /// Those of all accounts.
    pub async fn secrets(&self) -> Result<Vec<StoredSecret>, StoreError> {
        let rows = sqlx::query("SELECT * FROM secrets ORDER BY account, name").fetch_all(&self.reads).await?;
        let secret = |row: &sqlx::sqlite::SqliteRow| {
            let name: String = row.try_get("name")?;
            let sealed =
                Sealed { master: KeyId::from_text(row.try_get("master")?), nonce: row.try_get("nonce")?, bytes: row.try_get("sealed")? };
            Ok(StoredSecret {
                account: account(row)?,
                name: SecretName::try_from(name).map_err(StoreError::damaged("name of a secret"))?,
                sealed,
                created_at: Timestamp(row.try_get("created_at")?),
                changed_at: Timestamp(row.try_get("changed_at")?),
            })
        };
        rows.iter().map(secret).collect()
    }
}
