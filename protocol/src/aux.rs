//! Connections of a program to auxiliary services: the agent takes them in the guest, the daemon makes them outside.
//!
//! ```text
//! agent                                          daemon
//! Open { conn, service }             ->          (connects)
//! Data, Credit, End, Reset           <->         Data, Credit, End, Reset
//!                                    <-          Held { base, conns }     first of all after a park: which are still there
//! ```
//! The agent numbers connections upwards and never uses a number again, so what is said of one that is gone is passed over by both sides. An `Open` is not
//! answered: data may follow it at once, and one that is refused is `Reset`. Each side may send [`WINDOW`] bytes of data on a connection, and so many more
//! as the other says it has passed on ([`ToGuest::Credit`], [`FromGuest::Credit`]): that bounds what both hold.
//!
//! Both count the daemon's messages. The agent says how many it has heard when it comes to the door ([`crate::ask::Blocked::aux`]), so that the daemon knows
//! that none is on its way when the machine is parked.

use crate::agent::MessageError;

/// Bytes of a connection that each side may have on their way.
pub const WINDOW: u32 = 64 << 10;
/// Most bytes in one message.
pub const MAX_DATA: usize = 32 << 10;
/// Most connections of an execution at once, of all its services together.
pub const MAX_CONNECTIONS: usize = 64;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const CREDIT: u8 = 3;
const END: u8 = 4;
const RESET: u8 = 5;
const HELD: u8 = 6;

/// What both sides say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relay {
    /// Bytes, at most [`MAX_DATA`].
    Data(Vec<u8>),
    /// So many bytes were passed on.
    Credit(u32),
    /// No more data follows.
    End,
    /// It is gone, both ways.
    Reset,
}

/// Agent to daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromGuest {
    /// A program connects.
    Open {
        /// The new connection.
        conn: u32,
        /// Which service: its place in [`crate::agent::Load::aux`].
        service: u8,
    },
    /// Of a connection.
    Relay(u32, Relay),
}

/// Daemon to agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Of a connection.
    Relay(u32, Relay),
    /// The machine was parked: all other connections are gone.
    Held {
        /// From which number the daemon's messages are counted from here on.
        base: u64,
        /// At most [`MAX_CONNECTIONS`].
        conns: Vec<u32>,
    },
}

/// `u8 what, u32 connection, rest`.
fn body(what: u8, conn: u32, rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(5 + rest.len());
    body.push(what);
    body.extend_from_slice(&conn.to_le_bytes());
    body.extend_from_slice(rest);
    body
}

const CUT: MessageError = MessageError::Body("a message about a connection is cut off, or too long");

fn number(bytes: &[u8]) -> Result<u32, MessageError> {
    bytes.try_into().map(u32::from_le_bytes).map_err(|_| CUT)
}

impl Relay {
    fn encode(&self, conn: u32) -> Vec<u8> {
        match self {
            Self::Data(bytes) => body(DATA, conn, bytes),
            Self::Credit(bytes) => body(CREDIT, conn, &bytes.to_le_bytes()),
            Self::End => body(END, conn, &[]),
            Self::Reset => body(RESET, conn, &[]),
        }
    }

    fn decode(what: u8, rest: &[u8]) -> Result<Self, MessageError> {
        match what {
            DATA if (1..=MAX_DATA).contains(&rest.len()) => Ok(Self::Data(rest.to_vec())),
            DATA => Err(MessageError::Body("data of a connection is empty, or more than allowed")),
            CREDIT => match number(rest)? {
                bytes @ 1..=WINDOW => Ok(Self::Credit(bytes)),
                _ => Err(MessageError::Body("credit of a connection is nothing, or more than there can be")),
            },
            END | RESET if !rest.is_empty() => Err(CUT),
            END => Ok(Self::End),
            RESET => Ok(Self::Reset),
            _ => Err(MessageError::Body("what is said of a connection is not known")),
        }
    }
}

fn split(body: &[u8]) -> Result<(u8, u32, &[u8]), MessageError> {
    let (head, rest) = body.split_first_chunk::<5>().ok_or(CUT)?;
    Ok((head[0], number(&head[1..])?, rest))
}

impl FromGuest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Open { conn, service } => body(OPEN, *conn, &[*service]),
            Self::Relay(conn, relay) => relay.encode(*conn),
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, MessageError> {
        match split(body)? {
            (OPEN, conn, [service]) => Ok(Self::Open { conn, service: *service }),
            (OPEN, ..) => Err(CUT),
            (what, conn, rest) => Ok(Self::Relay(conn, Relay::decode(what, rest)?)),
        }
    }
}

impl ToGuest {
    /// `Held`: `u8 what, u32 count, u64 base, u32 connection *`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Relay(conn, relay) => relay.encode(*conn),
            Self::Held { base, conns } => {
                let conns = &conns[..conns.len().min(MAX_CONNECTIONS)];
                let mut rest = base.to_le_bytes().to_vec();
                rest.extend(conns.iter().flat_map(|conn| conn.to_le_bytes()));
                body(HELD, u32::try_from(conns.len()).unwrap_or_default(), &rest)
            }
        }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let (what, conn, rest) = split(body)?;
        if what != HELD {
            return Ok(Self::Relay(conn, Relay::decode(what, rest)?));
        }
        let (base, conns) = rest.split_first_chunk::<8>().ok_or(CUT)?;
        let count = conn as usize;
        if count > MAX_CONNECTIONS || conns.len() != count * 4 {
            return Err(CUT);
        }
        let conns = conns.chunks_exact(4).map(number).collect::<Result<_, _>>()?;
        Ok(Self::Held { base: u64::from_le_bytes(*base), conns })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn relay() -> impl Strategy<Value = Relay> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 1..300).prop_map(Relay::Data),
            (1..=WINDOW).prop_map(Relay::Credit),
            Just(Relay::End),
            Just(Relay::Reset),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(conn in any::<u32>(), service in any::<u8>(), relay in relay(), base in any::<u64>(), conns in prop::collection::vec(any::<u32>(), 0..=MAX_CONNECTIONS)) {
            for message in [FromGuest::Open { conn, service }, FromGuest::Relay(conn, relay.clone())] {
                prop_assert_eq!(FromGuest::decode(&message.encode()).unwrap(), message);
            }
            for message in [ToGuest::Relay(conn, relay), ToGuest::Held { base, conns }] {
                prop_assert_eq!(ToGuest::decode(&message.encode()).unwrap(), message);
            }
        }

        #[test]
        fn what_is_taken_is_written_as_it_was(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(message) = FromGuest::decode(&body) {
                prop_assert_eq!(message.encode(), body.clone());
            }
            if let Ok(message) = ToGuest::decode(&body) {
                prop_assert_eq!(message.encode(), body);
            }
        }
    }

    #[test]
    fn sizes_are_checked() {
        let data = |len| FromGuest::decode(&body(DATA, 1, &vec![0; len])).is_ok();
        assert_eq!([0, 1, MAX_DATA, MAX_DATA + 1].map(data), [false, true, true, false]);
        let credit = |bytes: u32| ToGuest::decode(&body(CREDIT, 1, &bytes.to_le_bytes())).is_ok();
        assert_eq!([0, 1, WINDOW, WINDOW + 1, u32::MAX].map(credit), [false, true, true, false, false]);
        assert!(ToGuest::decode(&body(HELD, u32::MAX, &[0; 8])).is_err());
        assert!(FromGuest::decode(&body(OPEN, 1, &[])).is_err());
        assert!(FromGuest::decode(&[DATA]).is_err());
    }
}
