//! Properties of the queue: never over budget, nobody overtakes, nothing is lost, nothing idles beside free room.

use crate::schedule::core::{Budget, Core, Event, Group, Job, Need};
use proptest::prelude::*;
use std::collections::VecDeque;

fn need(bytes: u64, group: Option<(u8, u32)>) -> Need {
    Need { bytes, group: group.map(|(name, most)| Group { name: name.to_string().into(), most }) }
}

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
                    Event::Submit(job(number), need(bytes, None))
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
    assert_eq!(core.step(Event::Submit(job(1), need(6, None))), [job(1)]);
    assert_eq!(core.step(Event::Submit(job(2), need(10, None))), []);
    assert_eq!(core.step(Event::Submit(job(3), need(1, None))), []);
    assert_eq!(core.step(Event::Release(job(1))), [job(2)]);
    assert_eq!(core.step(Event::Release(job(2))), [job(3)]);
    assert!(!core.fits(11));
}

#[test]
fn what_is_released_twice_or_unknown_changes_nothing() {
    let mut core = Core::new(Budget { bytes: 10, vms: None });
    assert_eq!(core.step(Event::Submit(job(1), need(10, None))), [job(1)]);
    assert_eq!(core.step(Event::Release(job(9))), []);
    assert_eq!(core.step(Event::Withdraw(job(1))), []);
    assert_eq!(core.used(), 10);
    assert_eq!(core.step(Event::Release(job(1))), []);
    assert_eq!(core.step(Event::Release(job(1))), []);
    assert_eq!(core.used(), 0);
}

proptest! {
    /// Against a plain list: whoever starts is the first in line whose group has room, and a full group holds up nobody else.
    #[test]
    fn groups_hold_up_only_their_own(
        steps in prop::collection::vec((0u8..4, 1u64..40, any::<prop::sample::Index>()), 0..200),
        limits in prop::array::uniform3(1u32..4),
        budget in 40u64..120,
    ) {
        let mut core = Core::new(Budget { bytes: budget, vms: None });
        let mut waiting: Vec<(u64, u64, u8)> = Vec::new();
        let mut holding: Vec<(u64, u64, u8)> = Vec::new();
        for (number, (kind, bytes, which)) in (0u64..).zip(steps) {
            let event = if kind == 3 && !holding.is_empty() {
                Event::Release(job(holding.remove(which.index(holding.len())).0))
            } else if kind == 2 && number % 7 == 0 && !waiting.is_empty() {
                Event::Withdraw(job(waiting.remove(which.index(waiting.len())).0))
            } else {
                let group = u8::try_from(which.index(3)).unwrap();
                waiting.push((number, bytes, group));
                Event::Submit(job(number), need(bytes, Some((group, limits[usize::from(group)]))))
            };
            let mut expected = Vec::new();
            let mut at = 0;
            while let Some(&(number, bytes, group)) = waiting.get(at) {
                let held = u32::try_from(holding.iter().filter(|(_, _, other)| *other == group).count()).unwrap();
                let used: u64 = holding.iter().map(|(_, bytes, _)| bytes).sum();
                if held >= limits[usize::from(group)] {
                    at += 1;
                } else if used + bytes <= budget {
                    holding.push(waiting.remove(at));
                    expected.push(job(number));
                } else {
                    break;
                }
            }
            prop_assert_eq!(core.step(event), expected);
        }
    }
}

#[test]
fn a_full_group_does_not_press() {
    let mut core = Core::new(Budget { bytes: 10, vms: None });
    assert_eq!(core.step(Event::Submit(job(1), need(1, Some((1, 1))))), [job(1)]);
    assert_eq!(core.step(Event::Submit(job(2), need(1, Some((1, 1))))), []);
    assert!(!core.pressed() && core.waits(&job(2)));
    assert_eq!(core.step(Event::Submit(job(3), need(9, None))), [job(3)]);
    assert_eq!(core.step(Event::Submit(job(4), need(9, None))), []);
    assert!(core.pressed());
    assert_eq!(core.step(Event::Withdraw(job(2))), []);
    assert!(!core.waits(&job(2)));
}
