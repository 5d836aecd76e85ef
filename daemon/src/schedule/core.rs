//! Who may have a VM now: a pure queue over a memory budget.
//!
//! ```text
//! Submit --> waiting (in order) -- room for the first --> holding -- Release --> gone
//!               |
//!            Withdraw --> gone
//! ```
//!
//! Who was parked comes before all who are new: it may be what others wait for, and it has begun. Invariants: what holds never exceeds the budget, nor the
//! number of VMs; nobody else overtakes, so a large job is never starved by small ones behind it; after [`Event::Drain`] nothing new holds.

use crate::state::id::ExecutionId;
use std::collections::{BTreeMap, VecDeque};

/// What wants a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// An execution that was parked.
    Resume(ExecutionId),
    /// An execution.
    Execution(ExecutionId),
    /// The template of a task version, made ahead of its first execution. A number of its own, since a version may be pushed again.
    Template(u64),
}

/// What there is to share.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Bytes of all VMs together.
    pub bytes: u64,
    /// VMs at once; no limit where there is none.
    pub vms: Option<usize>,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A job wants a VM of so many bytes.
    Submit(Job, u64),
    /// A job that waits does not want one any more.
    Withdraw(Job),
    /// A job's VM is gone.
    Release(Job),
    /// Nothing new may start.
    Drain,
}

/// The queue.
#[derive(Debug)]
pub struct Core {
    budget: Budget,
    waiting: VecDeque<(Job, u64)>,
    holding: BTreeMap<Job, u64>,
    used: u64,
    draining: bool,
}

impl Core {
    /// An empty queue.
    #[must_use]
    pub const fn new(budget: Budget) -> Self {
        Self { budget, waiting: VecDeque::new(), holding: BTreeMap::new(), used: 0, draining: false }
    }

    /// A job of this size could ever run.
    #[must_use]
    pub const fn fits(&self, bytes: u64) -> bool {
        bytes <= self.budget.bytes
    }

    /// Takes an event; returns the jobs that hold a VM from now on, in order.
    #[must_use]
    pub fn step(&mut self, event: Event) -> Vec<Job> {
        match event {
            Event::Submit(job, bytes) => {
                let place = if matches!(job, Job::Resume(_)) {
                    self.waiting.iter().position(|(waiting, _)| !matches!(waiting, Job::Resume(_)))
                } else {
                    None
                };
                self.waiting.insert(place.unwrap_or(self.waiting.len()), (job, bytes));
            }
            Event::Withdraw(job) => self.waiting.retain(|(waiting, _)| *waiting != job),
            Event::Release(job) => self.used -= self.holding.remove(&job).unwrap_or(0),
            Event::Drain => self.draining = true,
        }
        self.admit()
    }

    fn admit(&mut self) -> Vec<Job> {
        let mut admitted = Vec::new();
        while !self.draining && self.budget.vms.is_none_or(|most| self.holding.len() < most) {
            let room = self.budget.bytes - self.used;
            let Some((job, bytes)) = self.waiting.pop_front_if(|(_, bytes)| *bytes <= room) else { break };
            self.used += bytes;
            self.holding.insert(job.clone(), bytes);
            admitted.push(job);
        }
        admitted
    }

    /// The job waits.
    #[must_use]
    pub fn waits(&self, job: &Job) -> bool {
        self.waiting.iter().any(|(waiting, _)| waiting == job)
    }

    /// Somebody waits.
    #[must_use]
    pub fn pressed(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Executions that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().filter(|(job, _)| !matches!(job, Job::Template(_))).count()
    }

    /// Executions that hold a VM.
    #[must_use]
    pub fn holding(&self) -> usize {
        self.holding.keys().filter(|job| !matches!(job, Job::Template(_))).count()
    }

    /// Nothing holds a VM.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.holding.is_empty()
    }

    /// Bytes that are held.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// The budget.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// Nothing new may start.
    #[must_use]
    pub const fn draining(&self) -> bool {
        self.draining
    }
}
