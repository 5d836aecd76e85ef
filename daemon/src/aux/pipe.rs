//! The bytes of one connection between the broker, which speaks to the guest, and whoever serves it, who sees an ordinary stream.
//!
//! ```text
//!  guest --Data--> inbox --poll_read--> service         what was read is told to the guest as credit
//!  guest <--Data-- outbox <--poll_write-- service       as far as the guest's credit goes
//! ```
//! Invariant: inbox and outbox hold at most one window each. The service's end never waits for a broker that is gone: then it reads what there is and
//! an end, and what it writes is dropped.

use super::why::Why;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use torpor_protocol::aux::{MAX_DATA, WINDOW};

#[derive(Debug, Default)]
struct State {
    inbox: VecDeque<u8>,
    in_ended: bool,
    /// Taken out of the inbox, and the guest not told.
    consumed: u32,
    outbox: VecDeque<u8>,
    /// What may still be put into the outbox.
    room: u32,
    out_ended: bool,
    told_end: bool,
    /// Nobody takes what is written.
    deaf: bool,
    cut: bool,
    over: Option<Result<(), Why>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// The broker's side.
#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<State>,
    /// There is something for the guest.
    changed: Arc<Notify>,
    /// The guest is gone: what it has sent is passed on, for a while.
    pub(super) finishing: CancellationToken,
    /// The guest has reset it.
    pub(super) cut: CancellationToken,
}

/// What there is for the guest.
#[derive(Debug)]
pub(super) enum Out {
    Data(Vec<u8>),
    Credit(u32),
    End,
    /// It failed.
    Failed(Why),
}

impl Pipe {
    pub(super) fn new(changed: Arc<Notify>) -> Arc<Self> {
        let state = Mutex::new(State { room: WINDOW, ..State::default() });
        Arc::new(Self { state, changed, finishing: CancellationToken::new(), cut: CancellationToken::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes of the guest; false: more than it may send.
    pub(super) fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if state.in_ended || (state.inbox.len() + state.consumed as usize).saturating_add(bytes.len()) > WINDOW as usize {
            return false;
        }
        if state.over.is_some() {
            // Nobody reads it.
            state.consumed += len;
        } else {
            state.inbox.extend(bytes);
        }
        wake(&mut state.reader);
        true
    }

    /// The guest sends no more.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.in_ended = true;
        wake(&mut state.reader);
    }

    /// The guest has passed so much on.
    pub(super) fn credit(&self, bytes: u32) {
        let mut state = self.lock();
        let held = u32::try_from(state.outbox.len()).unwrap_or(WINDOW);
        state.room = state.room.saturating_add(bytes).min(WINDOW.saturating_sub(held));
        wake(&mut state.writer);
    }

    /// The guest is gone.
    pub(super) fn finish(&self) {
        let mut state = self.lock();
        state.in_ended = true;
        state.deaf = true;
        state.outbox = VecDeque::new();
        wake(&mut state.reader);
        wake(&mut state.writer);
        drop(state);
        self.finishing.cancel();
    }

    /// The guest has reset it.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        state.cut = true;
        wake(&mut state.reader);
        wake(&mut state.writer);
        drop(state);
        self.cut.cancel();
    }

    /// Whoever serves it is done.
    pub(super) fn over(&self, how: Result<(), Why>) {
        let mut state = self.lock();
        state.out_ended |= how.is_ok();
        state.consumed += u32::try_from(std::mem::take(&mut state.inbox).len()).unwrap_or(0);
        state.over.get_or_insert(how);
        drop(state);
        self.changed.notify_one();
    }

    /// The next thing for the guest. Credit is told when it is much.
    pub(super) fn next(&self) -> Option<Out> {
        let mut state = self.lock();
        if let Some(Err(_)) = &state.over
            && let Some(Err(why)) = state.over.replace(Ok(()))
        {
            return Some(Out::Failed(why));
        }
        if !state.outbox.is_empty() {
            let len = state.outbox.len().min(MAX_DATA);
            return Some(Out::Data(state.outbox.drain(..len).collect()));
        }
        if state.out_ended && !std::mem::replace(&mut state.told_end, true) {
            return Some(Out::End);
        }
        (state.consumed >= WINDOW / 2 && !state.in_ended).then(|| Out::Credit(std::mem::take(&mut state.consumed)))
    }

    /// There is something that the program waits for, perhaps.
    pub(super) fn calls(&self) -> bool {
        let state = self.lock();
        !state.outbox.is_empty() || (state.out_ended && !state.told_end) || matches!(state.over, Some(Err(_)))
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// The service's side.
#[derive(Debug)]
pub(super) struct GuestStream(pub(super) Arc<Pipe>);

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(ErrorKind::ConnectionReset, "the guest has closed the connection")))
}

impl AsyncRead for GuestStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        if state.cut {
            return gone();
        }
        if state.inbox.is_empty() {
            if state.in_ended {
                return Poll::Ready(Ok(()));
            }
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let (bytes, _) = state.inbox.as_slices();
        let len = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..len]);
        state.inbox.drain(..len);
        state.consumed += u32::try_from(len).unwrap_or(0);
        let much = state.consumed >= WINDOW / 2;
        drop(state);
        if much {
            self.0.changed.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.lock();
        if state.cut {
            return gone();
        }
        if state.deaf {
            return Poll::Ready(Ok(bytes.len()));
        }
        let len = bytes.len().min(state.room as usize);
        if len == 0 && !bytes.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.outbox.extend(&bytes[..len]);
        state.room -= u32::try_from(len).unwrap_or(state.room);
        drop(state);
        self.0.changed.notify_one();
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().out_ended = true;
        self.0.changed.notify_one();
        Poll::Ready(Ok(()))
    }
}
