//! Whose turn it is: weighted fair shares between accounts, by start-time fair queueing.
//!
//! An account's virtual time is what it has used: its dominant share of the budget times the time held, divided by its weight. A start is charged with what it is expected
//! to use, and corrected when it is released. The account with the smallest virtual time is next; of equals the one that holds less.
//!
//! One that has nothing waiting gathers no credit: when it wants something again it starts no lower than where the others are. It keeps what it used too much until the
//! others have caught up, or nobody is left. It has no debt from having been alone: where the others are is what the last that started had really used by then, without
//! what it was charged ahead. So no correction takes it back behind who came later.
//!
//! Who is in turn and does not fit stays in turn (`stick`); only those that came after it and have used less go before it.

use crate::claim::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Share of the budget, in parts of `WHOLE`.
pub(crate) const WHOLE: u64 = 1 << 20;
/// Keeps what a heavy weight would round away.
const FINE: u128 = 1 << 10;

type Place = (u128, u128, Arc<str>);

#[derive(Debug, Default)]
struct Account {
    /// What those have used that were released.
    used: u128,
    /// What those are charged that hold.
    charged: u128,
    /// The shares of those that hold, and the same times their starts.
    rate: u128,
    origin: u128,
    holding: usize,
    /// When it came to the queue, where it is in it.
    joined: Option<u64>,
}

impl Account {
    const fn virtual_time(&self) -> u128 {
        self.used.saturating_add(self.charged)
    }

    /// What it has used up to now, whatever is charged.
    fn settled(&self, now: Time, weight: u32) -> u128 {
        let held = self.rate.saturating_mul(u128::from(now.0)).saturating_sub(self.origin);
        self.used.saturating_add(held.saturating_mul(FINE) / u128::from(weight))
    }

    fn place(&self, name: &Arc<str>) -> Place {
        (self.virtual_time(), self.rate, Arc::clone(name))
    }

    const fn idle(&self) -> bool {
        self.holding == 0 && self.joined.is_none()
    }
}

/// What a start was charged.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge {
    share: u64,
    start: Time,
    units: u128,
}

#[derive(Debug, Default)]
pub(crate) struct Shares {
    accounts: BTreeMap<Arc<str>, Account>,
    /// Those that are not 1.
    weights: BTreeMap<Arc<str>, u32>,
    /// Accounts with something that waits for its turn.
    queue: BTreeSet<Place>,
    /// Accounts with nothing, that have used more than the others.
    idle: BTreeSet<(u128, Arc<str>)>,
    /// What the account of a start had used, at most.
    reached: u128,
    joins: u64,
    stuck: Option<(Arc<str>, u64)>,
}

impl Shares {
    pub(crate) fn weight(&self, name: &str) -> u32 {
        self.weights.get(name).copied().unwrap_or(1)
    }

    pub(crate) fn set_weight(&mut self, name: &Arc<str>, weight: u32) {
        if weight <= 1 {
            self.weights.remove(name);
        } else {
            self.weights.insert(Arc::clone(name), weight);
        }
    }

    /// Something of this account waits for its turn.
    pub(crate) fn join(&mut self, name: &Arc<str>) {
        if self.accounts.get(name).is_some_and(|account| account.joined.is_some()) {
            return;
        }
        let least = self.queue.first().map_or(self.reached, |(virtual_time, ..)| self.reached.min(*virtual_time));
        self.joins += 1;
        let joins = self.joins;
        self.change(name, |account| {
            account.used = account.used.saturating_add(least.saturating_sub(account.virtual_time()));
            account.joined = Some(joins);
        });
    }

    /// Nothing of this account waits for its turn any more.
    pub(crate) fn leave(&mut self, name: &Arc<str>) {
        if self.stuck.as_ref().is_some_and(|(stuck, _)| stuck == name) {
            self.stuck = None;
        }
        self.change(name, |account| account.joined = None);
    }

    /// Whose turn it is.
    pub(crate) fn next(&self) -> Option<Arc<str>> {
        if let Some((name, since)) = &self.stuck
            && let Some(account) = self.accounts.get(name)
        {
            let newer =
                |place: &&Place| self.accounts.get(&place.2).and_then(|account| account.joined).is_some_and(|joined| joined > *since);
            let first = self.queue.range(..account.place(name)).find(newer);
            return Some(Arc::clone(first.map_or(name, |(.., name)| name)));
        }
        self.queue.first().map(|(.., name)| Arc::clone(name))
    }

    /// Who is in turn does not fit, and stays in turn.
    pub(crate) fn stick(&mut self, name: &Arc<str>) {
        if self.stuck.as_ref().is_none_or(|(stuck, _)| stuck != name) {
            self.stuck = Some((Arc::clone(name), self.joins));
        }
    }

    /// Accounts with something that waits for its turn: this one's weight, and that of all.
    pub(crate) fn part(&self, name: &str) -> (u64, u64) {
        let all = self.queue.iter().map(|(.., name)| u64::from(self.weight(name))).sum();
        (u64::from(self.weight(name)), all)
    }

    /// Nobody waits for a turn.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// A start, that is expected to hold this share of the budget for so many microseconds.
    pub(crate) fn start(&mut self, name: &Arc<str>, share: u64, micros: u64, now: Time) -> Charge {
        let units = units(share, micros, self.weight(name));
        if self.stuck.as_ref().is_some_and(|(stuck, _)| stuck == name) {
            self.stuck = None;
        }
        let weight = self.weight(name);
        let reached = self.accounts.get(name).map_or(0, |account| account.settled(now, weight).min(account.virtual_time()));
        self.reached = self.reached.max(reached);
        self.change(name, |account| {
            account.charged = account.charged.saturating_add(units);
            account.rate = account.rate.saturating_add(u128::from(share));
            account.origin = account.origin.saturating_add(u128::from(share) * u128::from(now.0));
            account.holding += 1;
        });
        Charge { share, start: now, units }
    }

    /// It is released: what it was charged becomes what it used.
    pub(crate) fn release(&mut self, name: &Arc<str>, charge: Charge, now: Time) {
        let used = units(charge.share, now.since(charge.start), self.weight(name));
        self.change(name, |account| {
            account.used = account.used.saturating_add(used);
            account.charged = account.charged.saturating_sub(charge.units);
            account.rate = account.rate.saturating_sub(u128::from(charge.share));
            account.origin = account.origin.saturating_sub(u128::from(charge.share) * u128::from(charge.start.0));
            account.holding = account.holding.saturating_sub(1);
        });
    }

    /// How many accounts are kept.
    pub(crate) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Changes an account, and keeps queue and idle ones as they must be.
    fn change(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.entry(Arc::clone(name)).or_default();
        self.queue.remove(&account.place(name));
        self.idle.remove(&(account.virtual_time(), Arc::clone(name)));
        change(account);
        if account.joined.is_some() {
            self.queue.insert(account.place(name));
        } else if account.idle() {
            self.idle.insert((account.virtual_time(), Arc::clone(name)));
        }
        if self.idle.len() == self.accounts.len() {
            // Nobody is left to compare with.
            self.reached = self.idle.last().map_or(self.reached, |(virtual_time, _)| self.reached.max(*virtual_time));
        }
        while let Some((virtual_time, name)) = self.idle.first()
            && *virtual_time <= self.reached
        {
            self.accounts.remove(name);
            self.idle.pop_first();
        }
    }
}

fn units(share: u64, micros: u64, weight: u32) -> u128 {
    (u128::from(share) * u128::from(micros)).saturating_mul(FINE) / u128::from(weight)
}
