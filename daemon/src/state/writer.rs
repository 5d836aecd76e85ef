//! The only one who writes to the database: takes changes in the order in which they were sent and groups those that wait into one
//! transaction, since each commit costs a sync of the disk.
//!
//! Invariant: a change is answered only after the transaction that holds it is durable, or after it is certain that it is not in the
//! database. When a group fails, each of its changes is tried alone, so that one bad change does no harm to others.

mod accounts;
mod durable;
mod executions;

use super::batch::Batch;
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

fn add<'a>(batch: &mut Batch<'a>, change: &'a Change) -> Result<(), StoreError> {
    match change {
        Change::PutVersion(version) => put_newest(batch, version),
        Change::PutDurations(seen) => seen.iter().try_for_each(|seen| put_duration(batch, seen)),
        Change::RemoveTask(account, name) => {
            batch.add("DELETE FROM durations WHERE account = ? AND task = ?", [account.as_str().into(), name.as_str().into()])?;
            batch.add("DELETE FROM tasks WHERE account = ? AND name = ?", [account.as_str().into(), name.as_str().into()])
        }
        Change::Insert { execution, input, key } => {
            executions::insert(batch, execution, input)?;
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
        Change::Update { execution, stored, timeline } => executions::update(batch, execution, *stored, *timeline),
        Change::PutEvent { token, execution } => executions::put_event(batch, token, execution),
        Change::Signal { token, data } => executions::signal(batch, token, data),
        Change::Import(import) => executions::take_in(batch, import),
        Change::RemoveEnded(ids) => durable::remove_keys_of(batch, ids).and_then(|()| executions::remove_ended(batch, ids)),
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
