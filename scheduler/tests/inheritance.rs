//! What others wait for is as urgent as they are, through all levels, and no longer than they wait.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{SECOND, claim, due, grouped, of, slots};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use torpor_scheduler::{Action, Claim, Event, Kind, Scheduler, Time};

const LATER: u64 = 10_000 * SECOND;
const BLOCKER: u64 = 1_000_000;

/// One place, which is taken.
fn taken() -> Scheduler<u64> {
    let mut s = slots(1);
    assert_eq!(step(&mut s, Event::Submit(BLOCKER, claim(1))), [Action::Start(BLOCKER)]);
    s
}

fn step(s: &mut Scheduler<u64>, event: Event<u64>) -> Vec<Action<u64>> {
    s.step(Time(SECOND), event)
}

fn submit(s: &mut Scheduler<u64>, key: u64, claim: Claim) {
    assert_eq!(step(s, Event::Submit(key, claim)), []);
}

fn wait(s: &mut Scheduler<u64>, waiter: u64, on: u64) {
    assert_eq!(step(s, Event::Wait { waiter, on: vec![on] }), []);
}

/// The order in which all that wait would start.
fn order(mut s: Scheduler<u64>) -> Vec<u64> {
    let mut order = Vec::new();
    let mut last = BLOCKER;
    while let [Action::Start(key)] = step(&mut s, Event::Release(last))[..] {
        order.push(key);
        last = key;
    }
    order
}

#[test]
fn a_chain_of_any_depth_lifts_its_end() {
    for depth in [1, 2, 10, 1_000] {
        let mut s = taken();
        // Deferrable ones, of which each waits for the next; and one that is wanted now, and waits for the first.
        for key in 0..=depth {
            submit(&mut s, key, due(LATER));
        }
        submit(&mut s, 5_000, claim(1));
        for key in 0..depth {
            wait(&mut s, key, key + 1);
        }
        assert_eq!(order_of_first(&mut s), 5_000, "nobody who waits is wanted now");
        let mut s = taken();
        for key in 0..=depth {
            submit(&mut s, key, due(LATER));
        }
        for key in 0..depth {
            wait(&mut s, key, key + 1);
        }
        wait(&mut s, BLOCKER, 0);
        submit(&mut s, 5_000, claim(1));
        // All of the chain came to be wanted by the blocker, which came first.
        let order = order(s);
        assert_eq!(order.len() as u64, depth + 2);
        assert_eq!(order.last(), Some(&5_000));
    }
}

fn order_of_first(s: &mut Scheduler<u64>) -> u64 {
    match step(s, Event::Release(BLOCKER))[..] {
        [Action::Start(key)] => key,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_diamond_gives_what_the_most_urgent_side_has() {
    let mut s = taken();
    // 1 waits for 2 and 3, which wait for 4; 3 is of high priority, and 1 has an early due.
    submit(&mut s, 1, Claim { due: Some(Time(LATER)), ..claim(1) });
    submit(&mut s, 2, claim(1));
    submit(&mut s, 3, Claim { priority: 5, ..claim(1) });
    submit(&mut s, 9, Claim { priority: 4, ..claim(1) });
    submit(&mut s, 4, Claim { priority: -5, ..claim(1) });
    for (waiter, on) in [(1, 2), (1, 3), (2, 4), (3, 4)] {
        wait(&mut s, waiter, on);
    }
    // 4 has the priority of 3 and the arrival of 1, and 3 its own and the arrival of 1: of equals the one that came first.
    assert_eq!(order(s), [3, 4, 9, 1, 2]);
}

#[test]
fn a_cycle_lifts_all_of_it_and_hangs_nobody() {
    let mut s = taken();
    for key in 1..4 {
        submit(&mut s, key, due(LATER));
    }
    submit(&mut s, 4, Claim { priority: 1, ..claim(1) });
    for (waiter, on) in [(1, 2), (2, 3), (3, 1), (2, 2)] {
        wait(&mut s, waiter, on);
    }
    submit(&mut s, 8, claim(1));
    assert_eq!(step(&mut s, Event::Wait { waiter: 4, on: vec![2] }), []);
    assert_eq!(order(s), [1, 2, 3, 4, 8]);
}

#[test]
fn lifting_is_undone_with_the_wait() {
    for undo in [Event::Unwait(1), Event::Ended(1)] {
        let mut s = taken();
        submit(&mut s, 1, Claim { priority: 3, ..claim(1) });
        submit(&mut s, 2, due(LATER));
        submit(&mut s, 3, due(LATER - 1));
        submit(&mut s, 4, claim(1));
        wait(&mut s, 1, 2);
        wait(&mut s, 2, 3);
        assert_eq!(step(&mut s, undo), []);
        let order = order(s);
        assert_eq!(order.iter().filter(|key| **key != 1).copied().collect::<Vec<_>>(), [4, 3, 2]);
    }
}

#[test]
fn one_that_is_parked_since_before_the_start_gives_what_it_has() {
    let urgent = || Claim { priority: 9, ..due(10 * SECOND) };
    for known_first in [true, false] {
        let mut s = taken();
        let know = |s: &mut Scheduler<u64>| assert_eq!(step(s, Event::Known(77, urgent())), []);
        submit(&mut s, 1, claim(1));
        submit(&mut s, 2, claim(1));
        if known_first {
            know(&mut s);
        }
        wait(&mut s, 77, 2);
        if !known_first {
            know(&mut s);
        }
        // It wants nothing itself, and changes nothing of one that waits or holds.
        assert!(!s.waits(&77) && !s.holds(&77));
        for key in [1, BLOCKER] {
            assert_eq!(step(&mut s, Event::Known(key, urgent())), []);
        }
        assert_eq!(s.alarm(), Some(Time(9 * SECOND + 1)), "the last moment at which 2 meets the due of 77");
        assert_eq!(order_with(&mut s), [2, 1]);
        for key in [1, 2, 77, BLOCKER] {
            assert_eq!(step(&mut s, Event::Ended(key)), []);
        }
        assert_eq!(s.remembered(), (0, 0));
    }
}

#[test]
fn who_has_an_answer_still_lifts_the_others() {
    let mut s = taken();
    (1..=3).for_each(|key| submit(&mut s, key, claim(1)));
    submit(&mut s, 4, Claim { priority: 3, ..claim(1) });
    assert_eq!(step(&mut s, Event::Wait { waiter: 4, on: vec![2, 3] }), []);
    assert_eq!(step(&mut s, Event::Answered { waiter: 4, on: vec![2, 1] }), []);
    assert_eq!(order(s), [3, 4, 1, 2]);
}

#[test]
fn the_due_of_a_waiter_is_met_by_whom_it_waits_for() {
    let mut s = taken();
    submit(&mut s, 1, claim(1));
    submit(&mut s, 2, due(LATER));
    submit(&mut s, 3, Claim { due: Some(Time(2 * SECOND)), deferrable: true, ..claim(1) });
    wait(&mut s, 3, 2);
    // Both would have to be done a second from now: one is, and the other takes its own due or its turn.
    let order = order(s);
    assert_ne!(order[0], 1);
}

#[test]
fn an_urgency_that_cannot_be_met_leaves_the_own_one() {
    let mut s = taken();
    submit(&mut s, 1, claim(1));
    submit(&mut s, 2, due(3 * SECOND));
    submit(&mut s, 3, claim(1));
    // It is lifted to a due that is past: its own is still to be met, and nothing is told.
    assert_eq!(step(&mut s, Event::Submit(4, due(SECOND))), [Action::Late(4)]);
    wait(&mut s, 4, 2);
    assert_eq!(s.alarm(), Some(Time(2 * SECOND + 1)));
}

#[test]
fn what_nobody_waits_for_is_new_while_somebody_does() {
    let mut s = taken();
    submit(&mut s, 1, Claim { kind: Kind::Background, ..claim(1) });
    submit(&mut s, 2, claim(1));
    wait(&mut s, BLOCKER, 1);
    assert_eq!(order(s), [1, 2]);
}

#[test]
fn edges_of_those_that_are_not_known_are_harmless() {
    let mut s = taken();
    submit(&mut s, 1, due(LATER));
    submit(&mut s, 2, claim(1));
    wait(&mut s, 77, 1);
    wait(&mut s, 1, 78);
    wait(&mut s, 79, 80);
    let mut order = order_with(&mut s);
    assert_eq!(order.remove(0), 1, "who is not known is taken to be in a hurry");
    for key in [1, 2, 77, 78, 79, 80, BLOCKER] {
        let _ = step(&mut s, Event::Ended(key));
    }
    assert_eq!(s.remembered(), (0, 0));
}

fn order_with(s: &mut Scheduler<u64>) -> Vec<u64> {
    let mut order = Vec::new();
    let mut last = BLOCKER;
    while let [Action::Start(key)] = step(s, Event::Release(last))[..] {
        order.push(key);
        last = key;
    }
    order
}

#[test]
fn who_is_lifted_has_the_place_of_its_group_that_another_waits_with() {
    let mut s = slots(2);
    let of_group = |at| Claim { due: Some(Time(at)), deferrable: true, ..grouped(1, "g", 1) };
    assert_eq!(step(&mut s, Event::Submit(1, grouped(1, "g", 1))), [Action::Start(1)]);
    assert_eq!(step(&mut s, Event::Submit(BLOCKER, claim(1))), [Action::Start(BLOCKER)]);
    submit(&mut s, 2, of_group(LATER - 1));
    submit(&mut s, 3, of_group(LATER));
    submit(&mut s, 4, claim(1));
    // The group has room again, but the host has not: 2 waits for that, with the group's place.
    assert_eq!(step(&mut s, Event::Release(1)), [Action::Start(4)]);
    wait(&mut s, BLOCKER, 3);
    assert_eq!(step(&mut s, Event::Release(4)), [Action::Start(3)]);
}

#[derive(Debug, Clone)]
enum Move {
    Wait(u64, Vec<u64>),
    Answered(u64, Vec<u64>),
    Parked(u64, i32),
    Unwait(u64),
    Ended(u64),
    Priority(u64, i32),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    // The first 10 wait, and the others are parked.
    let key = || 0u64..14;
    let some = || prop::collection::vec(key(), 0..4);
    let one = prop_oneof![
        8 => (key(), some()).prop_map(|(waiter, on)| Move::Wait(waiter, on)),
        3 => (key(), some()).prop_map(|(waiter, on)| Move::Answered(waiter, on)),
        2 => (10u64..14, -3i32..4).prop_map(|(key, priority)| Move::Parked(key, priority)),
        2 => key().prop_map(Move::Unwait),
        1 => key().prop_map(Move::Ended),
        2 => (0u64..10, -3i32..4).prop_map(|(key, priority)| Move::Priority(key, priority)),
    ];
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Against the closure, worked out anew: whoever starts has the highest priority of its own and of all that wait for it, and then the earliest arrival of them.
    #[test]
    fn urgency_is_that_of_all_who_wait(priorities in prop::collection::vec(-3i32..4, 14), moves in moves()) {
        let mut s = taken();
        let mut alive: BTreeMap<u64, i32> = BTreeMap::new();
        let mut edges: BTreeSet<(u64, u64)> = BTreeSet::new();
        // By arrival.
        let mut arrivals: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, priority) in (0..).zip(priorities) {
            let claim = Claim { priority, ..of("a", claim(1)) };
            if key < 10 {
                submit(&mut s, key, claim);
            } else {
                prop_assert_eq!(step(&mut s, Event::Known(key, claim)), []);
            }
            alive.insert(key, priority);
            arrivals.insert(key, key);
        }
        let mut last = 100;
        for step_of in moves {
            match step_of {
                Move::Wait(waiter, mut on) if alive.contains_key(&waiter) => {
                    on.retain(|on| alive.contains_key(on));
                    edges.extend(on.iter().map(|on| (waiter, *on)));
                    prop_assert_eq!(step(&mut s, Event::Wait { waiter, on }), []);
                }
                Move::Answered(waiter, on) => {
                    edges.retain(|(other, target)| *other != waiter || !on.contains(target));
                    prop_assert_eq!(step(&mut s, Event::Answered { waiter, on }), []);
                }
                Move::Parked(key, priority) if alive.contains_key(&key) => {
                    prop_assert_eq!(step(&mut s, Event::Known(key, Claim { priority, ..of("a", claim(1)) })), []);
                    alive.insert(key, priority);
                    last += 1;
                    arrivals.insert(key, last);
                }
                Move::Unwait(waiter) => {
                    prop_assert_eq!(step(&mut s, Event::Unwait(waiter)), []);
                    edges.retain(|(other, _)| *other != waiter);
                }
                Move::Ended(key) => {
                    prop_assert_eq!(step(&mut s, Event::Ended(key)), []);
                    alive.remove(&key);
                    edges.retain(|(waiter, on)| *waiter != key && *on != key);
                }
                Move::Priority(key, priority) if alive.contains_key(&key) => {
                    submit(&mut s, key, Claim { priority, ..claim(1) });
                    alive.insert(key, priority);
                }
                _ => {}
            }
        }
        let urgency = |key: u64| {
            let mut seen = BTreeSet::from([key]);
            let mut open = vec![key];
            while let Some(next) = open.pop() {
                open.extend(edges.iter().filter(|(waiter, on)| *on == next && seen.insert(*waiter)).map(|(waiter, _)| *waiter));
            }
            (Reverse(seen.iter().map(|key| alive[key]).max().unwrap()), seen.iter().map(|key| arrivals[key]).min().unwrap(), key)
        };
        let mut expected: Vec<u64> = alive.keys().copied().filter(|key| *key < 10).collect();
        expected.sort_by_key(|key| urgency(*key));
        prop_assert_eq!(order(s), expected);
    }
}

#[test]
fn who_was_parked_meanwhile_has_come_when_it_came_first() {
    let mut s = slots(1);
    assert_eq!(step(&mut s, Event::Submit(1, claim(1))), [Action::Start(1)]);
    submit(&mut s, 2, claim(1));
    submit(&mut s, 3, claim(1));
    assert_eq!(step(&mut s, Event::Release(1)), [Action::Start(2)]);
    // Parked, resumed, and the last that came; what it waits for goes before what came after its first start.
    submit(&mut s, 1, Claim { kind: Kind::Resume, ..claim(1) });
    assert_eq!(step(&mut s, Event::Release(2)), [Action::Start(1)]);
    submit(&mut s, 4, due(LATER));
    wait(&mut s, 1, 4);
    assert_eq!(step(&mut s, Event::Release(1)), [Action::Start(4)]);
    assert_eq!(step(&mut s, Event::Release(4)), [Action::Start(3)]);
}

#[test]
fn of_several_none_starts_before_all_are_there() {
    let mut s = slots(1);
    step(&mut s, Event::Known(1, claim(1)));
    let wanted = (2..5).map(|key| (key, if key == 4 { due(LATER) } else { claim(1) })).collect();
    wait(&mut s, 1, 4);
    assert_eq!(step(&mut s, Event::SubmitAll(wanted)), [Action::Start(4)]);
    assert_eq!(step(&mut s, Event::Release(4)), [Action::Start(2)]);
}

#[test]
fn who_is_known_since_before_the_start_has_come_in_that_order() {
    let mut s = slots(1);
    (1..5).for_each(|key| assert_eq!(step(&mut s, Event::Known(key, claim(1))), []));
    // 3 is parked and waits for 4, and came after 1 and 2.
    wait(&mut s, 3, 4);
    assert_eq!(step(&mut s, Event::SubmitAll(vec![(4, claim(1)), (1, claim(1)), (2, claim(1))])), [Action::Start(1)]);
    assert_eq!(step(&mut s, Event::Release(1)), [Action::Start(2)]);
    assert_eq!(step(&mut s, Event::Release(2)), [Action::Start(4)]);
}
