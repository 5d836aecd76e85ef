//! From what a caller brings to an account and a role.

use super::token::{TokenId, hash_of};
use super::{Accounts, Role};
use crate::manifest::AccountName;
use crate::state::time::Timestamp;

/// What a user id is that may open the socket and has no account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Unmapped {
    /// An owner of the account `default`, as long as the host has no other account and no user id that was given one.
    #[default]
    Default,
    /// Nobody.
    Refuse,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The account that the caller belongs to.
    pub account: AccountName,
    /// What the caller may do there.
    pub role: Role,
}

impl Accounts {
    /// Root and torpord itself: whoever is one of them can do all this without torpord.
    pub(super) fn always_admin(&self, uid: u32) -> bool {
        uid == 0 || uid == self.0.own
    }

    /// A process of this host.
    #[must_use]
    pub fn by_uid(&self, uid: u32) -> Option<Identity> {
        if self.always_admin(uid) {
            return Some(Identity { account: AccountName::default(), role: Role::Admin });
        }
        if let Some(entry) = self.read().uids.get(&uid) {
            return Some(Identity { account: entry.account.clone(), role: entry.role });
        }
        // Where users are told apart, who has no account has none: what was taken away must not lead to another one.
        let alone = {
            let known = self.read();
            known.uids.is_empty() && known.accounts.len() <= 1
        };
        (self.0.unmapped == Unmapped::Default && alone).then(|| Identity { account: AccountName::default(), role: Role::Owner })
    }

    /// Whoever brings a token; nobody where it is none of ours, or is good no longer. As much work is done for one that is wrong as for one that is right.
    #[must_use]
    pub fn by_token(&self, text: &str, now: Timestamp) -> Option<Identity> {
        let found = TokenId::of(text).and_then(|id| self.read().tokens.get(&id).cloned());
        let hash = hash_of(text);
        let wanted = found.as_ref().map_or_else(|| blake3::Hash::from_bytes([0; 32]), |token| token.hash);
        // `==` of hashes takes the same time wherever they differ.
        let right = hash == wanted;
        found.filter(|token| right && !token.is_over(now)).map(|token| Identity { account: token.account.clone(), role: token.role })
    }
}
