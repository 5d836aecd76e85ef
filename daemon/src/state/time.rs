//! Moments: microseconds since 1970 in UTC, RFC 3339 in JSON.

use crate::fault;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::{Duration, Instant};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Now, by the host's wall clock.
    #[must_use]
    pub fn now() -> Self {
        Self(Utc::now().timestamp_micros().saturating_add(fault::clock_offset()))
    }

    /// From RFC 3339; none where it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| Self(time.timestamp_micros()))
    }

    /// Whole milliseconds since 1970; 0 before.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0 / 1000).unwrap_or(0)
    }

    /// So long before this one.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
    }

    /// So long after this one.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
    }

    /// So many milliseconds after this one.
    #[must_use]
    pub fn later(self, millis: u64) -> Self {
        Self(self.0.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000)))
    }

    /// Milliseconds from an earlier moment, a part of one as a whole; 0 where this is not later.
    #[must_use]
    pub fn millis_past(self, earlier: Self) -> u64 {
        u64::try_from(self.since(earlier).as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
    }

    /// The time from an earlier moment; none where the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same in seconds.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.since(earlier).as_secs_f64()
    }
}

/// A clock that goes on evenly from a moment of the wall clock, whatever becomes of that: what is counted on it is as long as it takes.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    begin: Timestamp,
    begun: Instant,
}

impl SteadyClock {
    /// From now on.
    #[must_use]
    pub fn start() -> Self {
        Self::after(Timestamp::now())
    }

    /// From now on, and no earlier than a moment that was before.
    #[must_use]
    pub fn after(moment: Timestamp) -> Self {
        Self { begin: moment.max(Timestamp::now()), begun: Instant::now() }
    }

    /// One that a jump of the wall clock has left behind.
    #[cfg(test)]
    pub fn left_behind(time: Duration) -> Self {
        Self { begin: Timestamp::now().before(time), begun: Instant::now() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.begin.after(self.begun.elapsed())
    }

    /// How much the wall clock is ahead of it.
    #[must_use]
    pub fn behind(&self) -> Duration {
        Timestamp::now().since(self.now())
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = DateTime::<Utc>::from_timestamp_micros(self.0).unwrap_or_default();
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(DateTime::<Utc>::deserialize(deserializer)?.timestamp_micros()))
    }
}

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))).into()
    }
}

impl utoipa::ToSchema for Timestamp {}
