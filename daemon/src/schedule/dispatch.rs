//! The scheduler at work: one lock over the queue and what has not ended, and tasks that carry out what the queue says.
//!
//! The lock is held for a few map operations and never over an await. It is a lock and not an actor because every submission would
//! pay two hops to an actor.
//!
//! Invariant: an execution that has not ended is in `live`; it waits in the queue, or a task of [`super::run`] or of [`super::backoff`] owns it.

mod drain;
mod kept;
mod kin;
mod load;
mod submit;
mod tick;
mod waits;

use super::asks::graph::Graph;
use super::ending::Ending;
use super::estimates::{Estimate, Estimates};
use super::job::{Clock, Job, background, claim};
use super::live::{Cause, Live, task_version};
use super::run;
use super::runner::Runner;
use crate::accounts::{Account, Accounts};
use crate::aux::Outside;
use crate::catalog::Catalog;
use crate::caught::caught;
use crate::code::images::Images;
use crate::engine::{Packing, ParkKey};
use crate::logs::Logs;
use crate::manifest::host::HostPolicy;
use crate::manifest::{AccountName, TaskName};
use crate::metrics::Metrics;
use crate::parked::ParkedFiles;
use crate::secrets::Secrets;
use crate::secrets::give::ParkKeyError;
use crate::secrets::seal::Sealed;
use crate::state::id::{ExecutionId, IdSource};
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::{Store, StoreError};
use kept::Shelf;
use kin::Kin;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use torpor_scheduler::{Action, Budget, Claim, Event, Scheduler, Time};

pub use load::{Load, OwnLoad};
pub use submit::SubmitError;
pub(super) use submit::Ties;
pub use tick::keep_durations;

/// How long a cancel waits for the VM to be gone before it answers with what is known.
const CANCEL_WAIT: Duration = Duration::from_secs(15);

struct Shared {
    core: Scheduler<Job>,
    clock: Clock,
    live: Kin,
    /// Parked executions that wait for memory.
    resuming: BTreeMap<ExecutionId, oneshot::Sender<()>>,
    ids: IdSource,
    templates: BTreeMap<u64, Arc<Version>>,
    template: u64,
    kept: Shelf,
    /// When the last one ended that kept a VM without need.
    gave_way: Option<Time>,
}

impl Shared {
    fn step(&mut self, event: Event<Job>) -> Vec<Action<Job>> {
        self.core.step(self.clock.now(), event)
    }

    /// What an execution claims, as it is now.
    fn claim(&self, live: &Live, expected: Estimate) -> Claim {
        claim((&self.clock, live.clock.now()), &live.view(), &live.version, live.bytes, expected)
    }
}

/// What the scheduler works with.
#[derive(Clone)]
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Accounts, and who has one.
    pub accounts: Accounts,
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
    /// Bytes of the disk that holds all this.
    pub disk_bytes: u64,
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
    alarm: watch::Sender<Option<Time>>,
    /// Rung when an execution has ended whose end is to be told.
    pub bell: Arc<Notify>,
    /// What is kept of the executions of each account that have ended, as it was a moment ago.
    history: RwLock<HashMap<AccountName, u64>>,
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
            core: Scheduler::new(budget),
            clock: Clock::default(),
            live: Kin::default(),
            resuming: BTreeMap::new(),
            ids: IdSource::after(last),
            templates: BTreeMap::new(),
            template: 0,
            kept: Shelf::default(),
            gave_way: None,
        };
        let (changed, pressure) = (watch::Sender::default(), watch::Sender::default());
        let alarm = watch::Sender::default();
        let this = Arc::new(Self {
            shared: Mutex::new(shared),
            graph: Mutex::default(),
            changed,
            pressure,
            alarm,
            bell: Arc::default(),
            history: RwLock::default(),
            delayed: Arc::default(),
            parts,
        });
        this.accounts.known().accounts.values().for_each(|account| this.weigh(account));
        tick::begin(&this);
        this
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
    fn step(self: &Arc<Self>, event: Event<Job>) {
        let follows = self.lock().step(event);
        self.act(follows);
    }

    /// Has a version's template made when there is room.
    pub fn prepare(self: &Arc<Self>, version: Arc<Version>) {
        let bytes = self.runner.vm_bytes(version.policy.memory_mib);
        let mut shared = self.lock();
        shared.template += 1;
        let number = shared.template;
        let claim = background(&version, bytes);
        shared.templates.insert(number, version);
        let follows = shared.step(Event::Submit(Job::Template(number), claim));
        drop(shared);
        self.act(follows);
    }

    /// A version is gone: its template, if it waits to be made, is not made.
    pub fn unprepare(self: &Arc<Self>, gone: &Version) {
        self.lock().templates.retain(|_, version| !version.same(gone));
        self.drop_kept(gone);
    }

    /// Carries out what the queue says.
    fn act(self: &Arc<Self>, actions: Vec<Action<Job>>) {
        let actions = self.unkeep(actions);
        self.tell();
        for action in actions {
            match action {
                Action::Late(Job::Execution(id)) => self.tell_late(&id),
                // Only executions have a due.
                Action::Late(_) => {}
                Action::Start(Job::Execution(id)) => self.begin(&id),
                // Kept VMs do not wait.
                Action::Start(Job::Kept(_)) => {}
                Action::Start(job @ Job::Template(number)) => {
                    let version = self.lock().templates.remove(&number);
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

    /// An execution holds a VM's place from now on: goes on with it if it was parked, runs it if it is new.
    fn begin(self: &Arc<Self>, id: &ExecutionId) {
        let (waits, live) = {
            let mut shared = self.lock();
            (shared.resuming.remove(id), shared.live.get(id).cloned())
        };
        match (waits, live) {
            (Some(waits), _) => {
                if waits.send(()).is_err() {
                    // It does not wait any more.
                    self.release(Job::Execution(id.clone()));
                }
            }
            (None, Some(live)) if live.view().state == State::Queued => drop(tokio::spawn(run::run(Arc::clone(self), live, None))),
            // One that was parked and was told to end meanwhile has given its place back.
            _ => self.release(Job::Execution(id.clone())),
        }
    }

    async fn make_template(&self, version: &Version) {
        let task = task_version(version, &self.images);
        if let Err(error) = caught(self.runner.prepare(&task)).await.flatten() {
            tracing::warn!(task = %version.task, version = &*version.version, %error, "no template; the next execution tries again");
        }
    }

    /// What the next file of an execution's machine is encrypted with: a machine that has got secrets is never written down in plain.
    pub(super) fn park_key(&self, live: &Live) -> Result<Option<(ParkKey, Sealed)>, ParkKeyError> {
        let holds = !live.version.rights.secrets().is_empty();
        holds.then(|| self.secrets.new_park_key(&live.account, &live.id)).transpose()
    }

    /// A job's VM is gone.
    pub(super) fn release(self: &Arc<Self>, job: Job) {
        self.step(Event::Release(job));
        self.changed.send_replace(());
    }

    /// An execution is not live any more.
    pub(super) fn forget(self: &Arc<Self>, id: &ExecutionId) {
        let follows = {
            let mut shared = self.lock();
            shared.live.remove(id);
            shared.step(Event::Ended(Job::Execution(id.clone())))
        };
        self.act(follows);
        self.changed.send_replace(());
    }

    /// An execution that has not ended.
    #[must_use]
    pub fn live(&self, id: &ExecutionId) -> Option<Arc<Live>> {
        self.lock().live.get(id).cloned()
    }

    /// An execution of an account that has not ended.
    #[must_use]
    pub fn live_of(&self, account: &AccountName, id: &ExecutionId) -> Option<Arc<Live>> {
        self.live(id).filter(|live| live.account == *account)
    }

    /// All that have not ended, newest first.
    #[must_use]
    pub fn all_live(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().rev().cloned().collect()
    }

    /// Executions of a task that have not ended.
    #[must_use]
    pub fn busy(&self, account: &AccountName, task: &TaskName) -> usize {
        self.lock().live.values().filter(|live| live.version.account == *account && live.version.task == *task).count()
    }

    /// How much the host's clock is ahead of what the times of live executions are counted on, at most.
    #[must_use]
    pub fn behind(&self) -> Duration {
        self.lock().live.values().map(|live| live.clock.behind()).max().unwrap_or_default()
    }

    /// No new work is taken.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.lock().core.draining()
    }

    /// An account has this share from now on.
    pub fn weigh(self: &Arc<Self>, account: &Account) {
        self.step(Event::Weight(account.name.as_str().into(), account.weight));
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
        let (waited, follows) = {
            let mut shared = self.lock();
            // One that was parked has a task of its own, which sees that it is to end.
            let waited = shared.core.waits(job) && !matches!(job, Job::Execution(id) if shared.resuming.contains_key(id));
            (waited, if waited { shared.step(Event::Withdraw(job.clone())) } else { Vec::new() })
        };
        self.act(follows);
        waited
    }
}
