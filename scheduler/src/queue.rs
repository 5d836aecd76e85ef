//! Where those that wait stand: put into lines and taken out of them, blocked by groups, placed anew when their urgency changes or a due is missed.
//!
//! A group that has room for somebody has one of those that wait for it in its line: the first in each order.

use crate::claim::{Action, Claim, Key, Kind, Order, Time};
use crate::line::{Line, Place};
use crate::scheduler::{Scheduler, Wanting};
use std::cmp::Reverse;
use std::sync::Arc;

impl<K: Key> Scheduler<K> {
    /// Under which name a job takes its turns: its account, where accounts count.
    pub(crate) fn turns(&self, claim: &Claim) -> Arc<str> {
        if self.order == Order::LeastSlack { Arc::clone(&claim.account) } else { Arc::from("") }
    }

    /// The end that a job must meet and still can: the one that counts, or else its own.
    pub(crate) fn aim(&self, key: &K, claim: &Claim) -> Option<Time> {
        let counts = self.graph.of(key)?.due;
        let can = |due: &Time| self.now.after(at_least(claim)) <= *due;
        counts.filter(can).or_else(|| claim.due.filter(can))
    }

    pub(crate) fn place(&self, wanting: &Wanting<K>) -> Place {
        let Wanting { key, claim, place, .. } = wanting;
        let number = place.number;
        let kind = if claim.kind == Kind::Background { Kind::New } else { claim.kind };
        let aim = self.aim(key, claim);
        let in_time = aim.is_some_and(|aim| self.now.after(claim.takes) <= aim);
        let lapses = aim.map(|aim| aim.before(if in_time { claim.takes } else { at_least(claim) }));
        let rank = match self.order {
            Order::Fifo => Some((Time(0), Reverse(0), kind, number, number)),
            Order::EarliestDeadline => Some((claim.due.unwrap_or(Time(u64::MAX)), Reverse(0), kind, number, number)),
            Order::LeastSlack => {
                let counts = self.graph.of(key);
                let kind = if counts.is_some_and(|counts| counts.awaited) { kind } else { claim.kind };
                let deferred = in_time && counts.is_some_and(|counts| counts.deferrable);
                counts.filter(|_| !deferred).map(|counts| (Time(0), Reverse(counts.priority), kind, counts.arrival, number))
            }
        };
        Place { rank, aim, lapses, ..*place }
    }

    /// Puts a job in its line, or among those that its group blocks.
    pub(crate) fn put(&mut self, mut wanting: Wanting<K>) {
        wanting.place = self.place(&wanting);
        let (place, claim) = (wanting.place, &wanting.claim);
        let turns = self.turns(claim);
        if let Some(group) = claim.group.as_ref().filter(|_| wanting.blocked) {
            let lines = self.blocked.entry(Arc::clone(&group.name)).or_default();
            lines.entry((group.most, turns)).or_default().insert(&place);
        } else {
            self.sizes.add(claim.bytes);
            self.cpus.add(claim.cpu);
            self.shares.join(&turns);
            self.lines.entry(turns).or_default().insert(&place);
        }
        if let Some(lapses) = place.lapses {
            self.lapses.insert((lapses, place.number));
        }
        self.background += usize::from(claim.kind == Kind::Background);
        self.loads.change(&claim.account, |load| {
            load.waiting.insert((place.since, place.number));
        });
        self.keys.insert(wanting.key.clone(), place.number);
        self.wanting.insert(place.number, wanting);
    }

    /// Takes a job out of where it waits. The graph keeps it, and its account its turn: `vacate` follows, or `put`.
    pub(crate) fn take(&mut self, number: u64) -> Option<Wanting<K>> {
        let wanting = self.wanting.remove(&number)?;
        let (place, claim) = (wanting.place, &wanting.claim);
        let turns = self.turns(claim);
        if let Some(group) = claim.group.as_ref().filter(|_| wanting.blocked) {
            if let Some(lines) = self.blocked.get_mut(&group.name) {
                let key = (group.most, turns);
                if let Some(line) = lines.get_mut(&key) {
                    line.remove(&place);
                    if line.is_empty() {
                        lines.remove(&key);
                    }
                }
                if lines.is_empty() {
                    self.blocked.remove(&group.name);
                }
            }
        } else {
            self.sizes.remove(claim.bytes);
            self.cpus.remove(claim.cpu);
            if let Some(line) = self.lines.get_mut(&turns) {
                line.remove(&place);
            }
        }
        if let Some(lapses) = place.lapses {
            self.lapses.remove(&(lapses, place.number));
        }
        self.background -= usize::from(claim.kind == Kind::Background);
        self.loads.change(&claim.account, |load| {
            load.waiting.remove(&(place.since, place.number));
        });
        self.keys.remove(&wanting.key);
        Some(wanting)
    }

    /// Who has nothing that waits for its turn has no turn.
    pub(crate) fn vacate(&mut self, turns: &Arc<str>) {
        if self.lines.get(turns).is_some_and(Line::is_empty) {
            self.lines.remove(turns);
            self.aged.remove(turns);
            self.shares.leave(turns);
        }
    }

    /// These are more or less urgent than they were: those that wait get their places anew.
    pub(crate) fn replace(&mut self, changed: Vec<K>) {
        for key in changed {
            let Some(number) = self.keys.get(&key).copied() else { continue };
            let Some(old) = self.wanting.get(&number) else { continue };
            if self.place(old) != old.place
                && let Some(mut wanting) = self.take(number)
            {
                // Its turn says whether its group has room for it now.
                wanting.blocked = false;
                self.put(wanting);
            }
        }
    }

    /// The group of this job is full: it waits for that.
    pub(crate) fn block(&mut self, number: u64) {
        if let Some(mut wanting) = self.take(number) {
            wanting.blocked = true;
            let turns = self.turns(&wanting.claim);
            self.put(wanting);
            self.vacate(&turns);
        }
    }

    /// A place of a group is free: the first of those that wait for one have their turns again.
    pub(crate) fn unblock(&mut self, name: &Arc<str>) {
        let held = self.holding.group(name);
        let Some(lines) = self.blocked.get(name) else { return };
        let heads: Vec<u64> = lines.iter().filter(|((most, _), _)| *most > held).flat_map(|(_, line)| line.heads()).collect();
        for number in heads {
            if let Some(mut wanting) = self.take(number) {
                wanting.blocked = false;
                self.put(wanting);
            }
        }
    }

    /// Those whose places lapse get others: wanted now as well, when they are late for their high percentile; and without precedence, when they are for their median.
    pub(crate) fn lapse(&mut self, actions: &mut Vec<Action<K>>) {
        while let Some((lapses, number)) = self.lapses.first().copied()
            && lapses < self.now
        {
            let Some(wanting) = self.take(number) else { break };
            self.put(wanting);
            actions.extend(self.late(number));
        }
    }

    /// Tells of a job that waits whose own due can't be met any more, if that was not told.
    pub(crate) fn late(&mut self, number: u64) -> Option<Action<K>> {
        let Wanting { key, claim, .. } = self.wanting.get(&number)?;
        let late = claim.due.is_some_and(|due| self.now.after(claim.takes) > due);
        (late && self.told.insert(key.clone())).then(|| Action::Late(key.clone()))
    }
}

/// What a job takes at least, as far as is known: the median of what it holds its VM. Who is late for more than that may still make it.
fn at_least(claim: &Claim) -> u64 {
    if claim.holds == 0 { claim.takes } else { claim.holds.min(claim.takes) }
}
