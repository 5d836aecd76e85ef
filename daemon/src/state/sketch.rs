//! How long something takes, as a distribution: a histogram on a logarithmic scale, in which old samples fade.
//!
//! Invariants: a percentile is never smaller than the true one of the samples that count, and at most a fifth larger; the sketch never holds more than
//! [`MOST`] samples' weight, and its text is bounded.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Weight at which all counts are halved: what was seen that many samples ago counts half.
const MOST: u32 = 256;
/// Buckets of one factor of two.
const STEPS: u32 = 4;
/// Buckets: from 64 us to beyond a year.
const BUCKETS: u16 = 160;
/// What the first bucket ends with, in microseconds.
const FIRST: f64 = 64.0;

/// See the module. In the database: pairs of bucket and count.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u16, u32)>", into = "Vec<(u16, u32)>")]
pub struct Sketch {
    /// Bucket and how many samples it has, in the order of buckets.
    counts: Vec<(u16, u32)>,
}

/// What is no sketch.
#[derive(Debug, thiserror::Error)]
#[error("a sketch has rising buckets below {BUCKETS} and at most {MOST} samples")]
pub struct NoSketch;

impl TryFrom<Vec<(u16, u32)>> for Sketch {
    type Error = NoSketch;

    fn try_from(counts: Vec<(u16, u32)>) -> Result<Self, NoSketch> {
        let rising = counts.windows(2).all(|pair| matches!(pair, [(a, _), (b, _)] if a < b));
        let total = counts.iter().try_fold(0u32, |sum, (_, count)| sum.checked_add(*count));
        let fits = counts.iter().all(|(bucket, count)| *bucket < BUCKETS && *count > 0);
        if rising && fits && total.is_some_and(|total| total <= MOST) { Ok(Self { counts }) } else { Err(NoSketch) }
    }
}

impl From<Sketch> for Vec<(u16, u32)> {
    fn from(sketch: Sketch) -> Self {
        sketch.counts
    }
}

fn upper(bucket: u16) -> f64 {
    FIRST * 2f64.powf(f64::from(bucket) / f64::from(STEPS))
}

fn bucket(time: Duration) -> u16 {
    let micros = time.as_secs_f64() * 1e6;
    (0..BUCKETS).find(|bucket| upper(*bucket) >= micros).unwrap_or(BUCKETS - 1)
}

impl Sketch {
    /// Takes a sample in.
    pub fn add(&mut self, time: Duration) {
        if self.weight() >= MOST {
            self.counts.iter_mut().for_each(|(_, count)| *count /= 2);
            self.counts.retain(|(_, count)| *count > 0);
        }
        let bucket = bucket(time);
        match self.counts.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.counts[at].1 += 1,
            Err(at) => self.counts.insert(at, (bucket, 1)),
        }
    }

    /// How many samples count.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.counts.iter().map(|(_, count)| count).sum()
    }

    /// The time within which so many of a hundred samples were; none where there are no samples.
    #[must_use]
    pub fn percentile(&self, percent: u32) -> Option<Duration> {
        let wanted = self.weight().saturating_mul(percent.min(100)).div_ceil(100).max(1);
        let mut seen = 0;
        self.counts
            .iter()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .map(|(bucket, _)| Duration::from_secs_f64(upper(*bucket) / 1e6))
    }

    /// What the fastest of all that count took at least.
    #[must_use]
    pub fn least(&self) -> Option<Duration> {
        let (first, _) = self.counts.first()?;
        Some(first.checked_sub(1).map_or(Duration::ZERO, |before| Duration::from_secs_f64(upper(before) / 1e6)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_is_known_of_what_was_not_seen() {
        let sketch = Sketch::default();
        assert_eq!((sketch.percentile(50), sketch.least()), (None, None));
    }

    #[test]
    fn old_samples_fade() {
        let mut sketch = Sketch::default();
        (0..1000).for_each(|_| sketch.add(Duration::from_secs(60)));
        (0..1000).for_each(|_| sketch.add(Duration::from_millis(10)));
        assert!(sketch.percentile(99).unwrap() < Duration::from_millis(13), "{sketch:?}");
        assert!(sketch.weight() <= MOST);
    }

    #[test]
    fn damaged_text_is_refused() {
        for text in
            ["[[1,0]]", "[[2,1],[1,1]]", "[[1,1],[1,1]]", "[[160,1]]", "[[1,257]]", "[[1,4294967295],[2,4294967295]]", "{}", "[[1]]"]
        {
            assert!(serde_json::from_str::<Sketch>(text).is_err(), "{text}");
        }
        let text = "[[1,2],[9,200]]";
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Sketch>(text).unwrap()).unwrap(), text);
    }

    proptest! {
        /// Up to the weight at which samples begin to fade, against the sorted samples.
        #[test]
        fn percentiles_are_those_of_the_samples(micros in prop::collection::vec(64u64..3_600_000_000, 1..200), percent in 1u32..=100) {
            let mut sketch = Sketch::default();
            micros.iter().for_each(|micros| sketch.add(Duration::from_micros(*micros)));
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            let rank = (sorted.len() * percent as usize).div_ceil(100).max(1);
            let (truth, found) = (sorted[rank - 1] as f64, sketch.percentile(percent).unwrap().as_secs_f64() * 1e6);
            prop_assert!(found >= truth * 0.999 && found <= truth * 1.2, "{found} for {truth}");
            prop_assert!(sketch.least().unwrap().as_micros() as f64 <= sorted[0] as f64 * 1.001);
        }
    }
}
