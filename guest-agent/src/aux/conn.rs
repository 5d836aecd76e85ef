//! One connection of a program to an auxiliary service, the agent's end.
//!
//! Invariant: what the host has sent and the program has not taken is at most one window, and so is what is read from the program without the host
//! having passed it on.

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use torpor_protocol::aux::{MAX_DATA, WINDOW};

/// What came of reading.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// At most `MAX_DATA`.
    Bytes(Vec<u8>),
    /// There is nothing now.
    Nothing,
    /// The host takes nothing now.
    NoCredit,
    /// The program sends no more.
    End,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Conn {
    socket: OwnedFd,
    /// Bytes that the host takes.
    credit: u32,
    /// From the host, for the program.
    unsent: VecDeque<u8>,
    /// Bytes that the program has, and the host does not know of it.
    owed: u32,
    /// The program sends no more, and the host knows.
    pub(super) read_done: bool,
    /// The host sends no more.
    ended: bool,
    /// The program knows.
    shut: bool,
}

impl Conn {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, credit: WINDOW, unsent: VecDeque::new(), owed: 0, read_done: false, ended: false, shut: false }
    }

    /// Closes it so that the program sees an error.
    pub(super) fn reset(self) {
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = setsockopt(&self.socket, sockopt::Linger, &now);
    }

    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Both ways are closed.
    pub(super) fn done(&self) -> bool {
        self.read_done && self.shut
    }

    pub(super) fn interest(&self) -> EpollFlags {
        let mut want = EpollFlags::empty();
        want.set(EpollFlags::EPOLLIN, self.credit > 0 && !self.read_done);
        want.set(EpollFlags::EPOLLOUT, !self.unsent.is_empty());
        want
    }

    /// The next bytes of the program.
    pub(super) fn pull(&mut self) -> Result<Read, Errno> {
        if self.read_done {
            return Ok(Read::End);
        }
        let mut probe = [0; 1];
        let room = (self.credit as usize).min(MAX_DATA);
        if room == 0 {
            return match recv(self.socket.as_raw_fd(), &mut probe, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
                Ok(1..) => Ok(Read::NoCredit),
                Ok(_) => Ok(Read::End),
                Err(Errno::EAGAIN | Errno::EINTR) => Ok(Read::Nothing),
                Err(error) => Err(error),
            };
        }
        let mut bytes = vec![0; room];
        match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(Read::End),
            Ok(len) => {
                bytes.truncate(len);
                self.credit -= u32::try_from(len).unwrap_or(self.credit);
                Ok(Read::Bytes(bytes))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Read::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Takes bytes of the host.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if self.unsent.len() + bytes.len() > WINDOW as usize || self.ended {
            return Err(Errno::EPROTO);
        }
        self.unsent.extend(bytes);
        self.push()
    }

    /// Gives the program what it takes now.
    pub(super) fn push(&mut self) -> Result<(), Errno> {
        while !self.unsent.is_empty() {
            let (bytes, _) = self.unsent.as_slices();
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(len) => {
                    self.unsent.drain(..len);
                    self.owed += u32::try_from(len).unwrap_or(0);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.ended && !self.shut {
            self.shut = true;
            // A program that has closed its end already knows.
            let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        }
        Ok(())
    }

    /// The host sends no more.
    pub(super) fn end(&mut self) -> Result<(), Errno> {
        self.ended = true;
        self.push()
    }

    /// The host has passed so much on.
    pub(super) fn credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes).min(WINDOW);
    }

    /// What the host is to be told of, once it is much: each message costs.
    pub(super) fn owed(&mut self) -> Option<u32> {
        (self.owed >= WINDOW / 2 && !self.ended).then(|| std::mem::take(&mut self.owed))
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
