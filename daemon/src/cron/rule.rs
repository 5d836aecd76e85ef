//! A cron expression and a time zone: at which times.
//!
//! Where the clocks of the zone go forward, a time that does not exist is taken as the first moment after the gap, unless minute or hour is a wildcard or a step (`*`, `*/N`):
//! such an expression goes on with the times that there are. Where they go back, a time that is there twice is taken once, the first time, and with a wildcard or a step twice.

use crate::state::time::Timestamp;
use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use std::str::FromStr;

/// Longest expression, in bytes.
const MAX_EXPRESSION: usize = 256;
/// Steps, in microseconds, in which it is looked on where the zone left out more than two hours, as zones do that move to the other side of the date line; and
/// how many of them.
const LEFT_OUT: (i64, i64) = (3 * 3_600_000_000, 16);

/// See the module.
#[derive(Debug, Clone)]
pub struct Rule {
    text: String,
    cron: Box<Cron>,
    zone: Tz,
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
        Ok(Self { text: text.to_owned(), cron: Box::new(cron), zone })
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
        let at = DateTime::<Utc>::from_timestamp(from.0.div_euclid(1_000_000), 0)?.with_timezone(&self.zone);
        find(&self.cron, &at).map(|found| Timestamp(found.timestamp_micros()))
    }

    /// The first time after a moment.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let find = |cron: &Cron, at: &DateTime<Tz>| cron.find_next_occurrence(at, false).ok();
        (0..=LEFT_OUT.1).find_map(|steps| self.search(Timestamp(after.0.checked_add(steps * LEFT_OUT.0)?), find))
    }

    /// The last time up to a moment, that moment included.
    #[must_use]
    pub fn last(&self, until: Timestamp) -> Option<Timestamp> {
        let find = |cron: &Cron, at: &DateTime<Tz>| cron.find_previous_occurrence(at, true).ok();
        (0..=LEFT_OUT.1).find_map(|steps| self.search(Timestamp(until.0.checked_sub(steps * LEFT_OUT.0)?), find))
    }

    /// The last time before a moment.
    #[must_use]
    pub fn before(&self, moment: Timestamp) -> Option<Timestamp> {
        self.last(Timestamp(moment.0.checked_sub(1)?))
    }
}
