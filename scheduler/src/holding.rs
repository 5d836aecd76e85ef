//! Those that hold a VM: what they take of the budget, of their groups, and when each is expected to be released.
//!
//! One that holds longer than was expected is expected after its high percentile; beyond that, to need as long again as it has held.

use crate::claim::{Budget, Claim, Count, Group, Key, Kind, Time};
use crate::shares::{Charge, WHOLE};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is assumed where it is not known how long a job holds its VM, in microseconds.
const UNKNOWN: u64 = 100_000;

/// How long a job is expected to hold its VM.
pub(crate) const fn expected(claim: &Claim) -> u64 {
    match (claim.holds, claim.takes) {
        (0, 0) => UNKNOWN,
        (0, takes) => takes,
        (holds, _) => holds,
    }
}

/// Who is charged for a VM.
#[derive(Debug)]
pub(crate) struct Payer {
    pub(crate) account: Arc<str>,
    /// Under which name it takes its turns.
    pub(crate) turns: Arc<str>,
    pub(crate) charge: Charge,
}

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) cpu: u32,
    /// It stands still at the door.
    idle: bool,
    pub(crate) group: Option<Group>,
    /// Nobody's, where a VM is kept.
    pub(crate) payer: Option<Payer>,
    pub(crate) background: bool,
    number: u64,
}

impl Held {
    /// The CPU that it takes at this moment.
    pub(crate) const fn cpu_now(&self) -> u32 {
        if self.idle { 0 } else { self.cpu }
    }
}

#[derive(Debug, Clone, Copy)]
struct Expected {
    start: Time,
    takes: u64,
    bytes: u64,
    cpu: u32,
}

#[derive(Debug)]
pub(crate) struct Holding<K> {
    budget: Budget,
    held: BTreeMap<K, Held>,
    groups: BTreeMap<Arc<str>, u32>,
    ends: BTreeMap<(Time, u64), Expected>,
    /// By number: when it is expected to be released.
    when: BTreeMap<u64, Time>,
    starts: u64,
    used: u64,
    cpu: u64,
    background: usize,
    kept_bytes: u64,
    kept: usize,
}

impl<K: Key> Holding<K> {
    pub(crate) const fn new(budget: Budget) -> Self {
        Self {
            budget,
            held: BTreeMap::new(),
            groups: BTreeMap::new(),
            ends: BTreeMap::new(),
            when: BTreeMap::new(),
            starts: 0,
            used: 0,
            cpu: 0,
            background: 0,
            kept_bytes: 0,
            kept: 0,
        }
    }

    pub(crate) const fn budget(&self) -> Budget {
        self.budget
    }

    pub(crate) const fn used(&self) -> u64 {
        self.used
    }

    pub(crate) const fn cpu(&self) -> u64 {
        self.cpu
    }

    /// Bytes and VMs that are kept: given up for whoever needs them.
    pub(crate) const fn kept(&self) -> (u64, usize) {
        (self.kept_bytes, self.kept)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// How many groups hold something.
    pub(crate) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn count(&self) -> Count {
        let others = self.background + self.kept;
        Count { executions: self.held.len() - others, others }
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.held.contains_key(key)
    }

    /// A job of this size could ever start.
    pub(crate) fn could_hold(&self, bytes: u64, cpu: u32) -> bool {
        bytes <= self.budget.bytes && self.budget.vms != Some(0) && (cpu == 0 || self.budget.cpu != Some(0))
    }

    /// There is room for a job of this size. One that is larger than all CPU has room where no CPU is taken.
    pub(crate) fn room(&self, bytes: u64, cpu: u32) -> bool {
        let vms = self.budget.vms.is_none_or(|most| self.held.len() < most);
        let cpu_fits = self.budget.cpu.is_none_or(|budget| {
            let whole = cpu > budget && self.cpu == 0 && budget > 0;
            cpu == 0 || whole || self.cpu + u64::from(cpu) <= u64::from(budget)
        });
        vms && cpu_fits && bytes <= self.budget.bytes.saturating_sub(self.used)
    }

    /// The group of a job holds as many as the job says that it may.
    pub(crate) fn full(&self, group: &Group) -> bool {
        self.group(&group.name) >= group.most
    }

    pub(crate) fn group(&self, name: &str) -> u32 {
        self.groups.get(name).copied().unwrap_or(0)
    }

    /// The largest part of any budget that a job of this size takes, of `WHOLE`.
    pub(crate) fn share(&self, bytes: u64, cpu: u32) -> u64 {
        let part = |of: u64, whole: u64| u64::try_from(u128::from(of) * u128::from(WHOLE) / u128::from(whole.max(1))).unwrap_or(u64::MAX);
        let cpu = self.budget.cpu.map_or(0, |budget| part(u64::from(cpu), u64::from(budget)));
        let vms = self.budget.vms.map_or(0, |most| part(1, u64::try_from(most).unwrap_or(u64::MAX)));
        part(bytes, self.budget.bytes).max(cpu).max(vms).max(1)
    }

    pub(crate) fn start(&mut self, key: K, claim: Claim, payer: Payer, now: Time) {
        if let Some(group) = &claim.group {
            *self.groups.entry(Arc::clone(&group.name)).or_default() += 1;
        }
        self.starts += 1;
        let end = now.after(expected(&claim));
        self.ends.insert((end, self.starts), Expected { start: now, takes: claim.takes, bytes: claim.bytes, cpu: claim.cpu });
        self.when.insert(self.starts, end);
        self.used += claim.bytes;
        self.cpu += u64::from(claim.cpu);
        let background = claim.kind == Kind::Background;
        self.background += usize::from(background);
        let Claim { bytes, cpu, group, .. } = claim;
        self.held.insert(key, Held { bytes, cpu, idle: false, group, payer: Some(payer), background, number: self.starts });
    }

    pub(crate) fn release(&mut self, key: &K) -> Option<Held> {
        let held = self.held.remove(key)?;
        self.used -= held.bytes;
        self.cpu -= u64::from(held.cpu_now());
        self.background -= usize::from(held.background);
        if held.payer.is_none() {
            self.kept -= 1;
            self.kept_bytes -= held.bytes;
        }
        if let Some(end) = self.when.remove(&held.number) {
            self.ends.remove(&(end, held.number));
        }
        if let Some(group) = &held.group
            && let Some(holding) = self.groups.get_mut(&group.name)
        {
            *holding -= 1;
            if *holding == 0 {
                self.groups.remove(&group.name);
            }
        }
        Some(held)
    }

    /// A VM of this size is kept.
    pub(crate) fn keep(&mut self, key: K, bytes: u64) {
        self.starts += 1;
        self.used += bytes;
        self.kept += 1;
        self.kept_bytes += bytes;
        self.held.insert(key, Held { bytes, cpu: 0, idle: false, group: None, payer: None, background: false, number: self.starts });
    }

    /// A job stands still or computes; returns its account and its CPU, where that is a change.
    pub(crate) fn set_idle(&mut self, key: &K, idle: bool) -> Option<(Arc<str>, u32)> {
        let held = self.held.get_mut(key).filter(|held| held.idle != idle)?;
        let account = Arc::clone(&held.payer.as_ref()?.account);
        held.idle = idle;
        if idle {
            self.cpu -= u64::from(held.cpu);
        } else {
            self.cpu += u64::from(held.cpu);
        }
        if let Some(end) = self.when.get(&held.number)
            && let Some(expected) = self.ends.get_mut(&(*end, held.number))
        {
            expected.cpu = held.cpu_now();
        }
        Some((account, held.cpu))
    }

    /// Those that should have been released by now are expected later.
    pub(crate) fn expect_anew(&mut self, now: Time) {
        while let Some(first) = self.ends.first_entry()
            && first.key().0 < now
        {
            let ((_, number), expected) = first.remove_entry();
            let late = now.since(expected.start).max(1);
            let end = Some(expected.start.after(expected.takes)).filter(|end| *end >= now).unwrap_or_else(|| now.after(late));
            self.ends.insert((end, number), expected);
            self.when.insert(number, end);
        }
    }

    /// When room is expected: moment, bytes, CPU.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (Time, u64, u32)> {
        self.ends.iter().map(|((end, _), expected)| (*end, expected.bytes, expected.cpu))
    }
}
