//! The only one who writes to the database: takes changes in the order in which they were sent and groups those that wait into one
//! transaction, since each commit costs a sync of the disk.
//!
//! Invariant: a change is answered only after the transaction that holds it is durable, or after it is certain that it is not in the
//! database. When a group fails, each of its changes is tried alone, so that one bad change does no harm to others.

use super::id::ExecutionId;
use super::machine::State;
use super::record::{Execution, TimelineEntry, Version};
use super::store::StoreError;
use crate::manifest::TaskName;
use sqlx::SqliteConnection;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Most changes in one transaction.
const GROUP: usize = 64;

/// One change of what is stored. Changes are checked against what is there: one that does not fit is refused and changes nothing.
#[derive(Debug)]
pub enum Change {
    /// A version, which becomes its task's newest; the task is made where it is missing.
    PutVersion(Arc<Version>),
    /// A task with all its versions.
    RemoveTask(TaskName),
    /// A new execution and its input.
    Insert {
        /// With its timeline so far.
        execution: Arc<Execution>,
        /// JSON text.
        input: Arc<[u8]>,
    },
    /// An execution went on.
    Update {
        /// The whole of it as it is now.
        execution: Arc<Execution>,
        /// The state that the database has.
        stored: State,
        /// How many entries of the timeline the database has.
        timeline: usize,
    },
}

/// A change and who waits for it.
pub(super) struct Request {
    pub(super) change: Change,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

async fn put_version(db: &mut SqliteConnection, version: &Version) -> Result<(), StoreError> {
    let (task, hash, at) = (version.task.as_str(), &*version.version, version.created_at.0);
    sqlx::query(
        "INSERT INTO tasks (name, latest, created_at) VALUES ($1, $2, $3) ON CONFLICT (name) DO UPDATE SET latest = excluded.latest",
    )
    .bind(task)
    .bind(hash)
    .bind(at)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "INSERT INTO versions (task, version, runtime, entry, memory_mib, timeout_ms, retries, log_cap, code_bytes, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (task, version) DO NOTHING",
    )
    .bind(task)
    .bind(hash)
    .bind(version.entry.runtime().name())
    .bind(version.entry.to_string())
    .bind(i64::from(version.policy.memory_mib))
    .bind(int(version.policy.timeout_ms))
    .bind(i64::from(version.policy.retries))
    .bind(int(version.policy.log_cap))
    .bind(int(version.code_bytes))
    .bind(at)
    .execute(db)
    .await?;
    Ok(())
}

async fn timeline(db: &mut SqliteConnection, id: &ExecutionId, entries: &[TimelineEntry], first: usize) -> Result<(), StoreError> {
    for (entry, seq) in entries.iter().zip(first..) {
        let event = serde_json::to_string(&entry.what).map_err(StoreError::damaged("timeline"))?;
        sqlx::query("INSERT INTO timeline (execution, seq, at, event) VALUES ($1, $2, $3, $4)")
            .bind(id.as_str())
            .bind(int(seq as u64))
            .bind(entry.at.0)
            .bind(event)
            .execute(&mut *db)
            .await?;
    }
    Ok(())
}

async fn insert(db: &mut SqliteConnection, execution: &Execution, input: &[u8]) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO executions (id, task, version, state, attempts, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(execution.id.as_str())
        .bind(execution.task.as_str())
        .bind(&*execution.version)
        .bind(execution.state.name())
        .bind(i64::from(execution.attempts))
        .bind(execution.created_at.0)
        .execute(&mut *db)
        .await?;
    sqlx::query("INSERT INTO inputs (execution, body) VALUES ($1, $2)").bind(execution.id.as_str()).bind(input).execute(&mut *db).await?;
    timeline(db, &execution.id, &execution.timeline, 0).await
}

async fn update(db: &mut SqliteConnection, execution: &Execution, stored: State, known: usize) -> Result<(), StoreError> {
    let id = execution.id.as_str();
    let error = execution.error.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("error"))?;
    let done = sqlx::query(
        "UPDATE executions SET state = $1, attempts = $2, started_at = $3, finished_at = $4, error = $5 WHERE id = $6 AND state = $7",
    )
    .bind(execution.state.name())
    .bind(i64::from(execution.attempts))
    .bind(execution.started_at.map(|at| at.0))
    .bind(execution.finished_at.map(|at| at.0))
    .bind(error)
    .bind(id)
    .bind(stored.name())
    .execute(&mut *db)
    .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Conflict { id: execution.id.clone(), expected: stored });
    }
    if let Some(result) = &execution.result {
        let body = result.get().as_bytes();
        sqlx::query("INSERT INTO results (execution, body) VALUES ($1, $2)").bind(id).bind(body).execute(&mut *db).await?;
    }
    if execution.state.ended() {
        sqlx::query("DELETE FROM inputs WHERE execution = $1").bind(id).execute(&mut *db).await?;
    }
    timeline(db, &execution.id, execution.timeline.get(known..).unwrap_or_default(), known).await
}

async fn apply(db: &mut SqliteConnection, change: &Change) -> Result<(), StoreError> {
    match change {
        Change::PutVersion(version) => put_version(db, version).await,
        Change::RemoveTask(name) => {
            sqlx::query("DELETE FROM tasks WHERE name = $1").bind(name.as_str()).execute(db).await?;
            Ok(())
        }
        Change::Insert { execution, input } => insert(db, execution, input).await,
        Change::Update { execution, stored, timeline } => update(db, execution, *stored, *timeline).await,
    }
}

/// All of `changes` or none.
async fn commit(db: &mut SqliteConnection, changes: &[Request]) -> Result<(), StoreError> {
    sqlx::query("BEGIN").execute(&mut *db).await?;
    let mut result = Ok(());
    for request in changes {
        result = apply(db, &request.change).await;
        if result.is_err() {
            break;
        }
    }
    if result.is_ok() {
        result = sqlx::query("COMMIT").execute(&mut *db).await.map(drop).map_err(StoreError::from);
    }
    if result.is_err() {
        // A full disk may have ended the transaction already; then there is nothing to roll back.
        let _ = sqlx::query("ROLLBACK").execute(db).await;
    }
    result
}

/// Writes until nobody can send any more.
pub(super) async fn run(mut db: SqliteConnection, mut requests: mpsc::Receiver<Request>, committed: impl Fn(usize, std::time::Duration)) {
    let mut group = Vec::with_capacity(GROUP);
    while requests.recv_many(&mut group, GROUP).await > 0 {
        let begin = std::time::Instant::now();
        let together = commit(&mut db, &group).await;
        committed(group.len(), begin.elapsed());
        let alone = group.len() == 1;
        let mut together = Some(together);
        for request in group.drain(..) {
            let result = match together {
                Some(Ok(())) => Ok(()),
                Some(Err(_)) if alone => together.take().unwrap_or(Ok(())),
                _ => commit(&mut db, std::slice::from_ref(&request)).await,
            };
            // Who asked may be gone; what was committed stays.
            let _ = request.done.send(result);
        }
    }
    use sqlx::Connection;
    if let Err(error) = db.close().await {
        tracing::warn!(%error, "the database did not close cleanly");
    }
}
