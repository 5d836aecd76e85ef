//! The interface, one rule at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{SECOND, claim, due, grouped, slots};
use torpor_scheduler::Action::{self, Late, Start};
use torpor_scheduler::{Budget, Claim, Count, Event, Kind, Scheduler, Time};

type S = Scheduler<u64>;

fn submit(scheduler: &mut S, now: u64, key: u64, claim: Claim) -> Vec<Action<u64>> {
    scheduler.step(Time(now), Event::Submit(key, claim))
}

fn release(scheduler: &mut S, now: u64, key: u64) -> Vec<Action<u64>> {
    scheduler.step(Time(now), Event::Release(key))
}

#[test]
fn an_idle_host_starts_everything_at_once() {
    let mut s = slots(3);
    assert_eq!(submit(&mut s, 0, 1, due(1_000 * SECOND)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, Claim { kind: Kind::Background, ..claim(1) }), [Start(2)]);
    assert_eq!(submit(&mut s, 0, 3, claim(1)), [Start(3)]);
    assert_eq!(s.holding(), Count { executions: 2, others: 1 });
}

#[test]
fn a_large_job_is_not_overtaken_by_small_ones() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: None });
    assert_eq!(submit(&mut s, 0, 1, claim(6)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, claim(10)), []);
    assert_eq!(submit(&mut s, 0, 3, claim(1)), []);
    assert_eq!(release(&mut s, 1, 1), [Start(2)]);
    assert_eq!(release(&mut s, 2, 2), [Start(3)]);
    assert!(!s.fits(11, 0) && s.fits(10, 5_000));
}

#[test]
fn what_is_released_twice_or_unknown_changes_nothing() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: None });
    assert_eq!(submit(&mut s, 0, 1, claim(10)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 1, claim(10)), []);
    assert_eq!(release(&mut s, 0, 9), []);
    assert_eq!(s.step(Time(0), Event::Withdraw(1)), []);
    assert_eq!(s.used(), 10);
    assert_eq!(release(&mut s, 0, 1), []);
    assert_eq!(release(&mut s, 0, 1), []);
    assert_eq!(s.used(), 0);
    assert_eq!(s.step(Time(0), Event::Ended(1)), []);
    assert_eq!(s.remembered(), (0, 0));
}

#[test]
fn a_full_group_does_not_press() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: None });
    assert_eq!(submit(&mut s, 0, 1, grouped(1, "g", 1)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, grouped(1, "g", 1)), []);
    assert!(!s.pressed() && s.waits(&2));
    assert_eq!(submit(&mut s, 0, 3, claim(9)), [Start(3)]);
    assert_eq!(submit(&mut s, 0, 4, claim(9)), []);
    assert!(s.pressed());
    assert_eq!(s.step(Time(0), Event::Withdraw(2)), []);
    assert!(!s.waits(&2));
}

#[test]
fn members_of_a_group_may_disagree_on_its_limit() {
    let mut s = slots(9);
    assert_eq!(submit(&mut s, 0, 1, grouped(1, "g", 2)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, grouped(1, "g", 2)), [Start(2)]);
    assert_eq!(submit(&mut s, 0, 3, grouped(1, "g", 1)), []);
    assert_eq!(submit(&mut s, 0, 4, grouped(1, "g", 2)), []);
    assert_eq!(release(&mut s, 1, 1), [Start(4)]);
    assert_eq!(release(&mut s, 1, 2), []);
    assert_eq!(release(&mut s, 1, 4), [Start(3)]);
}

#[test]
fn a_due_goes_first_exactly_when_it_must() {
    let mut s = slots(1);
    assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
    // At 1 s there is still time to run one that is wanted now, at 2 s there is not.
    assert_eq!(submit(&mut s, 0, 2, due(3 * SECOND)), []);
    for key in 3..6 {
        assert_eq!(submit(&mut s, 0, key, claim(1)), []);
    }
    assert_eq!(release(&mut s, SECOND, 1), [Start(3)]);
    assert_eq!(release(&mut s, 2 * SECOND, 3), [Start(2)]);
    assert_eq!(release(&mut s, 3 * SECOND, 2), [Start(4)]);
}

#[test]
fn what_is_late_is_told_once_and_waits_by_arrival() {
    let mut s = slots(1);
    assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, due(3 * SECOND)), []);
    assert_eq!(submit(&mut s, 0, 3, claim(1)), []);
    assert_eq!(s.alarm(), Some(Time(2 * SECOND + 1)));
    assert_eq!(s.step(Time(2 * SECOND), Event::Tick), []);
    assert_eq!(s.step(Time(2 * SECOND + 1), Event::Tick), [Late(2)]);
    assert_eq!(s.alarm(), None);
    assert_eq!(release(&mut s, 9 * SECOND, 1), [Start(2)]);
    assert_eq!(release(&mut s, 9 * SECOND, 2), [Start(3)]);
    assert_eq!(submit(&mut s, 9 * SECOND, 2, due(3 * SECOND)), []);
    assert_eq!(submit(&mut s, 9 * SECOND, 4, due(9 * SECOND)), [Late(4)]);
}

#[test]
fn priority_then_parked_then_arrival() {
    let mut s = slots(1);
    assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, Claim { kind: Kind::Background, ..claim(1) }), []);
    assert_eq!(submit(&mut s, 0, 3, claim(1)), []);
    assert_eq!(submit(&mut s, 0, 4, Claim { kind: Kind::Resume, ..claim(1) }), []);
    assert_eq!(submit(&mut s, 0, 5, Claim { priority: 1, ..claim(1) }), []);
    for (last, next) in [(1, 5), (5, 4), (4, 3), (3, 2)] {
        assert_eq!(release(&mut s, 1, last), [Start(next)]);
    }
}

#[test]
fn one_job_of_another_account_does_not_wait_for_many() {
    let mut s = slots(1);
    for key in 0..1_000 {
        let _ = submit(&mut s, 0, key, claim(1));
    }
    assert_eq!(submit(&mut s, 10, 5_000, Claim { account: "b".into(), ..claim(1) }), []);
    assert_eq!(release(&mut s, SECOND, 0), [Start(5_000)]);
}

#[test]
fn who_is_waited_for_is_as_urgent_as_who_waits() {
    let mut s = slots(1);
    assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, due(1_000 * SECOND)), []);
    assert_eq!(submit(&mut s, 0, 3, claim(1)), []);
    assert_eq!(s.step(Time(0), Event::Wait { waiter: 1, on: vec![2] }), []);
    assert_eq!(release(&mut s, 1, 1), [Start(2)]);
    assert_eq!(s.step(Time(2), Event::Ended(2)), [Start(3)]);
    assert_eq!(s.step(Time(2), Event::Ended(3)), []);
    assert_eq!(s.step(Time(2), Event::Ended(1)), []);
    assert_eq!(s.remembered(), (0, 0));
}

#[test]
fn those_that_stand_still_take_no_cpu() {
    let mut s = S::new(Budget { bytes: 100, vms: None, cpu: Some(1_000) });
    let one = || Claim { cpu: 1_000, ..claim(1) };
    assert_eq!(submit(&mut s, 0, 1, one()), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, one()), []);
    assert_eq!(s.step(Time(0), Event::Idle(1)), [Start(2)]);
    assert_eq!(s.step(Time(0), Event::Busy(1)), []);
    assert_eq!(s.used_cpu(), 2_000);
    assert_eq!(release(&mut s, 0, 1), []);
    assert_eq!(submit(&mut s, 0, 3, Claim { cpu: 4_000, ..claim(1) }), []);
    assert_eq!(release(&mut s, 0, 2), [Start(3)]);
    assert_eq!(s.accounts()[0].cpu, 4_000);
}

#[test]
fn a_kept_vm_is_nobodys() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: Some(1_000) });
    assert_eq!(submit(&mut s, 0, 1, Claim { cpu: 1_000, ..grouped(6, "g", 1) }), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, Claim { cpu: 1_000, ..grouped(4, "g", 1) }), []);
    assert_eq!(s.step(Time(1), Event::Keep(1, 7)), [Start(2)]);
    assert_eq!((s.used(), s.used_cpu()), (10, 1_000));
    assert_eq!(s.holding(), Count { executions: 1, others: 1 });
    assert_eq!(s.accounts()[0].bytes, 4);
    assert_eq!(release(&mut s, 2, 7), []);
    assert_eq!(s.used(), 4);
}

#[test]
fn nothing_starts_after_drain() {
    let mut s = slots(1);
    assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, claim(1)), []);
    assert_eq!(s.step(Time(0), Event::Drain), []);
    assert_eq!(release(&mut s, 0, 1), []);
    assert!(s.waits(&2) && s.idle() && s.draining());
}

#[test]
fn who_is_late_for_its_percentile_keeps_its_place_while_its_median_fits() {
    for (released, first, then) in [(2 * SECOND, 3, 2), (3 * SECOND + 1, 2, 3)] {
        let mut s = slots(1);
        assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
        assert_eq!(submit(&mut s, 0, 2, claim(1)), []);
        assert_eq!(submit(&mut s, 0, 3, Claim { takes: 3 * SECOND, ..due(4 * SECOND) }), []);
        assert_eq!(s.step(Time(SECOND + 1), Event::Tick), [Late(3)]);
        assert_eq!(s.alarm(), Some(Time(3 * SECOND + 1)));
        assert_eq!(release(&mut s, released, 1), [Start(first)]);
        assert_eq!(release(&mut s, released, first), [Start(then)]);
    }
}

#[test]
fn the_less_is_known_the_earlier_a_due_is_begun() {
    for (holds, first) in [(2 * SECOND, 2), (SECOND, 3)] {
        let mut s = slots(1);
        assert_eq!(submit(&mut s, 0, 1, claim(1)), [Start(1)]);
        assert_eq!(submit(&mut s, 0, 2, claim(1)), []);
        assert_eq!(submit(&mut s, 0, 3, Claim { holds, takes: 2 * SECOND, ..due(12 * SECOND) }), []);
        assert_eq!(release(&mut s, 7 * SECOND, 1), [Start(first)]);
    }
}

#[test]
fn a_due_that_must_be_begun_passes_a_large_one_that_does_not_fit() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: None });
    assert_eq!(submit(&mut s, 0, 1, Claim { holds: 20 * SECOND, ..claim(5) }), [Start(1)]);
    assert_eq!(submit(&mut s, 0, 2, claim(10)), []);
    assert_eq!(submit(&mut s, 0, 3, Claim { bytes: 2, ..due(21 * SECOND) }), [Start(3)], "behind the large one it would be late");
    assert_eq!(submit(&mut s, 0, 4, due(50 * SECOND)), []);
    // 1 is expected at 20 s, 2 ends at 21 s, and 4 has time until then; when 1 is late it has not, and the alarm says when to look.
    let looked = s.alarm().unwrap();
    assert!(looked.0 > 20 * SECOND && looked.0 < 49 * SECOND, "{looked:?}");
    assert_eq!(s.step(looked, Event::Tick), [Start(4)]);
}

#[test]
fn an_alarm_has_a_reason_each_time() {
    let mut s = S::new(Budget { bytes: 10, vms: None, cpu: Some(1_000) });
    let one = |claim| Claim { cpu: 1_000, ..claim };
    assert_eq!(submit(&mut s, 0, 0, one(claim(1))), [Start(0)]);
    for key in 1..=100 {
        assert_eq!(submit(&mut s, 0, key, one(claim(1))), []);
        assert_eq!(submit(&mut s, 0, 1_000 + key, one(Claim { takes: 2 * SECOND, ..due((30 + key) * SECOND) })), []);
    }
    // Nothing is ever released: each of those with a due is late for its high percentile, then for its median, and that is all.
    let mut alarms = 0;
    while let Some(alarm) = s.alarm() {
        alarms += 1;
        assert!(alarms <= 200, "still {alarm:?}");
        let _ = s.step(alarm, Event::Tick);
    }
    assert!(alarms >= 100, "{alarms}");
}
