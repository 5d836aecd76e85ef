//! The scheduler at work: one lock over the queue and what has not ended, and tasks that carry out what the queue says.
//!
//! The lock is held for a few map operations and never over an await. It is a lock and not an actor because every submission would
//! pay two hops to an actor.
//!
//! Invariant: an execution that has not ended is in `live`; it waits in the queue, or a task of [`super::run`] owns it.

use super::core::{Budget, Core, Event, Job};
use super::live::{Cause, Live, Stored, task_version};
use super::run::{self, Ending};
use super::runner::Runner;
use crate::code::images::Images;
use crate::logs::Logs;
use crate::manifest::{TaskName, format_bytes};
use crate::metrics::Metrics;
use crate::state::id::{ExecutionId, IdSource};
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::{Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

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
    /// No ids without entropy.
    #[error("the host gives no random bytes: {0}")]
    Entropy(getrandom::Error),
}

/// What the scheduler does, in figures.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Executions that wait.
    pub queued: usize,
    /// Executions that hold a VM.
    pub running: usize,
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
    ids: IdSource,
    templates: BTreeMap<u64, Arc<Version>>,
    template: u64,
}

/// The scheduler.
pub struct Dispatcher {
    shared: Mutex<Shared>,
    changed: watch::Sender<()>,
    pub(super) store: Store,
    pub(super) images: Images,
    pub(super) logs: Logs,
    pub(super) runner: Arc<dyn Runner>,
    pub(super) metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("load", &self.load()).finish_non_exhaustive()
    }
}

impl Dispatcher {
    /// A scheduler without work. `last` is the largest id that exists.
    #[must_use]
    pub fn new(
        budget: Budget,
        last: Option<&ExecutionId>,
        store: Store,
        (images, logs): (Images, Logs),
        runner: Arc<dyn Runner>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let shared =
            Shared { core: Core::new(budget), live: BTreeMap::new(), ids: IdSource::after(last), templates: BTreeMap::new(), template: 0 };
        Arc::new(Self { shared: Mutex::new(shared), changed: watch::Sender::default(), store, images, logs, runner, metrics })
    }

    /// Who runs VMs.
    #[must_use]
    pub fn runner(&self) -> &dyn Runner {
        &*self.runner
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bytes = self.check_capacity(&version)?;
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(SubmitError::Entropy)?;
        let now = Timestamp::now();
        let (live, admitted, others) = {
            let mut shared = self.lock();
            if shared.core.draining() {
                return Err(SubmitError::Draining);
            }
            let id = shared.ids.next(now, random);
            let mut execution = Execution::new(id.clone(), &version, now);
            let job = Job::Execution(id.clone());
            let mut started = shared.core.step(Event::Submit(job.clone(), bytes));
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
        let insert = Change::Insert { execution: live.view(), input: Arc::clone(&input) };
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

    /// An execution of an earlier daemon waits again.
    pub(super) fn requeue(self: &Arc<Self>, live: Arc<Live>) {
        let id = live.view().id.clone();
        let mut shared = self.lock();
        let started = shared.core.step(Event::Submit(Job::Execution(id.clone()), live.bytes));
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
        let started = shared.core.step(Event::Submit(Job::Template(number), bytes));
        drop(shared);
        self.start(started);
    }

    /// A version is gone: its template, if it waits to be made, is not made.
    pub fn unprepare(&self, gone: &Version) {
        self.lock().templates.retain(|_, version| version.version != gone.version || version.task != gone.task);
    }

    fn start(self: &Arc<Self>, jobs: Vec<Job>) {
        for job in jobs {
            match &job {
                Job::Execution(id) => {
                    if let Some(live) = self.live(id) {
                        tokio::spawn(run::run(Arc::clone(self), live, None));
                    }
                }
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
        let task = task_version(version, self.images.path(&version.version));
        if let Err(error) = self.runner.prepare(&task).await {
            tracing::warn!(task = %version.task, version = &*version.version, %error, "no template; the next execution tries again");
        }
    }

    /// A job's VM is gone.
    pub(super) fn release(self: &Arc<Self>, job: Job) {
        let started = self.lock().core.step(Event::Release(job));
        self.start(started);
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

    /// Executions of a task are queued or running.
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
        let core = &self.lock().core;
        let (queued, running) = (core.waiting(), core.holding());
        Load { queued, running, used: core.used(), budget: core.budget(), draining: core.draining() }
    }

    /// Cancels an execution that has not ended; `None` if there is none. Answers when it has ended, or with how far it is after
    /// [`CANCEL_WAIT`].
    pub async fn cancel(self: &Arc<Self>, id: &ExecutionId) -> Option<Result<Arc<Execution>, Arc<StoreError>>> {
        let (live, waited, started) = {
            let mut shared = self.lock();
            let live = Arc::clone(shared.live.get(id)?);
            let job = Job::Execution(id.clone());
            let waited = shared.core.waits(&job);
            let started = if waited { shared.core.step(Event::Withdraw(job)) } else { Vec::new() };
            (live, waited, started)
        };
        self.start(started);
        if live.cause().is_none() && !live.view().state.ended() {
            live.happened(Happening::Cancelled);
        }
        live.stop(Cause::Client);
        if let Err(error) = live.stored().await {
            return Some(Err(error));
        }
        if waited {
            // Nobody else owns it, so its end must not depend on the client staying.
            let (this, live) = (Arc::clone(self), Arc::clone(&live));
            tokio::spawn(async move { run::finish(&this, &live, Ending::cancelled()).await });
        }
        let ended = tokio::time::timeout(CANCEL_WAIT, live.ended()).await;
        Some(Ok(ended.unwrap_or_else(|_| live.view())))
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
        let started = self.lock().core.step(Event::Drain);
        self.start(started);
        if !self.until(wait, |shared| shared.core.holding() == 0).await {
            let running: Vec<_> = self.all_live().into_iter().filter(|live| live.view().state != State::Queued).collect();
            tracing::warn!(running = running.len(), "the drain timeout passed; what still runs is interrupted");
            for live in running {
                live.stop(Cause::Daemon);
            }
        }
        let settled = |shared: &Shared| shared.core.holding() == 0 && shared.live.values().all(|live| live.view().state == State::Queued);
        if !self.until(STOP_WAIT, settled).await {
            tracing::error!("some executions could not be stopped or recorded; the next start accounts for them");
        }
    }
}
