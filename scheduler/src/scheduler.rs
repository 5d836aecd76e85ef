//! The state, and the step from event to actions.

use crate::claim::{Action, Budget, Claim, Event, Key, Kind, Order, Time};
use crate::holding::{Holding, Payer, expected};
use crate::line::{Line, Place, Sizes};
use crate::loads::Loads;
use crate::shares::Shares;
use crate::urgency::{Graph, Urgency};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Those that wait for a group to have room, by how many it may hold and under which name they take their turns.
pub(crate) type Blocked = BTreeMap<(u32, Arc<str>), Line>;

/// A job that waits.
#[derive(Debug)]
pub(crate) struct Wanting<K> {
    pub(crate) key: K,
    pub(crate) claim: Claim,
    pub(crate) place: Place,
    /// It waits for its group to have room.
    pub(crate) blocked: bool,
}

/// Who may have a VM now. All times are of one clock, and one that goes back is taken as standing still.
#[derive(Debug)]
pub struct Scheduler<K> {
    pub(crate) order: Order,
    pub(crate) now: Time,
    pub(crate) numbers: u64,
    pub(crate) keys: BTreeMap<K, u64>,
    pub(crate) wanting: BTreeMap<u64, Wanting<K>>,
    pub(crate) lines: BTreeMap<Arc<str>, Line>,
    /// By group.
    pub(crate) blocked: BTreeMap<Arc<str>, Blocked>,
    /// When places lapse, of the jobs that have a due to meet.
    pub(crate) lapses: BTreeSet<(Time, u64)>,
    /// Those whose own due was missed, and that was told.
    pub(crate) told: BTreeSet<K>,
    /// Sizes of those that wait for room.
    pub(crate) sizes: Sizes<u64>,
    /// The same of their CPU.
    pub(crate) cpus: Sizes<u32>,
    pub(crate) graph: Graph<K>,
    pub(crate) shares: Shares,
    pub(crate) holding: Holding<K>,
    pub(crate) loads: Loads,
    pub(crate) background: usize,
    /// Accounts whose last start was that of the one that had waited longest.
    pub(crate) aged: BTreeSet<Arc<str>>,
    /// When who is in turn may be another, though nothing happens.
    pub(crate) recheck: Option<Time>,
    pub(crate) draining: bool,
}

impl<K: Key> Scheduler<K> {
    /// An empty one.
    #[must_use]
    pub fn new(budget: Budget) -> Self {
        Self::with_order(budget, Order::default())
    }

    /// An empty one with another order, to compare with.
    #[must_use]
    pub fn with_order(budget: Budget, order: Order) -> Self {
        Self {
            order,
            now: Time::default(),
            numbers: 0,
            keys: BTreeMap::new(),
            wanting: BTreeMap::new(),
            lines: BTreeMap::new(),
            blocked: BTreeMap::new(),
            lapses: BTreeSet::new(),
            told: BTreeSet::new(),
            sizes: Sizes::default(),
            cpus: Sizes::default(),
            graph: Graph::default(),
            shares: Shares::default(),
            holding: Holding::new(budget),
            loads: Loads::default(),
            background: 0,
            aged: BTreeSet::new(),
            recheck: None,
            draining: false,
        }
    }

    /// Takes an event; returns what follows, in order.
    #[must_use]
    pub fn step(&mut self, now: Time, event: Event<K>) -> Vec<Action<K>> {
        self.now = self.now.max(now);
        let mut actions = Vec::new();
        match event {
            Event::Submit(key, claim) => actions.extend(self.submit(key, claim)),
            Event::SubmitAll(all) => all.into_iter().for_each(|(key, claim)| actions.extend(self.submit(key, claim))),
            Event::Known(key, claim) => self.known(&key, &claim),
            Event::Withdraw(key) => self.withdraw(&key),
            Event::Release(key) => {
                self.release(&key);
            }
            Event::Keep(key, kept) => self.keep(&key, kept),
            Event::Idle(key) => self.set_idle(&key, true),
            Event::Busy(key) => self.set_idle(&key, false),
            Event::Wait { waiter, on } => {
                let changed = self.graph.wait(&waiter, on);
                self.replace(changed);
            }
            Event::Answered { waiter, on } => {
                let changed = self.graph.answered(&waiter, on);
                self.replace(changed);
            }
            Event::Unwait(key) => {
                let changed = self.graph.unwait(&key);
                self.replace(changed);
            }
            Event::Ended(key) => {
                self.withdraw(&key);
                self.release(&key);
                let changed = self.graph.end(&key);
                self.replace(changed);
                self.told.remove(&key);
            }
            Event::Weight(account, weight) => self.shares.set_weight(&account, weight),
            Event::Drain => self.draining = true,
            Event::Tick => {}
        }
        self.lapse(&mut actions);
        self.admit(&mut actions);
        actions
    }

    fn submit(&mut self, key: K, claim: Claim) -> Option<Action<K>> {
        if self.holding.contains(&key) {
            return None;
        }
        let before = self.keys.get(&key).copied().and_then(|number| self.take(number));
        self.numbers += 1;
        let (number, since) = before.as_ref().map_or((self.numbers, self.now), |old| (old.place.number, old.place.since));
        // Who was parked meanwhile, or is known since before the start, has come when it came first.
        let arrival = self.graph.arrival(&key, claim.kind).unwrap_or(number);
        let changed = self.graph.set(&key, Urgency::own(&claim, arrival));
        let blocked = claim.group.as_ref().is_some_and(|group| self.holding.full(group));
        let place = Place { number, since, rank: None, aim: None, lapses: None };
        self.put(Wanting { key, claim, place, blocked });
        self.replace(changed);
        if let Some(old) = before {
            self.gone(old);
        }
        self.late(number)
    }

    fn known(&mut self, key: &K, claim: &Claim) {
        if !self.keys.contains_key(key) && !self.holding.contains(key) {
            self.numbers += 1;
            let changed = self.graph.set(key, Urgency::own(claim, self.numbers));
            self.replace(changed);
        }
    }

    fn withdraw(&mut self, key: &K) {
        let Some(gone) = self.keys.get(key).copied().and_then(|number| self.take(number)) else { return };
        if gone.claim.kind == Kind::Background {
            self.forget(key);
        }
        self.gone(gone);
    }

    /// This does not wait any more; it may have had its group's free place.
    fn gone(&mut self, old: Wanting<K>) {
        self.vacate(&self.turns(&old.claim));
        if let Some(group) = old.claim.group.filter(|_| !old.blocked) {
            self.unblock(&group.name);
        }
    }

    /// Nobody waits for what is in the background, as a rule, nor says that it has ended.
    fn forget(&mut self, key: &K) {
        if self.graph.end_alone(key) {
            self.told.remove(key);
        }
    }

    fn release(&mut self, key: &K) -> Option<u64> {
        let held = self.holding.release(key)?;
        if let Some(Payer { account, turns, charge }) = &held.payer {
            self.shares.release(turns, *charge, self.now);
            self.loads.change(account, |load| {
                load.holding -= 1;
                load.bytes -= held.bytes;
                load.cpu -= u64::from(held.cpu_now());
            });
        }
        if let Some(group) = &held.group {
            self.unblock(&group.name);
        }
        if held.background {
            self.forget(key);
        }
        Some(held.bytes)
    }

    fn keep(&mut self, key: &K, kept: K) {
        let Some(bytes) = self.release(key) else { return };
        self.withdraw(&kept);
        self.release(&kept);
        self.holding.keep(kept, bytes);
    }

    fn set_idle(&mut self, key: &K, idle: bool) {
        let Some((account, cpu)) = self.holding.set_idle(key, idle) else { return };
        self.loads.change(&account, |load| if idle { load.cpu -= u64::from(cpu) } else { load.cpu += u64::from(cpu) });
    }

    fn admit(&mut self, actions: &mut Vec<Action<K>>) {
        self.recheck = None;
        while !self.draining
            && let Some(turns) = self.shares.next()
        {
            // Nobody fits: no plan is made.
            if !self.holding.room(self.sizes.least(), self.cpus.least()) {
                self.step_aside(&turns);
                if self.shares.next().is_some_and(|next| next == turns) {
                    self.shares.stick(&turns);
                    break;
                }
                continue;
            }
            let Some(number) = self.pick(&turns) else { continue };
            let Some(wanting) = self.wanting.get(&number) else { break };
            let (bytes, cpu) = (wanting.claim.bytes, wanting.claim.cpu);
            if !self.holding.room(bytes, cpu) {
                self.shares.stick(&turns);
                break;
            }
            let charge = self.shares.start(&turns, self.holding.share(bytes, cpu), expected(&wanting.claim), self.now);
            self.turned(&turns);
            let Some(Wanting { key, claim, .. }) = self.take(number) else { break };
            self.vacate(&turns);
            self.loads.change(&claim.account, |load| {
                load.holding += 1;
                load.bytes += bytes;
                load.cpu += u64::from(cpu);
            });
            let payer = Payer { account: Arc::clone(&claim.account), turns, charge };
            self.graph.begun(&key);
            self.holding.start(key.clone(), claim, payer, self.now);
            actions.push(Action::Start(key));
        }
    }
}
