//! What is counted while a trace is replayed.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Two figures of a distribution, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half of all are below.
    pub p50: f64,
    /// 99 of 100 are below.
    pub p99: f64,
}

/// A distribution of microseconds. Its size does not depend on how many there are.
#[derive(Debug)]
pub struct Waits(Option<Histogram<u64>>);

impl Default for Waits {
    fn default() -> Self {
        Self(Histogram::new(2).ok())
    }
}

impl Waits {
    /// Adds one.
    pub fn add(&mut self, micros: u64) {
        if let Some(histogram) = &mut self.0 {
            // It grows as it must: any u64 has a place.
            let _ = histogram.record(micros);
        }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// None.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its percentiles; 0 where there is none.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile| self.0.as_ref().map_or(0.0, |histogram| histogram.value_at_quantile(quantile) as f64 / 1e6);
        Percentiles { p50: at(0.5), p99: at(0.99) }
    }
}

/// All that is counted of one order.
#[derive(Debug, Default)]
pub struct Stats {
    /// Executions that were submitted.
    pub submitted: u64,
    /// Executions that ended.
    pub ended: u64,
    /// Those of them that had to end by a time.
    pub with_due: u64,
    /// Those of them that did.
    pub met: u64,
    /// Those that the scheduler told late.
    pub told_late: u64,
    /// How often a VM was given up because its program waits.
    pub parks: u64,
    /// How often one stood still at the door instead.
    pub stood: u64,
    /// From submission to start, of those that are wanted now.
    pub wanted_now: Waits,
    /// From submission to start, of those that may be put off.
    pub put_off: Waits,
    /// From the wish to go on to going on, of those that were parked.
    pub resumes: Waits,
    /// Of each account: as `wanted_now`.
    pub accounts: BTreeMap<u32, Waits>,
    /// Thousandths of a processor times microseconds that were computed while there were arrivals.
    pub computed: u128,
    /// The time of the last arrival, in microseconds.
    pub span: u64,
}

/// How few an account may have to be looked at by itself.
const ENOUGH: u64 = 100;

impl Stats {
    /// Executions whose due was met, of all that had one, from 0 to 1.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        if self.with_due == 0 { 1.0 } else { self.met as f64 / self.with_due as f64 }
    }

    /// How much of all processors was used until the last arrival, from 0 to 1.
    #[must_use]
    pub fn utilisation(&self, hosts: usize, cpu: u32) -> f64 {
        let all = hosts as f64 * f64::from(cpu) * self.span as f64;
        if all > 0.0 { self.computed as f64 / all } else { 0.0 }
    }

    /// Of the account that waits longest (by the 99th percentile, with at least 100 executions): its waits.
    #[must_use]
    pub fn worst_account(&self) -> Percentiles {
        let all = self.accounts.values().filter(|waits| waits.len() >= ENOUGH).map(Waits::percentiles);
        all.max_by(|one, other| one.p99.total_cmp(&other.p99)).unwrap_or(Percentiles { p50: 0.0, p99: 0.0 })
    }

    /// Half of the accounts have a 99th percentile below this, in seconds.
    #[must_use]
    pub fn median_account(&self) -> f64 {
        let mut all: Vec<f64> = self.accounts.values().filter(|waits| waits.len() >= ENOUGH).map(|waits| waits.percentiles().p99).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    }
}
