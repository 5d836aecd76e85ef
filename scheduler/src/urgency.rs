//! Who waits for whom, and how urgent that makes them: priority inheritance.
//!
//! The urgency that counts of a job is its own joined with that of everyone who waits for it, through all levels. Edges are kept by key, so that one on a job
//! that is not known (any more) is harmless, and cycles are: urgencies only rise while they spread, to values that some job of its own has.
//! Rising costs the edges that are new and those of whoever rises by it. Falling costs the jobs that are waited for, directly or not, by who let go.

use crate::claim::{Claim, Key, Kind, Time};
use std::collections::{BTreeMap, BTreeSet};

/// How urgent a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Urgency {
    /// Higher first.
    pub(crate) priority: i32,
    /// The earliest end that it or a waiter must meet.
    pub(crate) due: Option<Time>,
    /// Nobody wants it at once.
    pub(crate) deferrable: bool,
    /// The number of the earliest of those that want it.
    pub(crate) arrival: u64,
    /// Somebody waits for it.
    pub(crate) awaited: bool,
}

/// Of one of which nobody has said more than that it waits: wanted at once, and nothing else is known.
const UNKNOWN: Urgency = Urgency { priority: i32::MIN, due: None, deferrable: false, arrival: u64::MAX, awaited: false };

impl Urgency {
    /// What a job has of its own.
    pub(crate) fn own(claim: &Claim, arrival: u64) -> Self {
        let deferrable = claim.deferrable && claim.due.is_some();
        Self { priority: claim.priority, due: claim.due, deferrable, arrival, awaited: false }
    }

    fn joined(self, waiter: Self) -> Self {
        let due = match (self.due, waiter.due) {
            (Some(own), Some(other)) => Some(own.min(other)),
            (own, other) => own.or(other),
        };
        Self {
            priority: self.priority.max(waiter.priority),
            due,
            deferrable: self.deferrable && waiter.deferrable,
            arrival: self.arrival.min(waiter.arrival),
            awaited: true,
        }
    }
}

#[derive(Debug)]
struct Node<K> {
    own: Option<Urgency>,
    counts: Urgency,
    on: BTreeSet<K>,
    waiters: BTreeSet<K>,
    /// It has held a VM.
    begun: bool,
}

impl<K> Default for Node<K> {
    fn default() -> Self {
        Self { own: None, counts: UNKNOWN, on: BTreeSet::new(), waiters: BTreeSet::new(), begun: false }
    }
}

/// All jobs that are known, and the edges between them.
#[derive(Debug)]
pub(crate) struct Graph<K> {
    nodes: BTreeMap<K, Node<K>>,
    /// Edges along which something was to rise.
    #[cfg(test)]
    raises: usize,
}

impl<K> Default for Graph<K> {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            #[cfg(test)]
            raises: 0,
        }
    }
}

impl<K: Key> Graph<K> {
    /// What counts of a job.
    pub(crate) fn of(&self, key: &K) -> Option<Urgency> {
        self.nodes.get(key).map(|node| node.counts)
    }

    /// When a job came that comes again, by its number: one that begins anew comes now.
    pub(crate) fn arrival(&self, key: &K, kind: Kind) -> Option<u64> {
        let node = self.nodes.get(key).filter(|node| kind == Kind::Resume || !node.begun)?;
        node.own.map(|own| own.arrival)
    }

    /// A job holds a VM.
    pub(crate) fn begun(&mut self, key: &K) {
        if let Some(node) = self.nodes.get_mut(key) {
            node.begun = true;
        }
    }

    /// A job's own urgency is this; returns whose changed by it.
    pub(crate) fn set(&mut self, key: &K, own: Urgency) -> Vec<K> {
        self.nodes.entry(key.clone()).or_default().own = Some(own);
        self.refresh(vec![key.clone()])
    }

    /// Adds edges; returns whose urgency changed.
    pub(crate) fn wait(&mut self, waiter: &K, on: Vec<K>) -> Vec<K> {
        if on.is_empty() {
            return Vec::new();
        }
        let node = self.nodes.entry(waiter.clone()).or_default();
        let counts = node.counts;
        let new: Vec<K> = on.into_iter().filter(|key| node.on.insert(key.clone())).collect();
        let mut risen = Vec::new();
        for key in new {
            self.nodes.entry(key.clone()).or_default().waiters.insert(waiter.clone());
            if self.raise(&key, counts) {
                risen.push(key);
            }
        }
        self.spread(risen)
    }

    /// Takes some edges of a waiter away; returns whose urgency changed.
    pub(crate) fn answered(&mut self, waiter: &K, on: Vec<K>) -> Vec<K> {
        let Some(node) = self.nodes.get_mut(waiter) else { return Vec::new() };
        let gone = on.into_iter().filter(|key| node.on.remove(key)).collect();
        self.cut(waiter, gone)
    }

    /// Takes all edges of a waiter away; returns whose urgency changed.
    pub(crate) fn unwait(&mut self, waiter: &K) -> Vec<K> {
        let Some(node) = self.nodes.get_mut(waiter) else { return Vec::new() };
        let gone = std::mem::take(&mut node.on).into_iter().collect();
        self.cut(waiter, gone)
    }

    /// These have lost a waiter.
    fn cut(&mut self, waiter: &K, gone: Vec<K>) -> Vec<K> {
        for key in &gone {
            if let Some(node) = self.nodes.get_mut(key) {
                node.waiters.remove(waiter);
            }
            self.tidy(key);
        }
        self.tidy(waiter);
        self.refresh(gone)
    }

    /// Forgets a job and its edges; returns whose urgency changed.
    pub(crate) fn end(&mut self, key: &K) -> Vec<K> {
        let changed = self.unwait(key);
        if let Some(node) = self.nodes.remove(key) {
            for waiter in node.waiters {
                if let Some(node) = self.nodes.get_mut(&waiter) {
                    node.on.remove(key);
                }
                self.tidy(&waiter);
            }
        }
        changed
    }

    /// Forgets a job that has no edges; returns whether it had none.
    pub(crate) fn end_alone(&mut self, key: &K) -> bool {
        let alone = self.nodes.get(key).is_some_and(|node| node.on.is_empty() && node.waiters.is_empty());
        alone && self.nodes.remove(key).is_some()
    }

    /// How many jobs are known.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Drops one that was only the end of an edge.
    fn tidy(&mut self, key: &K) {
        if self.nodes.get(key).is_some_and(|node| node.own.is_none()) {
            self.end_alone(key);
        }
    }

    /// Works out anew what depends on these: from what is theirs and from waiters outside of it, then spread among them.
    fn refresh(&mut self, from: Vec<K>) -> Vec<K> {
        let mut before: BTreeMap<K, Urgency> = BTreeMap::new();
        let mut open = from;
        while let Some(key) = open.pop() {
            if before.contains_key(&key) {
                continue;
            }
            if let Some(node) = self.nodes.get(&key) {
                open.extend(node.on.iter().cloned());
                before.insert(key, node.counts);
            }
        }
        for key in before.keys() {
            let Some(node) = self.nodes.get(key) else { continue };
            let outside = node.waiters.iter().filter(|waiter| !before.contains_key(waiter));
            let counts = outside.filter_map(|waiter| self.of(waiter)).fold(node.own.unwrap_or(UNKNOWN), Urgency::joined);
            if let Some(node) = self.nodes.get_mut(key) {
                node.counts = counts;
            }
        }
        self.spread(before.keys().cloned().collect());
        before.into_iter().filter(|(key, old)| self.of(key) != Some(*old)).map(|(key, _)| key).collect()
    }

    /// Makes one as urgent as a waiter; returns whether it was less so.
    fn raise(&mut self, key: &K, waiter: Urgency) -> bool {
        #[cfg(test)]
        {
            self.raises += 1;
        }
        let Some(node) = self.nodes.get_mut(key) else { return false };
        let raised = node.counts.joined(waiter);
        std::mem::replace(&mut node.counts, raised) != raised
    }

    /// Raises whatever these wait for, until nothing rises any more; returns all that rose, with those from which it began.
    fn spread(&mut self, from: Vec<K>) -> Vec<K> {
        let mut changed: BTreeSet<K> = from.iter().cloned().collect();
        let mut open = from;
        while let Some(key) = open.pop() {
            let Some((counts, on)) = self.nodes.get(&key).map(|node| (node.counts, node.on.clone())) else { continue };
            for next in on {
                if self.raise(&next, counts) {
                    changed.insert(next.clone());
                    open.push(next);
                }
            }
        }
        changed.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u64 = 10_000;

    fn own(arrival: u64) -> Urgency {
        Urgency { priority: 0, arrival, ..UNKNOWN }
    }

    #[test]
    fn an_edge_costs_itself_however_many_its_waiter_has() {
        let mut graph = Graph::default();
        (0..=MANY).for_each(|key| drop(graph.set(&key, own(key))));
        assert_eq!(graph.wait(&0, (1..=MANY).collect()).len() as u64, MANY);
        assert_eq!(graph.raises as u64, MANY);
        // Again, and one by one: nothing is new.
        assert_eq!(graph.wait(&0, (1..=MANY).collect()), []);
        (1..=MANY).for_each(|key| assert_eq!(graph.wait(&0, vec![key]), []));
        assert_eq!(graph.raises as u64, MANY);
        // One by one: answered, and waited for again.
        for key in 1..=MANY {
            assert_eq!(graph.answered(&0, vec![key]), [key]);
            assert_eq!(graph.of(&key), Some(own(key)));
            assert_eq!(graph.wait(&0, vec![key]), [key]);
        }
        assert_eq!(graph.raises as u64, 2 * MANY);
    }
}
