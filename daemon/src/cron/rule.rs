//! A cron expression and a time zone: at which times.
//!
//! An expression is of one of two kinds. With a wildcard or a step (`*`, `*/N`, `A-B/N`) for minute or hour it means a distance: it goes on with the times that there
//! are, and with both of those that are there twice. Any other one means times of the day: one that the clocks jump over is taken as the first moment after the gap, and
//! one that they show twice is taken once, the first time.

use super::clock;
use crate::state::time::Timestamp;
use chrono::{DateTime, Datelike, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use std::str::FromStr;

/// Longest expression, in bytes.
const MAX_EXPRESSION: usize = 256;
/// Where it is looked for a first time: what has one at all has one within the 400 years after which days and weekdays repeat.
const BEGIN: i64 = 946_684_800;
/// Steps, in microseconds, in which it is looked on where the zone left out more than two hours, as zones do that move to the other side of the date line; and
/// how many of them.
const LEFT_OUT: (i64, i64) = (3 * 3_600_000_000, 16);

/// See the module.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    cron: Box<Cron>,
    zone: Tz,
    /// It means times of the day, and no distance.
    fixed: bool,
}

/// An expression that the parser took has a wildcard or a step for minute or hour.
fn is_distance(text: &str) -> bool {
    text.eq_ignore_ascii_case("@hourly") || text.split_whitespace().take(2).any(|field| field.contains(['*', '/', '?']))
}

/// None where there are no times: expressions know these years, and further out a zone's time can't be told at all.
fn second(moment: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(moment.0.div_euclid(1_000_000), 0).filter(|at| (1..=5000).contains(&at.year()))
}

impl Rule {
    /// Five fields (minute, hour, day of the month, month, day of the week) or a name such as `@daily`; a zone of the IANA database. The error is for people.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, String> {
        let text = expression.trim();
        let shown = || text.chars().take(60).collect::<String>();
        if text.len() > MAX_EXPRESSION {
            return Err(format!("a cron expression has at most {MAX_EXPRESSION} bytes: {:?}...", shown()));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|error| {
            format!(
                "{:?} is no cron expression of minute, hour, day of the month, month and day of the week, such as \"0 3 * * *\": {error}",
                shown()
            )
        })?;
        let zone = Tz::from_str(zone).map_err(|_| {
            format!("time zone {:?} is not known; give one such as \"Europe/Berlin\" or \"UTC\"", zone.chars().take(60).collect::<String>())
        })?;
        if DateTime::<Utc>::from_timestamp(BEGIN, 0).is_none_or(|begin| cron.find_next_occurrence(&begin, true).is_err()) {
            return Err(format!("there is no time of {:?}: no year has such a day", shown()));
        }
        Ok(Self { text: text.to_owned(), cron: Box::new(cron), zone, fixed: !is_distance(text) })
    }

    /// The expression.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The time zone's name.
    #[must_use]
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    fn search(&self, from: Timestamp, find: impl Fn(&Cron, &DateTime<Tz>) -> Option<DateTime<Tz>>) -> Option<Timestamp> {
        // Times are whole minutes.
        let at = second(from)?.with_timezone(&self.zone);
        find(&self.cron, &at).map(|found| Timestamp(found.timestamp_micros()))
    }

    /// The first moment of these readings of the clocks that is as wanted.
    fn first(&self, readings: impl IntoIterator<Item = DateTime<Utc>>, wanted: impl Fn(Timestamp) -> bool) -> Option<Timestamp> {
        let moments = readings.into_iter().map_while(|reading| clock::moment(self.zone, reading));
        moments.map(|moment| Timestamp(moment.timestamp_micros())).find(|moment| wanted(*moment))
    }

    /// The first time after a moment.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if self.fixed {
            let follows = |reading: &DateTime<Utc>| self.cron.find_next_occurrence(reading, false).ok();
            let first = follows(&clock::reading(self.zone, second(after)?));
            return self.first(std::iter::successors(first, follows), |moment| moment > after);
        }
        let find = |cron: &Cron, at: &DateTime<Tz>| cron.find_next_occurrence(at, false).ok();
        (0..=LEFT_OUT.1).find_map(|steps| self.search(Timestamp(after.0.checked_add(steps * LEFT_OUT.0)?), find))
    }

    /// The last time up to a moment, that moment included.
    #[must_use]
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        if self.fixed {
            let first = self.cron.find_previous_occurrence(&clock::latest(self.zone, second(until)?)?, true).ok();
            let before = |reading: &DateTime<Utc>| self.cron.find_previous_occurrence(reading, false).ok();
            return self.first(std::iter::successors(first, before), |moment| moment <= until);
        }
        let find = |cron: &Cron, at: &DateTime<Tz>| cron.find_previous_occurrence(at, true).ok();
        (0..=LEFT_OUT.1).find_map(|steps| self.search(Timestamp(until.0.checked_sub(steps * LEFT_OUT.0)?), find))
    }

    /// The last time before a moment.
    #[must_use]
    pub fn before(&self, moment: Timestamp) -> Option<Timestamp> {
        self.last(Timestamp(moment.0.checked_sub(1)?))
    }
}
