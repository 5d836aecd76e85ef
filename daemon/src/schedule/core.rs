//! Who may have a VM now: a pure queue over a memory budget.
//!
//! ```text
//! Submit --> waiting (in order) -- room for the first --> holding -- Release --> gone
//!               |        ^
//!               |        +-- its group has room again -- blocked (its group holds as many VMs as it may)
//!            Withdraw --> gone
//! ```
//!
//! Who was parked comes before all who are new: it may be what others wait for, and it has begun. Invariants: what holds never exceeds the budget, nor the
//! number of VMs, nor a group its limit; nobody overtakes but those whose turn is held up by their own group, so a large job is never starved by small
//! ones behind it; after [`Event::Drain`] nothing new holds.

use crate::state::id::ExecutionId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What wants a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// An execution that was parked.
    Resume(ExecutionId),
    /// An execution.
    Execution(ExecutionId),
    /// The template of a task version, made ahead of its first execution. A number of its own, since a version may be pushed again.
    Template(u64),
    /// A VM that is kept for the next execution of its kind.
    Kept(u64),
}

impl Job {
    const fn is_execution(&self) -> bool {
        matches!(self, Self::Resume(_) | Self::Execution(_))
    }
}

/// Those that may hold only so many VMs together: the executions of one portion of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub name: Arc<str>,
    /// How many VMs; as the member that asks has it.
    pub most: u32,
}

/// What a job needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What its VM is charged.
    pub bytes: u64,
    /// The group that it counts in.
    pub group: Option<Group>,
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
    /// A job wants a VM.
    Submit(Job, Need),
    /// A job that waits does not want one any more.
    Withdraw(Job),
    /// A job's VM is gone.
    Release(Job),
    /// A job is over, and its VM is kept: the second holds it from now on, in no group.
    Keep(Job, Job),
    /// Nothing new may start.
    Drain,
}

/// A place in the order: those that were parked first, then by arrival.
type Place = (bool, u64);

/// The queue.
#[derive(Debug)]
pub struct Core {
    budget: Budget,
    arrivals: u64,
    waiting: BTreeMap<Place, (Job, Need)>,
    /// Of each group that is full: who waits for it.
    blocked: BTreeMap<Arc<str>, BTreeMap<Place, (Job, Need)>>,
    places: BTreeMap<Job, Place>,
    holding: BTreeMap<Job, Need>,
    groups: BTreeMap<Arc<str>, u32>,
    used: u64,
    draining: bool,
}

impl Core {
    /// An empty queue.
    #[must_use]
    pub const fn new(budget: Budget) -> Self {
        Self {
            budget,
            arrivals: 0,
            waiting: BTreeMap::new(),
            blocked: BTreeMap::new(),
            places: BTreeMap::new(),
            holding: BTreeMap::new(),
            groups: BTreeMap::new(),
            used: 0,
            draining: false,
        }
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
            Event::Submit(job, need) => {
                self.arrivals += 1;
                let place = (!matches!(job, Job::Resume(_)), self.arrivals);
                self.places.insert(job.clone(), place);
                self.waiting.insert(place, (job, need));
            }
            Event::Withdraw(job) => {
                let place = self.places.remove(&job);
                match place.and_then(|place| self.waiting.remove(&place)) {
                    // It may have had its group's free place.
                    Some((_, Need { group: Some(group), .. })) => self.unblock(&group.name),
                    Some(_) => {}
                    None => self.blocked.retain(|_, jobs| {
                        place.map(|place| jobs.remove(&place));
                        !jobs.is_empty()
                    }),
                }
            }
            Event::Release(job) => self.release(&job),
            Event::Keep(job, kept) => {
                if let Some(bytes) = self.holding.get(&job).map(|need| need.bytes) {
                    self.release(&job);
                    self.used += bytes;
                    self.holding.insert(kept, Need { bytes, group: None });
                }
            }
            Event::Drain => self.draining = true,
        }
        self.admit()
    }

    fn release(&mut self, job: &Job) {
        let Some(need) = self.holding.remove(job) else { return };
        self.used -= need.bytes;
        let Some(group) = need.group else { return };
        if let Some(held) = self.groups.get_mut(&group.name) {
            *held -= 1;
            if *held == 0 {
                self.groups.remove(&group.name);
            }
        }
        self.unblock(&group.name);
    }

    /// A place of a group is free: the first of those that wait for one has its turn again.
    fn unblock(&mut self, name: &Arc<str>) {
        let Some(jobs) = self.blocked.get_mut(name) else { return };
        if let Some((place, first)) = jobs.pop_first() {
            self.waiting.insert(place, first);
        }
        if jobs.is_empty() {
            self.blocked.remove(name);
        }
    }

    fn admit(&mut self) -> Vec<Job> {
        let mut admitted = Vec::new();
        while !self.draining && self.budget.vms.is_none_or(|most| self.holding.len() < most) {
            let Some((place, (job, need))) = self.waiting.pop_first() else { break };
            if let Some(group) = &need.group {
                let full = self.groups.get(&group.name).is_some_and(|held| *held >= group.most);
                if full {
                    self.blocked.entry(Arc::clone(&group.name)).or_default().insert(place, (job, need));
                    continue;
                }
            }
            if need.bytes > self.budget.bytes - self.used {
                self.waiting.insert(place, (job, need));
                break;
            }
            self.used += need.bytes;
            if let Some(group) = &need.group {
                *self.groups.entry(Arc::clone(&group.name)).or_default() += 1;
            }
            self.places.remove(&job);
            self.holding.insert(job.clone(), need);
            admitted.push(job);
        }
        admitted
    }

    /// The job waits.
    #[must_use]
    pub fn waits(&self, job: &Job) -> bool {
        self.places.contains_key(job)
    }

    /// Somebody waits for memory.
    #[must_use]
    pub fn pressed(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Executions that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.places.keys().filter(|job| job.is_execution()).count()
    }

    /// Executions that hold a VM.
    #[must_use]
    pub fn holding(&self) -> usize {
        self.holding.keys().filter(|job| job.is_execution()).count()
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
