//! The control socket between the agent and the language host: one packet is one message, its first byte says which, JSON follows where there is more.
//!
//! | packet | from | meaning |
//! |---|---|---|
//! | `W` | host | warm: ready for the runtime template |
//! | `L` + `Load` | agent | import this |
//! | `L` | host | imported |
//! | `F` + `Failure` | host | not imported |
//! | `G` | agent | go to the door |
//! | `D` | host | send what is in the pipes, then `Drained` |
//! | `D` | agent | done |

use crate::error::AgentError;
use crate::verdict::cut;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use torpor_protocol::agent::{Failure, FailureKind, Load};
use torpor_protocol::limits::MAX_FAILURE_TEXT;

/// Largest packet: a failure with both texts, each byte of them escaped.
const MAX_PACKET: usize = 256 << 10;

/// From the agent.
#[derive(Debug)]
pub(super) enum ToHost {
    Load(Load),
    Go,
    Drained,
}

/// From the language host, or from the program that has taken it over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromHost {
    Warm,
    Loaded,
    LoadFailed(Failure),
    Drain,
}

impl FromHost {
    /// `None` for anything that is not a message: it is passed over.
    fn parse(packet: &[u8]) -> Option<Self> {
        match packet.split_first()? {
            (b'W', []) => Some(Self::Warm),
            (b'L', []) => Some(Self::Loaded),
            (b'D', []) => Some(Self::Drain),
            (b'F', body) => {
                let said: Failure = serde_json::from_slice(body).ok()?;
                Some(Self::LoadFailed(Failure {
                    kind: if said.kind == FailureKind::OutOfMemory { said.kind } else { FailureKind::Load },
                    message: cut(said.message, MAX_FAILURE_TEXT),
                    exception: said.exception.map(|name| cut(name, 1 << 10)),
                    traceback: said.traceback.map(|text| cut(text, MAX_FAILURE_TEXT)),
                    exit_code: None,
                    signal: None,
                    drain: false,
                }))
            }
            _ => None,
        }
    }
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Control(OwnedFd);

impl Control {
    /// Both ends; the second is the host's.
    pub(super) fn pair() -> Result<(Self, OwnedFd), AgentError> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(AgentError::sys("make the control socket"))?;
        Ok((Self(ours), theirs))
    }

    /// Never waits: a host that does not take its messages is not served.
    pub(super) fn send(&self, what: &ToHost) -> Result<(), Errno> {
        let packet = match what {
            ToHost::Load(load) => {
                let mut packet = vec![b'L'];
                packet.extend(serde_json::to_vec(load).unwrap_or_default());
                packet
            }
            ToHost::Go => vec![b'G'],
            ToHost::Drained => vec![b'D'],
        };
        send(self.0.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT).map(drop)
    }

    /// The next packet: `Ok(None)` at its end, `Ok(Some(None))` for one that is not a message.
    pub(super) fn receive(&self) -> Result<Option<Option<FromHost>>, Errno> {
        let mut packet = vec![0; MAX_PACKET];
        match recv(self.0.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Ok(None),
            Ok(len) => Ok(Some(packet.get(..len).and_then(FromHost::parse))),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Some(None)),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_messages_are_messages() {
        assert_eq!(FromHost::parse(b"W"), Some(FromHost::Warm));
        assert_eq!(FromHost::parse(b"D"), Some(FromHost::Drain));
        for bad in [&b""[..], b"WW", b"G", b"F", b"F{}", b"F{\"kind\":\"x\",\"message\":\"\"}", b"\xff\x00"] {
            assert_eq!(FromHost::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_load_failure_is_cut_to_what_may_be_sent() {
        let text = "y".repeat(MAX_FAILURE_TEXT + 1);
        let body = format!("F{{\"kind\":\"signal\",\"message\":\"{text}\",\"traceback\":\"{text}\",\"signal\":9,\"drain\":true}}");
        let Some(FromHost::LoadFailed(failure)) = FromHost::parse(body.as_bytes()) else { panic!("refused") };
        assert_eq!((failure.kind, failure.signal, failure.drain), (FailureKind::Load, None, false));
        assert_eq!(failure.message.len(), MAX_FAILURE_TEXT);
        assert_eq!(failure.traceback.unwrap().len(), MAX_FAILURE_TEXT);
    }

    #[test]
    fn packets_travel() {
        let (ours, theirs) = Control::pair().unwrap();
        assert_eq!(ours.receive(), Ok(Some(None)));
        send(theirs.as_raw_fd(), b"L", MsgFlags::empty()).unwrap();
        assert_eq!(ours.receive(), Ok(Some(Some(FromHost::Loaded))));
        ours.send(&ToHost::Go).unwrap();
        let mut got = [0; 8];
        assert_eq!((recv(theirs.as_raw_fd(), &mut got, MsgFlags::empty()), got[0]), (Ok(1), b'G'));
        drop(theirs);
        assert_eq!(ours.receive(), Ok(None));
    }
}
