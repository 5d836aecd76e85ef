//! Submissions that may come twice: `Idempotency-Key` names one, and all requests with the same key get the same execution.
//!
//! ```text
//! key --one at a time--> known for 24 h? same request: its execution; another request: refused
//!                            \-- no --> execution and key in one commit
//! ```
//! Invariants: a key is durable exactly when its execution is; two requests with one key never both submit, and if they did, the database would take only one
//! of them. An execution is kept as long as its key.

use crate::state::store::{Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Name of the header.
pub const HEADER: &str = "idempotency-key";
/// Longest key, in bytes.
pub const MAX_KEY: usize = 255;
/// How long a key is kept.
pub const KEPT: Duration = Duration::from_secs(86_400);
/// Most keys that an account has at a time.
pub const MAX_KEYS: u64 = 1_000_000;
/// Keys that are removed at once, and how often it is looked for some.
const SWEPT: (u32, Duration) = (512, Duration::from_secs(300));
/// Keys that hash to the same of these wait for each other.
const STRIPES: usize = 256;

/// A key: 1 to 255 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// A header's value: the key as it is, or as a string in quotes, as RFC 8941 writes one.
    pub fn parse(value: &[u8]) -> Result<Self, &'static str> {
        const WRONG: &str = "a key is 1 to 255 printable ASCII characters";
        const QUOTES: &str = "a key that begins with \" is a string of RFC 8941: it ends with \", and has \\ only before \\ or \"";
        let value = value.trim_ascii();
        if !value.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return Err(WRONG);
        }
        let mut text = String::with_capacity(value.len());
        let mut bytes = value.iter().copied();
        if value.first() == Some(&b'"') {
            bytes.next();
            loop {
                match bytes.next().ok_or(QUOTES)? {
                    b'"' => break,
                    b'\\' => text.push(char::from(bytes.next().filter(|next| b"\\\"".contains(next)).ok_or(QUOTES)?)),
                    plain => text.push(char::from(plain)),
                }
            }
            if bytes.next().is_some() {
                return Err(QUOTES);
            }
        } else {
            text.extend(bytes.map(char::from));
        }
        if (1..=MAX_KEY).contains(&text.len()) { Ok(Self(text.into())) } else { Err(WRONG) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What makes two requests the same: each part with its name and length, so that no two lists of parts give the same bytes.
#[must_use]
pub fn fingerprint(parts: &[(&str, &[u8])]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, value) in parts {
        for bytes in [name.as_bytes(), value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// A key on its way into the database, with its execution.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose it is.
    pub account: Arc<str>,
    /// The key.
    pub key: Key,
    /// See [`fingerprint`].
    pub request: String,
    /// When its request came.
    pub at: Timestamp,
}

/// All keys, as far as memory has to know of them.
#[derive(Debug)]
pub struct Keys {
    hasher: RandomState,
    stripes: Vec<tokio::sync::Mutex<()>>,
    counts: Mutex<HashMap<String, u64>>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            stripes: std::iter::repeat_with(tokio::sync::Mutex::default).take(STRIPES).collect(),
            counts: Mutex::default(),
        }
    }
}

impl Keys {
    /// One request with a key at a time.
    pub async fn one(&self, account: &str, key: &Key) -> Option<MutexGuard<'_, ()>> {
        let stripe = usize::try_from(self.hasher.hash_one((account, key)) % STRIPES as u64).unwrap_or(0);
        Some(self.stripes.get(stripe)?.lock().await)
    }

    /// Counts a new key of an account; false where it has as many as it may.
    pub fn admit(&self, account: &str) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(account.to_owned()).or_default();
        let room = *count < MAX_KEYS;
        *count += u64::from(room);
        room
    }

    /// Removes all keys that were made at or before this moment, and counts the others anew. How many were removed.
    pub async fn sweep(&self, store: &Store, moment: Timestamp) -> Result<u64, StoreError> {
        let (at_once, _) = SWEPT;
        let mut removed = 0;
        loop {
            let old = store.old_keys(moment, at_once).await?;
            if old == 0 {
                break;
            }
            store.commit(Change::RemoveKeys { moment, most: at_once }).await?;
            removed += old;
        }
        let counted = store.key_counts().await?;
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counted;
        Ok(removed)
    }

    /// For as long as the daemon lives.
    pub async fn run(&self, store: Store) {
        let (_, every) = SWEPT;
        loop {
            match self.sweep(&store, Timestamp::now().before(KEPT)).await {
                Ok(0) => {}
                Ok(keys) => tracing::debug!(keys, "removed idempotency keys that are older than a day"),
                Err(error) => tracing::warn!(%error, "can't remove old idempotency keys; trying again"),
            }
            tokio::time::sleep(every).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Option<String> {
        Key::parse(text.as_bytes()).ok().map(|key| key.as_str().to_owned())
    }

    #[test]
    fn keys_come_plain_or_in_quotes() {
        assert_eq!(parsed("8e03978e-40d5"), Some("8e03978e-40d5".into()));
        assert_eq!(parsed("\"8e03978e-40d5\""), Some("8e03978e-40d5".into()));
        assert_eq!(parsed(" a b "), Some("a b".into()));
        assert_eq!(parsed(r#""a\"b\\c""#), Some(r#"a"b\c"#.into()));
        assert_eq!(parsed(&"x".repeat(255)).map(|key| key.len()), Some(255));
        for wrong in ["", " ", "\"\"", "\"a", "\"a\"b", r#""a\b""#, "\"a\\", "a\tb", "\u{e9}", &"x".repeat(256)] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_or_not(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(key) = Key::parse(&bytes) {
                prop_assert!((1..=MAX_KEY).contains(&key.as_str().len()));
                prop_assert!(key.as_str().bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            }
        }

        #[test]
        fn a_key_in_quotes_is_the_key(text in "[ -~]{1,200}") {
            let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(parsed(&quoted), Some(text));
        }

        #[test]
        fn parts_do_not_run_into_each_other(a in "[ab]{0,4}", b in "[ab]{0,4}", c in "[ab]{0,4}", d in "[ab]{0,4}") {
            let one = fingerprint(&[("task", a.as_bytes()), ("input", b.as_bytes())]);
            let other = fingerprint(&[("task", c.as_bytes()), ("input", d.as_bytes())]);
            prop_assert_eq!(one == other, (a, b) == (c, d));
        }
    }
}
