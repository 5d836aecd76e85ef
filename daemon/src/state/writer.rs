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
use sqlx::{Connection, SqliteConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Most changes in one transaction.
const GROUP: usize = 64;
/// Most entries of a timeline in one statement.
const TIMELINE_ROWS: usize = 16;
/// Most executions whose inputs wait for their removal; those of others are removed at the next start.
const MOST_ENDED: usize = 4 * GROUP;
/// How long inputs of executions that have ended are left where they are when there is no other work.
const IDLE: Duration = Duration::from_secs(1);

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

/// Entries from number `first` on, many with one statement: each statement costs a turn of the database's thread.
async fn timeline(db: &mut SqliteConnection, id: &ExecutionId, entries: &[TimelineEntry], first: usize) -> Result<(), StoreError> {
    let mut seq = first as u64;
    for some in entries.chunks(TIMELINE_ROWS) {
        let rows: Vec<String> =
            (0..some.len()).map(|n| 4 * n).map(|n| format!("(${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4)).collect();
        let sql = format!("INSERT INTO timeline (execution, seq, at, event) VALUES {}", rows.join(", "));
        let mut query = sqlx::query(&sql);
        for entry in some {
            let event = serde_json::to_string(&entry.what).map_err(StoreError::damaged("timeline"))?;
            query = query.bind(id.as_str()).bind(int(seq)).bind(entry.at.0).bind(event);
            seq += 1;
        }
        query.execute(&mut *db).await?;
    }
    Ok(())
}

/// Inputs of executions that have ended; not part of their last commit, which somebody waits for.
async fn forget_inputs(db: &mut SqliteConnection, ended: &[ExecutionId]) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let marks: Vec<String> = (1..=ended.len()).map(|n| format!("${n}")).collect();
    let sql = format!("DELETE FROM inputs WHERE execution IN ({})", marks.join(", "));
    let query = ended.iter().fold(sqlx::query(&sql), |query, id| query.bind(id.as_str()));
    query.execute(db).await?;
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
    let error = execution.error.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("error"))?;
    let done = sqlx::query(
        "UPDATE executions SET state = $1, attempts = $2, started_at = $3, finished_at = $4, error = $5, result = $6 \
         WHERE id = $7 AND state = $8",
    )
    .bind(execution.state.name())
    .bind(i64::from(execution.attempts))
    .bind(execution.started_at.map(|at| at.0))
    .bind(execution.finished_at.map(|at| at.0))
    .bind(error)
    .bind(execution.result.as_ref().map(|result| result.get().as_bytes()))
    .bind(execution.id.as_str())
    .bind(stored.name())
    .execute(&mut *db)
    .await?;
    if done.rows_affected() != 1 {
        return Err(StoreError::Conflict { id: execution.id.clone(), expected: stored });
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

/// All of `changes` or none, and with them the inputs of what `ended` before.
async fn commit(db: &mut SqliteConnection, changes: &[Request], ended: &[ExecutionId]) -> Result<(), StoreError> {
    sqlx::query("BEGIN").execute(&mut *db).await?;
    let mut result = forget_inputs(db, ended).await;
    for request in changes {
        if result.is_err() {
            break;
        }
        result = apply(db, &request.change).await;
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
pub(super) async fn run(mut db: SqliteConnection, mut requests: mpsc::Receiver<Request>, committed: impl Fn(usize, Duration)) {
    let mut group = Vec::with_capacity(GROUP);
    let mut ended: Vec<ExecutionId> = Vec::new();
    loop {
        let receive = requests.recv_many(&mut group, GROUP);
        let received = if ended.is_empty() { Ok(receive.await) } else { tokio::time::timeout(IDLE, receive).await };
        if received == Ok(0) {
            break;
        }
        let begin = Instant::now();
        let together = commit(&mut db, &group, &ended).await;
        if together.is_ok() {
            ended.clear();
        }
        committed(group.len(), begin.elapsed());
        let alone = group.len() == 1 && ended.is_empty();
        let mut together = Some(together);
        for request in group.drain(..) {
            let result = match together {
                Some(Ok(())) => Ok(()),
                Some(Err(_)) if alone => together.take().unwrap_or(Ok(())),
                _ => commit(&mut db, std::slice::from_ref(&request), &[]).await,
            };
            if let (Ok(()), Change::Update { execution, .. }) = (&result, &request.change)
                && execution.state.ended()
                && ended.len() < MOST_ENDED
            {
                ended.push(execution.id.clone());
            }
            // Who asked may be gone; what was committed stays.
            let _ = request.done.send(result);
        }
    }
    if let Err(error) = db.close().await {
        tracing::warn!(%error, "the database did not close cleanly");
    }
}
