//! An execution that has not ended, as everyone in the daemon sees it.
//!
//! Invariant: what [`Live::view`] shows as ended is durable; until then the view may be ahead of the database, never behind it.

use crate::code::images::Images;
use crate::engine::TaskVersion;
use crate::logs::Tail;
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::StoreError;
use crate::state::time::SteadyClock;
use crate::state::waiting::WaitView;
use crate::state::writer::Change;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::AuxPlace;

/// Why a VM was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A client cancelled the execution.
    Client,
    /// The daemon stops.
    Daemon,
    /// The execution could not be stored, so nobody knows of it.
    Unstored,
    /// Only its parent could have used its result, and its parent ended without it.
    Parent,
    /// The policy's deadline passed.
    Deadline,
    /// It waited, could not be parked, and others waited for its VM.
    Unparked,
    /// It goes on on another host.
    Moved,
}

/// What an execution that waits is told.
#[derive(Debug)]
pub enum Note {
    /// An execution ended; its end is durable.
    Ended(ExecutionId),
    /// An event was signalled; the signal is durable.
    Signalled(Arc<str>),
    /// Somebody wants it parked now.
    Park(oneshot::Sender<Result<(), String>>),
    /// Somebody wants it to have a VM now, whatever it waits for.
    Resume(oneshot::Sender<Result<(), String>>),
    /// Somebody wants it to stay parked until what is sent is dropped, or told that the execution has moved.
    Hold(oneshot::Sender<Result<oneshot::Sender<()>, String>>),
}

/// Whether the database knows of an execution.
#[derive(Debug, Clone)]
pub enum Stored {
    /// Its insertion is on its way.
    Pending,
    /// It does.
    Yes,
    /// It does not, and will not.
    Failed(Arc<StoreError>),
}

/// What the database has of an execution.
#[derive(Debug, Clone, Copy)]
struct Saved {
    state: State,
    timeline: usize,
}

/// An execution that has not ended.
#[derive(Debug)]
pub struct Live {
    /// Its id.
    pub id: ExecutionId,
    /// Whose it is.
    pub account: AccountName,
    /// Who started it.
    pub parent: Option<ExecutionId>,
    /// How many executions are above it.
    pub depth: u32,
    /// What it runs.
    pub version: Arc<Version>,
    /// What its VM is charged.
    pub bytes: u64,
    /// Bytes of its input.
    pub input_bytes: u64,
    /// It is of an earlier daemon or of another host.
    pub inherited: bool,
    /// It is being given up for another host, and nothing that comes now goes with it.
    pub leaving: watch::Sender<bool>,
    /// What its times are counted on: that of its caller, as long as one daemon has both.
    pub clock: SteadyClock,
    /// Ends its VM.
    pub cancel: CancellationToken,
    /// How far its log is.
    pub log: watch::Sender<Tail>,
    /// Whether the database knows of it.
    pub stored: watch::Sender<Stored>,
    cause: OnceLock<Cause>,
    view: watch::Sender<Arc<Execution>>,
    saved: Mutex<Saved>,
    notes: Mutex<Vec<Note>>,
    noted: Notify,
}

impl Live {
    /// One that the database has as it is: of an earlier daemon, or of another host. Its time goes on from the last thing that happened to it, where the clock
    /// is behind that.
    #[must_use]
    pub fn known(execution: Execution, version: Arc<Version>, (bytes, input_bytes): (u64, u64)) -> Self {
        let last = execution.timeline.last().map_or(execution.created_at, |entry| entry.at);
        Self::new(execution, version, (bytes, input_bytes), SteadyClock::after(last), true)
    }

    /// One that is new.
    #[must_use]
    pub fn fresh(execution: Execution, version: Arc<Version>, (bytes, input_bytes): (u64, u64), clock: SteadyClock) -> Self {
        Self::new(execution, version, (bytes, input_bytes), clock, false)
    }

    fn new(execution: Execution, version: Arc<Version>, (bytes, input_bytes): (u64, u64), clock: SteadyClock, stored: bool) -> Self {
        let saved = Saved { state: execution.state, timeline: execution.timeline.len() };
        Self {
            id: execution.id.clone(),
            account: execution.account.clone(),
            parent: execution.parent.clone(),
            depth: execution.depth,
            version,
            bytes,
            input_bytes,
            inherited: stored,
            leaving: watch::Sender::default(),
            clock,
            cancel: CancellationToken::new(),
            log: watch::Sender::default(),
            stored: watch::Sender::new(if stored { Stored::Yes } else { Stored::Pending }),
            cause: OnceLock::new(),
            view: watch::Sender::new(Arc::new(execution)),
            saved: Mutex::new(saved),
            notes: Mutex::default(),
            noted: Notify::new(),
        }
    }

    /// Tells it something.
    pub fn note(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.noted.notify_one();
    }

    /// Until there is something that it was told. For its one owner.
    pub async fn noted(&self) {
        loop {
            let noted = self.noted.notified();
            if !self.notes.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                return;
            }
            noted.await;
        }
    }

    /// Takes what it was told.
    #[must_use]
    pub fn notes(&self) -> Vec<Note> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Shows what it waits for.
    pub fn waits(&self, waiting: Vec<WaitView>) {
        self.view.send_if_modified(|execution| {
            let changed = execution.waiting != waiting;
            if changed {
                Arc::make_mut(execution).waiting = waiting;
            }
            changed
        });
    }

    /// How much of the timeline the database has.
    #[must_use]
    pub fn durable(&self) -> usize {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).timeline
    }

    /// Its views, one after the other.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Execution>> {
        self.view.subscribe()
    }

    /// As it is now.
    #[must_use]
    pub fn view(&self) -> Arc<Execution> {
        Arc::clone(&self.view.borrow())
    }

    /// Waits until it has ended, or its insertion failed.
    pub async fn ended(&self) -> Arc<Execution> {
        let mut view = self.view.subscribe();
        // The sender lives as long as `self`.
        let ended = view.wait_for(|execution| execution.state.ended()).await;
        ended.map_or_else(|_| self.view(), |execution| Arc::clone(&execution))
    }

    /// Waits until the database knows of it, or never will.
    pub async fn stored(&self) -> Result<(), Arc<StoreError>> {
        let mut stored = self.stored.subscribe();
        match stored.wait_for(|stored| !matches!(stored, Stored::Pending)).await.as_deref() {
            Ok(Stored::Failed(error)) => Err(Arc::clone(error)),
            Ok(_) => Ok(()),
            Err(_) => Err(Arc::new(StoreError::Closed)),
        }
    }

    /// Asks its VM to end. The first cause stays.
    pub fn stop(&self, cause: Cause) -> Cause {
        let cause = *self.cause.get_or_init(|| cause);
        self.cancel.cancel();
        cause
    }

    /// Why its VM was asked to end.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Something happened. What does not fit the state is a fault of this program; it is logged and left out.
    pub fn happened(&self, what: Happening) {
        self.view.send_modify(|execution| {
            let execution = Arc::make_mut(execution);
            if let Err(error) = execution.apply(self.clock.now(), what.clone()) {
                tracing::error!(execution = %execution.id, ?what, %error, "refused");
            }
        });
    }

    /// The change that brings the database up to `execution`, which is the view or what it is about to be.
    #[must_use]
    pub fn change(&self, execution: &Arc<Execution>) -> Change {
        let saved = *self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        Change::Update { execution: Arc::clone(execution), stored: saved.state, timeline: saved.timeline }
    }

    /// The database has `execution` now; shows it.
    pub fn saved(&self, execution: Arc<Execution>) {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Saved { state: execution.state, timeline: execution.timeline.len() };
        self.view.send_if_modified(|view| {
            let newer = execution.state.ended() || execution.timeline.len() >= view.timeline.len();
            if newer {
                *view = execution;
            }
            newer
        });
    }

    /// What the engine needs to know of its task.
    #[must_use]
    pub fn task(&self, images: &Images) -> TaskVersion {
        task_version(&self.version, images)
    }
}

/// What the engine needs to know of a version.
#[must_use]
pub fn task_version(version: &Version, images: &Images) -> TaskVersion {
    TaskVersion {
        account: version.account.to_string(),
        task: version.task.to_string(),
        version: version.version.to_string(),
        portion: version.portion.to_string(),
        aux: version.rights.aux.iter().map(|aux| AuxPlace { name: aux.name.to_string(), port: aux.port }).collect(),
        runtime: version.entry.runtime(),
        entry: version.entry.to_string(),
        memory_mib: version.policy.memory_mib,
        // A VM has one processor: all of it is no limit.
        cpu_permille: Some(version.policy.vcpus_permille).filter(|permille| *permille < 1000),
        code: images.path(&version.code),
    }
}
