//! Places for connections: none of those who come can take them all, no account either, and the host's administrator finds one when others have taken theirs.
//!
//! Invariant: each connection has one [`Place`] as long as it lives, and only one who [`Places::admit`] let in talks.

use crate::manifest::AccountName;
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Connections at once; more wait to be accepted.
pub(super) const CONNECTIONS: usize = 1024;
/// Of these, for the host's administrator only.
const KEPT: usize = 32;
/// Most of one user id or one address.
pub(super) const EACH: usize = 256;
/// Most of one account, from wherever they come.
const OF_ACCOUNT: usize = 512;
/// A client that takes nothing of its answer for so long is gone.
const STALLED: Duration = Duration::from_secs(30);

/// Who takes places together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Comes {
    /// Root, or the user that torpord runs as.
    Host,
    /// Another user of this host.
    User(u32),
    /// An address; of IPv6 the 64 bits that one network has.
    Address(IpAddr),
}

impl Comes {
    pub(super) fn user(uid: u32) -> Self {
        if uid == 0 || uid == nix::unistd::geteuid().as_raw() { Self::Host } else { Self::User(uid) }
    }

    pub(super) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

#[derive(Debug, Default)]
struct Taken {
    from: HashMap<Comes, usize>,
    of: HashMap<AccountName, usize>,
}

/// One more of somebody, who may have `most`.
fn one_more<K: Eq + std::hash::Hash>(taken: &mut HashMap<K, usize>, key: K, most: usize) -> bool {
    let count = taken.entry(key).or_default();
    let may = *count < most;
    *count += usize::from(may);
    may
}

fn one_less<K: Eq + std::hash::Hash>(taken: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = taken.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All places of one door.
#[derive(Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    others: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Place {
    from: Comes,
    of: Mutex<Option<AccountName>>,
    taken: Arc<Mutex<Taken>>,
    _other: Option<OwnedSemaphorePermit>,
    _one: OwnedSemaphorePermit,
}

impl Place {
    /// Who came is of an account. False: that has as many places as it may.
    pub(super) fn belongs(&self, account: &AccountName) -> bool {
        let mut of = locked(&self.of);
        if self.from == Comes::Host || of.as_ref() == Some(account) {
            return true;
        }
        let mut taken = locked(&self.taken);
        if let Some(before) = of.take() {
            one_less(&mut taken.of, &before);
        }
        let may = one_more(&mut taken.of, account.clone(), OF_ACCOUNT);
        *of = may.then(|| account.clone());
        may
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        one_less(&mut taken.from, &self.from);
        if let Some(account) = locked(&self.of).take() {
            one_less(&mut taken.of, &account);
        }
    }
}

impl Places {
    pub(super) fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(CONNECTIONS)), others: Arc::new(Semaphore::new(CONNECTIONS - KEPT)), taken: Arc::default() }
    }

    /// Waits until there is one for somebody.
    pub(super) async fn free(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Whether whoever came may have the place that is free.
    pub(super) fn admit(&self, from: Comes, one: OwnedSemaphorePermit) -> Option<Place> {
        let other = match from {
            Comes::Host => None,
            _ => Some(Arc::clone(&self.others).try_acquire_owned().ok()?),
        };
        let most = if from == Comes::Host { usize::MAX } else { EACH };
        one_more(&mut locked(&self.taken).from, from, most).then(|| Place {
            from,
            of: Mutex::default(),
            taken: Arc::clone(&self.taken),
            _other: other,
            _one: one,
        })
    }

    /// Waits until all are free again.
    pub(super) async fn empty(&self) {
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        let _ = self.all.acquire_many(all).await;
    }
}

/// A stream that breaks when the other side takes nothing for [`STALLED`].
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    limit: Option<Duration>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> Patient<S> {
    /// The host's administrator may look at an answer for as long as it likes.
    pub(super) fn new(stream: S, from: Comes) -> Self {
        Self { stream, limit: (from != Comes::Host).then_some(STALLED), stalled: None }
    }

    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(done) = work(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            return Poll::Ready(done);
        }
        let Some(limit) = self.limit else { return Poll::Pending };
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.watched(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.watched(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(cx, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watched(cx, |stream, cx| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn none_takes_all_places_and_some_are_kept_for_the_host() {
        let places = Places::new();
        let mut held = Vec::new();
        for uid in 5000..5010 {
            for _ in 0..CONNECTIONS {
                let one = places.free().await.unwrap();
                match places.admit(Comes::User(uid), one) {
                    Some(place) => held.push(place),
                    None => break,
                }
            }
        }
        assert_eq!(held.len(), CONNECTIONS - KEPT);
        let of = |places: &Places, from| places.taken.lock().unwrap().from.get(&from).copied();
        assert_eq!((of(&places, Comes::User(5000)), of(&places, Comes::User(5009))), (Some(EACH), None));
        for _ in 0..KEPT {
            held.push(places.admit(Comes::user(0), places.free().await.unwrap()).unwrap());
        }
        assert!(places.all.try_acquire().is_err(), "then the next waits");
        drop(held);
        assert!(places.taken.lock().unwrap().from.is_empty());
        places.empty().await;
        let own: Vec<_> = (0..EACH + 1)
            .map(|_| places.admit(Comes::user(nix::unistd::geteuid().as_raw()), Arc::clone(&places.all).try_acquire_owned().unwrap()))
            .collect();
        assert!(own.iter().all(Option::is_some));
    }

    #[tokio::test]
    async fn an_account_takes_half_of_them_from_wherever_it_comes() {
        let places = Places::new();
        let [a, b] = ["a", "b"].map(|name| AccountName::try_from(name.to_owned()).unwrap());
        let mut held = Vec::new();
        let come = async |uid: u32, account: &AccountName| {
            let place = places.admit(Comes::User(uid), places.free().await.unwrap()).unwrap();
            place.belongs(account).then_some(place)
        };
        for n in 0..OF_ACCOUNT {
            held.push(come(5000 + u32::try_from(n / EACH).unwrap(), &a).await.unwrap());
        }
        assert!(come(5007, &a).await.is_none(), "however many user ids it has");
        let other = come(5008, &b).await.unwrap();
        assert!(!other.belongs(&a) && other.belongs(&b), "one connection may speak for two");
        assert!(held.pop().unwrap().belongs(&a), "who has a place keeps it");
        assert!(come(5007, &a).await.is_some());
        let host = places.admit(Comes::Host, places.free().await.unwrap()).unwrap();
        assert!(host.belongs(&a));
        held.clear();
        drop(other);
        assert!(places.taken.lock().unwrap().of.is_empty());
    }

    #[test]
    fn an_address_is_one_in_each_of_its_forms() {
        let from = |text: &str| Comes::address(text.parse().unwrap());
        assert_eq!(from("::ffff:10.0.0.1"), from("10.0.0.1"));
        assert_eq!(from("2001:db8::1"), from("2001:db8::ffff:1"));
        assert_ne!(from("2001:db8::1"), from("2001:db8:0:1::1"));
        assert_ne!(from("10.0.0.1"), from("10.0.0.2"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_breaks_off() {
        for (from, breaks) in [(Comes::User(5000), true), (Comes::Host, false)] {
            let (near, _far) = tokio::io::duplex(16);
            let mut near = Patient::new(near, from);
            let written = tokio::time::timeout(STALLED * 3, near.write_all(&[0; 64])).await;
            assert_eq!(written.is_ok_and(|result| result.is_err_and(|error| error.kind() == ErrorKind::TimedOut)), breaks);
        }
    }
}
