//! Which of a schedule's times are run. Pure.

use super::Missed;
use super::rule::Rule;
use crate::state::time::Timestamp;

/// A time is missed where it is longer ago than this, in microseconds.
pub const GRACE: i64 = 60_000_000;
/// Most missed times that are run, of the newest.
pub const MOST_MISSED: usize = 100;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Times to run, oldest first.
    pub run: Vec<Timestamp>,
    /// The last time that is decided by this.
    pub decided: Option<Timestamp>,
    /// What is not run, for people.
    pub skipped: Option<String>,
}

/// What follows from the times after `fired_to`, up to `now`.
#[must_use]
pub fn plan(rule: &Rule, fired_to: Timestamp, now: Timestamp, missed: Missed) -> Plan {
    let Some(newest) = rule.last(now).filter(|newest| *newest > fired_to) else { return Plan::default() };
    let older = |time: Timestamp| rule.before(time).filter(|before| *before > fired_to);
    let late = now.0.saturating_sub(newest.0) >= GRACE;
    let (run, skipped) = match missed {
        Missed::Skip if late => (Vec::new(), Some(format!("the time {newest}, and what was before, was missed"))),
        Missed::Skip => (vec![newest], older(newest).map(|time| format!("the time {time}, and what was before, was missed"))),
        Missed::Once => {
            (vec![newest], older(newest).map(|time| format!("the time {time}, and what was before, was missed; {newest} stands for it")))
        }
        Missed::All => {
            let mut run: Vec<Timestamp> = std::iter::successors(Some(newest), |time| older(*time)).take(MOST_MISSED + 1).collect();
            let more = (run.len() > MOST_MISSED).then(|| run.pop()).flatten();
            run.reverse();
            let skipped = more
                .map(|time| format!("of the times that were missed the newest {MOST_MISSED} are run, and not {time} and what was before"));
            (run, skipped)
        }
    };
    Plan { run, decided: Some(newest), skipped }
}
