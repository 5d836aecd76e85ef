//! Tokens: `torpor_`, 12 digits that name one, `_`, 64 digits that nobody guesses. 256 random bits need no slow hash: a fast one is kept of them, and
//! nothing that could be brought again.

use super::Role;
use crate::hex;
use crate::manifest::AccountName;
use crate::state::time::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// The longest that a token may be good for.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);
const PREFIX: &str = "torpor_";
const ID: usize = 12;
const SECRET: usize = 64;

/// Names a token, and opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TokenId(Arc<str>);

impl TokenId {
    /// An id, if it can be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == ID && hex::are_digits(text)).then(|| Self(text.into()))
    }

    /// The id in a token's text, if that has the form of one.
    #[must_use]
    pub fn of(token: &str) -> Option<Self> {
        let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
        Self::parse(id).filter(|_| secret.len() == SECRET && hex::are_digits(secret))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept of a token's text.
#[must_use]
pub fn hash_of(text: &str) -> blake3::Hash {
    blake3::Hash::from_bytes(blake3::derive_key("torpor 2026 hash of a token", text.as_bytes()))
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Whom whoever brings it belongs to.
    pub account: AccountName,
    /// What they may do there.
    pub role: Role,
    /// See [`hash_of`].
    pub hash: blake3::Hash,
    /// What it is for; for people.
    pub note: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is good no longer.
    pub expires_at: Option<Timestamp>,
}

impl Token {
    /// A new one, and its text.
    pub(super) fn new(
        account: AccountName,
        role: Role,
        lasts: Option<Duration>,
        note: String,
    ) -> Result<(Self, Zeroizing<String>), getrandom::Error> {
        let mut random = Zeroizing::new([0; (ID + SECRET) / 2]);
        getrandom::fill(&mut *random)?;
        let digits = Zeroizing::new(hex::encode(&*random));
        let (id, secret) = digits.split_at(ID);
        let text = Zeroizing::new(format!("{PREFIX}{id}_{secret}"));
        let now = Timestamp::now();
        let expires_at = lasts.map(|lasts| now.after(lasts));
        Ok((Self { id: TokenId(id.into()), account, role, hash: hash_of(&text), note, created_at: now, expires_at }, text))
    }

    /// It is good no longer.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
