//! The control socket: commands with their descriptors in, events out.
//!
//! Reading belongs to the event loop and never blocks. Writing is shared by both threads and waits until the daemon has read: a guest that
//! talks faster than the daemon listens is stopped by that, and nothing piles up here.

use crate::error::VmmError;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use torpor_protocol::limits::MAX_CONTROL;
use torpor_protocol::monitor::{Command, Event, MAX_FDS, body_len, decode, encode};

const CHUNK: usize = 256 << 10;

/// Descriptors of one command, taken in the order that the command names them.
#[derive(Debug)]
pub struct Descriptors(VecDeque<OwnedFd>);

impl Descriptors {
    /// The next one.
    pub fn take(&mut self) -> Result<OwnedFd, VmmError> {
        self.0.pop_front().ok_or(VmmError::Command("a command came without its descriptors"))
    }

    /// The next one as a file.
    pub fn file(&mut self) -> Result<File, VmmError> {
        Ok(File::from(self.take()?))
    }
}

/// The reading side.
pub struct Reader {
    socket: Arc<UnixStream>,
    buffer: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

/// The writing side.
#[derive(Clone)]
pub struct Writer {
    socket: Arc<UnixStream>,
    turn: Arc<Mutex<()>>,
}

/// Both sides of a connected socket.
pub fn split(socket: UnixStream) -> Result<(Reader, Writer), VmmError> {
    socket.set_nonblocking(true).map_err(VmmError::io("control socket"))?;
    let socket = Arc::new(socket);
    let reader = Reader { socket: Arc::clone(&socket), buffer: Vec::new(), fds: VecDeque::new() };
    Ok((reader, Writer { socket, turn: Arc::default() }))
}

impl Reader {
    /// For the event loop.
    pub fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Reads what is there. `Ok(false)`: nothing more for now.
    pub fn fill(&mut self) -> Result<bool, VmmError> {
        let from = self.buffer.len();
        // The buffer grows with what arrives, up to one message and what followed it.
        let room = self.missing().clamp(4096, CHUNK);
        self.buffer.resize(from + room, 0);
        let mut space = cmsg_space!([RawFd; MAX_FDS]);
        let got = {
            let mut slices = [IoSliceMut::new(&mut self.buffer[from..])];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
                Ok(message) => {
                    let control = message.cmsgs().map_err(|e| VmmError::Io { what: "control socket", source: e.into() })?;
                    for part in control {
                        if let ControlMessageOwned::ScmRights(fds) = part {
                            // SAFETY: the kernel has just installed these descriptors for this process; nothing else owns them.
                            self.fds.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                        }
                    }
                    Ok(message.bytes)
                }
                Err(e) => Err(e),
            }
        };
        self.buffer.truncate(from + got.unwrap_or(0));
        match got {
            Ok(0) | Err(Errno::ECONNRESET) => Err(VmmError::DaemonGone),
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(false),
            Err(e) => Err(VmmError::Io { what: "reading the control socket", source: e.into() }),
        }
    }

    fn missing(&self) -> usize {
        match self.buffer.first_chunk::<4>().map(|prefix| body_len(*prefix)) {
            Some(Ok(len)) => (len + 4).saturating_sub(self.buffer.len()),
            _ => 0,
        }
    }

    /// The next whole command.
    pub fn next_command(&mut self) -> Result<Option<(Command, Descriptors)>, VmmError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = body_len(*prefix)?;
        let Some(body) = self.buffer.get(4..4 + len) else { return Ok(None) };
        let command: Command = decode(body)?;
        self.buffer.drain(..4 + len);
        if self.buffer.is_empty() && self.buffer.capacity() > MAX_CONTROL / 8 {
            self.buffer = Vec::new();
        }
        let count = command.fds().min(self.fds.len());
        let fds = Descriptors(self.fds.drain(..count).collect());
        Ok(Some((command, fds)))
    }
}

impl Writer {
    /// Sends an event; waits while the daemon does not read.
    pub fn send(&self, event: &Event) -> Result<(), VmmError> {
        let bytes = encode(event)?;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match (&*self.socket).write(rest) {
                Ok(n) => rest = rest.get(n..).unwrap_or(&[]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    return Err(VmmError::DaemonGone);
                }
                Err(source) => return Err(VmmError::Io { what: "writing the control socket", source }),
            }
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), VmmError> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(VmmError::Io { what: "waiting for the control socket", source: e.into() }),
        }
    }
}
