//! Deliveries of ends.

use super::{Store, StoreError, TIMELINES, WITHOUT_RESULT, account, execution, id_of, result, small, uint};
use crate::manifest::SecretName;
use crate::manifest::notify::Destination;
use crate::notify::fair::{Candidate, Server};
use crate::notify::outbox::Due;
use crate::notify::{Delivery, Notify, Told};
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use crate::state::time::Timestamp;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use std::collections::HashMap;

const WHAT: &str = "delivery";

/// From one account and server to the next, by the index, whatever the number of their deliveries; and of each the first ones.
const DUE: &str = "\
    WITH RECURSIVE servers (account, authority) AS ( \
        SELECT account, authority FROM deliveries \
        WHERE execution = (SELECT execution FROM deliveries WHERE state = 'pending' ORDER BY account, authority LIMIT 1) \
        UNION ALL \
        SELECT later.account, later.authority FROM servers JOIN deliveries AS later ON later.execution = coalesce( \
            (SELECT execution FROM deliveries WHERE state = 'pending' AND account = servers.account AND authority > servers.authority \
             ORDER BY authority LIMIT 1), \
            (SELECT execution FROM deliveries WHERE state = 'pending' AND account > servers.account ORDER BY account, authority LIMIT 1)) \
    ) \
    SELECT due.execution, due.account, due.authority, due.next_at FROM servers JOIN deliveries AS due ON due.execution IN ( \
        SELECT execution FROM (SELECT execution FROM deliveries WHERE state = 'pending' AND account = servers.account \
            AND authority = servers.authority AND next_at <= $1 ORDER BY next_at LIMIT $3) AS now \
        UNION ALL \
        SELECT execution FROM (SELECT execution FROM deliveries WHERE state = 'pending' AND account = servers.account \
            AND authority = servers.authority AND next_at > $2 ORDER BY next_at LIMIT $3) AS far)";

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

fn due(row: &SqliteRow) -> Result<Due, StoreError> {
    Ok(Due {
        execution: id_of(row, "execution")?,
        account: account(row)?,
        ended_at: Timestamp(row.try_get::<Option<i64>, _>("ended_at")?.unwrap_or_default()),
        delivery: delivery(row)?,
    })
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

    /// The same for some that have ended, as many as there are.
    pub(super) async fn add_deliveries_to(&self, executions: &mut [Execution]) -> Result<(), StoreError> {
        for some in executions.chunks_mut(TIMELINES) {
            let sql = format!("SELECT * FROM deliveries WHERE execution IN ({})", vec!["?"; some.len()].join(", "));
            let query = some.iter().fold(sqlx::query(&sql), |query, execution| query.bind(execution.id.as_str().to_owned()));
            let rows = query.persistent(false).fetch_all(&self.reads).await?;
            let mut found: HashMap<String, &SqliteRow> = HashMap::with_capacity(rows.len());
            for row in &rows {
                found.insert(row.try_get("execution")?, row);
            }
            for execution in some {
                execution.notify = found.remove(execution.id.as_str()).and_then(readable);
            }
        }
        Ok(())
    }

    /// How many ends are to be told.
    pub async fn pending_count(&self) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT count(*) AS n FROM deliveries WHERE state = 'pending'").fetch_one(&self.reads).await?;
        uint(row.try_get("n")?, WHAT)
    }

    /// Deliveries that are due now, or only after `far`: of each account and server the first ones, `each` of both kinds.
    pub async fn due_deliveries(&self, now: Timestamp, far: Timestamp, each: usize) -> Result<Vec<Candidate>, StoreError> {
        let rows = sqlx::query(DUE).bind(now.0).bind(far.0).bind(i64::try_from(each).unwrap_or(i64::MAX)).fetch_all(&self.reads).await?;
        let candidate = |row: &SqliteRow| {
            let server = Server { account: row.try_get("account")?, authority: row.try_get("authority")? };
            Ok(Candidate { execution: row.try_get("execution")?, server, since: row.try_get("next_at")? })
        };
        rows.iter().map(candidate).collect()
    }

    /// Those of `executions` (a few at most) that are pending; of one that can't be read, its execution and why.
    pub async fn pending_deliveries(&self, executions: Vec<String>) -> Result<Vec<Result<Due, (String, StoreError)>>, StoreError> {
        let sql = format!("SELECT * FROM deliveries WHERE state = 'pending' AND execution IN ({})", vec!["?"; executions.len()].join(", "));
        let query = executions.into_iter().fold(sqlx::query(&sql), sqlx::query::Query::bind);
        let rows = query.persistent(false).fetch_all(&self.reads).await?;
        rows.iter().map(|row| Ok(due(row).map_err(|error| (row.try_get("execution").unwrap_or_default(), error)))).collect()
    }

    /// Executions that ended at or before a moment, `most` at most, and whose end is not told yet; the oldest first.
    pub async fn old_deliveries(&self, moment: Timestamp, most: u32) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT execution FROM deliveries WHERE state = 'pending' AND ended_at <= $1 ORDER BY ended_at LIMIT $2";
        let rows = sqlx::query(sql).bind(moment.0).bind(i64::from(most)).fetch_all(&self.reads).await?;
        rows.iter().map(|row| Ok(row.try_get("execution")?)).collect()
    }

    /// An execution without its timeline, the size of its result, and the result itself where that is no larger than `most`.
    pub async fn told(&self, id: &ExecutionId, most: usize) -> Result<Option<(Execution, Option<u64>)>, StoreError> {
        let sql = format!(
            "SELECT {WITHOUT_RESULT}, length(result) AS bytes, CASE WHEN length(result) <= $2 THEN result END AS result FROM executions WHERE id = $1"
        );
        let row = sqlx::query(&sql).bind(id.as_str().to_owned()).bind(i64::try_from(most).unwrap_or(i64::MAX));
        let Some(row) = row.fetch_optional(&self.reads).await? else { return Ok(None) };
        let mut found = execution(&row)?;
        found.result = result(&row)?;
        let bytes = row.try_get::<Option<i64>, _>("bytes")?.map(|bytes| uint(bytes, "result")).transpose()?;
        Ok(Some((found, bytes)))
    }
}
