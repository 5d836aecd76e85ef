//! What the scheduler does, in figures: for all, and for one account.

use super::Dispatcher;
use crate::manifest::AccountName;
use crate::state::machine::State;
use std::sync::atomic::Ordering;
use std::time::Duration;
use torpor_scheduler::Budget;

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
    /// Thousandths of processors that those take who compute.
    pub used_cpu: u64,
    /// What there is.
    pub budget: Budget,
    /// No new work is taken.
    pub draining: bool,
}

/// What the scheduler does for one account, in figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnLoad {
    /// Executions that wait.
    pub queued: usize,
    /// Executions that hold a VM.
    pub running: usize,
    /// Executions that are parked.
    pub parked: usize,
    /// Disk that those take.
    pub parked_bytes: u64,
}

impl OwnLoad {
    /// Executions that have not ended.
    #[must_use]
    pub const fn all(&self) -> usize {
        self.queued + self.running + self.parked
    }
}

impl Dispatcher {
    /// What each account has that has something in the queue, and how long the one waits that has waited longest.
    #[must_use]
    pub fn account_loads(&self) -> Vec<(torpor_scheduler::AccountLoad, Option<Duration>)> {
        let shared = self.lock();
        let waits = |load: torpor_scheduler::AccountLoad| {
            let oldest = load.oldest.map(|since| shared.clock.since(since));
            (load, oldest)
        };
        shared.core.accounts().into_iter().map(waits).collect()
    }

    /// Figures.
    #[must_use]
    pub fn load(&self) -> Load {
        let shared = self.lock();
        let core = &shared.core;
        let (queued, running) = (core.waiting().executions + self.delayed.load(Ordering::Relaxed), core.holding().executions);
        let parked = shared.live.values().filter(|live| live.view().state == State::Parked).count();
        Load { queued, running, parked, used: core.used(), used_cpu: core.used_cpu(), budget: core.budget(), draining: core.draining() }
    }

    /// Figures of one account.
    #[must_use]
    pub fn load_of(&self, account: &AccountName) -> OwnLoad {
        let mut load = OwnLoad::default();
        for live in self.lock().live.values().filter(|live| live.account == *account) {
            let view = live.view();
            match view.state {
                State::Queued => load.queued += 1,
                State::Parked => load.parked += 1,
                _ => load.running += 1,
            }
            load.parked_bytes += view.parked.as_ref().map_or(0, |parked| parked.stored_bytes);
        }
        load
    }
}
