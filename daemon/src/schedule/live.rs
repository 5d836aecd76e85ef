//! An execution that has not ended, as everyone in the daemon sees it.
//!
//! Invariants: what [`Live::view`] shows as ended is durable; until then the view may be ahead of the database, never behind it. Its timeline begins with all
//! that the database has. One task at a time writes an execution to the database, and only that takes it to another state; what others add meanwhile
//! (`cancelled`, `late`) leads to none, and comes after what was being written.

use crate::code::images::Images;
use crate::engine::TaskVersion;
use crate::logs::Tail;
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, TimelineEntry, Version};
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

    /// The database has `execution` now: the view as it was, or one step further. Shows it, and after it what was added to the view meanwhile.
    pub fn saved(&self, execution: Arc<Execution>) {
        let now = Saved { state: execution.state, timeline: execution.timeline.len() };
        let before = std::mem::replace(&mut *self.saved.lock().unwrap_or_else(PoisonError::into_inner), now);
        self.view.send_modify(|view| *view = with_added(execution, view, before.timeline));
    }

    /// What the engine needs to know of its task.
    #[must_use]
    pub fn task(&self, images: &Images) -> TaskVersion {
        task_version(&self.version, images)
    }
}

/// What the database has, with what only `view` has after it. They have the first `common` entries in common, and may have more. Nothing comes after an end.
fn with_added(mut saved: Arc<Execution>, view: &Execution, common: usize) -> Arc<Execution> {
    let same = view.timeline.iter().zip(&saved.timeline).skip(common).take_while(|(ours, theirs)| ours == theirs).count();
    let added = view.timeline.get(common + same..).unwrap_or_default();
    if saved.state.ended() || added.is_empty() {
        return saved;
    }
    let execution = Arc::make_mut(&mut saved);
    for TimelineEntry { at, what } in added {
        let at = execution.timeline.last().map_or(*at, |last| last.at.max(*at));
        if let Err(error) = execution.apply(at, what.clone()) {
            tracing::error!(execution = %execution.id, ?what, %error, "refused");
        }
    }
    saved
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::Base;
    use crate::state::time::Timestamp;
    use crate::state::waiting::Parked;

    const CANCELLED: Happening = Happening::Cancelled;

    fn running() -> Live {
        let version = crate::state::tests::version("t", 'a');
        let mut execution = Execution::new(ExecutionId::first_of(Timestamp(0)), &version, Timestamp(0));
        execution.apply(Timestamp(1), Happening::Starting { attempt: 1 }).unwrap();
        execution.apply(Timestamp(2), Happening::Running { micros: 1 }).unwrap();
        Live::known(execution, version, (1, 1))
    }

    /// What is written when it is parked.
    fn parked(live: &Live) -> Arc<Execution> {
        let mut execution = (*live.view()).clone();
        let happening = Happening::Parked { waiting: Vec::new(), changed_bytes: 1, stored_bytes: 1, micros: 1 };
        execution.apply(live.clock.now(), happening).unwrap();
        execution.parked = Some(Arc::new(Parked {
            file: "f".into(),
            mark: String::new(),
            key: None,
            base: Base { template: "t".into(), content: "c".into() },
            stored_bytes: 1,
            unread: String::new(),
            since: Timestamp(3),
            ran_micros: 0,
            children: 0,
            calls: None,
            asks: Vec::new(),
            aux: Vec::new(),
        }));
        Arc::new(execution)
    }

    fn last_two(execution: &Execution) -> [&Happening; 2] {
        let [.., before, last] = execution.timeline.as_slice() else { unreachable!("it was started") };
        assert!(before.at <= last.at);
        [&before.what, &last.what]
    }

    #[test]
    fn what_is_added_while_it_is_parked_comes_after() {
        let live = running();
        let execution = parked(&live);
        live.happened(CANCELLED);
        live.saved(Arc::clone(&execution));
        let view = live.view();
        assert!(view.state == State::Parked && view.parked.is_some());
        assert!(matches!(last_two(&view), [Happening::Parked { .. }, Happening::Cancelled]));
        // And the next change brings it to the database.
        let Change::Update { stored, timeline, .. } = live.change(&view) else { unreachable!("it is known") };
        assert_eq!((stored, timeline), (State::Parked, execution.timeline.len()));
    }

    #[test]
    fn so_it_does_where_parks_are_not_told_any_more() {
        let live = running();
        live.view.send_modify(|execution| Arc::make_mut(execution).parks = 1000);
        let execution = parked(&live);
        assert_eq!(execution.timeline.len(), live.view().timeline.len());
        live.happened(CANCELLED);
        live.happened(Happening::Late { by_ms: 1 });
        live.saved(execution);
        let view = live.view();
        assert!(view.state == State::Parked && view.parked.is_some() && view.late);
        assert!(matches!(last_two(&view), [Happening::Cancelled, Happening::Late { .. }]));
    }

    #[test]
    fn a_view_that_is_written_as_it_is_keeps_what_is_added() {
        let live = running();
        live.happened(Happening::NotParked { reason: "r".into() });
        let execution = live.view();
        live.happened(Happening::Late { by_ms: 1 });
        live.saved(Arc::clone(&execution));
        assert!(matches!(last_two(&live.view()), [Happening::NotParked { .. }, Happening::Late { .. }]));
        assert_eq!((live.durable(), live.view().timeline.len()), (execution.timeline.len(), execution.timeline.len() + 1));
        assert!(live.view().late);
    }

    #[test]
    fn nothing_comes_after_an_end() {
        let live = running();
        let mut execution = (*live.view()).clone();
        execution.apply(Timestamp(3), Happening::Finished { state: State::Succeeded, log_bytes: 0, log_dropped_bytes: 0 }).unwrap();
        live.happened(CANCELLED);
        live.saved(Arc::new(execution));
        assert!(matches!(last_two(&live.view()), [Happening::Running { .. }, Happening::Finished { .. }]));
    }
}
