//! Room for what is being received: so much in all, and of that no account more than its part. Whoever waits too long for room is told to come again.

use super::error::{ApiError, ErrorCode};
use crate::manifest::AccountName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// All room of one kind.
#[derive(Debug)]
pub(super) struct Rooms {
    all: Arc<Semaphore>,
    each: usize,
    patience: Duration,
    accounts: Mutex<HashMap<AccountName, Weak<Semaphore>>>,
}

/// What somebody holds of it, and may have more of.
#[derive(Debug)]
pub(super) struct Room<'a> {
    of: &'a Rooms,
    own: Arc<Semaphore>,
    held: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Rooms {
    pub(super) fn new(all: usize, each: usize, patience: Duration) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), each, patience, accounts: Mutex::default() }
    }

    /// None of it yet.
    pub(super) fn of(&self, account: &AccountName) -> Room<'_> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = accounts.get(account).and_then(Weak::upgrade).unwrap_or_else(|| {
            accounts.retain(|_, own| own.strong_count() > 0);
            let own = Arc::new(Semaphore::new(self.each));
            accounts.insert(account.clone(), Arc::downgrade(&own));
            own
        });
        Room { of: self, own, held: None }
    }
}

impl Room<'_> {
    /// Waits until it is so large.
    pub(super) async fn grow(&mut self, to: usize) -> Result<(), ApiError> {
        let more = to.saturating_sub(self.held.as_ref().map_or(0, |(all, _)| all.num_permits()));
        let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) else { return Ok(()) };
        let permits = async {
            // Its own first: who has to wait for that keeps nothing from others.
            let own = Arc::clone(&self.own).acquire_many_owned(more).await?;
            Ok::<_, tokio::sync::AcquireError>((Arc::clone(&self.of.all).acquire_many_owned(more).await?, own))
        };
        let busy = |_| ApiError::new(ErrorCode::Busy, "as much is being received as may be at once; try again");
        let (all, own) = tokio::time::timeout(self.of.patience, permits)
            .await
            .map_err(busy)?
            .map_err(|_| ApiError::new(ErrorCode::Draining, "torpord is stopping"))?;
        match &mut self.held {
            Some(held) => {
                held.0.merge(all);
                held.1.merge(own);
            }
            None => self.held = Some((all, own)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn an_account_has_its_part_and_others_have_theirs() {
        let rooms = Rooms::new(10, 4, Duration::from_secs(5));
        let [a, b] = ["a", "b"].map(|name| AccountName::try_from(name.to_owned()).unwrap());
        let mut first = rooms.of(&a);
        for to in [1, 3, 2, 4] {
            first.grow(to).await.unwrap();
        }
        let mut second = rooms.of(&a);
        let begun = Instant::now();
        assert_eq!(second.grow(1).await.unwrap_err().code(), ErrorCode::Busy);
        assert_eq!(begun.elapsed().as_secs(), 5);
        let mut other = rooms.of(&b);
        other.grow(4).await.unwrap();
        drop(first);
        let mut again = rooms.of(&a);
        again.grow(4).await.unwrap();
        assert_eq!(rooms.all.available_permits(), 2);
        drop((second, other, again));
        assert_eq!(rooms.all.available_permits(), 10);
    }
}
