//! One connection of the guest to a port of the host: credit both ways, bytes on their way to the guest.
//!
//! ```text
//!   REQUEST            RESPONSE goes out                guest: SHUTDOWN of sending
//!  ---------> answer ------------------> open ------------------------------------> guest is done sending
//!                |                         |                                                  |
//!                +-------- RST, SHUTDOWN of both, or a packet that has no place here --------+--> gone
//! ```
//!
//! Counters are of bytes since the connection began and wrap, as on the wire. Invariants: `received - consumed` is at most [`CREDIT`], which is
//! all that a guest can make the host hold; `pending` holds at most [`CREDIT`] bytes, which is all that the host can make itself hold;
//! `sent - peer_consumed` never goes over what the guest allowed.

use super::packet::{self, Header, op};
use crate::virtio::Broken;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes that each side may have on the way.
pub(super) const CREDIT: u32 = 256 << 10;
/// The guest hears of fresh credit when it knows of less than this, and so much has been consumed: one packet for most of [`CREDIT`].
const LOW_CREDIT: u32 = CREDIT / 4;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Connection {
    /// The guest's port.
    pub(super) guest_port: u32,
    answer_owed: bool,
    credit_asked: bool,
    /// The guest sends no more.
    guest_done: bool,
    /// The guest receives no more: bytes for it are dropped.
    guest_deaf: bool,
    /// The guest no longer knows it; it stays until the caller has consumed all that it was given.
    gone: bool,
    pending: VecDeque<u8>,
    sent: u32,
    peer_consumed: u32,
    peer_credit: u32,
    received: u32,
    consumed: u32,
    told: u32,
}

/// What a packet of the guest did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Did {
    /// Counters only.
    Nothing,
    /// Its data is for the caller.
    Data,
    /// The guest sends no more.
    GuestDone,
    /// The connection is over. `reset`: the guest is told.
    Over {
        /// See above.
        reset: bool,
    },
}

impl Connection {
    /// A connection that the guest asked for with this packet.
    pub(super) fn new(request: &Header) -> Self {
        Self {
            guest_port: request.src_port,
            answer_owed: true,
            credit_asked: false,
            guest_done: false,
            guest_deaf: false,
            gone: false,
            pending: VecDeque::new(),
            sent: 0,
            peer_consumed: 0,
            peer_credit: request.buf_alloc,
            received: 0,
            consumed: 0,
            told: 0,
        }
    }

    /// A packet of the guest on this connection.
    pub(super) fn take(&mut self, header: &Header) -> Result<Did, Broken> {
        self.take_credit(header)?;
        match header.op {
            op::RW if self.guest_done => Ok(Did::Over { reset: true }),
            op::RW => {
                let credit = CREDIT - self.unconsumed();
                if header.len > credit {
                    return Err(Broken::CreditExceeded { sent: header.len, credit });
                }
                self.received = self.received.wrapping_add(header.len);
                Ok(if header.len == 0 { Did::Nothing } else { Did::Data })
            }
            op::CREDIT_UPDATE => Ok(Did::Nothing),
            op::CREDIT_REQUEST => {
                self.credit_asked = true;
                Ok(Did::Nothing)
            }
            op::SHUTDOWN => Ok(self.shut_down(header.flags)),
            op::RST => Ok(Did::Over { reset: false }),
            // A second REQUEST, a RESPONSE that nobody asked for, or no operation at all.
            _ => Ok(Did::Over { reset: true }),
        }
    }

    fn shut_down(&mut self, flags: u32) -> Did {
        let was_done = self.guest_done;
        self.guest_done |= flags & packet::SHUTDOWN_SEND != 0;
        if flags & packet::SHUTDOWN_RECEIVE != 0 {
            self.guest_deaf = true;
            self.pending = VecDeque::new();
        }
        match (self.guest_done, self.guest_deaf) {
            (true, true) => Did::Over { reset: true },
            (true, false) if !was_done => Did::GuestDone,
            _ => Did::Nothing,
        }
    }

    /// What the guest says of its side. Packets of two of its threads may pass each other, so an older count is no lie; a count of bytes that
    /// were never sent is one.
    fn take_credit(&mut self, header: &Header) -> Result<(), Broken> {
        self.peer_credit = header.buf_alloc;
        let outstanding = self.outstanding();
        let claimed = header.fwd_cnt.wrapping_sub(self.peer_consumed);
        if claimed <= outstanding {
            self.peer_consumed = header.fwd_cnt;
        } else if claimed <= u32::MAX / 2 {
            return Err(Broken::CreditClaim { claimed, outstanding });
        }
        Ok(())
    }

    /// The guest is no longer connected.
    pub(super) fn end(&mut self) {
        self.gone = true;
        self.pending = VecDeque::new();
    }

    /// Whether the guest is no longer connected.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the guest said that it sends no more.
    pub(super) fn guest_is_done(&self) -> bool {
        self.guest_done
    }

    /// Bytes that the caller got and has not consumed.
    pub(super) fn unconsumed(&self) -> u32 {
        self.received.wrapping_sub(self.consumed)
    }

    fn outstanding(&self) -> u32 {
        self.sent.wrapping_sub(self.peer_consumed)
    }

    /// The caller has no more use for `n` bytes that it got.
    pub(super) fn consume(&mut self, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX).min(self.unconsumed());
        self.consumed = self.consumed.wrapping_add(n);
    }

    /// Takes as many bytes for the guest as there is room for.
    pub(super) fn send(&mut self, bytes: &[u8]) -> usize {
        if self.guest_deaf {
            return bytes.len();
        }
        let room = (CREDIT as usize).saturating_sub(self.pending.len());
        let taken = bytes.len().min(room);
        self.pending.extend(&bytes[..taken]);
        taken
    }

    /// Whether the guest has to hear something now.
    pub(super) fn has_packet(&self) -> bool {
        !self.gone && (self.answer_owed || self.credit_asked || self.sendable() > 0 || self.credit_is_low())
    }

    fn sendable(&self) -> u32 {
        let room = self.peer_credit.saturating_sub(self.outstanding());
        u32::try_from(self.pending.len()).unwrap_or(u32::MAX).min(room)
    }

    fn credit_is_low(&self) -> bool {
        let known = CREDIT.saturating_sub(self.received.wrapping_sub(self.told));
        !self.guest_done && known < LOW_CREDIT && self.consumed.wrapping_sub(self.told) >= LOW_CREDIT
    }

    /// The next packet for the guest, with at most `room` bytes of data, which `data` then holds. Call it only when [`Self::has_packet`].
    pub(super) fn packet(&mut self, room: u32, data: &mut Vec<u8>) -> Header {
        data.clear();
        let op = if self.answer_owed {
            self.answer_owed = false;
            op::RESPONSE
        } else if self.sendable() > 0 {
            let len = self.sendable().min(room);
            data.extend(self.pending.drain(..len as usize));
            self.sent = self.sent.wrapping_add(len);
            op::RW
        } else {
            op::CREDIT_UPDATE
        };
        // Every packet tells the credit.
        self.credit_asked = false;
        self.told = self.consumed;
        Header {
            src_cid: packet::HOST_CID,
            dst_cid: super::GUEST_CID,
            dst_port: self.guest_port,
            len: u32::try_from(data.len()).unwrap_or(u32::MAX),
            kind: packet::STREAM,
            op,
            buf_alloc: CREDIT,
            fwd_cnt: self.consumed,
            ..Header::default()
        }
    }

    /// As it goes on after a restore, where `owed` bytes are still to be given to the caller; everything else that it ever got was another
    /// process's. `None`: no connection is ever like this.
    pub(super) fn restored(mut self, owed: usize) -> Option<Self> {
        let owed = u32::try_from(owed).ok()?;
        let possible = self.pending.len() <= CREDIT as usize
            && self.unconsumed() <= CREDIT
            && owed <= self.unconsumed()
            && self.consumed.wrapping_sub(self.told) <= self.received.wrapping_sub(self.told)
            && self.received.wrapping_sub(self.told) <= CREDIT
            && self.outstanding() <= u32::MAX / 2;
        if !possible {
            return None;
        }
        self.consumed = self.received.wrapping_sub(owed);
        Some(self)
    }
}
