//! The database of a state folder: opens it, answers questions, hands changes to the [`super::writer`].
//!
//! SQLite in WAL mode with `synchronous=FULL`: readers never wait for the writer, and a commit is on disk. The SQL is what SQLite and
//! PostgreSQL both take.

mod accounts;
mod deliveries;
mod durations;
mod ended;
mod keys;
mod moving;
mod schedules;
mod secrets;
mod waits;

pub use accounts::Belongings;
pub use ended::Filter;
pub use schedules::Unreadable;

use super::id::ExecutionId;
use super::machine::State;
use super::record::{Execution, Happening, TimelineEntry, Version};
use super::reserve::Reserve;
use super::time::Timestamp;
use super::waiting::{CallKey, Parked, Waiting};
use super::writer::{self, Change, Request};
use crate::manifest::host::HostPolicy;
use crate::manifest::{AccountName, Declared, Entry, PortionName, Rights, TaskName};
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous};
use sqlx::{Connection, Row, SqliteConnection};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use torpor_protocol::agent::Runtime;

/// Changes that may wait for the writer; more wait in their senders.
const QUEUE: usize = 1024;
/// Executions whose timelines are read at once.
const TIMELINES: usize = 500;

/// What is read of executions whose results, which may be large, are not wanted.
const WITHOUT_RESULT: &str = "id, account, task, version, portion, state, attempts, created_at, started_at, finished_at, error, parent, depth, due, need_by, not_before, schedule, fire_at, parks, parked_ms";

/// How long another process that writes is waited for.
const BUSY: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No room.
    #[error("the disk of the state folder is full; make room and try again")]
    DiskFull,
    /// Another process writes to the database, for longer than is waited for.
    #[error("another process has locked the database of the state folder; end that (a backup, an sqlite3 shell) and try again")]
    Busy,
    /// The database is not in the state that the change was made for.
    #[error("execution {id} is not in the database as expected")]
    Conflict {
        /// Which execution.
        id: ExecutionId,
    },
    /// The same, not yet known of which.
    #[error("the database refused a change that does not fit what it holds")]
    Constraint,
    /// A row that can't be what this program wrote.
    #[error("the database is damaged: {what}: {why}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema does not fit this torpord: {0}; was a newer torpord used on this state folder?")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// Anything else that SQLite says.
    #[error("database: {0}")]
    Database(sqlx::Error),
    /// The writer has ended.
    #[error("the daemon is stopping")]
    Closed,
}

impl StoreError {
    pub(crate) fn damaged<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::Damaged { what, why: error.to_string() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL, and the ways in which a full disk shows while the log, its index or a sync grows: IOERR_WRITE, IOERR_FSYNC,
        // IOERR_TRUNCATE, IOERR_SHMSIZE.
        const FULL: [&str; 5] = ["13", "778", "1034", "1546", "4874"];
        let code = error.as_database_error().and_then(|e| e.code().map(|code| code.into_owned()));
        // The low byte of an extended code is the plain one; 5 is SQLITE_BUSY, 19 is SQLITE_CONSTRAINT.
        match code.as_ref().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff) {
            Some(5) => return Self::Busy,
            Some(19) => return Self::Constraint,
            _ => {}
        }
        if code.is_some_and(|code| FULL.contains(&code.as_str())) { Self::DiskFull } else { Self::Database(error) }
    }
}

async fn regain(reserve: Arc<Reserve>) {
    reserve.regain().await;
}

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    reads: SqlitePool,
    changes: mpsc::Sender<Request>,
    reserve: Arc<Reserve>,
}

fn uint(value: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(StoreError::damaged(what))
}

fn small(value: i64, what: &'static str) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(StoreError::damaged(what))
}

fn portion_name(text: String) -> Result<PortionName, StoreError> {
    PortionName::try_from(text).map_err(StoreError::damaged("portion's name"))
}

fn account(row: &SqliteRow) -> Result<AccountName, StoreError> {
    AccountName::try_from(row.try_get::<String, _>("account")?).map_err(StoreError::damaged("account"))
}

fn name(text: String) -> Result<TaskName, StoreError> {
    TaskName::try_from(text).map_err(StoreError::damaged("task name"))
}

/// An execution's id.
fn id_of(row: &SqliteRow, column: &'static str) -> Result<ExecutionId, StoreError> {
    let id: String = row.try_get(column)?;
    ExecutionId::parse(&id).ok_or_else(|| StoreError::damaged("execution id")(&id))
}

/// The calls up to an execution.
fn calls_to(row: &SqliteRow) -> Result<Option<CallKey>, StoreError> {
    Ok(row.try_get::<Option<String>, _>("call_key")?.map(|key| CallKey::stored(&key)))
}

fn execution(row: &SqliteRow) -> Result<Execution, StoreError> {
    let state: String = row.try_get("state")?;
    let error: Option<String> = row.try_get("error")?;
    let parent: Option<String> = row.try_get("parent")?;
    Ok(Execution {
        id: id_of(row, "id")?,
        account: account(row)?,
        task: name(row.try_get("task")?)?,
        version: row.try_get::<String, _>("version")?.into(),
        portion: portion_name(row.try_get("portion")?)?,
        state: State::from_name(&state).ok_or_else(|| StoreError::damaged("state")(&state))?,
        created_at: Timestamp(row.try_get("created_at")?),
        started_at: row.try_get::<Option<i64>, _>("started_at")?.map(Timestamp),
        finished_at: row.try_get::<Option<i64>, _>("finished_at")?.map(Timestamp),
        result: None,
        error: error.map(|text| serde_json::from_str(&text)).transpose().map_err(StoreError::damaged("error"))?,
        attempts: small(row.try_get("attempts")?, "attempts")?,
        parent: parent.map(|id| ExecutionId::parse(&id).ok_or_else(|| StoreError::damaged("parent")(&id))).transpose()?,
        depth: small(row.try_get("depth")?, "depth")?,
        due: row.try_get::<Option<i64>, _>("due")?.map(Timestamp),
        need_by: row.try_get::<Option<i64>, _>("need_by")?.map(Timestamp),
        late: false,
        call_key: None,
        schedule: schedules::fired(row)?,
        notify: None,
        not_before: row.try_get::<Option<i64>, _>("not_before")?.map(Timestamp),
        waiting: Vec::new(),
        parks: small(row.try_get("parks")?, "parks")?,
        parked_ms: uint(row.try_get("parked_ms")?, "parked time")?,
        parked_since: None,
        parked: None,
        timeline: Vec::new(),
    })
}

fn result(row: &SqliteRow) -> Result<Option<Arc<RawValue>>, StoreError> {
    let body: Option<Vec<u8>> = row.try_get("result")?;
    let Some(body) = body else { return Ok(None) };
    let text = String::from_utf8(body).map_err(StoreError::damaged("result"))?;
    let raw = RawValue::from_string(text).map_err(StoreError::damaged("result"))?;
    Ok(Some(raw.into()))
}

fn machine(text: &str) -> Result<Parked, StoreError> {
    serde_json::from_str(text).map_err(StoreError::damaged("parked machine"))
}

fn unfinished(row: &SqliteRow) -> Result<Execution, StoreError> {
    let mut execution = execution(row)?;
    execution.call_key = calls_to(row)?;
    let parked: Option<String> = row.try_get("parked")?;
    if let Some(parked) = parked {
        let parked = machine(&parked)?;
        execution.waiting = parked.asks.iter().map(Waiting::view).collect();
        execution.parked_since = Some(parked.since);
        execution.parked = Some(Arc::new(parked));
    }
    Ok(execution)
}

/// A portion, under no caps yet.
fn portion(row: &SqliteRow) -> Result<Version, StoreError> {
    let runtime = match row.try_get::<String, _>("runtime")?.as_str() {
        "python" => Runtime::Python,
        "exec" => Runtime::Exec,
        other => return Err(StoreError::damaged("runtime")(other)),
    };
    let declared: Declared = serde_json::from_str(&row.try_get::<String, _>("declared")?).map_err(StoreError::damaged("policy"))?;
    let rights: Rights = serde_json::from_str(&row.try_get::<String, _>("rights")?).map_err(StoreError::damaged("rights"))?;
    let account = account(row)?;
    Ok(Version {
        task: name(row.try_get("task")?)?,
        version: row.try_get::<String, _>("version")?.into(),
        portion: portion_name(row.try_get("portion")?)?,
        code: row.try_get::<String, _>("code")?.into(),
        entry: Entry::parse(runtime, &row.try_get::<String, _>("entry")?).map_err(StoreError::damaged("entry"))?,
        policy: HostPolicy::default().resolve(&account, &declared).policy,
        account,
        declared,
        rights: Arc::new(rights),
        code_bytes: uint(row.try_get("code_bytes")?, "code size")?,
        created_at: Timestamp(row.try_get("created_at")?),
        portions: Vec::new(),
    })
}

/// Portions, of which main comes before the others of its version, as versions.
fn versions(rows: &[SqliteRow]) -> Result<Vec<Version>, StoreError> {
    let mut versions: Vec<Version> = Vec::with_capacity(rows.len());
    for row in rows {
        let portion = portion(row)?;
        let same = |last: &&mut Version| last.account == portion.account && last.task == portion.task && last.version == portion.version;
        match versions.last_mut().filter(same) {
            Some(main) => main.portions.push(Arc::new(portion)),
            None if portion.portion.is_main() => versions.push(portion),
            None => return Err(StoreError::damaged("portions")(format!("version {} of {} has no main", portion.version, portion.task))),
        }
    }
    Ok(versions)
}

/// A task as it is stored.
#[derive(Debug)]
pub struct StoredTask {
    /// Whose it is.
    pub account: AccountName,
    /// Its name.
    pub name: TaskName,
    /// Hash of the version that was pushed last.
    pub latest: String,
    /// When it was pushed first.
    pub created_at: Timestamp,
    /// All versions, oldest first.
    pub versions: Vec<Version>,
}

impl Store {
    /// Opens or makes the database at `path`. `committed` is told of each transaction: how many changes, how long.
    pub async fn open(path: &Path, committed: impl Fn(usize, Duration) + Send + Sync + 'static) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        let mut db = SqliteConnection::connect_with(&options).await?;
        sqlx::migrate!("./migrations").run_direct(&mut db).await?;
        sqlx::query("DELETE FROM inputs WHERE execution NOT IN (SELECT id FROM executions WHERE finished_at IS NULL)")
            .execute(&mut db)
            .await?;
        let reads = SqlitePoolOptions::new().max_connections(4).connect_with(options.create_if_missing(false)).await?;
        let (changes, requests) = mpsc::channel(QUEUE);
        tokio::spawn(writer::run(db, requests, committed));
        let reserve = Arc::new(Reserve::new(path.with_extension("reserve")));
        if !reserve.held() {
            tokio::spawn(regain(Arc::clone(&reserve)));
        }
        Ok(Self { reads, changes, reserve })
    }

    /// Carries out a change; it is durable when this returns.
    pub async fn commit(&self, change: Change) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        self.changes.send(Request { change, done }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Carries out a change to something that was accepted before: where the disk is full, the reserve is for that.
    pub async fn commit_accepted(&self, change: impl Fn() -> Change) -> Result<(), StoreError> {
        match self.commit(change()).await {
            Err(StoreError::DiskFull) if self.reserve.give_up() => {
                tracing::warn!("the disk of the state folder is full; no executions are accepted until there is room");
                tokio::spawn(regain(Arc::clone(&self.reserve)));
                self.commit(change()).await
            }
            other => other,
        }
    }

    /// Refuses new work while there is no room for its end.
    pub fn check_room(&self) -> Result<(), StoreError> {
        if self.reserve.held() { Ok(()) } else { Err(StoreError::DiskFull) }
    }

    /// One execution with result and timeline, whose ever it is.
    pub async fn execution(&self, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
        let row = sqlx::query("SELECT * FROM executions WHERE id = $1").bind(id.as_str()).fetch_optional(&self.reads).await?;
        self.whole(row).await
    }

    /// One execution of an account with result and timeline.
    pub async fn execution_of(&self, account: &AccountName, id: &ExecutionId) -> Result<Option<Execution>, StoreError> {
        let row = sqlx::query("SELECT * FROM executions WHERE id = $1 AND account = $2").bind(id.as_str()).bind(account.as_str());
        self.whole(row.fetch_optional(&self.reads).await?).await
    }

    async fn whole(&self, row: Option<SqliteRow>) -> Result<Option<Execution>, StoreError> {
        let Some(row) = row else { return Ok(None) };
        let mut execution = execution(&row)?;
        self.add_timelines(std::slice::from_mut(&mut execution)).await?;
        self.add_delivery(&mut execution).await?;
        execution.result = result(&row)?;
        Ok(Some(execution))
    }

    async fn add_timelines(&self, executions: &mut [Execution]) -> Result<(), StoreError> {
        for some in executions.chunks_mut(TIMELINES) {
            let marks = vec!["?"; some.len()].join(", ");
            let sql = format!("SELECT execution, at, event FROM timeline WHERE execution IN ({marks}) ORDER BY execution, seq");
            let query = some.iter().fold(sqlx::query(&sql), |query, execution| query.bind(execution.id.as_str().to_owned()));
            let rows = query.persistent(some.len() == 1).fetch_all(&self.reads).await?;
            let mut by_id: HashMap<String, Vec<TimelineEntry>> = HashMap::with_capacity(some.len());
            for row in rows {
                let event: String = row.try_get("event")?;
                let what = serde_json::from_str(&event).map_err(StoreError::damaged("timeline"))?;
                let entry = TimelineEntry { at: Timestamp(row.try_get("at")?), what };
                by_id.entry(row.try_get("execution")?).or_default().push(entry);
            }
            for execution in some {
                execution.timeline = by_id.remove(execution.id.as_str()).unwrap_or_default();
                execution.late = match (execution.need_by, execution.finished_at) {
                    (Some(need_by), Some(finished)) => finished > need_by,
                    _ => execution.timeline.iter().any(|entry| matches!(entry.what, Happening::Late { .. })),
                };
            }
        }
        Ok(())
    }

    /// Those of `ids` (a few hundred at most) that no execution has.
    pub async fn unknown(&self, ids: Vec<ExecutionId>) -> Result<Vec<ExecutionId>, StoreError> {
        if ids.is_empty() {
            return Ok(ids);
        }
        let sql = format!("SELECT id FROM executions WHERE id IN ({})", vec!["?"; ids.len()].join(", "));
        let query = ids.iter().fold(sqlx::query(&sql), |query, id| query.bind(id.as_str().to_owned()));
        let rows = query.persistent(false).fetch_all(&self.reads).await?;
        let known = rows.iter().map(|row| row.try_get("id")).collect::<Result<HashSet<String>, _>>()?;
        Ok(ids.into_iter().filter(|id| !known.contains(id.as_str())).collect())
    }

    /// All executions that have not ended, oldest first.
    pub async fn unfinished(&self) -> Result<Vec<Execution>, StoreError> {
        let rows = sqlx::query("SELECT * FROM executions WHERE finished_at IS NULL ORDER BY id").fetch_all(&self.reads).await?;
        let mut executions = rows.iter().map(unfinished).collect::<Result<Vec<_>, _>>()?;
        self.add_timelines(&mut executions).await?;
        self.add_deliveries(&mut executions).await?;
        Ok(executions)
    }

    /// The largest id that exists.
    pub async fn last_id(&self) -> Result<Option<ExecutionId>, StoreError> {
        let row = sqlx::query("SELECT max(id) AS id FROM executions").fetch_one(&self.reads).await?;
        Ok(row.try_get::<Option<String>, _>("id")?.as_deref().and_then(ExecutionId::parse))
    }

    /// The input of an execution that has not ended.
    pub async fn input(&self, id: &ExecutionId) -> Result<Vec<u8>, StoreError> {
        let row = sqlx::query("SELECT body FROM inputs WHERE execution = $1").bind(id.as_str()).fetch_optional(&self.reads).await?;
        let row = row.ok_or_else(|| StoreError::damaged("inputs")(format!("{id} has none")))?;
        Ok(row.try_get("body")?)
    }

    /// All tasks with their versions.
    pub async fn tasks(&self) -> Result<Vec<StoredTask>, StoreError> {
        let rows = sqlx::query(
            "SELECT portions.*, versions.created_at FROM portions \
             JOIN versions ON versions.account = portions.account AND versions.task = portions.task AND versions.version = portions.version \
             ORDER BY versions.created_at, versions.version, versions.account, versions.task, CASE portion WHEN 'main' THEN 0 ELSE 1 END, portion",
        )
        .fetch_all(&self.reads)
        .await?;
        let mut versions = versions(&rows)?;
        let rows = sqlx::query("SELECT * FROM tasks ORDER BY account, name").fetch_all(&self.reads).await?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in rows {
            let (account, name) = (account(&row)?, name(row.try_get("name")?)?);
            let own;
            (own, versions) = versions.into_iter().partition(|version| version.account == account && version.task == name);
            tasks.push(StoredTask {
                account,
                name,
                latest: row.try_get("latest")?,
                created_at: Timestamp(row.try_get("created_at")?),
                versions: own,
            });
        }
        Ok(tasks)
    }

    /// Ends the readers. The writer ends with the last copy of this handle.
    pub async fn close(&self) {
        self.reads.close().await;
    }
}
