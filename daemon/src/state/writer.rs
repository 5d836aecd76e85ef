//! The only one who writes to the database: takes changes in the order in which they were sent and groups those that wait into one
//! transaction, since each commit costs a sync of the disk.
//!
//! Invariant: a change is answered only after the transaction that holds it is durable, or after it is certain that it is not in the
//! database. When a group fails, each of its changes is tried alone, so that one bad change does no harm to others.

mod accounts;
mod durable;

pub(super) use durable::{REFUSE, RUN};

use super::batch::{Batch, Value};
use super::id::ExecutionId;
use super::machine::State;
use super::record::{Execution, Version};
use super::store::StoreError;
use super::time::Timestamp;
use crate::accounts::token::{Token, TokenId};
use crate::accounts::{Account, Uid};
use crate::cron::Schedule;
use crate::idempotency::NewKey;
use crate::manifest::{AccountName, SecretName, TaskName};
use crate::notify::Delivery;
use crate::schedule::estimates::Seen;
use crate::secrets::StoredSecret;
use sqlx::{Connection, SqliteConnection};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Most entries of a timeline in one statement: SQLite takes 32,766 values.
const ROWS: usize = 500;
/// Most changes in one transaction.
const GROUP: usize = 64;
/// Most executions whose inputs wait for their removal; those of others are removed at the next start.
const MOST_ENDED: usize = 4 * GROUP;
/// How long inputs of executions that have ended are left where they are when there is no other work.
const IDLE: Duration = Duration::from_secs(1);

/// One change of what is stored. Changes are checked against what is there: one that does not fit is refused and changes nothing.
#[derive(Debug)]
pub enum Change {
    /// A version, which becomes its task's newest; the task is made where it is missing.
    PutVersion(Arc<Version>),
    /// A task of an account with all its versions.
    RemoveTask(AccountName, TaskName),
    /// A new execution and its input.
    Insert {
        /// With its timeline so far.
        execution: Arc<Execution>,
        /// JSON text.
        input: Arc<[u8]>,
        /// What its request is known by. One that is there already, and not too old, is a [`StoreError::Constraint`].
        key: Option<NewKey>,
    },
    /// Idempotency keys that were made at or before a moment, the oldest first.
    RemoveKeys {
        /// The moment.
        moment: Timestamp,
        /// At most so many.
        most: u32,
    },
    /// What came of an attempt to tell an end.
    MarkDelivery {
        /// Whose end.
        execution: ExecutionId,
        /// The delivery as it is now.
        delivery: Arc<Delivery>,
    },
    /// Ends that will not be told.
    GiveUp {
        /// Whose ends.
        executions: Arc<[String]>,
        /// Why, for people; it is added to what the last attempt said.
        why: Arc<str>,
        /// When that was decided.
        at: Timestamp,
    },
    /// A new schedule.
    PutSchedule {
        /// The schedule.
        schedule: Arc<Schedule>,
        /// JSON text.
        input: Arc<[u8]>,
    },
    /// How far a schedule is, whether it is paused, and what it did not run.
    MarkSchedule(Arc<Schedule>),
    /// A schedule, by its id.
    RemoveSchedule(Arc<str>),
    /// An execution went on.
    Update {
        /// The whole of it as it is now.
        execution: Arc<Execution>,
        /// The state that the database has.
        stored: State,
        /// How many entries of the timeline the database has.
        timeline: usize,
    },
    /// An event that an execution made.
    PutEvent {
        /// Its token.
        token: Arc<str>,
        /// Whose it is.
        execution: ExecutionId,
    },
    /// An event is signalled. One that is not there, or was signalled before, is a [`StoreError::Constraint`].
    Signal {
        /// Its token.
        token: Arc<str>,
        /// JSON text.
        data: Arc<[u8]>,
    },
    /// A parked execution that came from another host.
    Import(Arc<Import>),
    /// Executions that ended, with all that is stored of them and the keys that name them. Others are left as they are.
    RemoveEnded(Arc<[ExecutionId]>),
    /// How long things took.
    PutDurations(Arc<[Seen]>),
    /// A secret, in place of what was there under its name.
    PutSecret(Arc<StoredSecret>),
    /// A secret of an account.
    RemoveSecret(AccountName, SecretName),
    /// An account; one that is there gets this weight.
    PutAccount(Account),
    /// An account, with its tokens and user ids. One that anything else belongs to is a [`StoreError::Constraint`].
    RemoveAccount(AccountName),
    /// A user id's account, in place of what it had.
    PutUid(Uid),
    /// A user id's account.
    RemoveUid(u32),
    /// A new token.
    PutToken(Arc<Token>),
    /// A token.
    RemoveToken(TokenId),
}

/// A parked execution from another host, and what belongs to it.
#[derive(Debug)]
pub struct Import {
    /// With its timeline so far.
    pub execution: Arc<Execution>,
    /// Its version, which does not become its task's newest where the task is there.
    pub version: Arc<Version>,
    /// JSON text.
    pub input: Vec<u8>,
    /// Tokens, and data of those that were signalled.
    pub events: Vec<(String, Option<Vec<u8>>)>,
    /// Executions that ended there. Those that are known here are left as they are.
    pub ended: Vec<Execution>,
    /// It was here before and has moved: what is known of it from then gives way.
    pub returns: Option<ExecutionId>,
}

/// A change and who waits for it.
pub(super) struct Request {
    pub(super) change: Change,
    pub(super) done: oneshot::Sender<Result<(), StoreError>>,
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn put_newest<'a>(batch: &mut Batch<'a>, version: &'a Version) -> Result<(), StoreError> {
    let (account, task, hash, at) = (version.account.as_str(), version.task.as_str(), &*version.version, version.created_at.0);
    batch.add(
        "INSERT INTO tasks (account, name, latest, created_at) VALUES (?, ?, ?, ?) \
         ON CONFLICT (account, name) DO UPDATE SET latest = excluded.latest",
        [account.into(), task.into(), hash.into(), at.into()],
    )?;
    put_version(batch, version)
}

fn put_version<'a>(batch: &mut Batch<'a>, version: &'a Version) -> Result<(), StoreError> {
    let (account, task, hash, at) = (version.account.as_str(), version.task.as_str(), &*version.version, version.created_at.0);
    batch.add(
        "INSERT INTO versions (account, task, version, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (account, task, version) DO NOTHING",
        [account.into(), task.into(), hash.into(), at.into()],
    )?;
    std::iter::once(version).chain(version.portions.iter().map(|other| &**other)).try_for_each(|portion| put_portion(batch, portion))
}

fn put_portion<'a>(batch: &mut Batch<'a>, portion: &'a Version) -> Result<(), StoreError> {
    let declared = serde_json::to_string(&portion.declared).map_err(StoreError::damaged("policy"))?;
    let rights = serde_json::to_string(&*portion.rights).map_err(StoreError::damaged("rights"))?;
    batch.add(
        "INSERT INTO portions (account, task, version, portion, runtime, entry, code, code_bytes, declared, rights) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account, task, version, portion) DO NOTHING",
        [
            portion.account.as_str().into(),
            portion.task.as_str().into(),
            (&*portion.version).into(),
            portion.portion.as_str().into(),
            portion.entry.runtime().name().into(),
            portion.entry.to_string().into(),
            (&*portion.code).into(),
            int(portion.code_bytes).into(),
            declared.into(),
            rights.into(),
        ],
    )
}

/// Entries from number `first` on. Where the execution is not there in this state, the number is null, which the table refuses; so it
/// does where the number is taken.
fn timeline<'a>(batch: &mut Batch<'a>, execution: &'a Execution, first: usize) -> Result<(), StoreError> {
    let entries = execution.timeline.get(first..).unwrap_or_default();
    if entries.is_empty() {
        // Nothing that is told happened: then this is what refuses an update of what is not there.
        let (id, state) = (execution.id.as_str(), execution.state.name());
        return batch.add(
            "INSERT INTO timeline (execution, seq, at, event) SELECT ?, NULL, 0, '' WHERE NOT EXISTS (SELECT 1 FROM executions WHERE id = ? AND state = ?)",
            [id.into(), id.into(), state.into()],
        );
    }
    let row = "(?, (SELECT ? FROM executions WHERE id = ? AND state = ?), ?, ?)";
    let mut seq = first as u64;
    for some in entries.chunks(ROWS) {
        let mut values: Vec<Value<'_>> = Vec::with_capacity(6 * some.len());
        for entry in some {
            let event = serde_json::to_string(&entry.what).map_err(StoreError::damaged("timeline"))?;
            let (id, state) = (execution.id.as_str(), execution.state.name());
            values.extend([id.into(), int(seq).into(), id.into(), state.into(), entry.at.0.into(), event.into()]);
            seq += 1;
        }
        let rows = vec![row; some.len()].join(", ");
        batch.add_all(&format!("INSERT INTO timeline (execution, seq, at, event) VALUES {rows}"), values)?;
    }
    Ok(())
}

fn insert<'a>(batch: &mut Batch<'a>, execution: &'a Execution, input: &'a [u8]) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO executions (id, account, task, version, portion, state, attempts, created_at, parent, depth, due, need_by, call_key) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            execution.id.as_str().into(),
            execution.account.as_str().into(),
            execution.task.as_str().into(),
            (&*execution.version).into(),
            execution.portion.as_str().into(),
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.created_at.0.into(),
            execution.parent.as_ref().map(|parent| parent.as_str().to_owned()).into(),
            i64::from(execution.depth).into(),
            execution.due.map(|at| at.0).into(),
            execution.need_by.map(|at| at.0).into(),
            execution.call_key.as_ref().map(|key| key.as_str().to_owned()).into(),
        ],
    )?;
    batch.add("INSERT INTO inputs (execution, body) VALUES (?, ?)", [execution.id.as_str().into(), input.into()])?;
    timeline(batch, execution, 0)
}

fn update<'a>(batch: &mut Batch<'a>, execution: &'a Execution, stored: State, known: usize) -> Result<(), StoreError> {
    let error = execution.error.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("error"))?;
    let parked = execution.parked.as_deref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("parked machine"))?;
    batch.add(
        "UPDATE executions SET state = ?, attempts = ?, started_at = ?, finished_at = ?, error = ?, result = ?, parks = ?, parked_ms = ?, \
         parked = ?, not_before = ?, log_bytes = ? WHERE id = ? AND state = ?",
        [
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.started_at.map(|at| at.0).into(),
            execution.finished_at.map(|at| at.0).into(),
            error.into(),
            execution.result.as_ref().map(|result| result.get().as_bytes()).into(),
            i64::from(execution.parks).into(),
            int(execution.parked_ms).into(),
            parked.into(),
            execution.not_before.map(|at| at.0).into(),
            int(execution.log_bytes()).into(),
            execution.id.as_str().into(),
            stored.name().into(),
        ],
    )?;
    if let Some(delivery) = execution.notify.as_ref().filter(|_| execution.state.ended()) {
        durable::end_delivery(batch, execution, delivery)?;
    }
    timeline(batch, execution, known)
}

fn put_event<'a>(batch: &mut Batch<'a>, token: &'a str, execution: &'a ExecutionId) -> Result<(), StoreError> {
    let values = [token.into(), execution.as_str().into(), Timestamp::now().0.into()];
    batch.add("INSERT INTO events (token, execution, created_at) VALUES (?, ?, ?)", values)
}

fn signal<'a>(batch: &mut Batch<'a>, token: &'a str, data: &'a [u8]) -> Result<(), StoreError> {
    batch.add("INSERT INTO signals (token, data, at) VALUES (?, ?, ?)", [token.into(), data.into(), Timestamp::now().0.into()])
}

fn remove_ended<'a>(batch: &mut Batch<'a>, ids: &'a [ExecutionId]) -> Result<(), StoreError> {
    let marks = vec!["?"; ids.len()].join(", ");
    let ended = format!("SELECT id FROM executions WHERE id IN ({marks}) AND finished_at IS NOT NULL");
    batch.add_all(
        &format!("DELETE FROM signals WHERE token IN (SELECT token FROM events WHERE execution IN ({ended}))"),
        ids.iter().map(|id| id.as_str().into()),
    )?;
    for (table, key) in
        [("deliveries", "execution"), ("events", "execution"), ("timeline", "execution"), ("inputs", "execution"), ("executions", "id")]
    {
        batch.add_all(&format!("DELETE FROM {table} WHERE {key} IN ({ended})"), ids.iter().map(|id| id.as_str().into()))?;
    }
    Ok(())
}

fn put_duration<'a>(batch: &mut Batch<'a>, seen: &'a Seen) -> Result<(), StoreError> {
    let sketch = serde_json::to_string(&seen.sketch).map_err(StoreError::damaged("durations"))?;
    batch.add(
        "INSERT INTO durations (account, task, version, portion, kind, sketch, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (account, task, version, portion, kind) DO UPDATE SET sketch = excluded.sketch, changed_at = excluded.changed_at",
        [
            (&*seen.of.account).into(),
            (&*seen.of.task).into(),
            (&*seen.of.version).into(),
            (&*seen.of.portion).into(),
            seen.kind.name().into(),
            sketch.into(),
            Timestamp::now().0.into(),
        ],
    )
}

fn put_secret<'a>(batch: &mut Batch<'a>, secret: &'a StoredSecret) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO secrets (account, name, master, nonce, sealed, created_at, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?) \
         ON CONFLICT (account, name) DO UPDATE SET master = excluded.master, nonce = excluded.nonce, sealed = excluded.sealed, \
         changed_at = excluded.changed_at",
        [
            secret.account.as_str().into(),
            secret.name.as_str().into(),
            secret.sealed.master.as_str().into(),
            secret.sealed.nonce.as_slice().into(),
            secret.sealed.bytes.as_slice().into(),
            secret.created_at.0.into(),
            secret.changed_at.0.into(),
        ],
    )
}

fn take_in<'a>(batch: &mut Batch<'a>, import: &'a Import) -> Result<(), StoreError> {
    let Import { execution, version, input, events, ended, returns } = import;
    if returns.is_some() {
        remove_ended(batch, returns.as_slice())?;
    }
    batch.add(
        "INSERT INTO tasks (account, name, latest, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (account, name) DO NOTHING",
        [version.account.as_str().into(), version.task.as_str().into(), (&*version.version).into(), version.created_at.0.into()],
    )?;
    put_version(batch, version)?;
    insert(batch, execution, input)?;
    execution.notify.as_ref().map_or(Ok(()), |delivery| durable::put_delivery(batch, execution, delivery))?;
    update(batch, execution, execution.state, execution.timeline.len())?;
    for (token, data) in events {
        put_event(batch, token, &execution.id)?;
        if let Some(data) = data {
            signal(batch, token, data)?;
        }
    }
    ended.iter().try_for_each(|execution| ended_elsewhere(batch, execution))
}

fn ended_elsewhere<'a>(batch: &mut Batch<'a>, execution: &'a Execution) -> Result<(), StoreError> {
    let error = execution.error.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("error"))?;
    batch.add(
        "INSERT INTO executions (id, account, task, version, portion, state, attempts, created_at, started_at, finished_at, error, result, \
         parent, depth, parks, parked_ms, call_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        [
            execution.id.as_str().into(),
            execution.account.as_str().into(),
            execution.task.as_str().into(),
            (&*execution.version).into(),
            execution.portion.as_str().into(),
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.created_at.0.into(),
            execution.started_at.map(|at| at.0).into(),
            execution.finished_at.map(|at| at.0).into(),
            error.into(),
            execution.result.as_ref().map(|result| result.get().as_bytes()).into(),
            execution.parent.as_ref().map(|parent| parent.as_str().to_owned()).into(),
            i64::from(execution.depth).into(),
            i64::from(execution.parks).into(),
            int(execution.parked_ms).into(),
            execution.call_key.as_ref().map(|key| key.as_str().to_owned()).into(),
        ],
    )
}

fn add<'a>(batch: &mut Batch<'a>, change: &'a Change) -> Result<(), StoreError> {
    match change {
        Change::PutVersion(version) => put_newest(batch, version),
        Change::PutDurations(seen) => seen.iter().try_for_each(|seen| put_duration(batch, seen)),
        Change::RemoveTask(account, name) => {
            batch.add("DELETE FROM durations WHERE account = ? AND task = ?", [account.as_str().into(), name.as_str().into()])?;
            batch.add("DELETE FROM tasks WHERE account = ? AND name = ?", [account.as_str().into(), name.as_str().into()])
        }
        Change::Insert { execution, input, key } => {
            insert(batch, execution, input)?;
            execution.notify.as_ref().map_or(Ok(()), |delivery| durable::put_delivery(batch, execution, delivery))?;
            execution.schedule.as_ref().map_or(Ok(()), |fired| durable::fire(batch, execution, fired))?;
            key.as_ref().map_or(Ok(()), |key| durable::put_key(batch, key, &execution.id))
        }
        Change::MarkDelivery { execution, delivery } => durable::mark_delivery(batch, execution, delivery),
        Change::GiveUp { executions, why, at } => durable::give_up(batch, executions, why, *at),
        Change::PutSchedule { schedule, input } => durable::put_schedule(batch, schedule, input),
        Change::MarkSchedule(schedule) => durable::mark_schedule(batch, schedule),
        Change::RemoveSchedule(id) => batch.add("DELETE FROM schedules WHERE id = ?", [(&**id).into()]),
        Change::RemoveKeys { moment, most } => durable::remove_keys(batch, *moment, *most),
        Change::Update { execution, stored, timeline } => update(batch, execution, *stored, *timeline),
        Change::PutEvent { token, execution } => put_event(batch, token, execution),
        Change::Signal { token, data } => signal(batch, token, data),
        Change::Import(import) => take_in(batch, import),
        Change::RemoveEnded(ids) => durable::remove_keys_of(batch, ids).and_then(|()| remove_ended(batch, ids)),
        Change::PutSecret(secret) => put_secret(batch, secret),
        Change::PutAccount(account) => accounts::put(batch, account),
        Change::RemoveAccount(name) => accounts::remove(batch, name),
        Change::PutUid(uid) => accounts::put_uid(batch, uid),
        Change::RemoveUid(uid) => batch.add("DELETE FROM account_uids WHERE uid = ?", [i64::from(*uid).into()]),
        Change::PutToken(token) => accounts::put_token(batch, token),
        Change::RemoveToken(id) => batch.add("DELETE FROM account_tokens WHERE id = ?", [id.as_str().into()]),
        Change::RemoveSecret(account, name) => {
            batch.add("DELETE FROM secrets WHERE account = ? AND name = ?", [account.as_str().into(), name.as_str().into()])
        }
    }
}

/// All of `changes` or none, and with them the removal of the inputs of what `ended` before: nobody waits for that.
async fn commit(db: &mut SqliteConnection, changes: &[Request], ended: &[ExecutionId]) -> Result<(), StoreError> {
    let mut batch = Batch::default();
    if !ended.is_empty() {
        let marks = vec!["?"; ended.len()].join(", ");
        batch.add_all(&format!("DELETE FROM inputs WHERE execution IN ({marks})"), ended.iter().map(|id| id.as_str().into()))?;
    }
    for request in changes {
        add(&mut batch, &request.change)?;
    }
    batch.commit(db).await
}

/// One change, with an error that says what it is about.
async fn commit_alone(db: &mut SqliteConnection, request: &Request) -> Result<(), StoreError> {
    let result = commit(db, std::slice::from_ref(request), &[]).await;
    match (&request.change, result) {
        (Change::Insert { execution, .. } | Change::Update { execution, .. }, Err(StoreError::Constraint)) => {
            Err(StoreError::Conflict { id: execution.id.clone() })
        }
        (_, result) => result,
    }
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
        for request in group.drain(..) {
            let result = match &together {
                Ok(()) => Ok(()),
                // Nor would one of them alone be taken: each would wait as long again.
                Err(StoreError::Busy) => Err(StoreError::Busy),
                Err(_) => commit_alone(&mut db, &request).await,
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
