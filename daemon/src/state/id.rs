//! Ids of executions: `ex_` and 26 lower-case Crockford base32 digits, 48 bits of milliseconds and 80 random bits.
//!
//! Invariant: each id of a state folder sorts after all that were made before it, also within a millisecond and when the clock goes
//! back. Strict order of submission is therefore the order of ids.

use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const PREFIX: &str = "ex_";
const RANDOM_BITS: u32 = 80;

/// An execution's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(Arc<str>);

impl ExecutionId {
    /// An id as text, if it can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        value(text).map(|_| Self(text.into()))
    }

    fn from_value(mut value: u128) -> Self {
        let mut digits = [0; 26];
        for slot in digits.iter_mut().rev() {
            *slot = DIGITS[usize::try_from(value & 31).unwrap_or(0)];
            value >>= 5;
        }
        let mut text = String::from(PREFIX);
        text.extend(digits.iter().map(|digit| char::from(*digit)));
        Self(text.into())
    }

    /// Sorts before all ids that are made from this moment on, and after those of earlier milliseconds.
    #[must_use]
    pub fn first_of(moment: Timestamp) -> Self {
        Self::from_value(time(moment) << RANDOM_BITS)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not the id of an execution")
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn time(moment: Timestamp) -> u128 {
    u128::from(moment.millis() & ((1 << 48) - 1))
}

fn value(text: &str) -> Option<u128> {
    let digits = text.strip_prefix(PREFIX)?.as_bytes();
    // 26 digits are 130 bits: the first holds three.
    if digits.len() != 26 || digits.first().is_none_or(|first| *first > b'7') {
        return None;
    }
    digits.iter().try_fold(0, |value: u128, digit| {
        let position = DIGITS.iter().position(|known| known == digit)?;
        Some((value << 5) | position as u128)
    })
}

/// Makes ids.
#[derive(Debug, Default)]
pub struct IdSource {
    last: u128,
}

impl IdSource {
    /// Goes on after the largest id that exists.
    #[must_use]
    pub fn after(last: Option<&ExecutionId>) -> Self {
        Self { last: last.and_then(|id| value(id.as_str())).unwrap_or(0) }
    }

    /// The next id. `random` is fresh entropy.
    pub fn next(&mut self, now: Timestamp, random: [u8; 10]) -> ExecutionId {
        let mut low = [0; 16];
        low[6..].copy_from_slice(&random);
        let fresh = (time(now) << RANDOM_BITS) | u128::from_be_bytes(low);
        let same_moment = (fresh >> RANDOM_BITS) <= (self.last >> RANDOM_BITS);
        self.last = if same_moment { self.last.wrapping_add(1) } else { fresh };
        ExecutionId::from_value(self.last)
    }
}

impl utoipa::PartialSchema for ExecutionId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}

impl utoipa::ToSchema for ExecutionId {}
