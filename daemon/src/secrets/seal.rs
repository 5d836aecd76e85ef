//! One value, encrypted with the master key: XChaCha20-Poly1305, a random nonce of 192 bits each time. What the value is of is part of what is
//! authenticated, so that nobody who writes to the database can put one in another's place.

use super::key::MasterKey;
use crate::manifest::{AccountName, SecretName};
use crate::state::id::ExecutionId;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::Zeroizing;

const NONCE: usize = 24;

/// Why a value can't be encrypted, or does not open.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SealError {
    /// The system gives no randomness.
    #[error("the host gives no random bytes: {0}")]
    Entropy(getrandom::Error),
    /// Another key.
    #[error("it was encrypted with master key {needed}, the one here is {found}")]
    OtherKey {
        /// Of the key that it was encrypted with.
        needed: KeyId,
        /// Of the key here.
        found: KeyId,
    },
    /// Not what was encrypted.
    #[error("it is damaged, or belongs to something else")]
    Damaged,
}

/// Tells one master key from another, and nothing about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(String);

impl KeyId {
    pub(super) fn of(key: &[u8; 32]) -> Self {
        let hash = blake3::derive_key("torpor 2026 id of a master key of secrets", key);
        Self(blake3::Hash::from_bytes(hash).to_hex()[..16].to_owned())
    }

    /// As a database has it.
    #[must_use]
    pub const fn from_text(text: String) -> Self {
        Self(text)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // From a database or another host: whatever it is, it is short.
        f.write_str(self.0.get(..16).unwrap_or("?"))
    }
}

/// An encrypted value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The master key that opens it.
    pub master: KeyId,
    /// Never the same twice.
    #[serde(with = "crate::hex")]
    pub nonce: Vec<u8>,
    /// The value and its tag.
    #[serde(with = "crate::hex")]
    pub bytes: Vec<u8>,
}

/// What a value is of.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// A secret.
    Secret {
        /// Of whom.
        account: &'a AccountName,
        /// Which.
        name: &'a SecretName,
    },
    /// The key of a parked machine.
    Parked {
        /// Whose execution.
        account: &'a AccountName,
        /// Which.
        id: &'a ExecutionId,
    },
}

impl Bound<'_> {
    fn text(&self) -> String {
        match self {
            Self::Secret { account, name } => format!("torpor secret\0{account}\0{name}"),
            // As it was before there were other accounts: what is parked stays readable.
            Self::Parked { account, id } if **account == AccountName::default() => format!("torpor parked\0{id}"),
            Self::Parked { account, id } => format!("torpor parked\0{account}\0{id}"),
        }
    }
}

impl MasterKey {
    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(self.bytes().into())
    }

    /// Encrypts.
    pub fn seal(&self, of: &Bound<'_>, plain: &[u8]) -> Result<Sealed, SealError> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(SealError::Entropy)?;
        let aad = of.text();
        let payload = Payload { msg: plain, aad: aad.as_bytes() };
        let bytes = self.cipher().encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::Damaged)?;
        Ok(Sealed { master: self.id().clone(), nonce: nonce.to_vec(), bytes })
    }

    /// Decrypts.
    pub fn open(&self, of: &Bound<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if sealed.master != *self.id() {
            return Err(SealError::OtherKey { needed: sealed.master.clone(), found: self.id().clone() });
        }
        let nonce: [u8; NONCE] = sealed.nonce.as_slice().try_into().map_err(|_| SealError::Damaged)?;
        let aad = of.text();
        let payload = Payload { msg: &sealed.bytes, aad: aad.as_bytes() };
        self.cipher().decrypt(&XNonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| SealError::Damaged)
    }
}
