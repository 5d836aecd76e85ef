//! Which sizes of VM to keep warm: those used lately, in proportion. Pure; the clock is an input.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After this long a use counts half.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// A size used less than this is forgotten.
const FORGOTTEN: f64 = 0.02;

/// Decaying counts of use per memory size.
#[derive(Debug)]
pub(super) struct Demand {
    scores: BTreeMap<u32, f64>,
    at: Instant,
}

impl Demand {
    /// Nothing is known yet but a guess.
    pub(super) fn new(guess: u32, now: Instant) -> Self {
        Self { scores: BTreeMap::from([(guess, 0.5)]), at: now }
    }

    /// A VM of this size was asked for.
    pub(super) fn used(&mut self, memory_mib: u32, now: Instant) {
        self.decay(now);
        *self.scores.entry(memory_mib).or_default() += 1.0;
    }

    /// How many of each size to keep, `limit` in all: one of each size while there is room, the rest in proportion to use.
    pub(super) fn targets(&mut self, limit: usize, now: Instant) -> BTreeMap<u32, usize> {
        self.decay(now);
        let mut sizes: Vec<(u32, f64)> = self.scores.iter().map(|(size, score)| (*size, *score)).collect();
        sizes.sort_by(|a, b| b.1.total_cmp(&a.1));
        sizes.truncate(limit);
        let mut targets: BTreeMap<u32, usize> = sizes.iter().map(|(size, _)| (*size, 1)).collect();
        for _ in sizes.len()..limit {
            // The one whose share is served worst gets the next: the highest-averages method.
            let next = sizes.iter().max_by(|a, b| average(a, &targets).total_cmp(&average(b, &targets)));
            if let Some((size, _)) = next {
                *targets.entry(*size).or_default() += 1;
            }
        }
        targets
    }

    fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now.max(self.at);
        let factor = 0.5f64.powf(passed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let best = self.scores.values().fold(0.0f64, |best, score| best.max(*score));
        for score in self.scores.values_mut() {
            *score *= factor;
        }
        self.scores.retain(|_, score| *score >= FORGOTTEN || *score >= best * factor);
    }
}

fn average((size, score): &(u32, f64), targets: &BTreeMap<u32, usize>) -> f64 {
    let have = u32::try_from(targets.get(size).copied().unwrap_or_default()).unwrap_or(u32::MAX);
    score / (f64::from(have) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guess_gets_all_until_something_is_known() {
        let now = Instant::now();
        let mut demand = Demand::new(128, now);
        assert_eq!(demand.targets(4, now), BTreeMap::from([(128, 4)]));
        assert_eq!(demand.targets(0, now), BTreeMap::new());
        let later = now + Duration::from_secs(100_000);
        assert_eq!(demand.targets(4, later), BTreeMap::from([(128, 4)]), "the last one known is never forgotten");
    }

    #[test]
    fn sizes_get_their_share_and_are_forgotten() {
        let now = Instant::now();
        let mut demand = Demand::new(128, now);
        for _ in 0..30 {
            demand.used(256, now);
        }
        for _ in 0..10 {
            demand.used(64, now);
        }
        let targets = demand.targets(8, now);
        assert_eq!(targets.values().sum::<usize>(), 8);
        assert_eq!((targets[&128], targets[&256]), (1, 5));
        let later = now + Duration::from_secs(300);
        demand.used(64, later);
        assert_eq!(demand.targets(2, later), BTreeMap::from([(64, 1), (256, 1)]), "the guess is forgotten first");
        let later = now + Duration::from_secs(3600);
        demand.used(512, later);
        assert_eq!(demand.targets(3, later), BTreeMap::from([(512, 3)]));
    }

    #[test]
    fn the_limit_holds_with_more_sizes_than_room() {
        let now = Instant::now();
        let mut demand = Demand::new(128, now);
        for size in 64..164 {
            demand.used(size, now);
        }
        let targets = demand.targets(3, now);
        assert_eq!((targets.len(), targets.values().sum::<usize>()), (3, 3));
        assert_eq!(targets[&128], 1);
    }
}
