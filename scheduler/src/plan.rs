//! In which order those that have a due all meet it, if they do: projections over the room that is free now and the room that is expected.
//!
//! An order is a list schedule: each starts as soon as there is room for it, and holds up all behind it. Tried are the earliest due first, then the latest start first, then
//! a search of all orders of the first few, bounded in steps. Where none meets all, those are shed that stand in most others' way (as Moore and Hodgson do for one machine).

use crate::claim::Time;

/// How many of those with the earliest dues the search permutes. All orders of six are within its steps, whatever they are.
const SEARCHED: usize = 8;
const STEPS: u32 = 2_500;

/// Room, or what takes it. No limit is a large number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: i64,
    pub(crate) cpu: i64,
    /// In parts of [`Room::VM`].
    pub(crate) vms: i64,
}

impl Room {
    pub(crate) const VM: i64 = 1 << 10;
    pub(crate) const UNLIMITED: i64 = i64::MAX / 4;

    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.vms = self.vms.saturating_add(other.vms);
    }

    fn take(&mut self, other: Self) {
        self.add(Self { bytes: -other.bytes, cpu: -other.cpu, vms: -other.vms });
    }

    const fn has(self, other: Self) -> bool {
        other.bytes <= self.bytes && (other.cpu == 0 || other.cpu <= self.cpu) && other.vms <= self.vms
    }
}

/// A job that wants to be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) room: Room,
    /// Microseconds that it holds its room.
    pub(crate) holds: u64,
    /// Microseconds from its start to its end.
    pub(crate) takes: u64,
    pub(crate) due: Time,
}

/// The room that there is, and that is expected, the earliest first.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) now: Time,
    pub(crate) free: Room,
    pub(crate) frees: Vec<(Time, Room)>,
}

/// A projection: what was started so far.
#[derive(Debug, Clone)]
struct Projection<'a> {
    machine: &'a Machine,
    at: Time,
    free: Room,
    /// How many of the expected releases are past.
    past: usize,
    /// Ends of those that were started here, the earliest last.
    ends: Vec<(Time, Room)>,
}

impl<'a> Projection<'a> {
    const fn new(machine: &'a Machine) -> Self {
        Self { machine, at: machine.now, free: machine.free, past: 0, ends: Vec::new() }
    }

    /// Starts a job as soon as there is room, or when nothing more is released; returns its end.
    fn start(&mut self, want: &Want) -> Time {
        while !self.free.has(want.room) {
            let (expected, own) = (self.machine.frees.get(self.past), self.ends.last());
            let (when, room) = match (expected, own) {
                (Some(expected), Some(own)) if own.0 < expected.0 => *own,
                (Some(expected), _) => *expected,
                (None, Some(own)) => *own,
                (None, None) => break,
            };
            if expected.is_some_and(|expected| *expected == (when, room)) {
                self.past += 1;
            } else {
                self.ends.pop();
            }
            self.at = self.at.max(when);
            self.free.add(room);
        }
        self.free.take(want.room);
        let end = self.at.after(want.holds);
        let place = self.ends.partition_point(|(other, _)| *other > end);
        self.ends.insert(place, (end, want.room));
        self.at.after(want.takes)
    }
}

/// The least slack of all in this order, in microseconds; none if one is late.
pub(crate) fn slack<'a>(machine: &Machine, order: impl IntoIterator<Item = &'a Want>) -> Option<u64> {
    let mut projection = Projection::new(machine);
    let mut least = u64::MAX;
    for want in order {
        let end = projection.start(want);
        if end > want.due {
            return None;
        }
        least = least.min(want.due.since(end));
    }
    Some(least)
}

/// An order in which all meet their dues, of as many as can be found; by index. The wants are given with the earliest due first.
pub(crate) fn order(machine: &Machine, wants: &[Want]) -> Vec<usize> {
    let all: Vec<usize> = (0..wants.len()).collect();
    if let Some(order) = simple(machine, wants, &all) {
        return order;
    }
    let alone = |index: &usize| slack(machine, [&wants[*index]]).is_some();
    let can: Vec<usize> = all.iter().copied().filter(alone).collect();
    if can.len() < all.len()
        && let Some(order) = simple(machine, wants, &can)
    {
        return order;
    }
    if fit_together(machine, wants, &can)
        && let Some(order) = search(machine, wants, &can)
    {
        return order;
    }
    shed(machine, wants, &can)
}

/// By due, or by latest start.
fn simple(machine: &Machine, wants: &[Want], of: &[usize]) -> Option<Vec<usize>> {
    let meets = |order: &[usize]| slack(machine, order.iter().map(|index| &wants[*index])).is_some();
    if meets(of) {
        return Some(of.to_vec());
    }
    let mut latest_start = of.to_vec();
    latest_start.sort_by_key(|index| (wants[*index].due.before(wants[*index].takes), *index));
    meets(&latest_start).then_some(latest_start)
}

/// No due has more work before it than room: without that no order meets all, and a search is in vain.
fn fit_together(machine: &Machine, wants: &[Want], of: &[usize]) -> bool {
    let (mut work, mut room) = (0i128, 0i128);
    let (mut at, mut free, mut frees) = (machine.now, i128::from(machine.free.bytes), machine.frees.iter().peekable());
    let length = |from: Time, to: Time| i128::from(to.since(from));
    for want in of.iter().map(|index| &wants[*index]) {
        while let Some((when, released)) = frees.next_if(|(when, _)| *when <= want.due) {
            room += free * length(at, *when);
            at = at.max(*when);
            free += i128::from(released.bytes);
        }
        room += free * length(at, want.due);
        at = at.max(want.due);
        work += i128::from(want.room.bytes) * i128::from(want.holds.min(want.takes));
        if work > room {
            return false;
        }
    }
    true
}

/// Branch and bound: all orders of the first few, with the others behind them.
fn search(machine: &Machine, wants: &[Want], of: &[usize]) -> Option<Vec<usize>> {
    let (first, rest) = of.split_at(of.len().min(SEARCHED));
    let mut search = Search { wants, rest, steps: STEPS, found: Vec::new() };
    let mut open = first.to_vec();
    search.descend(&Projection::new(machine), &mut open).then_some(search.found)
}

struct Search<'a> {
    wants: &'a [Want],
    rest: &'a [usize],
    steps: u32,
    found: Vec<usize>,
}

impl Search<'_> {
    fn descend(&mut self, projection: &Projection<'_>, open: &mut Vec<usize>) -> bool {
        if open.is_empty() {
            let mut projection = projection.clone();
            let met = self.rest.iter().all(|index| projection.start(&self.wants[*index]) <= self.wants[*index].due);
            if met {
                self.found.extend(self.rest);
            }
            return met;
        }
        if self.steps == 0 {
            return false;
        }
        self.steps -= 1;
        // Nothing starts before what is planned already: who would be late next is late in every order from here.
        let hopeless = |index: &usize| projection.clone().start(&self.wants[*index]) > self.wants[*index].due;
        if open.iter().any(hopeless) {
            return false;
        }
        for at in 0..open.len() {
            let index = open[at];
            // Of equals only the one with the earliest due needs to be tried.
            if open[..at].iter().any(|other| alike(&self.wants[*other], &self.wants[index])) {
                continue;
            }
            let mut next = projection.clone();
            next.start(&self.wants[index]);
            open.remove(at);
            self.found.push(index);
            if self.descend(&next, open) {
                return true;
            }
            self.found.pop();
            open.insert(at, index);
        }
        false
    }
}

fn alike(one: &Want, other: &Want) -> bool {
    (one.room, one.holds, one.takes) == (other.room, other.holds, other.takes)
}

/// By due; where one would be late, the largest of those so far is left out.
fn shed(machine: &Machine, wants: &[Want], of: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    let mut projection = Projection::new(machine);
    for index in of {
        let mut next = projection.clone();
        if next.start(&wants[*index]) <= wants[*index].due {
            order.push(*index);
            projection = next;
            continue;
        }
        let work = |index: &usize| u128::from(wants[*index].holds) * u128::from(wants[*index].room.bytes.unsigned_abs().max(1));
        let Some(largest) = (0..order.len()).max_by_key(|at| work(&order[*at])).filter(|at| work(&order[*at]) > work(index)) else {
            continue;
        };
        let mut without = order.clone();
        without.remove(largest);
        without.push(*index);
        let mut next = Projection::new(machine);
        if without.iter().all(|index| next.start(&wants[*index]) <= wants[*index].due) {
            order = without;
            projection = next;
        }
    }
    order
}
