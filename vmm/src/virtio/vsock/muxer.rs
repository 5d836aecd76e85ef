//! Which connection a packet belongs to, what the caller is told, and whose packet goes to the guest next.
//!
//! The guest connects; the host never does. Each port that the host listens on takes one connection at a time, so nobody in a guest can speak
//! in the place of one who is connected; everybody else is answered with RST.
//!
//! Invariant: at most [`MAX_PORTS`] connections, [`MAX_RESETS`] resets on their way, and for each port at most the credit of bytes and
//! [`MAX_EVENTS`] events that the caller has not taken.

use super::connection::{Connection, Did};
use super::packet::{self, Header, op};
use super::{GUEST_CID, NAME, VsockEvent};
use crate::virtio::{Broken, RestoreError};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most ports that the host listens on.
pub const MAX_PORTS: usize = 16;
const MAX_RESETS: usize = 256;
const MAX_EVENTS: usize = 256;

/// A packet that nobody wants is answered with this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Reset {
    cid: u64,
    host_port: u32,
    guest_port: u32,
    kind: u16,
}

/// A port of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    port: u32,
    connection: Option<Connection>,
}

/// What a snapshot keeps: everything, so the guest notices nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Muxer {
    slots: Vec<Slot>,
    resets: VecDeque<Reset>,
    events: Vec<VsockEvent>,
    turn: usize,
}

impl Muxer {
    pub(super) fn new(ports: &[u32]) -> Self {
        let slots = ports.iter().take(MAX_PORTS).map(|port| Slot { port: *port, connection: None }).collect();
        Self { slots, resets: VecDeque::new(), events: Vec::new(), turn: 0 }
    }

    /// A packet of the guest, whose data `data` fetches when it is wanted.
    pub(super) fn take(&mut self, header: &Header, data: impl FnOnce(&mut Vec<u8>) -> Result<(), Broken>) -> Result<(), Broken> {
        if header.src_cid != GUEST_CID {
            return Err(Broken::SourceAddress(header.src_cid));
        }
        let slot = self.slots.iter_mut().find(|slot| slot.port == header.dst_port);
        let Some(slot) = slot.filter(|_| header.kind == packet::STREAM && header.dst_cid == packet::HOST_CID) else {
            self.refuse(header);
            return Ok(());
        };
        let port = slot.port;
        let Some(connection) = slot.connection.as_mut().filter(|it| it.guest_port == header.src_port && !it.is_gone()) else {
            if header.op != op::REQUEST || slot.connection.is_some() || self.events.len() >= MAX_EVENTS {
                self.refuse(header);
            } else {
                slot.connection = Some(Connection::new(header));
                self.events.push(VsockEvent::Open { port });
            }
            return Ok(());
        };
        let already_done = connection.guest_is_done();
        match connection.take(header)? {
            Did::Nothing => {}
            Did::Data => self.gather(port, data)?,
            Did::GuestDone => self.events.push(VsockEvent::Closed { port }),
            Did::Over { reset } => {
                connection.end();
                self.forget_if_consumed(port);
                if !already_done {
                    self.events.push(VsockEvent::Closed { port });
                }
                if reset {
                    self.refuse(header);
                }
            }
        }
        Ok(())
    }

    /// Gathers data of a port until the caller takes it. The order of events is kept within each port.
    fn gather(&mut self, port: u32, data: impl FnOnce(&mut Vec<u8>) -> Result<(), Broken>) -> Result<(), Broken> {
        if let Some(VsockEvent::Data { bytes, .. }) = self.events.iter_mut().rev().find(|event| event.port() == port) {
            return data(bytes);
        }
        let mut bytes = Vec::new();
        data(&mut bytes)?;
        self.events.push(VsockEvent::Data { port, bytes });
        Ok(())
    }

    fn refuse(&mut self, header: &Header) {
        // A guest that leaves so many answers waiting takes none; it will not miss this one.
        if header.op != op::RST && self.resets.len() < MAX_RESETS {
            let (cid, kind) = (header.dst_cid, header.kind);
            self.resets.push_back(Reset { cid, host_port: header.dst_port, guest_port: header.src_port, kind });
        }
    }

    fn slot(&mut self, port: u32) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.port == port)
    }

    fn forget_if_consumed(&mut self, port: u32) {
        if let Some(slot) = self.slot(port)
            && slot.connection.as_ref().is_some_and(|it| it.is_gone() && it.unconsumed() == 0)
        {
            slot.connection = None;
        }
    }

    pub(super) fn send(&mut self, port: u32, bytes: &[u8]) -> usize {
        let live = self.slot(port).and_then(|slot| slot.connection.as_mut()).filter(|it| !it.is_gone());
        live.map_or(bytes.len(), |connection| connection.send(bytes))
    }

    pub(super) fn consume(&mut self, port: u32, n: usize) {
        if let Some(connection) = self.slot(port).and_then(|slot| slot.connection.as_mut()) {
            connection.consume(n);
        }
        self.forget_if_consumed(port);
    }

    pub(super) fn take_events(&mut self) -> Vec<VsockEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn has_packet(&self) -> bool {
        !self.resets.is_empty() || self.slots.iter().any(Slot::has_packet)
    }

    /// The next packet for the guest, with at most `room` bytes of data, which `data` then holds. Connections take turns.
    pub(super) fn packet(&mut self, room: u32, data: &mut Vec<u8>) -> Option<Header> {
        data.clear();
        if let Some(reset) = self.resets.pop_front() {
            return Some(Header {
                src_cid: reset.cid,
                dst_cid: GUEST_CID,
                src_port: reset.host_port,
                dst_port: reset.guest_port,
                kind: reset.kind,
                op: op::RST,
                ..Header::default()
            });
        }
        let count = self.slots.len();
        let next = (0..count).map(|step| (self.turn + step) % count).find(|at| self.slots[*at].has_packet())?;
        self.turn = (next + 1) % count;
        let slot = &mut self.slots[next];
        let header = slot.connection.as_mut()?.packet(room, data);
        Some(Header { src_port: slot.port, ..header })
    }

    /// The driver starts over: nobody is connected any more.
    pub(super) fn reset(&mut self) {
        self.resets.clear();
        let open: Vec<u32> = self.slots.iter().filter(|slot| slot.is_live()).map(|slot| slot.port).collect();
        for port in open {
            let Some(connection) = self.slot(port).and_then(|slot| slot.connection.as_mut()) else { continue };
            let told = connection.guest_is_done();
            connection.end();
            self.forget_if_consumed(port);
            if !told {
                self.events.push(VsockEvent::Closed { port });
            }
        }
    }

    /// Takes the place of this muxer, which listens on the same ports.
    pub(super) fn restored(&self, saved: Self) -> Result<Self, RestoreError> {
        let impossible = |what| RestoreError::Impossible { device: NAME, what };
        if !saved.slots.iter().map(|slot| slot.port).eq(self.slots.iter().map(|slot| slot.port)) {
            return Err(RestoreError::Mismatch { device: NAME, what: "the list of its ports" });
        }
        if saved.resets.len() > MAX_RESETS {
            return Err(impossible("the number of its resets"));
        }
        if saved.events.len() > MAX_EVENTS + 3 * MAX_PORTS {
            return Err(impossible("the number of its events"));
        }
        if saved.events.iter().any(|event| self.slots.iter().all(|slot| slot.port != event.port())) {
            return Err(impossible("the port of an event"));
        }
        let Self { slots, resets, events, turn } = saved;
        let restore = |slot: Slot| {
            let port = slot.port;
            let owed = events.iter().map(|event| if event.port() == port { event.len() } else { 0 }).sum();
            let connection = match slot.connection {
                Some(connection) => Some(connection.restored(owed).ok_or(impossible("a connection"))?),
                None if owed == 0 => None,
                None => return Err(impossible("data without a connection")),
            };
            Ok(Slot { port, connection: connection.filter(|it| !it.is_gone() || it.unconsumed() > 0) })
        };
        let slots: Vec<Slot> = slots.into_iter().map(restore).collect::<Result<_, _>>()?;
        Ok(Self { turn: turn % slots.len().max(1), slots, resets, events })
    }
}

impl Slot {
    fn is_live(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.is_gone())
    }

    fn has_packet(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::has_packet)
    }
}
