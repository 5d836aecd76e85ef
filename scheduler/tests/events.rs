//! Whatever happens: nothing is lost or starts twice, no budget and no group is exceeded, nothing idles beside free room, and everything ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::claim;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::{BTreeMap, BTreeSet};
use torpor_scheduler::{Action, Budget, Claim, Event, Group, Kind, Order, Scheduler, Time};

#[derive(Debug, Clone)]
enum Move {
    Submit(Claim),
    /// One that was parked wants a VM again.
    Resume(Index),
    Again(Index, Claim),
    Withdraw(Index),
    /// One that holds is parked.
    Park(Index),
    End(Index),
    /// The attempt of one that holds has failed; with `true` all that is known of it is forgotten before the next one.
    Fail(Index, bool),
    /// The wait before the next attempt of one that failed is over.
    Retry(Index, Claim),
    /// One that failed has no other attempt.
    GiveUp(Index),
    Keep(Index),
    Idle(Index),
    Busy(Index),
    Wait(Index, Index),
    Answered(Index, Index),
    Unwait(Index),
    Known(Index),
    Weight(u8, u32),
    Tick,
    Pass(u64),
    Drain,
}

const ACCOUNTS: [&str; 3] = ["a", "b", "c"];

fn claims() -> impl Strategy<Value = Claim> {
    let group = prop::option::of((0u8..3, 1u32..4).prop_map(|(name, most)| Group { name: name.to_string().into(), most }));
    let kind = prop_oneof![4 => Just(Kind::New), 1 => Just(Kind::Background)];
    let due = prop::option::of((0u64..200_000_000).prop_map(Time));
    let times = (0u64..20_000_000, 0u64..20_000_000);
    (1u64..60, 0u32..3_000, 0usize..3, group, kind, -1i32..2, due, any::<bool>(), times).prop_map(
        |(bytes, cpu, account, group, kind, priority, due, deferrable, (holds, takes))| Claim {
            bytes,
            cpu,
            account: ACCOUNTS[account].into(),
            group,
            kind,
            priority,
            due,
            deferrable,
            holds,
            takes,
        },
    )
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let index = any::<Index>;
    let one = prop_oneof![
        8 => claims().prop_map(Move::Submit),
        4 => index().prop_map(Move::Resume),
        1 => (index(), claims()).prop_map(|(which, claim)| Move::Again(which, claim)),
        2 => index().prop_map(Move::Withdraw),
        4 => index().prop_map(Move::Park),
        4 => index().prop_map(Move::End),
        3 => (index(), prop::bool::weighted(0.2)).prop_map(|(which, forgotten)| Move::Fail(which, forgotten)),
        3 => (index(), claims()).prop_map(|(which, claim)| Move::Retry(which, claim)),
        1 => index().prop_map(Move::GiveUp),
        1 => index().prop_map(Move::Keep),
        1 => index().prop_map(Move::Idle),
        1 => index().prop_map(Move::Busy),
        3 => (index(), index()).prop_map(|(waiter, on)| Move::Wait(waiter, on)),
        1 => (index(), index()).prop_map(|(waiter, on)| Move::Answered(waiter, on)),
        1 => index().prop_map(Move::Unwait),
        1 => index().prop_map(Move::Known),
        1 => (0u8..3, 0u32..5).prop_map(|(account, weight)| Move::Weight(account, weight)),
        1 => Just(Move::Tick),
        3 => (0u64..40_000_000).prop_map(Move::Pass),
    ];
    let end = prop::option::weighted(0.2, Just(Move::Drain));
    (prop::collection::vec(one, 0..250), end).prop_map(|(mut moves, end)| {
        let at = moves.len() * 3 / 4;
        end.into_iter().for_each(|drain| moves.insert(at, drain));
        moves
    })
}

/// What must be so, by plain lists.
struct Model {
    scheduler: Scheduler<u64>,
    budget: Budget,
    now: u64,
    claims: BTreeMap<u64, Claim>,
    waiting: BTreeSet<u64>,
    holding: BTreeSet<u64>,
    parked: BTreeSet<u64>,
    /// Those that wait for their next attempt, in no queue.
    failed: BTreeSet<u64>,
    idle: BTreeSet<u64>,
    late: BTreeSet<u64>,
    draining: bool,
    next: u64,
}

impl Model {
    fn new(budget: Budget, order: Order) -> Self {
        Self {
            scheduler: Scheduler::with_order(budget, order),
            budget,
            now: 0,
            claims: BTreeMap::new(),
            waiting: BTreeSet::new(),
            holding: BTreeSet::new(),
            parked: BTreeSet::new(),
            failed: BTreeSet::new(),
            idle: BTreeSet::new(),
            late: BTreeSet::new(),
            draining: false,
            next: 0,
        }
    }

    fn bytes(&self) -> u64 {
        self.holding.iter().map(|key| self.claims[key].bytes).sum()
    }

    fn cpu(&self) -> u64 {
        self.holding.difference(&self.idle).map(|key| u64::from(self.claims[key].cpu)).sum()
    }

    fn in_group(&self, name: &str) -> u32 {
        let member = |key: &&u64| self.claims[*key].group.as_ref().is_some_and(|group| *group.name == *name);
        u32::try_from(self.holding.iter().filter(member).count()).unwrap()
    }

    fn group_has_room(&self, key: u64) -> bool {
        self.claims[&key].group.as_ref().is_none_or(|group| self.in_group(&group.name) < group.most)
    }

    fn has_room(&self, key: u64) -> bool {
        let claim = &self.claims[&key];
        let cpu_fits = self.budget.cpu.is_none_or(|budget| {
            let whole = claim.cpu > budget && self.cpu() == 0;
            claim.cpu == 0 || whole || self.cpu() + u64::from(claim.cpu) <= u64::from(budget)
        });
        cpu_fits && self.bytes() + claim.bytes <= self.budget.bytes && self.budget.vms.is_none_or(|most| self.holding.len() < most)
    }

    fn step(&mut self, event: Event<u64>) {
        for action in self.scheduler.step(Time(self.now), event) {
            match action {
                Action::Start(key) => {
                    assert!(self.waiting.contains(&key), "{key} starts, and did not wait");
                    assert!(!self.draining, "{key} starts after the drain");
                    assert!(self.has_room(key), "{key} has no room");
                    assert!(self.group_has_room(key), "the group of {key} is full");
                    self.waiting.remove(&key);
                    self.holding.insert(key);
                }
                Action::Late(key) => {
                    assert!(self.waiting.contains(&key) && self.late.insert(key), "{key} does not wait, or was told");
                    let claim = &self.claims[&key];
                    assert!(claim.due.unwrap().0 < self.now + claim.takes, "{key} is not late");
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        let s = &self.scheduler;
        assert!(self.waiting.iter().all(|key| s.waits(key) && !s.holds(key)));
        assert!(self.holding.iter().all(|key| s.holds(key) && !s.waits(key)));
        assert!(self.parked.iter().chain(&self.failed).all(|key| !s.holds(key) && !s.waits(key)));
        assert_eq!(s.waiting().executions + s.waiting().others, self.waiting.len());
        assert_eq!(s.holding().executions + s.holding().others, self.holding.len());
        let background = self.waiting.iter().filter(|key| self.claims[*key].kind == Kind::Background).count();
        assert_eq!(s.waiting().others, background);
        assert_eq!((s.used(), s.used_cpu()), (self.bytes(), self.cpu()));
        let accounts = s.accounts();
        assert_eq!(accounts.iter().map(|load| load.waiting).sum::<usize>(), self.waiting.len());
        assert!(accounts.iter().all(|load| load.waiting + load.holding > 0 && load.oldest.is_some() == (load.waiting > 0)));
        let ready: Vec<u64> = self.waiting.iter().copied().filter(|key| self.group_has_room(*key)).collect();
        if !self.draining && !ready.is_empty() {
            assert!(s.pressed());
            assert!(ready.iter().any(|key| !self.has_room(*key)), "nobody is held up, and {ready:?} wait");
        }
        assert!(s.alarm().is_none_or(|alarm| alarm.0 > self.now), "an alarm in the past");
    }

    fn end(&mut self, key: u64) {
        self.holding.remove(&key);
        self.idle.remove(&key);
        self.step(Event::Release(key));
        self.step(Event::Ended(key));
    }

    /// Its machine and its waits are gone; whoever waits for it still does.
    fn fail(&mut self, key: u64, forgotten: bool) {
        self.holding.remove(&key);
        self.idle.remove(&key);
        self.failed.insert(key);
        self.step(Event::Release(key));
        self.step(Event::Unwait(key));
        if forgotten {
            self.step(Event::Ended(key));
            self.late.remove(&key);
        }
    }

    /// It waits like any other that is new, and is told to be late at most once over all its attempts.
    fn retry(&mut self, key: u64, claim: Claim) {
        self.failed.remove(&key);
        self.claims.insert(key, claim.clone());
        self.waiting.insert(key);
        self.step(Event::Submit(key, claim));
    }

    fn known(&self) -> BTreeSet<u64> {
        [&self.waiting, &self.holding, &self.parked, &self.failed].into_iter().flatten().copied().collect()
    }

    fn play(&mut self, step: Move) {
        let of = |keys: &BTreeSet<u64>, which: Index| keys.iter().nth(which.index(keys.len().max(1))).copied();
        match step {
            Move::Submit(claim) => {
                self.next += 1;
                let key = self.next;
                if self.scheduler.fits(claim.bytes, claim.cpu) {
                    self.claims.insert(key, claim.clone());
                    self.waiting.insert(key);
                    self.step(Event::Submit(key, claim));
                }
            }
            Move::Resume(which) => {
                if let Some(key) = of(&self.parked, which) {
                    self.parked.remove(&key);
                    let claim = Claim { kind: Kind::Resume, ..self.claims[&key].clone() };
                    self.claims.insert(key, claim.clone());
                    self.waiting.insert(key);
                    self.step(Event::Submit(key, claim));
                }
            }
            Move::Again(which, claim) => {
                if let Some(key) = of(&self.waiting, which).filter(|_| self.scheduler.fits(claim.bytes, claim.cpu)) {
                    self.claims.insert(key, claim.clone());
                    self.step(Event::Submit(key, claim));
                } else if let Some(key) = of(&self.holding, which) {
                    self.step(Event::Submit(key, claim));
                }
            }
            Move::Withdraw(which) => {
                if let Some(key) = of(&self.waiting, which) {
                    self.waiting.remove(&key);
                    self.step(Event::Withdraw(key));
                    self.step(Event::Ended(key));
                }
            }
            Move::Park(which) => {
                if let Some(key) = of(&self.holding, which).filter(|key| self.claims[key].kind != Kind::Background) {
                    self.holding.remove(&key);
                    self.idle.remove(&key);
                    self.parked.insert(key);
                    self.step(Event::Release(key));
                }
            }
            Move::End(which) => {
                if let Some(key) = of(&self.holding, which) {
                    self.end(key);
                }
            }
            Move::Fail(which, forgotten) => {
                if let Some(key) = of(&self.holding, which).filter(|key| self.claims[key].kind != Kind::Background) {
                    self.fail(key, forgotten);
                }
            }
            Move::Retry(which, claim) => {
                if let Some(key) = of(&self.failed, which).filter(|_| self.scheduler.fits(claim.bytes, claim.cpu)) {
                    self.retry(key, claim);
                }
            }
            Move::GiveUp(which) => {
                if let Some(key) = of(&self.failed, which) {
                    self.failed.remove(&key);
                    self.step(Event::Ended(key));
                }
            }
            Move::Keep(which) => {
                if let Some(key) = of(&self.holding, which) {
                    let kept = key + 100_000;
                    self.holding.remove(&key);
                    self.idle.remove(&key);
                    self.holding.insert(kept);
                    self.claims.insert(kept, claim(self.claims[&key].bytes));
                    self.step(Event::Keep(key, kept));
                    self.step(Event::Ended(key));
                }
            }
            Move::Idle(which) => {
                if let Some(key) = of(&self.holding, which) {
                    self.idle.insert(key);
                    self.step(Event::Idle(key));
                }
            }
            Move::Busy(which) => {
                if let Some(key) = of(&self.idle, which) {
                    self.idle.remove(&key);
                    self.step(Event::Busy(key));
                }
            }
            Move::Wait(waiter, on) => {
                let known = self.known();
                if let (Some(waiter), Some(on)) = (of(&known, waiter), of(&known, on)) {
                    self.step(Event::Wait { waiter, on: vec![on] });
                }
            }
            Move::Answered(waiter, on) => {
                let known = self.known();
                if let (Some(waiter), Some(on)) = (of(&known, waiter), of(&known, on)) {
                    self.step(Event::Answered { waiter, on: vec![on] });
                }
            }
            Move::Known(which) => {
                if let Some(parked) = of(&self.parked, which) {
                    self.step(Event::Known(parked, claim(1)));
                }
            }
            Move::Unwait(which) => {
                if let Some(waiter) = of(&self.parked, which) {
                    self.step(Event::Unwait(waiter));
                }
            }
            Move::Weight(account, weight) => self.step(Event::Weight(ACCOUNTS[usize::from(account)].into(), weight)),
            Move::Tick => {
                self.now = self.scheduler.alarm().map_or(self.now, |alarm| alarm.0);
                self.step(Event::Tick);
            }
            Move::Pass(micros) => self.now += micros,
            Move::Drain => {
                self.draining = true;
                self.step(Event::Drain);
            }
        }
    }

    /// What failed is tried again, and everything that holds is released, over and over: all end, and nothing is left.
    fn finish(&mut self) {
        while let Some(key) = self.failed.first().copied() {
            self.retry(key, Claim { kind: Kind::New, ..self.claims[&key].clone() });
        }
        while let Some(key) = self.holding.first().copied() {
            self.now += 1_000;
            self.end(key);
        }
        assert!(self.draining || self.waiting.is_empty(), "{:?} never start", self.waiting);
        while let Some(key) = self.waiting.pop_first().or_else(|| self.parked.pop_first()) {
            self.step(Event::Ended(key));
        }
        assert!(self.scheduler.idle() && !self.scheduler.pressed());
        assert_eq!(self.scheduler.remembered(), (0, 0));
        assert_eq!(self.scheduler.accounts(), []);
        assert_eq!(self.scheduler.alarm(), None);
    }
}

fn budgets() -> impl Strategy<Value = Budget> {
    (60u64..150, prop::option::of(1usize..6), prop::option::of(1_000u32..4_000)).prop_map(|(bytes, vms, cpu)| Budget { bytes, vms, cpu })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_is_lost_or_doubled_and_no_budget_exceeded(moves in moves(), budget in budgets()) {
        let mut model = Model::new(budget, Order::LeastSlack);
        moves.into_iter().for_each(|step| model.play(step));
        model.finish();
    }

    #[test]
    fn nor_in_the_orders_to_compare_with(moves in moves(), budget in budgets(), fifo in any::<bool>()) {
        let mut model = Model::new(budget, if fifo { Order::Fifo } else { Order::EarliestDeadline });
        moves.into_iter().for_each(|step| model.play(step));
        model.finish();
    }

    #[test]
    fn the_same_events_give_the_same_actions(moves in moves(), budget in budgets()) {
        let (mut one, mut other) = (Model::new(budget, Order::LeastSlack), Model::new(budget, Order::LeastSlack));
        for step in moves {
            one.play(step.clone());
            other.play(step);
            prop_assert_eq!(&one.holding, &other.holding);
        }
    }
}
