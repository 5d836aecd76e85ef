//! When a delivery is too old to be tried on: 24 h after the end that it tells, of which the daemon ran all, on a clock that was not set.
//!
//! A daemon that was away, or a clock that jumped, begins the 24 h anew: what is due then has its attempts all the same.

use crate::state::time::Timestamp;
use std::time::{Duration, Instant};

/// How long it is tried.
const TRIED: Duration = Duration::from_secs(86_400);
/// Clocks that differ by less, between one look and the next, are the same.
const TOLERANCE: Duration = Duration::from_secs(60);

/// Since when time is counted.
#[derive(Debug)]
pub(super) struct Age {
    since: Timestamp,
    seen: (Timestamp, Instant),
}

impl Age {
    /// The daemon starts.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, seen: (now, Instant::now()) }
    }

    /// One that has run since then.
    #[cfg(test)]
    pub(super) fn running(since: Timestamp, now: Timestamp) -> Self {
        Self { since, ..Self::new(now) }
    }

    /// What ended by this moment is too old; nothing is where there is none.
    pub(super) fn limit(&mut self, now: Timestamp) -> Option<Timestamp> {
        let expected = self.seen.0.after(self.seen.1.elapsed());
        if now.since(expected).max(expected.since(now)) > TOLERANCE {
            self.since = now;
        }
        self.seen = (now, Instant::now());
        Some(now.before(TRIED)).filter(|limit| *limit >= self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_counts_that_the_daemon_ran_with_a_good_clock() {
        let day = |tenths: i64| Timestamp((200_000 + tenths) * 8_640_000_000);
        let mut age = Age::running(day(0), day(9));
        assert_eq!(age.limit(day(9)), None);
        let mut age = Age::running(day(0), day(15));
        assert_eq!(age.limit(day(15)), Some(day(5)));
        // It jumps, either way: then a day goes by until anything is too old.
        for to in [3000, -3000] {
            let mut age = Age::running(day(0), day(15));
            assert_eq!((age.limit(day(to)), age.limit(day(to))), (None, None));
            assert_eq!(age.since, day(to));
        }
    }
}
