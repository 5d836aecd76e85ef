//! Secrets of an account: text that programs get at their start and that nobody can read back.
//!
//! ```text
//! torpor secret set --> sealed with the master key --> database (and memory, as sealed as there) --get--> value, wiped after use
//! ```
//! - [`give`]: what goes to machines
//! - [`key`]: the master key, where it comes from and what it is refused for
//! - [`seal`]: encryption of one value, bound to what it is of
//!
//! Invariants: a value is in plain only between [`Secrets::get`] and the drop of what it gave; nothing here prints one; where the database holds
//! anything that the master key can't open, the daemon does not start.

pub mod give;
pub mod key;
pub mod seal;
#[cfg(test)]
mod tests;

use crate::manifest::{AccountName, SecretName};
use crate::state::store::{Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use key::{KeyError, KeyPlace, Keys};
use seal::{Bound, SealError, Sealed};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use torpor_protocol::limits::MAX_SECRET;
use zeroize::Zeroizing;

/// Most secrets of an account.
pub const MAX_SECRETS: usize = 4096;

/// Why there is no value, or it is not kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Nobody has set it.
    #[error("secret \"{0}\" is not set; `torpor secret set {0}` sets it")]
    Unknown(SecretName),
    /// It is no secret.
    #[error("a secret is text of 1 byte to {most} KiB: {0}", most = MAX_SECRET >> 10)]
    Value(&'static str),
    /// A program gets too much.
    #[error("the secrets of one portion take more than {most} KiB together", most = torpor_protocol::limits::MAX_SECRETS >> 10)]
    Together,
    /// There are many.
    #[error("there are {MAX_SECRETS} secrets, and no more may be; `torpor secret rm` removes one")]
    TooMany,
    /// The master key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A value that does not open.
    #[error("secret {:?} can't be decrypted: {why}; set it again", name.as_str())]
    Seal {
        /// Which.
        name: SecretName,
        /// Why.
        why: SealError,
    },
    /// The system gives no randomness.
    #[error("encrypting: {0}")]
    Encrypt(SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All secrets, by account.
type Known = BTreeMap<AccountName, BTreeMap<SecretName, Arc<StoredSecret>>>;

/// A secret as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    /// Whose it is.
    pub account: AccountName,
    /// Its name.
    pub name: SecretName,
    /// Its value, unreadable.
    pub sealed: Sealed,
    /// When it was set first.
    pub created_at: Timestamp,
    /// When it was set last.
    pub changed_at: Timestamp,
}

struct Inner {
    store: Store,
    keys: Keys,
    known: RwLock<Known>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// The secrets of all accounts of this host.
#[derive(Clone)]
pub struct Secrets(Arc<Inner>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Takes what the database holds, and the master key; refuses a key that is not the one of all of it. Parked machines count too.
    pub async fn open(store: &Store, place: KeyPlace) -> Result<Self, SecretError> {
        let stored = store.secrets().await?;
        let parked = store.machines().await?.into_iter().filter_map(|(_, machine)| Some(machine.key?.master));
        let needed = stored.iter().map(|secret| secret.sealed.master.clone()).chain(parked);
        let keys = Keys::open(place, needed.collect())?;
        let mut known = Known::new();
        for secret in stored {
            known.entry(secret.account.clone()).or_default().insert(secret.name.clone(), Arc::new(secret));
        }
        Ok(Self(Arc::new(Inner { store: store.clone(), keys, known: RwLock::new(known), changing: tokio::sync::Mutex::default() })))
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, account: &AccountName, name: &SecretName) -> Option<Arc<StoredSecret>> {
        self.read().get(account)?.get(name).cloned()
    }

    /// The value, in plain until it is dropped.
    pub fn get(&self, account: &AccountName, name: &SecretName) -> Result<Zeroizing<String>, SecretError> {
        let stored = self.known(account, name).ok_or_else(|| SecretError::Unknown(name.clone()))?;
        let failed = |why| SecretError::Seal { name: name.clone(), why };
        let mut plain = self.0.keys.get()?.open(&bound(account, name), &stored.sealed).map_err(failed)?;
        match String::from_utf8(std::mem::take(&mut *plain)) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                Err(failed(SealError::Damaged))
            }
        }
    }

    /// The first of these names that the account has not set.
    pub fn missing<'a>(&self, account: &AccountName, names: impl IntoIterator<Item = &'a SecretName>) -> Option<&'a SecretName> {
        let known = self.read();
        let own = known.get(account);
        names.into_iter().find(|name| own.is_none_or(|own| !own.contains_key(*name)))
    }

    /// All of an account, by name.
    #[must_use]
    pub fn list(&self, account: &AccountName) -> Vec<Arc<StoredSecret>> {
        self.read().get(account).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Sets a secret; durable when it returns. True: there was none of that name.
    pub async fn set(
        &self,
        account: &AccountName,
        name: SecretName,
        value: Zeroizing<String>,
    ) -> Result<(Arc<StoredSecret>, bool), SecretError> {
        if value.is_empty() || value.len() > MAX_SECRET {
            return Err(SecretError::Value(if value.is_empty() { "this one is empty" } else { "this one is longer" }));
        }
        let _one = self.0.changing.lock().await;
        let before = self.known(account, &name);
        if before.is_none() && self.read().get(account).is_some_and(|own| own.len() >= MAX_SECRETS) {
            return Err(SecretError::TooMany);
        }
        let keys = self.0.keys.clone();
        let master =
            tokio::task::spawn_blocking(move || keys.get_or_make()).await.map_err(|error| KeyError::Broken(error.to_string()))??;
        let sealed = master.seal(&bound(account, &name), value.as_bytes()).map_err(SecretError::Encrypt)?;
        drop(value);
        let now = Timestamp::now();
        let created_at = before.as_ref().map_or(now, |before| before.created_at);
        let stored = Arc::new(StoredSecret { account: account.clone(), name: name.clone(), sealed, created_at, changed_at: now });
        self.0.store.commit(Change::PutSecret(Arc::clone(&stored))).await?;
        self.write().entry(account.clone()).or_default().insert(name, Arc::clone(&stored));
        Ok((stored, before.is_none()))
    }

    /// Removes a secret; false where there is none.
    pub async fn remove(&self, account: &AccountName, name: &SecretName) -> Result<bool, SecretError> {
        let _one = self.0.changing.lock().await;
        if self.known(account, name).is_none() {
            return Ok(false);
        }
        self.0.store.commit(Change::RemoveSecret(account.clone(), name.clone())).await?;
        if let Some(own) = self.write().get_mut(account) {
            own.remove(name);
        }
        Ok(true)
    }
}

const fn bound<'a>(account: &'a AccountName, name: &'a SecretName) -> Bound<'a> {
    Bound::Secret { account, name }
}
