//! Who waits for whom: a pure graph over executions, kept free of cycles.
//!
//! Invariant: no chain of waits leads back to where it began, so something in each chain can always end.

use crate::state::id::ExecutionId;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The graph. An edge leads from an ask of one execution to another execution.
#[derive(Debug, Default)]
pub struct Graph {
    asks: BTreeMap<ExecutionId, BTreeMap<u64, BTreeSet<ExecutionId>>>,
    waiters: HashMap<ExecutionId, HashMap<ExecutionId, usize>>,
    /// Edges that were looked at for chains.
    #[cfg(test)]
    looked: std::cell::Cell<usize>,
}

impl Graph {
    /// Adds an ask, in place of one that it had under this number, or says which chain of waits would lead back to the asker.
    pub fn add(&mut self, waiter: &ExecutionId, seq: u64, targets: &[ExecutionId]) -> Result<(), Vec<ExecutionId>> {
        self.remove(waiter, seq);
        if let Some(chain) = self.chain(waiter, targets) {
            return Err(chain);
        }
        let targets: BTreeSet<ExecutionId> = targets.iter().cloned().collect();
        for target in &targets {
            *self.waiters.entry(target.clone()).or_default().entry(waiter.clone()).or_default() += 1;
        }
        self.asks.entry(waiter.clone()).or_default().insert(seq, targets);
        Ok(())
    }

    /// A chain of waits that would lead from one execution over one of these back to it, which is its first and its last. Everything is looked at once.
    fn chain(&self, waiter: &ExecutionId, targets: &[ExecutionId]) -> Option<Vec<ExecutionId>> {
        let mut before: HashMap<&ExecutionId, &ExecutionId> = HashMap::new();
        let mut next = Vec::new();
        let mut look = |target, from, next: &mut Vec<_>| {
            #[cfg(test)]
            self.looked.set(self.looked.get() + 1);
            if let Entry::Vacant(new) = before.entry(target) {
                new.insert(from);
                next.push(target);
            }
        };
        for target in targets {
            look(target, waiter, &mut next);
        }
        while let Some(at) = next.pop() {
            if at == waiter {
                return Some(Self::back(waiter, &before));
            }
            for target in self.asks.get(at).into_iter().flat_map(BTreeMap::values).flatten() {
                look(target, at, &mut next);
            }
        }
        None
    }

    /// The chain that ends at one execution, from where that is met before.
    fn back(end: &ExecutionId, before: &HashMap<&ExecutionId, &ExecutionId>) -> Vec<ExecutionId> {
        let mut chain = vec![end.clone()];
        let mut at = end;
        while let Some(earlier) = before.get(at) {
            chain.push((*earlier).clone());
            if *earlier == end {
                break;
            }
            at = earlier;
        }
        chain.reverse();
        chain
    }

    /// An ask is answered; returns for whom its waiter does not wait any more, by none of its asks.
    pub fn remove(&mut self, waiter: &ExecutionId, seq: u64) -> Vec<ExecutionId> {
        let Some(asks) = self.asks.get_mut(waiter) else { return Vec::new() };
        let targets = asks.remove(&seq).unwrap_or_default();
        if asks.is_empty() {
            self.asks.remove(waiter);
        }
        targets.into_iter().filter(|target| self.unlink(target, waiter)).collect()
    }

    /// Takes one edge away; returns whether it was the last between the two.
    fn unlink(&mut self, target: &ExecutionId, waiter: &ExecutionId) -> bool {
        let Some(waiters) = self.waiters.get_mut(target) else { return false };
        let Some(count) = waiters.get_mut(waiter) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            waiters.remove(waiter);
        }
        if waiters.is_empty() {
            self.waiters.remove(target);
        }
        last
    }

    /// An execution waits no more.
    pub fn forget(&mut self, waiter: &ExecutionId) {
        for target in self.asks.remove(waiter).unwrap_or_default().into_values().flatten() {
            self.unlink(&target, waiter);
        }
    }

    /// Who waits for an execution.
    #[must_use]
    pub fn waiters(&self, target: &ExecutionId) -> Vec<ExecutionId> {
        self.waiters.get(target).map(|waiters| waiters.keys().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::id::IdSource;
    use crate::state::time::Timestamp;
    use proptest::prelude::*;

    fn ids(count: usize) -> Vec<ExecutionId> {
        let mut source = IdSource::default();
        (0..count).map(|_| source.next(Timestamp(1), [0; 10])).collect()
    }

    #[test]
    fn a_cycle_is_named_in_its_order() {
        let id = ids(4);
        let mut graph = Graph::default();
        graph.add(&id[0], 1, &[id[1].clone(), id[3].clone()]).unwrap();
        graph.add(&id[1], 1, &[id[2].clone()]).unwrap();
        assert_eq!(graph.add(&id[2], 1, &[id[0].clone()]), Err(vec![id[2].clone(), id[0].clone(), id[1].clone(), id[2].clone()]));
        assert_eq!(graph.add(&id[2], 1, &[id[2].clone()]), Err(vec![id[2].clone(), id[2].clone()]));
        graph.remove(&id[1], 1);
        graph.add(&id[2], 1, &[id[0].clone()]).unwrap();
        assert_eq!(graph.waiters(&id[0]), [id[2].clone()]);
        graph.forget(&id[2]);
        assert!(graph.waiters(&id[0]).is_empty());
    }

    #[test]
    fn the_same_target_may_be_waited_for_twice() {
        let id = ids(2);
        let mut graph = Graph::default();
        graph.add(&id[0], 1, &[id[1].clone(), id[1].clone()]).unwrap();
        graph.add(&id[0], 2, &[id[1].clone()]).unwrap();
        assert!(graph.remove(&id[0], 1).is_empty());
        assert_eq!(graph.waiters(&id[1]), [id[0].clone()]);
        assert_eq!(graph.remove(&id[0], 2), [id[1].clone()]);
        assert!(graph.remove(&id[0], 2).is_empty());
        assert!(graph.waiters(&id[1]).is_empty() && graph.asks.is_empty());
    }

    #[test]
    fn what_many_targets_wait_for_is_looked_at_once() {
        const MANY: usize = 1_000;
        let id = ids(2 * MANY + 1);
        let (waiter, rest) = id.split_first().unwrap();
        let (targets, below) = rest.split_at(MANY);
        let mut graph = Graph::default();
        // A chain below, into which each target leads.
        for (seq, pair) in (0..).zip(below.windows(2)) {
            graph.add(&pair[0], seq, &pair[1..]).unwrap();
        }
        for target in targets {
            graph.add(target, 1, &below[..1]).unwrap();
        }
        graph.looked.set(0);
        graph.add(waiter, 1, targets).unwrap();
        // The edges: to the targets, from each of them, and those of the chain.
        assert_eq!(graph.looked.get(), MANY + MANY + (MANY - 1));
    }

    proptest! {
        #[test]
        fn nothing_ever_waits_for_itself(edges in prop::collection::vec((0usize..8, 0usize..8), 0..60)) {
            let id = ids(8);
            let mut graph = Graph::default();
            let mut accepted: Vec<(usize, usize)> = Vec::new();
            for (seq, (from, to)) in (0..).zip(edges) {
                // By brute force: is `from` reachable from `to`?
                let mut reach = vec![to];
                let mut at = 0;
                while at < reach.len() {
                    let more: Vec<usize> = accepted.iter().filter(|(a, b)| *a == reach[at] && !reach.contains(b)).map(|(_, b)| *b).collect();
                    reach.extend(more);
                    at += 1;
                }
                let added = graph.add(&id[from], seq, &[id[to].clone()]).is_ok();
                prop_assert_eq!(added, !reach.contains(&from));
                if added {
                    accepted.push((from, to));
                }
            }
        }
    }
}
