//! Between accounts: weighted shares over time, no delay by others' queues, and nobody starves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Host, SECOND, claim, due, lasting, of};
use proptest::prelude::*;
use torpor_scheduler::{Budget, Claim, Event, Kind, Order, Time};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn budget(slots: usize) -> Budget {
    Budget { bytes: 1_000, vms: Some(slots), cpu: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Accounts that always have something waiting get time as their weights are, whatever they say that they need.
    #[test]
    fn time_is_shared_by_weight(
        weights in prop::collection::vec(1u32..5, 2..5),
        slots in 1usize..5,
        said in prop::collection::vec((1u64..8, 1u64..8), 4),
        longest in 2u64..4,
    ) {
        let mut host = Host::new(budget(slots), Order::LeastSlack);
        for (name, weight) in NAMES.iter().zip(&weights) {
            host.step(Event::Weight((*name).into(), *weight));
        }
        let mut used = vec![0u64; weights.len()];
        let mut next = 0;
        let mut owners: Vec<(usize, u64)> = Vec::new();
        let mut put = |host: &mut Host, owner: usize, owners: &mut Vec<(usize, u64)>| {
            let lasts = SECOND * (1 + (next * 7 + owner as u64 * 3) % longest);
            let (times, of_them) = said[owner];
            host.submit(next, of(NAMES[owner], Claim { holds: lasts * times / of_them, ..lasting(1, lasts) }), lasts);
            owners.push((owner, lasts));
            next += 1;
        };
        for owner in 0..weights.len() {
            for _ in 0..=slots {
                put(&mut host, owner, &mut owners);
            }
        }
        while host.now < 1_500 * SECOND {
            let ended = host.next().unwrap();
            let (owner, lasts) = owners[usize::try_from(ended).unwrap()];
            used[owner] += lasts;
            put(&mut host, owner, &mut owners);
        }
        let (all, weight_of_all) = (used.iter().sum::<u64>() as f64, f64::from(weights.iter().sum::<u32>()));
        for (used, weight) in used.iter().zip(&weights) {
            let (share, fair) = (*used as f64 / all, f64::from(*weight) / weight_of_all);
            prop_assert!((share - fair).abs() < 0.03, "{share} instead of {fair}: {used:?}");
        }
    }

    /// Another account's queue delays a single job by one execution at most: it has the next place that is free, whatever was expected.
    #[test]
    fn ten_thousand_of_another_account_delay_one_by_one_execution(
        slots in 1usize..9,
        waiting in prop_oneof![Just(10_000u64), 1u64..200],
        passed in 0usize..60,
        said in prop::collection::vec(1u64..20 * SECOND, 16),
        lasts in prop::collection::vec(1u64..10, 16),
    ) {
        let mut host = Host::new(budget(slots), Order::LeastSlack);
        for key in 0..waiting {
            let at = usize::try_from(key % 16).unwrap();
            host.submit(key, of("many", Claim { holds: said[at], ..claim(1) }), lasts[at] * SECOND);
        }
        for _ in 0..passed {
            host.next();
        }
        let before = host.started.len();
        host.submit(1_000_000, of("one", claim(1)), SECOND);
        if !host.started.contains_key(&1_000_000) {
            host.next();
        }
        prop_assert!(host.started.contains_key(&1_000_000), "another one started instead: {} after {before}", host.started.len());
    }

    /// Being idle gathers nothing: who comes after a long time shares from then on.
    #[test]
    fn idleness_earns_no_credit(slots in 1usize..4, alone in 10u64..500) {
        let mut host = Host::new(budget(slots), Order::LeastSlack);
        let mut next = 0;
        let mut put = |host: &mut Host, owner: &str| {
            host.submit(next, of(owner, claim(1)), SECOND);
            next += 1;
            next - 1
        };
        // The other one has been here, and has used little.
        let first = put(&mut host, "b");
        for _ in 0..=slots {
            put(&mut host, "a");
        }
        while host.now < alone * SECOND {
            host.next();
            put(&mut host, "a");
        }
        prop_assert!(host.ended.contains_key(&first));
        let mut of_b = std::collections::BTreeSet::new();
        for _ in 0..200 {
            of_b.insert(put(&mut host, "b"));
            put(&mut host, "a");
        }
        let before = host.started.len();
        while host.started.len() < before + 100 {
            host.next();
        }
        let got = of_b.iter().filter(|key| host.started.contains_key(key)).count();
        prop_assert!(got <= 50 + slots + 1 && got >= 50 - slots - 1, "{got} of 100");
    }

    /// Under a load that never stops, of jobs with dues, of higher priority and of other accounts, everyone starts within a bound.
    #[test]
    fn everyone_starts_within_a_bound(
        slots in 1usize..4,
        large in any::<bool>(),
        kind in 0u8..4,
        urgent_account in any::<bool>(),
        each in 1u64..4,
    ) {
        let mut host = Host::new(Budget { bytes: 10, vms: Some(slots), cpu: None }, Order::LeastSlack);
        let victim = Claim { priority: -5, ..claim(if large { 10 } else { 1 }) };
        let victim = match kind {
            0 => victim,
            1 => Claim { kind: Kind::Background, ..victim },
            2 => Claim { due: Some(Time(40 * SECOND)), deferrable: true, ..victim },
            _ => Claim { due: Some(Time(1)), deferrable: true, ..victim },
        };
        let mut next = 1;
        let mut load = |host: &mut Host| {
            for _ in 0..each {
                let at = host.now;
                let one = [
                    Claim { priority: 9, ..claim(1) },
                    Claim { priority: 9, ..due(at + 3 * SECOND) },
                    Claim { kind: Kind::Resume, ..due(at + 60 * SECOND) },
                ][usize::try_from(next % 3).unwrap()].clone();
                host.submit(next, of(if urgent_account && next % 2 == 0 { "b" } else { "a" }, one), SECOND);
                next += 1;
            }
        };
        for _ in 0..slots {
            load(&mut host);
        }
        host.submit(0, victim, SECOND);
        // A minute of patience; then every other turn of its account's, behind those that have waited longer.
        let bound = 60 + 2 * 2 * (slots as u64 * each + 4);
        while host.now < bound * SECOND && !host.started.contains_key(&0) {
            let now = host.now;
            host.until(now + SECOND);
            load(&mut host);
        }
        prop_assert!(host.started.contains_key(&0), "{kind} waits after {bound} s");
    }
}

/// One that never fits beside others is not passed by smaller ones of other accounts, whose times are overestimated.
#[test]
fn a_large_job_of_one_account_is_not_starved_by_small_ones_of_another() {
    let mut host = Host::new(Budget { bytes: 4, vms: None, cpu: None }, Order::LeastSlack);
    for key in 1..=4 {
        host.submit(key, of("small", Claim { holds: 50 * SECOND, ..claim(1) }), SECOND);
    }
    host.submit(0, of("large", claim(4)), SECOND);
    let mut next = 5;
    while !host.started.contains_key(&0) {
        host.submit(next, of("small", Claim { holds: 50 * SECOND, ..claim(1) }), SECOND);
        next += 1;
        host.next();
        assert!(next < 20, "it is passed by {} small ones", host.started.len());
    }
}
