//! What the clocks of a zone show, and when.
//!
//! Invariant: a later reading is never at an earlier moment, so what follows on the clock's face follows in time.

use chrono::{DateTime, Duration, Offset, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// A zone's clocks are set by no more than this.
const MOST: Duration = Duration::hours(26);

/// What they show, as if it were UTC.
pub(super) fn reading(zone: Tz, at: DateTime<Utc>) -> DateTime<Utc> {
    at.with_timezone(&zone).naive_local().and_utc()
}

/// When they show this, the first time; where they jump over it, the first moment after the gap.
pub(super) fn moment(zone: Tz, reading: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let reading = reading.naive_utc();
    let found = zone.from_local_datetime(&reading).earliest().or_else(|| GapInfo::new(&reading, &zone)?.end);
    found.map(|found| found.to_utc())
}

/// The latest reading whose first moment may be up to now: where they were set back lately, they have shown more than they do.
pub(super) fn latest(zone: Tz, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let offset = |at: DateTime<Utc>| zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc();
    let back = offset(at.checked_sub_signed(MOST)?).saturating_sub(offset(at)).max(0);
    reading(zone, at).checked_add_signed(Duration::seconds(back.into()))
}
