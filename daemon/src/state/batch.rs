//! A transaction as one message to the database's thread: statements and their values are put together first, and sent at once.
//!
//! A turn of that thread costs two wake-ups, as much as the work itself; a transaction of its own would take one for each statement. The
//! price: a statement can't look at what one before it did. What must hold is therefore written so that it fails by itself
//! where it does not.

use super::store::StoreError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, SqliteConnection};

/// A value for a `?`.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Owned(String),
    Int(i64),
    Bytes(&'a [u8]),
    Null,
}

impl<'a> From<Option<&'a [u8]>> for Value<'a> {
    fn from(value: Option<&'a [u8]>) -> Self {
        value.map_or(Self::Null, Self::Bytes)
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(value: Option<i64>) -> Self {
        value.map_or(Self::Null, Self::Int)
    }
}

impl From<Option<String>> for Value<'_> {
    fn from(value: Option<String>) -> Self {
        value.map_or(Self::Null, Self::Owned)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(value)
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Self::Owned(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::Bytes(value)
    }
}

/// Statements of one transaction.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    sql: String,
    arguments: SqliteArguments<'a>,
}

impl<'a> Batch<'a> {
    /// Adds a statement; it has one `?` for each value.
    pub(super) fn add<const N: usize>(&mut self, sql: &str, values: [Value<'a>; N]) -> Result<(), StoreError> {
        self.add_all(sql, values)
    }

    /// The same for a number of values that is not known when compiled.
    pub(super) fn add_all(&mut self, sql: &str, values: impl IntoIterator<Item = Value<'a>>) -> Result<(), StoreError> {
        self.sql.push_str(sql);
        self.sql.push(';');
        for value in values {
            let added = match value {
                Value::Text(text) => self.arguments.add(text),
                Value::Owned(text) => self.arguments.add(text),
                Value::Int(number) => self.arguments.add(number),
                Value::Bytes(bytes) => self.arguments.add(bytes),
                Value::Null => self.arguments.add(None::<i64>),
            };
            added.map_err(|error| StoreError::Database(sqlx::Error::Encode(error)))?;
        }
        Ok(())
    }

    /// All of it or nothing; durable when it returns.
    pub(super) async fn commit(self, db: &mut SqliteConnection) -> Result<(), StoreError> {
        let sql = format!("BEGIN;{}COMMIT", self.sql);
        let done = sqlx::query_with(&sql, self.arguments).execute(&mut *db).await;
        if done.is_err() {
            // A full disk may have ended the transaction already; then there is nothing to roll back.
            let _ = sqlx::query("ROLLBACK").execute(db).await;
        }
        Ok(done.map(drop)?)
    }
}
