//! Who waits for whom: a pure graph over executions, kept free of cycles.
//!
//! Invariant: no chain of waits leads back to where it began, so something in each chain can always end.

use crate::state::id::ExecutionId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// The graph. An edge leads from an ask of one execution to another execution.
#[derive(Debug, Default)]
pub struct Graph {
    asks: BTreeMap<ExecutionId, BTreeMap<u64, BTreeSet<ExecutionId>>>,
    waiters: HashMap<ExecutionId, HashMap<ExecutionId, usize>>,
}

impl Graph {
    /// Adds an ask, in place of one that it had under this number, or says which chain of waits would lead back to the asker.
    pub fn add(&mut self, waiter: &ExecutionId, seq: u64, targets: &[ExecutionId]) -> Result<(), Vec<ExecutionId>> {
        self.remove(waiter, seq);
        for target in targets {
            if let Some(mut chain) = self.chain(target, waiter) {
                chain.insert(0, waiter.clone());
                return Err(chain);
            }
        }
        let targets: BTreeSet<ExecutionId> = targets.iter().cloned().collect();
        for target in &targets {
            *self.waiters.entry(target.clone()).or_default().entry(waiter.clone()).or_default() += 1;
        }
        self.asks.entry(waiter.clone()).or_default().insert(seq, targets);
        Ok(())
    }

    /// A chain of waits from one execution to another, both included.
    fn chain(&self, from: &ExecutionId, to: &ExecutionId) -> Option<Vec<ExecutionId>> {
        let mut before: HashMap<&ExecutionId, &ExecutionId> = HashMap::new();
        let (mut next, mut seen) = (vec![from], HashSet::from([from]));
        while let Some(at) = next.pop() {
            if at == to {
                let mut chain = vec![at.clone()];
                let mut at = at;
                while let Some(earlier) = before.get(at) {
                    chain.push((*earlier).clone());
                    at = earlier;
                }
                chain.reverse();
                return Some(chain);
            }
            for target in self.asks.get(at).into_iter().flat_map(BTreeMap::values).flatten() {
                if seen.insert(target) {
                    before.insert(target, at);
                    next.push(target);
                }
            }
        }
        None
    }

    /// An ask is answered.
    pub fn remove(&mut self, waiter: &ExecutionId, seq: u64) {
        let Some(asks) = self.asks.get_mut(waiter) else { return };
        for target in asks.remove(&seq).unwrap_or_default() {
            self.unlink(&target, waiter);
        }
        if self.asks.get(waiter).is_some_and(BTreeMap::is_empty) {
            self.asks.remove(waiter);
        }
    }

    fn unlink(&mut self, target: &ExecutionId, waiter: &ExecutionId) {
        if let Some(waiters) = self.waiters.get_mut(target) {
            if let Some(count) = waiters.get_mut(waiter) {
                *count -= 1;
                if *count == 0 {
                    waiters.remove(waiter);
                }
            }
            if waiters.is_empty() {
                self.waiters.remove(target);
            }
        }
    }

    /// An execution waits no more.
    pub fn forget(&mut self, waiter: &ExecutionId) {
        for target in self.asks.remove(waiter).unwrap_or_default().into_values().flatten() {
            self.unlink(&target, waiter);
        }
    }

    /// For whom an execution waits.
    #[must_use]
    pub fn targets(&self, waiter: &ExecutionId) -> BTreeSet<ExecutionId> {
        self.asks.get(waiter).into_iter().flat_map(BTreeMap::values).flatten().cloned().collect()
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
        graph.remove(&id[0], 1);
        assert_eq!(graph.waiters(&id[1]), [id[0].clone()]);
        graph.remove(&id[0], 2);
        assert!(graph.waiters(&id[1]).is_empty() && graph.asks.is_empty());
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
