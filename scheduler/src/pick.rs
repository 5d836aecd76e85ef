//! Who of an account is next.
//!
//! What is wanted now goes by priority, kind and arrival; what has a due goes before it only if it might be late otherwise. Without anything that is wanted now the best
//! order of the dues decides. Whoever is wanted now and has waited longer than [`PATIENCE`] goes first every other time.

use crate::claim::{Claim, Key, Order, Time};
use crate::holding::expected;
use crate::plan::{self, Machine, Room, Want};
use crate::scheduler::Scheduler;
use std::sync::Arc;

/// Microseconds that one waits at most before it goes first every other time.
const PATIENCE: u64 = 60_000_000;
/// By how many times the difference between median and high percentile what has a due is begun earlier than it must: not at all, if it is known exactly. With 4 the simulator
/// meets nearly as many dues as if they always went first, and what is wanted now waits little more than half as long.
const MARGIN: u64 = 4;
/// Microseconds after which to look again, at least.
const LOOK_AGAIN: u64 = 1_000;
/// How many of those with the earliest dues are planned, and how many expected releases are looked at. They bound the cost of a step.
const PLANNED: usize = 64;
const RELEASES: usize = 256;

impl<K: Key> Scheduler<K> {
    /// The job that is next of those that take their turns under this name; none if all of them wait for their groups.
    pub(crate) fn pick(&mut self, turns: &Arc<str>) -> Option<u64> {
        self.step_aside(turns);
        if self.order != Order::LeastSlack {
            return self.lines.get(turns)?.first();
        }
        if let Some(oldest) = self.impatient(turns)
            && !self.aged.contains(turns)
        {
            return Some(oldest);
        }
        let dues = self.dues(turns);
        let front = self.lines.get(turns)?.first();
        match (front, dues.as_slice()) {
            (front, []) => front,
            (None, [only]) => Some(*only),
            _ => self.weigh(turns, front, &dues),
        }
    }

    /// A job of theirs is about to start.
    pub(crate) fn turned(&mut self, turns: &Arc<str>) {
        if self.impatient(turns).is_none() || !self.aged.insert(Arc::clone(turns)) {
            self.aged.remove(turns);
        }
    }

    /// The one that has waited longest, if that is too long.
    fn impatient(&self, turns: &Arc<str>) -> Option<u64> {
        let (since, number) = self.lines.get(turns)?.oldest()?;
        (self.order == Order::LeastSlack && self.now.since(since) > PATIENCE).then_some(number)
    }

    /// The first in each order that wait for their groups step aside.
    pub(crate) fn step_aside(&mut self, turns: &Arc<str>) {
        while let Some(line) = self.lines.get(turns) {
            let full: Vec<u64> = line.heads().into_iter().filter(|number| self.group_is_full(*number)).collect();
            if full.is_empty() {
                break;
            }
            full.into_iter().for_each(|number| self.block(number));
        }
    }

    fn group_is_full(&self, number: u64) -> bool {
        let group = self.wanting.get(&number).and_then(|wanting| wanting.claim.group.as_ref());
        group.is_some_and(|group| self.holding.full(group))
    }

    /// The first few that have a due to meet and whose groups have room.
    fn dues(&mut self, turns: &Arc<str>) -> Vec<u64> {
        loop {
            let Some(line) = self.lines.get(turns) else { return Vec::new() };
            let (full, dues): (Vec<u64>, Vec<u64>) = line.dues().take(PLANNED).partition(|number| self.group_is_full(*number));
            if full.is_empty() {
                return dues;
            }
            full.into_iter().for_each(|number| self.block(number));
        }
    }

    /// Decides between the first that is wanted now and those that have dues.
    fn weigh(&mut self, turns: &Arc<str>, front: Option<u64>, dues: &[u64]) -> Option<u64> {
        let machine = self.machine(turns);
        let wants: Vec<Want> = dues.iter().filter_map(|number| self.want(*number)).collect();
        let order = plan::order(&machine, &wants);
        let first = order.first().and_then(|index| dues.get(*index)).copied();
        let (Some(front), Some(first)) = (front, first) else { return front.or(first).or_else(|| dues.first().copied()) };
        if front == first {
            return Some(front);
        }
        let mut want = self.want(front)?;
        let (own, others): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|index| dues[*index] == front);
        if own.is_empty() {
            want.due = Time(u64::MAX);
        }
        want.holds = want.holds.max(self.wanting.get(&front)?.claim.takes);
        let slow: Vec<Want> = wants.iter().map(unsure).collect();
        let Some(slack) = slack_behind(&machine, &slow, &want, others) else { return Some(first) };
        // If the front does not fit and a due does, a moment comes when that one must start, though nothing happens.
        if self.wanting.get(&first).is_some_and(|wanting| self.holding.room(wanting.claim.bytes, wanting.claim.cpu)) {
            self.recheck = Some(self.now.after(slack.max(LOOK_AGAIN)).after(1));
        }
        Some(front)
    }

    fn want(&self, number: u64) -> Option<Want> {
        let wanting = self.wanting.get(&number)?;
        let Claim { bytes, cpu, takes, .. } = wanting.claim;
        let cpu = self.holding.budget().cpu.map_or(cpu, |budget| cpu.min(budget));
        let room = Room { bytes: signed(bytes), cpu: i64::from(cpu), vms: Room::VM };
        let due = wanting.place.aim.unwrap_or(Time(u64::MAX));
        // Who is late for its high percentile must start at once.
        Some(Want { room, holds: expected(&wanting.claim), takes: takes.min(due.since(self.now)), due })
    }

    /// The room that is free and the room that is expected. What is kept is as good as free. Of what is released after the next release each account gets its fair part.
    fn machine(&mut self, turns: &Arc<str>) -> Machine {
        self.holding.expect_anew(self.now);
        let budget = self.holding.budget();
        let (kept_bytes, kept) = self.holding.kept();
        let left = |budget: u64, used: u64| signed(budget).saturating_sub(signed(used));
        let size = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let free = Room {
            bytes: left(budget.bytes, self.holding.used().saturating_sub(kept_bytes)),
            cpu: budget.cpu.map_or(Room::UNLIMITED, |budget| left(u64::from(budget), self.holding.cpu())),
            vms: budget.vms.map_or(Room::UNLIMITED, |vms| left(size(vms), size(self.holding.len() - kept)).saturating_mul(Room::VM)),
        };
        let (mine, all) = self.shares.part(turns);
        let part = |of: i64| i64::try_from(i128::from(of) * i128::from(mine) / i128::from(all.max(1))).unwrap_or(of);
        let ends = self.holding.ends().take(RELEASES).enumerate();
        let frees = ends.map(|(at, (end, bytes, cpu))| {
            let room = Room { bytes: signed(bytes), cpu: i64::from(cpu), vms: Room::VM };
            (end, if at == 0 { room } else { Room { bytes: part(room.bytes), cpu: part(room.cpu), vms: part(room.vms) } })
        });
        Machine { now: self.now, free, frees: frees.collect() }
    }
}

/// As somebody plans who does not trust the median: it holds its room for its high percentile, and is wanted earlier by several times what lies between the two.
fn unsure(want: &Want) -> Want {
    let margin = want.takes.saturating_sub(want.holds).saturating_mul(MARGIN);
    Want { holds: want.holds.max(want.takes), due: want.due.before(margin), ..*want }
}

/// The least slack of those that have dues, if one goes before all of them; none if one would be late in every order that is tried.
fn slack_behind(machine: &Machine, wants: &[Want], first: &Want, others: Vec<usize>) -> Option<u64> {
    let slack = |order: &[usize]| plan::slack(machine, std::iter::once(first).chain(order.iter().map(|index| &wants[*index])));
    let mut by_due = others.clone();
    by_due.sort_unstable();
    let mut by_start = by_due.clone();
    by_start.sort_by_key(|index| wants[*index].due.before(wants[*index].takes));
    slack(&others).or_else(|| slack(&by_due)).or_else(|| slack(&by_start))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(Room::UNLIMITED).min(Room::UNLIMITED)
}
