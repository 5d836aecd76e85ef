//! What is printed: a table for people, JSON for programs.

use crate::stats::{Percentiles, Stats};
use serde::Serialize;
use std::fmt::Write;
use torpor_scheduler::Order;

/// The figures of one order. Times are seconds, parts from 0 to 1.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Which.
    pub order: &'static str,
    /// Executions that ended.
    pub executions: u64,
    /// Those of them that had to end by a time.
    pub with_due: u64,
    /// The part of those that did.
    pub hit_rate: f64,
    /// How much of all processors was used until the last arrival.
    pub utilisation: f64,
    /// From submission to start, of what is wanted now.
    pub wait: Percentiles,
    /// The same of the account that waits longest.
    pub wait_of_worst_account: Percentiles,
    /// Half of the accounts have a 99th percentile below this.
    pub wait_p99_of_median_account: f64,
    /// From submission to start, of what may be put off.
    pub put_off: Percentiles,
    /// From the wish to go on to going on, of what was parked.
    pub resume: Percentiles,
    /// How often a VM was given up because its program waits.
    pub parks: u64,
    /// How often one stood still at the door instead.
    pub stood: u64,
    /// Those that were told late.
    pub told_late: u64,
    /// Hours from the start to the last arrival.
    pub hours: f64,
}

/// What an order is called.
#[must_use]
pub const fn name(order: Order) -> &'static str {
    match order {
        Order::LeastSlack => "least slack",
        Order::Fifo => "first in, first out",
        Order::EarliestDeadline => "earliest deadline",
    }
}

/// The figures of what was counted.
#[must_use]
pub fn figures(order: Order, stats: &Stats, hosts: usize, cpu: u32) -> Figures {
    Figures {
        order: name(order),
        executions: stats.ended,
        with_due: stats.with_due,
        hit_rate: stats.hit_rate(),
        utilisation: stats.utilisation(hosts, cpu),
        wait: stats.wanted_now.percentiles(),
        wait_of_worst_account: stats.worst_account(),
        wait_p99_of_median_account: stats.median_account(),
        put_off: stats.put_off.percentiles(),
        resume: stats.resumes.percentiles(),
        parks: stats.parks,
        stood: stats.stood,
        told_late: stats.told_late,
        hours: stats.span as f64 / 3.6e9,
    }
}

/// A table, one column for each order.
#[must_use]
pub fn table(all: &[Figures]) -> String {
    let percent = |part: f64| format!("{:.2}%", part * 100.0);
    let pair = |times: Percentiles| format!("{:.3} / {:.3}", times.p50, times.p99);
    type Cell<'a> = &'a dyn Fn(&Figures) -> String;
    let rows: [(&str, Cell<'_>); 13] = [
        ("", &|figures| figures.order.to_owned()),
        ("executions", &|figures| figures.executions.to_string()),
        ("with a due", &|figures| figures.with_due.to_string()),
        ("dues met", &|figures| percent(figures.hit_rate)),
        ("utilisation", &|figures| percent(figures.utilisation)),
        ("wait, wanted now, p50 / p99 s", &|figures| pair(figures.wait)),
        ("  of the account that waits longest", &|figures| pair(figures.wait_of_worst_account)),
        ("  p99 of the median account", &|figures| format!("{:.3}", figures.wait_p99_of_median_account)),
        ("wait, may be put off, p50 / p99 s", &|figures| pair(figures.put_off)),
        ("wait, to go on, p50 / p99 s", &|figures| pair(figures.resume)),
        ("parks", &|figures| figures.parks.to_string()),
        ("waits at the door", &|figures| figures.stood.to_string()),
        ("hours of arrivals", &|figures| format!("{:.2}", figures.hours)),
    ];
    let mut table = String::new();
    for (title, cell) in rows {
        let _ = write!(table, "{title:<36}");
        for figures in all {
            let _ = write!(table, "{:>22}", cell(figures));
        }
        table = table.trim_end().to_owned();
        table.push('\n');
    }
    table
}
