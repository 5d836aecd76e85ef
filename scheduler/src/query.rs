//! What may be asked of the state.

use crate::claim::{AccountLoad, Budget, Count, Key, Kind, Time};
use crate::loads::Load;
use crate::scheduler::{Scheduler, Wanting};
use std::sync::Arc;

impl<K: Key> Scheduler<K> {
    /// When the next [`Event::Tick`] is due, if nothing happens before; none: never.
    #[must_use]
    pub fn alarm(&self) -> Option<Time> {
        let late = self.lapses.first().map(|(lapses, _)| lapses.after(1));
        match (late, self.recheck) {
            (Some(late), Some(recheck)) => Some(late.min(recheck)),
            (late, recheck) => late.or(recheck),
        }
    }

    /// A job of this size could ever run.
    #[must_use]
    pub fn fits(&self, bytes: u64, cpu: u32) -> bool {
        self.holding.could_hold(bytes, cpu)
    }

    /// The job waits.
    #[must_use]
    pub fn waits(&self, key: &K) -> bool {
        self.keys.contains_key(key)
    }

    /// The job holds a VM.
    #[must_use]
    pub fn holds(&self, key: &K) -> bool {
        self.holding.contains(key)
    }

    /// Somebody waits for memory, VMs or CPU, not only for its group.
    #[must_use]
    pub fn pressed(&self) -> bool {
        !self.shares.is_empty()
    }

    /// Of those that wait somebody does for memory or for a place among the VMs: not for CPU alone, of which those that stand still take none.
    #[must_use]
    pub fn short_of_memory(&self) -> bool {
        self.pressed() && !self.holding.room(self.sizes.most(), 0)
    }

    /// One that is wanted now waits for memory or for a place among the VMs: not for its group, and neither in the background nor put off.
    #[must_use]
    pub fn holds_up(&self) -> bool {
        let held_up = |wanting: &Wanting<K>| {
            let wanted = wanting.claim.kind != Kind::Background && wanting.place.rank.is_some() && !wanting.blocked;
            wanted && !self.holding.room(wanting.claim.bytes, 0)
        };
        self.short_of_memory() && self.wanting.values().any(held_up)
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> Count {
        Count { executions: self.wanting.len() - self.background, others: self.background }
    }

    /// How many hold a VM.
    #[must_use]
    pub fn holding(&self) -> Count {
        self.holding.count()
    }

    /// Nothing holds a VM.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.holding.len() == 0
    }

    /// Bytes that are held.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.holding.used()
    }

    /// Thousandths of a processor that are held by those that compute.
    #[must_use]
    pub const fn used_cpu(&self) -> u64 {
        self.holding.cpu()
    }

    /// The budget.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.holding.budget()
    }

    /// Nothing new may start.
    #[must_use]
    pub const fn draining(&self) -> bool {
        self.draining
    }

    /// How many jobs (or groups of them) and accounts are remembered, for whatever reason: bounded by what is submitted and not ended.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.graph.len().max(self.told.len()).max(self.holding.groups()), self.shares.len())
    }

    /// What each account has that has something waiting or holding, by name.
    #[must_use]
    pub fn accounts(&self) -> Vec<AccountLoad> {
        let load = |(name, load): (&Arc<str>, &Load)| AccountLoad {
            name: Arc::clone(name),
            weight: self.shares.weight(name),
            waiting: load.waiting.len(),
            holding: load.holding,
            bytes: load.bytes,
            cpu: load.cpu,
            oldest: load.waiting.first().map(|(since, _)| *since),
        };
        self.loads.iter().map(load).collect()
    }
}
