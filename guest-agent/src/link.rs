//! The agent's vsock connection to the host.

use crate::error::AgentError;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, VsockAddr, connect, recv, send, socket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;
use torpor_protocol::agent::{GuestMessage, HostMessage, VSOCK_PORT};
use torpor_protocol::frame::{Decoder, HEADER_LEN};

/// The host's context id.
const HOST_CID: u32 = 2;
/// How often a connection is tried, with [`RETRY`] between: the host may still be taking its end up.
const TRIES: u32 = 100;
const RETRY: Duration = Duration::from_millis(50);
/// The agent never takes the processor from the kernel's threads when it wakes (it is a batch process): once it sleeps they do what a system call has
/// left them, however slow the host is.
const SETTLE: Duration = Duration::from_millis(30);

/// What is read at a time.
const CHUNK: usize = 64 << 10;

/// The connection. Sends block: the host's window is the program's back-pressure.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    decoder: Decoder,
    /// Bytes that the decoder holds.
    held: usize,
}

impl Link {
    /// A connection that is there.
    pub(crate) fn over(fd: OwnedFd) -> Self {
        Self { fd, decoder: Decoder::default(), held: 0 }
    }

    /// Connects to the host.
    pub(crate) fn connect() -> Result<Self, AgentError> {
        let mut last = Errno::UnknownErrno;
        for _ in 0..TRIES {
            let fd = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(AgentError::NoHost)?;
            match connect(fd.as_raw_fd(), &VsockAddr::new(HOST_CID, VSOCK_PORT)) {
                Ok(()) => return Ok(Self::over(fd)),
                Err(errno) => last = errno,
            }
            std::thread::sleep(RETRY);
        }
        Err(AgentError::NoHost(last))
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &GuestMessage) -> Result<(), AgentError> {
        let bytes = message.to_frame()?.encode()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match send(self.fd.as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => rest = &rest[sent..],
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => return Err(AgentError::HostGone),
                Err(source) => return Err(AgentError::Sys { what: "send to the host", source }),
            }
        }
        Ok(())
    }

    /// The next message that has come, without waiting for one. Holds one unfinished message at most.
    pub(crate) fn receive(&mut self) -> Result<Option<HostMessage>, AgentError> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                self.held = self.held.saturating_sub(HEADER_LEN + frame.body.len());
                return Ok(Some(HostMessage::from_frame(frame)?));
            }
            match recv(self.fd.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(AgentError::HostGone),
                Ok(len) => {
                    self.held += len;
                    self.decoder.push(chunk.get(..len).unwrap_or(&chunk));
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN) => return Err(AgentError::HostGone),
                Err(source) => return Err(AgentError::Sys { what: "receive from the host", source }),
            }
        }
    }

    /// A part of a message has come, the rest is on its way.
    pub(crate) fn in_a_message(&self) -> bool {
        self.held > 0
    }

    /// Waits until the connection has ended. What the host says meanwhile is not for anyone.
    pub(crate) fn ended(&self) {
        let mut nobody = [0; 64];
        loop {
            match recv(self.fd.as_raw_fd(), &mut nobody, MsgFlags::empty()) {
                Ok(0) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Lets the kernel's threads finish: what was sent leaves the machine, and a template does not hold half-done work.
pub(crate) fn settle() {
    std::thread::sleep(SETTLE);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use torpor_protocol::ask::Taken;

    #[test]
    fn a_connection_lasts_until_the_host_closes_it_whatever_it_says() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        let waiting = std::thread::spawn(move || Link::over(ours.into()).ended());
        host.write_all(&[0; 1000]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(host);
        waiting.join().unwrap();
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        let mut link = Link::over(ours.into());
        assert_eq!(link.receive().unwrap(), None);
        let message = HostMessage::Taken(Taken { seq: 7 });
        let bytes = message.to_frame().unwrap().encode().unwrap();
        host.write_all(&bytes[..5]).unwrap();
        assert_eq!(link.receive().unwrap(), None);
        host.write_all(&bytes[5..]).unwrap();
        host.write_all(&bytes).unwrap();
        assert_eq!(link.receive().unwrap(), Some(message.clone()));
        assert_eq!(link.receive().unwrap(), Some(message));
        assert_eq!(link.receive().unwrap(), None);
        host.write_all(&[1, 0, 0, 0, 0xee, 0, 0, 0, 0]).unwrap();
        assert!(matches!(link.receive(), Err(AgentError::Message(_))));
        drop(host);
        assert!(matches!(link.receive(), Err(AgentError::HostGone)));
    }
}
