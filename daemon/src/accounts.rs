//! Accounts: whom everything on a host belongs to, who may do what in one, and how callers are told apart.
//!
//! ```text
//! Unix socket --user id--> uid map --+--> account and role
//! any request --token----> hash -----+
//! ```
//! - [`token`]: secrets that callers bring; only their hashes are kept
//!
//! What the database has is in memory too, so that a request asks no database. Invariants: memory changes only after the database has committed the same
//! change; user id 0 and that of torpord itself are always administrators of the default account; an account is removed only when nothing belongs to it.

mod identify;
#[cfg(test)]
mod tests;
pub mod token;

use crate::manifest::{AccountName, DEFAULT_ACCOUNT};
use crate::state::store::{Belongings, Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
pub use identify::{Identity, Unmapped};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;
use token::{Token, TokenId};

/// Most accounts.
pub const MAX_ACCOUNTS: usize = 4096;
/// Most user ids that have an account.
pub const MAX_UIDS: usize = 65_536;
/// Most tokens of an account.
pub const MAX_TOKENS: usize = 1024;
/// Largest weight.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// Longest note of a token, in bytes.
pub const MAX_NOTE: usize = 256;

/// What a caller may do. Each may do all that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the account's tasks, and sees what becomes of that. Sees no code, policy or secret.
    Invoker,
    /// All within the account.
    Owner,
    /// All within every account; accounts, tokens and the host.
    Admin,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Invoker, Self::Owner, Self::Admin];

    /// Its name in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invoker => "invoker",
            Self::Owner => "owner",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// Its share of a busy host, against those of others.
    pub weight: u32,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A user id that has an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uid {
    /// The user id.
    pub uid: u32,
    /// Its account.
    pub account: AccountName,
    /// What it may do there.
    pub role: Role,
    /// Since when.
    pub created_at: Timestamp,
}

/// All that the database has.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// By name.
    pub accounts: BTreeMap<AccountName, Account>,
    /// By user id.
    pub uids: BTreeMap<u32, Uid>,
    /// By id.
    pub tokens: BTreeMap<TokenId, Arc<Token>>,
}

/// Why something about accounts is not done.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No such account.
    #[error("no account {0:?}; `torpor account ls` lists them")]
    Unknown(String),
    /// No such user id.
    #[error("user id {0} has no account; `torpor account ls` lists those that have")]
    UnknownUid(u32),
    /// No such token.
    #[error("no token {0:?}; `torpor token ls` lists them")]
    UnknownToken(String),
    /// It is always there.
    #[error("account \"default\" stays: what belongs to nobody else belongs to it")]
    Default,
    /// Its role is given.
    #[error("user id {0} is always an administrator of account \"default\": root and torpord itself can't be given another role")]
    Fixed(u32),
    /// Something belongs to it.
    #[error("account {account:?} is not empty: {what}")]
    Busy {
        /// Which.
        account: String,
        /// What belongs to it, and what to do about that.
        what: String,
    },
    /// A weight that is none.
    #[error("a weight is a whole number from 1 to {MAX_WEIGHT}")]
    Weight,
    /// A note that is none.
    #[error("a note is one line of at most {MAX_NOTE} bytes")]
    Note,
    /// A time that is none.
    #[error("a token ends within ten years, or never")]
    Expiry,
    /// There are many.
    #[error("there are {most} {what}, and no more may be")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// No randomness.
    #[error("the host gives no random bytes: {0}")]
    Entropy(getrandom::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
struct Inner {
    store: Store,
    known: RwLock<Known>,
    unmapped: Unmapped,
    own: u32,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// The accounts of this host.
#[derive(Debug, Clone)]
pub struct Accounts(Arc<Inner>);

impl Accounts {
    /// Takes what the database holds. `unmapped`: what a user id is that has no account; `own`: torpord's user id.
    pub async fn open(store: &Store, unmapped: Unmapped, own: u32) -> Result<Self, StoreError> {
        let known = RwLock::new(store.known_accounts().await?);
        Ok(Self(Arc::new(Inner { store: store.clone(), known, unmapped, own, changing: tokio::sync::Mutex::default() })))
    }

    // A panic while the lock was held can't have left it half-changed: each change is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.0.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that is known now.
    #[must_use]
    pub fn known(&self) -> Known {
        self.read().clone()
    }

    /// Whether there is one account only.
    #[must_use]
    pub fn one(&self) -> bool {
        self.read().accounts.len() < 2
    }

    /// An account.
    pub fn account(&self, name: &str) -> Result<Account, AccountError> {
        let known = self.read();
        let found = AccountName::try_from(name.to_owned()).ok().and_then(|name| known.accounts.get(&name));
        found.cloned().ok_or_else(|| AccountError::Unknown(name.to_owned()))
    }

    /// Makes an account, or gives it another weight; durable when it returns. True: there was none of that name.
    pub async fn put(&self, name: AccountName, weight: Option<u32>) -> Result<(Account, bool), AccountError> {
        if weight.is_some_and(|weight| !(1..=MAX_WEIGHT).contains(&weight)) {
            return Err(AccountError::Weight);
        }
        let _one = self.0.changing.lock().await;
        let before = self.read().accounts.get(&name).cloned();
        if before.is_none() && self.read().accounts.len() >= MAX_ACCOUNTS {
            return Err(AccountError::TooMany { what: "accounts", most: MAX_ACCOUNTS });
        }
        let new = before.is_none();
        let mut account = before.unwrap_or(Account { name, weight: 1, created_at: Timestamp::now() });
        account.weight = weight.unwrap_or(account.weight);
        self.0.store.commit(Change::PutAccount(account.clone())).await?;
        self.write().accounts.insert(account.name.clone(), account.clone());
        Ok((account, new))
    }

    /// Refuses where more belongs to an account than executions that ended.
    pub async fn check_history_only(&self, name: &AccountName) -> Result<(), AccountError> {
        if name.as_str() == DEFAULT_ACCOUNT {
            return Err(AccountError::Default);
        }
        let other = Belongings { ended: 0, ..self.0.store.belongs_to(name).await? };
        other.said().map_or(Ok(()), |what| Err(AccountError::Busy { account: name.to_string(), what }))
    }

    /// Removes an account that nothing belongs to, with its tokens and user ids.
    pub async fn remove(&self, name: &AccountName) -> Result<(), AccountError> {
        if name.as_str() == DEFAULT_ACCOUNT {
            return Err(AccountError::Default);
        }
        let _one = self.0.changing.lock().await;
        self.account(name.as_str())?;
        let what = self.0.store.belongs_to(name).await?;
        if let Some(what) = what.said() {
            return Err(AccountError::Busy { account: name.to_string(), what });
        }
        match self.0.store.commit(Change::RemoveAccount(name.clone())).await {
            Err(StoreError::Constraint) => {
                return Err(AccountError::Busy { account: name.to_string(), what: "something was added just now".into() });
            }
            done => done?,
        }
        let mut known = self.write();
        known.accounts.remove(name);
        known.uids.retain(|_, uid| uid.account != *name);
        known.tokens.retain(|_, token| token.account != *name);
        Ok(())
    }

    /// Gives a user id an account and a role there, in place of what it had.
    pub async fn allow(&self, uid: u32, account: &str, role: Role) -> Result<Uid, AccountError> {
        if self.always_admin(uid) {
            return Err(AccountError::Fixed(uid));
        }
        let _one = self.0.changing.lock().await;
        let account = self.account(account)?.name;
        if !self.read().uids.contains_key(&uid) && self.read().uids.len() >= MAX_UIDS {
            return Err(AccountError::TooMany { what: "user ids with an account", most: MAX_UIDS });
        }
        let entry = Uid { uid, account, role, created_at: Timestamp::now() };
        self.0.store.commit(Change::PutUid(entry.clone())).await?;
        self.write().uids.insert(uid, entry.clone());
        Ok(entry)
    }

    /// Takes a user id's account from it.
    pub async fn deny(&self, uid: u32) -> Result<(), AccountError> {
        let _one = self.0.changing.lock().await;
        if !self.read().uids.contains_key(&uid) {
            return Err(AccountError::UnknownUid(uid));
        }
        self.0.store.commit(Change::RemoveUid(uid)).await?;
        self.write().uids.remove(&uid);
        Ok(())
    }

    /// Makes a token; its text is given once, here. `lasts`: how long it is good for; for ever where there is nothing.
    pub async fn create_token(
        &self,
        account: &str,
        role: Role,
        lasts: Option<Duration>,
        note: String,
    ) -> Result<(Arc<Token>, zeroize::Zeroizing<String>), AccountError> {
        if note.len() > MAX_NOTE || note.chars().any(char::is_control) {
            return Err(AccountError::Note);
        }
        if lasts.is_some_and(|lasts| lasts > token::LONGEST || lasts.is_zero()) {
            return Err(AccountError::Expiry);
        }
        let _one = self.0.changing.lock().await;
        let account = self.account(account)?.name;
        if self.read().tokens.values().filter(|token| token.account == account).count() >= MAX_TOKENS {
            return Err(AccountError::TooMany { what: "tokens of this account (`torpor token rm` removes one)", most: MAX_TOKENS });
        }
        let (token, text) = Token::new(account, role, lasts, note).map_err(AccountError::Entropy)?;
        let token = Arc::new(token);
        self.0.store.commit(Change::PutToken(Arc::clone(&token))).await?;
        self.write().tokens.insert(token.id.clone(), Arc::clone(&token));
        Ok((token, text))
    }

    /// Removes a token: whoever brings it from now on is nobody.
    pub async fn remove_token(&self, id: &str) -> Result<(), AccountError> {
        let _one = self.0.changing.lock().await;
        let id =
            TokenId::parse(id).filter(|id| self.read().tokens.contains_key(id)).ok_or_else(|| AccountError::UnknownToken(id.to_owned()))?;
        self.0.store.commit(Change::RemoveToken(id.clone())).await?;
        self.write().tokens.remove(&id);
        Ok(())
    }
}
