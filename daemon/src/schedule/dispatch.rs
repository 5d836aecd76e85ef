//! The scheduler at work: one lock over the queue and what has not ended, and tasks that carry out what the queue says.
//!
//! The lock is held for a few map operations and never over an await. It is a lock and not an actor because every submission would
//! pay two hops to an actor.
//!
//! Invariant: an execution that has not ended is in `live`; it waits in the queue, or a task of [`super::run`] owns it.

mod kept;
mod waits;

use super::asks::graph::Graph;
use super::core::{Budget, Core, Event, Job, Need};
use super::ending::Ending;
use super::estimates::Estimates;
use super::live::{Cause, Live, Stored, need, task_version};
use super::run;
use super::runner::Runner;
use crate::aux::Outside;
use crate::catalog::Catalog;
use crate::code::images::Images;
use crate::engine::{Packing, ParkKey};
use crate::idempotency::NewKey;
use crate::logs::Logs;
use crate::manifest::host::HostPolicy;
use crate::manifest::{SecretName, TaskName, format_bytes, format_millis};
use crate::metrics::Metrics;
use crate::parked::ParkedFiles;
use crate::secrets::Secrets;
use crate::secrets::give::ParkKeyError;
use crate::secrets::seal::Sealed;
use crate::state::id::{ExecutionId, IdSource};
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::{Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::waiting::CallKey;
use crate::state::writer::Change;
use kept::Shelf;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use torpor_protocol::ask::OnLate;

/// How long a cancel waits for the VM to be gone before it answers with what is known.
const CANCEL_WAIT: Duration = Duration::from_secs(15);
/// How long stopped VMs may take to be gone and recorded when the daemon stops.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why an execution is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The daemon stops.
    #[error("torpord is stopping and takes no new work; try again when it is back")]
    Draining,
    /// It could never run.
    #[error(
        "a VM of task {:?} is charged {}, and torpord's whole memory budget is {}; lower `memory` in the policy by {} and push again, or start torpord with a larger --memory-budget",
        task.as_str(), format_bytes(*needs), format_bytes(*budget), format_bytes((needs - budget).next_multiple_of(1 << 20))
    )]
    OverCapacity {
        /// The task.
        task: TaskName,
        /// What its VM is charged: more than the budget.
        needs: u64,
        /// All there is.
        budget: u64,
    },
    /// It declares a secret that is not there.
    #[error("task {:?} declares secret {:?}, which is not set; `torpor secret set {}` sets it", task.as_str(), secret.as_str(), secret.as_str())]
    UnknownSecret {
        /// The task.
        task: TaskName,
        /// The secret.
        secret: SecretName,
    },
    /// It can't be done when it is needed.
    #[error("task {:?} can't be done when it is needed: {why}; give it more time, or run it late with on_late = \"run\"", task.as_str())]
    Late {
        /// The task.
        task: TaskName,
        /// What is known.
        why: String,
    },
    /// No ids without entropy.
    #[error("the host gives no random bytes: {0}")]
    Entropy(getrandom::Error),
}

/// What a child is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ties {
    /// It waits for it: who is called has no more time than who calls.
    Call,
    /// It may outlive it.
    Spawn,
}

/// What is wanted of an execution beside its result.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// When its result is needed; at once where there is nothing.
    pub need_by: Option<Timestamp>,
    /// What to do where that is certain to be missed.
    pub on_late: OnLate,
    /// The calls of its parent up to it.
    pub call_key: Option<CallKey>,
    /// What its request is known by when that comes again; stored with it.
    pub key: Option<NewKey>,
}

/// What the scheduler does, in figures.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Executions that wait.
    pub queued: usize,
    /// Executions that hold a VM.
    pub running: usize,
    /// Executions that are parked.
    pub parked: usize,
    /// Bytes that VMs are charged.
    pub used: u64,
    /// What there is.
    pub budget: Budget,
    /// No new work is taken.
    pub draining: bool,
}

struct Shared {
    core: Core,
    live: BTreeMap<ExecutionId, Arc<Live>>,
    /// Parked executions that wait for memory.
    resuming: BTreeMap<ExecutionId, oneshot::Sender<()>>,
    ids: IdSource,
    templates: BTreeMap<u64, Arc<Version>>,
    template: u64,
    kept: Shelf,
}

/// What the scheduler works with.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Secrets.
    pub secrets: Secrets,
    /// Code.
    pub images: Images,
    /// Output of programs.
    pub logs: Logs,
    /// Machines of parked executions.
    pub parked: ParkedFiles,
    /// How their memory is written.
    pub packing: Packing,
    /// Tasks.
    pub catalog: Arc<Catalog>,
    /// What the administrator allows.
    pub caps: Arc<HostPolicy>,
    /// Who runs VMs.
    pub runner: Arc<dyn Runner>,
    /// Auxiliary services.
    pub outside: Arc<Outside>,
    /// How long executions take.
    pub estimates: Arc<Estimates>,
    /// Figures.
    pub metrics: Arc<Metrics>,
}

/// The scheduler.
pub struct Dispatcher {
    shared: Mutex<Shared>,
    graph: Mutex<Graph>,
    changed: watch::Sender<()>,
    pressure: watch::Sender<bool>,
    /// Executions that wait for the time of their next attempt.
    pub(super) delayed: Arc<AtomicUsize>,
    parts: Parts,
}

impl std::ops::Deref for Dispatcher {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A scheduler without work. `last` is the largest id that exists.
    #[must_use]
    pub fn new(budget: Budget, last: Option<&ExecutionId>, parts: Parts) -> Arc<Self> {
        let shared = Shared {
            core: Core::new(budget),
            live: BTreeMap::new(),
            resuming: BTreeMap::new(),
            ids: IdSource::after(last),
            templates: BTreeMap::new(),
            template: 0,
            kept: Shelf::default(),
        };
        let (changed, pressure) = (watch::Sender::default(), watch::Sender::default());
        Arc::new(Self { shared: Mutex::new(shared), graph: Mutex::default(), changed, pressure, delayed: Arc::default(), parts })
    }

    /// Who runs VMs.
    #[must_use]
    pub fn runner(&self) -> &dyn Runner {
        &*self.runner
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event in, and lets go who has memory now.
    fn step(self: &Arc<Self>, event: Event) {
        let started = self.lock().core.step(event);
        self.start(started);
    }

    /// Refuses what could never run.
    pub fn check_capacity(&self, version: &Version) -> Result<u64, SubmitError> {
        let needs = self.runner.vm_bytes(version.policy.memory_mib);
        let shared = self.lock();
        if shared.core.draining() {
            return Err(SubmitError::Draining);
        }
        let budget = shared.core.budget().bytes;
        if shared.core.fits(needs) { Ok(needs) } else { Err(SubmitError::OverCapacity { task: version.task.clone(), needs, budget }) }
    }

    /// Takes an execution. It is durable once [`Live::stored`] says so; where there is room its VM starts meanwhile.
    pub fn submit(self: &Arc<Self>, version: Arc<Version>, input: Arc<[u8]>) -> Result<Arc<Live>, SubmitError> {
        self.submit_for(version, input, None, Wish::default())
    }

    /// The same with wishes.
    pub fn submit_wish(self: &Arc<Self>, version: Arc<Version>, input: Arc<[u8]>, wish: Wish) -> Result<Arc<Live>, SubmitError> {
        self.submit_for(version, input, None, wish)
    }

    /// The same for one that another execution starts.
    pub(super) fn submit_child(
        self: &Arc<Self>,
        version: Arc<Version>,
        input: Arc<[u8]>,
        parent: &Live,
        ties: Ties,
        wish: Wish,
    ) -> Result<Arc<Live>, SubmitError> {
        self.submit_for(version, input, Some((parent, ties)), wish)
    }

    fn submit_for(
        self: &Arc<Self>,
        version: Arc<Version>,
        input: Arc<[u8]>,
        parent: Option<(&Live, Ties)>,
        mut wish: Wish,
    ) -> Result<Arc<Live>, SubmitError> {
        let bytes = self.check_capacity(&version)?;
        if let Some(secret) = self.secrets.missing(version.rights.all_secrets()) {
            return Err(SubmitError::UnknownSecret { task: version.task.clone(), secret: secret.clone() });
        }
        let caller = parent.map(|(parent, _)| parent);
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(SubmitError::Entropy)?;
        let now = Timestamp::now();
        if let Some(parent) = caller {
            // Nobody needs it after its parent.
            let latest = [parent.view().due, parent.view().need_by].into_iter().flatten().min();
            wish.need_by = wish.need_by.map(|need_by| latest.map_or(need_by, |latest| need_by.min(latest)));
        }
        let late = wish.need_by.and_then(|need_by| certain(now, need_by, self.estimates.of(&version).least));
        if let (Some((_, why)), OnLate::Refuse) = (&late, wish.on_late) {
            return Err(SubmitError::Late { task: version.task.clone(), why: why.clone() });
        }
        let (live, admitted, others) = {
            let mut shared = self.lock();
            if shared.core.draining() {
                return Err(SubmitError::Draining);
            }
            let id = shared.ids.next(now, random);
            let mut execution = Execution::new(id.clone(), &version, now);
            execution.parent = caller.map(|parent| parent.id.clone());
            execution.depth = caller.map_or(0, |parent| parent.depth.saturating_add(1));
            if let Some((parent, Ties::Call)) = parent {
                execution.due = [execution.due, parent.view().due].into_iter().flatten().min();
            }
            execution.need_by = wish.need_by;
            execution.call_key = wish.call_key;
            if let Some((by_ms, _)) = late {
                let _ = execution.apply(now, Happening::Late { by_ms });
            }
            let job = Job::Execution(id.clone());
            let mut started = shared.core.step(Event::Submit(job.clone(), need(&version, bytes)));
            let before = started.len();
            started.retain(|other| *other != job);
            let admitted = started.len() < before;
            if admitted {
                run::starting(&mut execution);
            }
            let live = Arc::new(Live::new(execution, version, bytes, false));
            shared.live.insert(id, Arc::clone(&live));
            (live, admitted, started)
        };
        self.metrics.submitted();
        self.start(others);
        self.watch_deadline(&live);
        let insert = Change::Insert { execution: live.view(), input: Arc::clone(&input), key: wish.key };
        let (this, stored) = (Arc::clone(self), Arc::clone(&live));
        tokio::spawn(async move { this.insert(&stored, insert).await });
        if admitted {
            tokio::spawn(run::run(Arc::clone(self), Arc::clone(&live), Some(input)));
        }
        Ok(live)
    }

    async fn insert(self: &Arc<Self>, live: &Arc<Live>, insert: Change) {
        let error = match self.store.commit(insert).await {
            Ok(()) => {
                live.stored.send_replace(Stored::Yes);
                return;
            }
            Err(error) => Arc::new(error),
        };
        let id = live.view().id.clone();
        tracing::warn!(execution = %id, %error, "an execution could not be stored and was refused");
        live.stop(Cause::Unstored);
        let job = Job::Execution(id.clone());
        let started = {
            let mut shared = self.lock();
            // One that holds a VM is owned by its run, which sees that it is not stored.
            if shared.core.waits(&job) {
                shared.live.remove(&id);
            }
            shared.core.step(Event::Withdraw(job))
        };
        live.stored.send_replace(Stored::Failed(error));
        self.start(started);
    }

    /// An execution of an earlier daemon, or one that has waited for its next attempt, is in the queue again.
    pub(super) fn requeue(self: &Arc<Self>, live: Arc<Live>) {
        let id = live.view().id.clone();
        let mut shared = self.lock();
        let started = shared.core.step(Event::Submit(Job::Execution(id.clone()), live.need()));
        shared.live.insert(id, live);
        drop(shared);
        self.start(started);
    }

    /// Has a version's template made when there is room.
    pub fn prepare(self: &Arc<Self>, version: Arc<Version>) {
        let bytes = self.runner.vm_bytes(version.policy.memory_mib);
        let mut shared = self.lock();
        shared.template += 1;
        let number = shared.template;
        shared.templates.insert(number, version);
        let started = shared.core.step(Event::Submit(Job::Template(number), Need { bytes, group: None }));
        drop(shared);
        self.start(started);
    }

    /// A version is gone: its template, if it waits to be made, is not made.
    pub fn unprepare(self: &Arc<Self>, gone: &Version) {
        self.lock().templates.retain(|_, version| version.version != gone.version || version.task != gone.task);
        self.drop_kept(gone);
    }

    fn start(self: &Arc<Self>, jobs: Vec<Job>) {
        let jobs = self.unkeep(jobs);
        self.press();
        for job in jobs {
            match &job {
                Job::Resume(id) => {
                    let waits = self.lock().resuming.remove(id);
                    if waits.is_none_or(|waits| waits.send(()).is_err()) {
                        // It does not wait any more.
                        self.release(job);
                    }
                }
                Job::Execution(id) => {
                    if let Some(live) = self.live(id) {
                        tokio::spawn(run::run(Arc::clone(self), live, None));
                    }
                }
                // Kept VMs do not wait.
                Job::Kept(_) => {}
                Job::Template(number) => {
                    let version = self.lock().templates.remove(number);
                    let this = Arc::clone(self);
                    tokio::spawn(async move {
                        if let Some(version) = version {
                            this.make_template(&version).await;
                        }
                        this.release(job);
                    });
                }
            }
        }
    }

    async fn make_template(&self, version: &Version) {
        let task = task_version(version, &self.images);
        if let Err(error) = self.runner.prepare(&task).await {
            tracing::warn!(task = %version.task, version = &*version.version, %error, "no template; the next execution tries again");
        }
    }

    /// What the next file of an execution's machine is encrypted with: a machine that has got secrets is never written down in plain.
    pub(super) fn park_key(&self, live: &Live) -> Result<Option<(ParkKey, Sealed)>, ParkKeyError> {
        let holds = !live.version.rights.secrets().is_empty();
        holds.then(|| self.secrets.new_park_key(&live.id)).transpose()
    }

    /// A job's VM is gone.
    pub(super) fn release(self: &Arc<Self>, job: Job) {
        self.step(Event::Release(job));
        self.changed.send_replace(());
    }

    /// An execution is not live any more.
    pub(super) fn forget(&self, id: &ExecutionId) {
        self.lock().live.remove(id);
        self.changed.send_replace(());
    }

    /// An execution that has not ended.
    #[must_use]
    pub fn live(&self, id: &ExecutionId) -> Option<Arc<Live>> {
        self.lock().live.get(id).cloned()
    }

    /// All that have not ended, newest first.
    #[must_use]
    pub fn all_live(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().rev().cloned().collect()
    }

    /// Executions of a task that have not ended.
    #[must_use]
    pub fn busy(&self, task: &TaskName) -> usize {
        self.lock().live.values().filter(|live| live.version.task == *task).count()
    }

    /// No new work is taken.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.lock().core.draining()
    }

    /// Figures.
    #[must_use]
    pub fn load(&self) -> Load {
        let shared = self.lock();
        let core = &shared.core;
        let (queued, running) = (core.waiting() + self.delayed.load(Ordering::Relaxed), core.holding());
        let parked = shared.live.values().filter(|live| live.view().state == State::Parked).count();
        Load { queued, running, parked, used: core.used(), budget: core.budget(), draining: core.draining() }
    }

    /// Cancels an execution that has not ended; `None` if there is none. Answers when it has ended, or with how far it is after
    /// [`CANCEL_WAIT`].
    pub async fn cancel(self: &Arc<Self>, id: &ExecutionId) -> Option<Result<Arc<Execution>, Arc<StoreError>>> {
        self.cancel_as(id, Cause::Client).await
    }

    /// The same for another reason.
    pub async fn cancel_as(self: &Arc<Self>, id: &ExecutionId, cause: Cause) -> Option<Result<Arc<Execution>, Arc<StoreError>>> {
        let live = self.live(id)?;
        if cause == Cause::Client && live.cause().is_none() && !live.view().state.ended() {
            live.happened(Happening::Cancelled);
        }
        let cause = live.stop(cause);
        // In this order: who puts it into the queue meanwhile sees that it is stopped.
        let waited = self.unqueue(&Job::Execution(id.clone()));
        if let Err(error) = live.stored().await {
            return Some(Err(error));
        }
        if waited {
            // Nobody else owns it, so its end must not depend on the client staying.
            let (this, live) = (Arc::clone(self), Arc::clone(&live));
            let ending = Ending::of(Some(cause), &live.version.policy);
            tokio::spawn(async move { run::finish(&this, &live, ending).await });
        }
        let ended = tokio::time::timeout(CANCEL_WAIT, live.ended()).await;
        Some(Ok(ended.unwrap_or_else(|_| live.view())))
    }

    /// Takes a job out of the queue. True: it was there, and is the caller's now.
    pub(super) fn unqueue(self: &Arc<Self>, job: &Job) -> bool {
        let (waited, started) = {
            let mut shared = self.lock();
            let waited = shared.core.waits(job);
            (waited, if waited { shared.core.step(Event::Withdraw(job.clone())) } else { Vec::new() })
        };
        self.start(started);
        waited
    }

    async fn until(&self, wait: Duration, done: impl Fn(&Shared) -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(wait, async {
            while !done(&self.lock()) {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        });
        waited.await.is_ok()
    }

    /// Takes no new work, waits for what runs, then stops it. What waits stays queued in the database.
    pub async fn drain(self: &Arc<Self>, wait: Duration) {
        self.step(Event::Drain);
        self.drop_all_kept();
        if !self.until(wait, |shared| shared.core.holding() == 0).await {
            let running: Vec<_> = self.all_live().into_iter().filter(|live| !rests(live)).collect();
            tracing::warn!(running = running.len(), "the drain timeout passed; what still runs is interrupted");
            for live in running {
                live.stop(Cause::Daemon);
            }
        }
        let settled = |shared: &Shared| shared.core.holding() == 0 && shared.live.values().all(|live| rests(live));
        if !self.until(STOP_WAIT, settled).await {
            tracing::error!("some executions could not be stopped or recorded; the next start accounts for them");
        }
    }
}

/// Whether a result can't be there when it is needed, however fast it is: by how many ms, and why.
fn certain(now: Timestamp, need_by: Timestamp, least: Duration) -> Option<(u64, String)> {
    let earliest = Timestamp(now.0.saturating_add(i64::try_from(least.as_micros()).unwrap_or(i64::MAX)));
    let by_ms = u64::try_from(earliest.0.saturating_sub(need_by.0)).ok().filter(|by| *by > 0)?.div_ceil(1000);
    let why = if need_by < now {
        format!("that is {} ago", format_millis(now.millis().saturating_sub(need_by.millis())))
    } else {
        let left = format_millis(need_by.millis().saturating_sub(now.millis()));
        format!(
            "that is in {left}, and it has never taken less than {}",
            format_millis(u64::try_from(least.as_millis()).unwrap_or(u64::MAX))
        )
    };
    Some((by_ms, why))
}

/// It is in the database as it is, and needs nothing.
fn rests(live: &Live) -> bool {
    matches!(live.view().state, State::Queued | State::Parked)
}
