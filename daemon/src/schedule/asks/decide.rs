//! Whether an execution that stands and waits is parked, and when: a pure function.
//!
//! Where the wait's length is known, parking pays if it takes longer than a park and a resume. Where it is not, the VM is kept for as long as these take
//! and parked then: whatever the wait turns out to be, that costs at most twice of what knowing it would have.

use crate::manifest::Park;
use std::time::Duration;

/// What is known when an execution begins to wait.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Its policy.
    pub park: Park,
    /// How long the wait will be, as far as that is known.
    pub expected: Option<Duration>,
    /// What a park and a resume cost lately.
    pub cost: Duration,
    /// Others wait for memory, or the daemon stops.
    pub pressed: bool,
}

/// After how long it is parked; not at all where there is nothing.
#[must_use]
pub fn decide(facts: Facts) -> Option<Duration> {
    match (facts.park, facts.expected) {
        (Park::Never, _) => None,
        (Park::Always, _) => Some(Duration::ZERO),
        (Park::Auto, _) if facts.pressed => Some(Duration::ZERO),
        (Park::Auto, Some(expected)) if expected > facts.cost => Some(Duration::ZERO),
        // Known to be short: kept for twice that, in case it is not.
        (Park::Auto, Some(expected)) => Some((expected * 2).max(facts.cost)),
        (Park::Auto, None) => Some(facts.cost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_pays_is_done() {
        let facts = Facts { park: Park::Auto, expected: None, cost: ms(20), pressed: false };
        assert_eq!(decide(facts), Some(ms(20)));
        assert_eq!(decide(Facts { expected: Some(ms(21)), ..facts }), Some(ms(0)));
        assert_eq!(decide(Facts { expected: Some(ms(5)), ..facts }), Some(ms(20)));
        assert_eq!(decide(Facts { expected: Some(ms(15)), ..facts }), Some(ms(30)));
        assert_eq!(decide(Facts { expected: Some(ms(5)), pressed: true, ..facts }), Some(ms(0)));
        assert_eq!(decide(Facts { park: Park::Always, expected: Some(ms(1)), ..facts }), Some(ms(0)));
        assert_eq!(decide(Facts { park: Park::Never, pressed: true, ..facts }), None);
    }

    proptest! {
        /// For every true length of a wait, keeping and parking together cost at most three times of the cheaper of the two alone.
        #[test]
        fn no_guess_costs_much(cost in 1u64..1000, expected in prop::option::of(0u64..5000), truth in 0u64..100_000) {
            let facts = Facts { park: Park::Auto, expected: expected.map(ms), cost: ms(cost), pressed: false };
            let after = decide(facts).map_or(u64::MAX, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            let paid = if truth <= after { truth } else { after + cost };
            prop_assume!(expected.is_none_or(|expected| expected <= cost) || truth >= cost);
            prop_assert!(paid <= 3 * truth.min(cost), "{paid} for {truth} at {cost}");
        }
    }
}
