//! What is asked of the scheduler, and what it answers.

use std::fmt::Debug;
use std::sync::Arc;

/// Microseconds on a clock that never goes back and starts anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// So many microseconds later; the last moment there is, where that is beyond it.
    #[must_use]
    pub const fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// So many microseconds earlier; 0 where that is before it.
    #[must_use]
    pub const fn before(self, micros: u64) -> Self {
        Self(self.0.saturating_sub(micros))
    }

    /// Microseconds since an earlier moment; 0 since a later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What names a job: anything that can be copied and ordered.
pub trait Key: Clone + Ord + Debug {}

impl<K: Clone + Ord + Debug> Key for K {}

/// Those that may hold only so many VMs together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub name: Arc<str>,
    /// How many VMs; as the member that asks has it.
    pub most: u32,
}

/// What sort of job wants a VM; in this order, where priorities are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It was parked: it has begun, and may be what others wait for.
    Resume,
    /// It is new.
    New,
    /// Nobody waits for it: what is made ahead. Counts as new while somebody does.
    Background,
}

/// What a job needs, and by when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Memory that its VM is charged.
    pub bytes: u64,
    /// Thousandths of a processor.
    pub cpu: u32,
    /// Whose it is.
    pub account: Arc<str>,
    /// The group that it counts in.
    pub group: Option<Group>,
    /// What sort of job it is.
    pub kind: Kind,
    /// Higher first, within one account.
    pub priority: i32,
    /// When it must have ended, if that is known.
    pub due: Option<Time>,
    /// It may be put off as long as its due is met. Means nothing without a due: then it is wanted at once.
    pub deferrable: bool,
    /// Microseconds that it is expected to hold its VM (the median); 0 where unknown.
    pub holds: u64,
    /// Microseconds from its start to its end (a high percentile); 0 where unknown.
    pub takes: u64,
}

/// What there is to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of all VMs together.
    pub bytes: u64,
    /// VMs at once; no limit where there is none.
    pub vms: Option<usize>,
    /// Thousandths of a processor at once; no limit where there is none.
    pub cpu: Option<u32>,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<K> {
    /// A job wants a VM. Again after [`Event::Release`]: it is resumed, and has come when it came first, or tried again, and comes now. Of one that waits already it
    /// replaces the claim; of one that holds it changes nothing.
    Submit(K, Claim),
    /// The same of several, of which none starts before all wait.
    SubmitAll(Vec<(K, Claim)>),
    /// A job that waits does not want one any more.
    Withdraw(K),
    /// A job's VM is gone: it was parked, or has ended.
    Release(K),
    /// The first one's work is over; the second keeps the VM from now on, in no group, at no CPU and on nobody's account.
    Keep(K, K),
    /// A job's VM stands still at the door: it takes no CPU meanwhile.
    Idle(K),
    /// It computes again. Never refused: this alone may exceed the budget of CPU.
    Busy(K),
    /// A job that holds no VM and wants none yet, as one that was parked before the start: this is how urgent it is for those that it waits for.
    /// Of one that waits or holds it changes nothing.
    Known(K, Claim),
    /// The waiter can't go on before these have ended, besides those that it waits for already. Also of some that are not known yet, or any more; again of the
    /// same changes nothing.
    Wait {
        /// Who waits: holding, waiting or parked. One that was neither submitted nor [`Event::Known`] counts as wanted at once.
        waiter: K,
        /// For whom.
        on: Vec<K>,
    },
    /// The waiter can go on without these: it waits for the others only.
    Answered {
        /// Who waited.
        waiter: K,
        /// For whom it does not any more.
        on: Vec<K>,
    },
    /// A waiter waits for nothing any more.
    Unwait(K),
    /// A job is over: all that is known of it is forgotten.
    Ended(K),
    /// The fair share of an account; 1 where nothing was said, and at least 1.
    Weight(Arc<str>, u32),
    /// Nothing new may start.
    Drain,
    /// Time has passed.
    Tick,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<K> {
    /// It holds a VM from now on.
    Start(K),
    /// It waited past the last moment at which its own due could be met, if it takes as long as was said. Told once a job.
    Late(K),
}

/// How those that wait are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As docs/scheduler.md says: fair shares, latest starts, inheritance.
    #[default]
    LeastSlack,
    /// By arrival over all accounts, those that were parked first. To compare with.
    Fifo,
    /// By due over all accounts, those without one last. To compare with.
    EarliestDeadline,
}

/// How many jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// New and resumed.
    pub executions: usize,
    /// In the background, and VMs that are kept.
    pub others: usize,
}

/// What an account has at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountLoad {
    /// Which.
    pub name: Arc<str>,
    /// Its fair share.
    pub weight: u32,
    /// Jobs that wait.
    pub waiting: usize,
    /// Jobs that hold a VM.
    pub holding: usize,
    /// Bytes that they hold.
    pub bytes: u64,
    /// Thousandths of a processor that they hold; those that stand still take none.
    pub cpu: u64,
    /// Since when the one waits that has waited longest.
    pub oldest: Option<Time>,
}
