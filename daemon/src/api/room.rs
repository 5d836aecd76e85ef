//! Room that accounts share, such as for uploads on their way: of all of it each account has a part at most, so that slow clients of one leave some to others.

use crate::manifest::AccountName;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    each: usize,
    own: Mutex<BTreeMap<AccountName, Arc<Semaphore>>>,
}

/// A part of it, until it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Room {
    /// `each`: how much of `all` an account has at most.
    pub(super) fn new(all: usize, each: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, own: Mutex::default() }
    }

    /// Waits for so much of it; none where there will be none any more.
    pub(super) async fn take(&self, account: &AccountName, much: u32) -> Option<Taken> {
        let own = {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(own.entry(account.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
        };
        // In this order: who waits for its own part keeps nothing from others.
        let own = own.acquire_many_owned(much).await.ok()?;
        Some(Taken { _own: own, _all: Arc::clone(&self.all).acquire_many_owned(much).await.ok()? })
    }

    /// An account is gone.
    pub(super) fn forget(&self, account: &AccountName) {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).remove(account);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn an_account_leaves_some_to_others() {
        let (room, a, b) = (Room::new(4, 3), AccountName::default(), AccountName::try_from("b".to_owned()).unwrap());
        let soon = async |account: &AccountName, much| tokio::time::timeout(Duration::from_millis(20), room.take(account, much)).await.ok();
        let first = soon(&a, 2).await.unwrap();
        let second = soon(&a, 1).await.unwrap();
        assert!(soon(&a, 1).await.is_none(), "that is all that it may have");
        let other = soon(&b, 1).await.unwrap();
        assert!(soon(&b, 1).await.is_none(), "that is all there is");
        drop((first, other));
        assert!(soon(&b, 3).await.is_some());
        drop(second);
        room.forget(&a);
        assert!(soon(&a, 3).await.is_some());
    }
}
