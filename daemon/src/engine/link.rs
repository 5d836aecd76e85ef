//! The daemon's end of a monitor's control socket: commands with their descriptors out, events in.
//!
//! Invariant: what is buffered never exceeds one message of the largest size, so a monitor that says more than is read waits in its own
//! socket. A `recv` that is dropped half-way loses nothing; a `send` that is dropped half-way leaves the link unusable (drop its VM then).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::net::UnixStream;
use torpor_protocol::monitor::{self, Command, ControlError, Event, MAX_FDS};
use zeroize::Zeroizing;

/// Room for events of usual size; more is made only while a larger one arrives.
const ROOM: usize = 16 << 10;
const PREFIX: usize = 4;

/// Why a link is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The other end is gone.
    #[error("the monitor closed its control socket")]
    Closed,
    /// The system says no.
    #[error("control socket of a monitor: {0}")]
    Io(io::Error),
    /// Not a control message, or one over the cap.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<io::Error> for LinkError {
    fn from(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(source),
        }
    }
}

/// The socket and what was read from it but not yet taken.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixStream,
    buffer: Vec<u8>,
    from: usize,
    to: usize,
}

impl Link {
    /// A new socketpair: the daemon's end, and the one for the monitor.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { socket: UnixStream::from_std(ours)?, buffer: vec![0; ROOM], from: 0, to: 0 }, theirs.into()))
    }

    /// Sends a command, its descriptors with its first byte.
    pub(super) async fn send(&mut self, command: &Command, fds: &[BorrowedFd<'_>]) -> Result<(), LinkError> {
        debug_assert_eq!(command.fds(), fds.len(), "a command comes with its descriptors");
        // Commands carry secrets and keys.
        let bytes = Zeroizing::new(monitor::encode(command)?);
        let mut raw: [RawFd; MAX_FDS] = [-1; MAX_FDS];
        for (slot, fd) in raw.iter_mut().zip(fds) {
            *slot = fd.as_raw_fd();
        }
        let mut rights = &raw[..fds.len().min(MAX_FDS)];
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // The socket is nearly always ready: tried before the runtime has to find that out.
            let mut sent = put(&self.socket, rest, rights);
            if would_block(&sent) {
                self.socket.writable().await?;
                sent = self.socket.try_io(Interest::WRITABLE, || put(&self.socket, rest, rights));
            }
            match sent {
                Ok(sent) => {
                    rest = &rest[sent..];
                    rights = &[];
                }
                Err(error) if passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The other end is closed: seen as soon as its process is gone, before that is reaped.
    pub(super) fn is_closed(&self) -> bool {
        // POLLHUP is told unasked.
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// The next event. Safe to drop and call again.
    pub(super) async fn recv(&mut self) -> Result<Event, LinkError> {
        tokio::task::consume_budget().await;
        loop {
            let missing = match self.take()? {
                Ok(event) => return Ok(event),
                Err(missing) => missing,
            };
            self.make_room(missing);
            self.socket.readable().await?;
            match self.socket.try_read(&mut self.buffer[self.to..]) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(read) => self.to += read,
                Err(error) if passing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// An event from what is buffered, or how many bytes are missing for it.
    fn take(&mut self) -> Result<Result<Event, usize>, LinkError> {
        let have = &self.buffer[self.from..self.to];
        let Some((prefix, rest)) = have.split_first_chunk::<PREFIX>() else { return Ok(Err(PREFIX - have.len())) };
        let len = monitor::body_len(*prefix)?;
        let Some(body) = rest.get(..len) else { return Ok(Err(len - rest.len())) };
        let event = monitor::decode(body)?;
        self.from += PREFIX + len;
        Ok(Ok(event))
    }

    fn make_room(&mut self, missing: usize) {
        if self.from > 0 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        let want = (self.to + missing).max(ROOM);
        if want > self.buffer.len() || self.to == 0 && self.buffer.len() > ROOM {
            self.buffer.resize(want, 0);
            self.buffer.shrink_to(want);
        }
    }
}

fn passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn would_block(sent: &io::Result<usize>) -> bool {
    matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

fn put(socket: &UnixStream, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    Ok(sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use std::io::{IoSliceMut, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;
    use torpor_protocol::limits::MAX_CONTROL;

    fn link() -> (Link, UnixStream) {
        let (link, theirs) = Link::pair().unwrap();
        (link, UnixStream::from(theirs))
    }

    #[tokio::test]
    async fn events_are_taken_whole_however_they_are_cut() {
        let (mut link, mut peer) = link();
        let events = [Event::Prepared, Event::Outbox { frame: vec![7; 100_000] }, Event::AtDoor, Event::Running { micros: 3 }];
        let bytes: Vec<u8> = events.iter().flat_map(|event| monitor::encode(event).unwrap()).collect();
        let writer = std::thread::spawn(move || {
            for piece in bytes.chunks(777) {
                peer.write_all(piece).unwrap();
            }
            peer
        });
        for event in &events {
            assert_eq!(&link.recv().await.unwrap(), event);
        }
        drop(writer.join().unwrap());
        assert!(matches!(link.recv().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn a_dropped_recv_loses_nothing() {
        let (mut link, mut peer) = link();
        let bytes = monitor::encode(&Event::Vsock { bytes: vec![1; 1000] }).unwrap();
        peer.write_all(&bytes[..500]).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), link.recv()).await.is_err());
        peer.write_all(&bytes[500..]).unwrap();
        assert_eq!(link.recv().await.unwrap(), Event::Vsock { bytes: vec![1; 1000] });
    }

    #[tokio::test]
    async fn what_is_too_long_or_not_an_event_is_refused() {
        let (mut link, mut peer) = link();
        peer.write_all(&u32::try_from(MAX_CONTROL + 1).unwrap().to_le_bytes()).unwrap();
        assert!(matches!(link.recv().await, Err(LinkError::Control(ControlError::TooLong(_)))));
        let (mut link, mut peer) = self::link();
        peer.write_all(&[2, 0, 0, 0, 0xff, 0xff]).unwrap();
        assert!(matches!(link.recv().await, Err(LinkError::Control(ControlError::Body(_)))));
    }

    #[tokio::test]
    async fn the_buffer_shrinks_after_a_large_event() {
        let (mut link, mut peer) = link();
        let writer = std::thread::spawn(move || {
            peer.write_all(&monitor::encode(&Event::Outbox { frame: vec![7; 3 << 20] }).unwrap()).unwrap();
            peer.write_all(&monitor::encode(&Event::AtDoor).unwrap()).unwrap();
            peer
        });
        link.recv().await.unwrap();
        link.recv().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), link.recv()).await.is_err());
        assert_eq!(link.buffer.len(), ROOM);
        drop(writer.join().unwrap());
    }

    #[tokio::test]
    async fn descriptors_travel_with_a_command_larger_than_the_socket() {
        let (mut link, peer) = link();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"x").unwrap();
        let command = Command::Restore { code: false, inbox: Some(vec![5; 2 << 20]) };
        let want = monitor::encode(&command).unwrap();
        let reader = std::thread::spawn(move || {
            let (mut got, mut files) = (Vec::new(), 0);
            while got.len() < want.len() {
                let mut piece = vec![0; 4096];
                let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
                let mut slices = [IoSliceMut::new(&mut piece)];
                let message = recvmsg::<()>(peer.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::empty()).unwrap();
                let read = message.bytes;
                for control in message.cmsgs().unwrap() {
                    if let ControlMessageOwned::ScmRights(fds) = control {
                        assert!(got.is_empty(), "descriptors come with the first byte");
                        files += fds.len();
                        fds.iter().for_each(|fd| nix::unistd::close(*fd).unwrap());
                    }
                }
                got.extend_from_slice(&piece[..read]);
            }
            (got == want, files)
        });
        link.send(&command, &[file.as_fd(), file.as_fd(), file.as_fd()]).await.unwrap();
        assert_eq!(reader.join().unwrap(), (true, 3));
    }

    #[tokio::test]
    async fn a_gone_peer_is_noticed_when_sending() {
        let (mut link, peer) = link();
        assert!(!link.is_closed());
        drop(peer);
        assert!(link.is_closed());
        assert!(matches!(link.send(&Command::Stop, &[]).await, Err(LinkError::Closed)));
    }
}
