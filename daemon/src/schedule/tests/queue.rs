//! Properties of the queue: never over budget, nobody overtakes, nothing is lost, nothing idles beside free room.

use crate::schedule::core::{Budget, Core, Event, Job};
use proptest::prelude::*;
use std::collections::VecDeque;

fn job(number: u64) -> Job {
    Job::Template(number)
}

#[derive(Debug, Clone)]
enum Move {
    Submit(u64),
    /// One of those that hold.
    Release(prop::sample::Index),
    /// One of those that wait.
    Withdraw(prop::sample::Index),
    Drain,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (1u64..120).prop_map(Move::Submit),
        4 => any::<prop::sample::Index>().prop_map(Move::Release),
        2 => any::<prop::sample::Index>().prop_map(Move::Withdraw),
        1 => Just(Move::Drain),
    ];
    prop::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn the_queue_is_fair_and_never_over_budget(moves in moves(), budget in 1u64..200, vms in prop::option::of(1usize..6)) {
        let mut core = Core::new(Budget { bytes: budget, vms });
        let mut waiting: VecDeque<(u64, u64)> = VecDeque::new();
        let mut holding: Vec<(u64, u64)> = Vec::new();
        let mut draining = false;
        for (number, step) in (0u64..).zip(moves) {
            let event = match step {
                // Callers refuse what can never run before it gets here.
                Move::Submit(bytes) if core.fits(bytes) => {
                    waiting.push_back((number, bytes));
                    Event::Submit(job(number), bytes)
                }
                Move::Release(which) if !holding.is_empty() => Event::Release(job(holding.remove(which.index(holding.len())).0)),
                Move::Withdraw(which) if !waiting.is_empty() => {
                    let at = which.index(waiting.len());
                    Event::Withdraw(job(waiting.remove(at).map_or(0, |(number, _)| number)))
                }
                Move::Drain => {
                    draining = true;
                    Event::Drain
                }
                _ => continue,
            };
            let started = core.step(event);
            prop_assert!(!draining || started.is_empty());
            for begun in started {
                // Whoever starts was the first in line.
                let first = waiting.pop_front();
                prop_assert_eq!(first.map(|(number, _)| job(number)), Some(begun));
                holding.extend(first);
            }
            let used: u64 = holding.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(core.used(), used);
            prop_assert!(used <= budget && vms.is_none_or(|most| holding.len() <= most));
            prop_assert_eq!(core.idle(), holding.is_empty());
            prop_assert!(waiting.iter().all(|(number, _)| core.waits(&job(*number))));
            if let (false, Some((_, bytes))) = (draining, waiting.front()) {
                let room = used + bytes <= budget && vms.is_none_or(|most| holding.len() < most);
                prop_assert!(!room, "the first in line fits and does not run");
            }
        }
    }
}

#[test]
fn a_large_job_is_not_overtaken_by_small_ones() {
    let mut core = Core::new(Budget { bytes: 10, vms: None });
    assert_eq!(core.step(Event::Submit(job(1), 6)), [job(1)]);
    assert_eq!(core.step(Event::Submit(job(2), 10)), []);
    assert_eq!(core.step(Event::Submit(job(3), 1)), []);
    assert_eq!(core.step(Event::Release(job(1))), [job(2)]);
    assert_eq!(core.step(Event::Release(job(2))), [job(3)]);
    assert!(!core.fits(11));
}

#[test]
fn what_is_released_twice_or_unknown_changes_nothing() {
    let mut core = Core::new(Budget { bytes: 10, vms: None });
    assert_eq!(core.step(Event::Submit(job(1), 10)), [job(1)]);
    assert_eq!(core.step(Event::Release(job(9))), []);
    assert_eq!(core.step(Event::Withdraw(job(1))), []);
    assert_eq!(core.used(), 10);
    assert_eq!(core.step(Event::Release(job(1))), []);
    assert_eq!(core.step(Event::Release(job(1))), []);
    assert_eq!(core.used(), 0);
}
