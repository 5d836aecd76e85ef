//! What the tests share: claims, and a host that runs what is started for as long as it really takes.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use torpor_scheduler::{Action, Budget, Claim, Event, Group, Kind, Order, Scheduler, Time};

pub(crate) const SECOND: u64 = 1_000_000;

pub(crate) fn claim(bytes: u64) -> Claim {
    Claim {
        bytes,
        cpu: 0,
        account: "a".into(),
        group: None,
        kind: Kind::New,
        priority: 0,
        due: None,
        deferrable: false,
        holds: SECOND,
        takes: SECOND,
    }
}

/// A claim of exactly so many microseconds.
pub(crate) fn lasting(bytes: u64, micros: u64) -> Claim {
    Claim { holds: micros, takes: micros, ..claim(bytes) }
}

pub(crate) fn due(at: u64) -> Claim {
    Claim { due: Some(Time(at)), deferrable: true, ..claim(1) }
}

pub(crate) fn of(account: &str, claim: Claim) -> Claim {
    Claim { account: account.into(), ..claim }
}

pub(crate) fn grouped(bytes: u64, name: &str, most: u32) -> Claim {
    Claim { group: Some(Group { name: name.into(), most }), ..claim(bytes) }
}

pub(crate) fn slots(vms: usize) -> Scheduler<u64> {
    Scheduler::new(Budget { bytes: 1_000, vms: Some(vms), cpu: None })
}

/// A host: the scheduler, and what it runs.
pub(crate) struct Host {
    pub(crate) scheduler: Scheduler<u64>,
    pub(crate) now: u64,
    /// How long each job really takes.
    lasts: BTreeMap<u64, u64>,
    running: BTreeSet<(u64, u64)>,
    pub(crate) started: BTreeMap<u64, u64>,
    pub(crate) ended: BTreeMap<u64, u64>,
    pub(crate) late: BTreeSet<u64>,
}

impl Host {
    pub(crate) fn new(budget: Budget, order: Order) -> Self {
        Self {
            scheduler: Scheduler::with_order(budget, order),
            now: 0,
            lasts: BTreeMap::new(),
            running: BTreeSet::new(),
            started: BTreeMap::new(),
            ended: BTreeMap::new(),
            late: BTreeSet::new(),
        }
    }

    /// An event at this moment; what starts runs.
    pub(crate) fn step(&mut self, event: Event<u64>) {
        for action in self.scheduler.step(Time(self.now), event) {
            match action {
                Action::Start(key) => {
                    assert!(self.started.insert(key, self.now).is_none(), "{key} started twice");
                    self.running.insert((self.now + self.lasts[&key], key));
                }
                Action::Late(key) => assert!(self.late.insert(key), "{key} was told late twice"),
            }
        }
    }

    pub(crate) fn submit(&mut self, key: u64, claim: Claim, lasts: u64) {
        self.lasts.insert(key, lasts);
        self.step(Event::Submit(key, claim));
    }

    /// Goes on to a moment: ends what ends by then, in order.
    pub(crate) fn until(&mut self, moment: u64) {
        while let Some(&(end, key)) = self.running.first()
            && end <= moment
        {
            self.now = self.now.max(end);
            self.end(end, key);
        }
        self.now = self.now.max(moment);
    }

    /// Ends the next that ends; nothing if nothing runs.
    pub(crate) fn next(&mut self) -> Option<u64> {
        let &(end, key) = self.running.first()?;
        self.now = self.now.max(end);
        self.end(end, key);
        Some(key)
    }

    fn end(&mut self, end: u64, key: u64) {
        self.running.remove(&(end, key));
        self.ended.insert(key, end);
        self.step(Event::Release(key));
        self.step(Event::Ended(key));
    }

    pub(crate) fn drain(&mut self) {
        while self.next().is_some() {}
    }
}
