//! The guest's socket to the host: virtio-vsock with the host side in the monitor itself.
//!
//! ```text
//! guest --tx queue--> packet -> muxer -> connection -> events --take_events--> caller
//! guest <--rx queue-- packet <- muxer <- connection <------------------send--- caller
//! ```
//!
//! Bytes of the guest go to the caller at once; the guest gets credit for more when the caller says that it consumed them, so a caller that does
//! not read stops the guest. Bytes for the guest wait in a bounded buffer, for receive buffers and for the guest's credit; `send` says how
//! many it took. Nothing is lost or reset over save and restore.
//!
//! What a packet costs is the guest's kernel: an interrupt and a run of its work queue for each. So credit is told rarely, and used transmit
//! buffers are given back in bulk, when a part of the queue or some memory is taken by them: the driver does nothing with them but free them. So many are always
//! free that the driver can put its next packet in.

use super::chain;
use super::ring::wants_interrupt;
use super::{Broken, Device, Mem, RestoreError};
use muxer::Muxer;
use packet::{HEADER_LEN, Header};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_queue::{Queue, QueueT};

mod connection;
mod muxer;
pub(crate) mod packet;
#[cfg(test)]
mod tests;

pub use muxer::MAX_PORTS;

/// The address of the guest.
pub const GUEST_CID: u64 = 3;

const NAME: &str = "virtio-vsock";
const RX: usize = 0;
const TX: usize = 1;
/// Most bytes of data in a packet to the guest.
const MAX_DATA: u32 = 64 << 10;
/// This part of the transmit queue's descriptors may wait to be given back. The rest holds the largest packet of a Linux driver, 19 descriptors.
const HELD_PART: usize = 2;
/// As many bytes of the guest's memory may lie in buffers that wait to be given back, and what the last packet brought.
const HELD_BYTES: u32 = 64 << 10;

/// What the guest did, for the caller to act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VsockEvent {
    /// The guest connected to this port.
    Open {
        /// Of the host.
        port: u32,
    },
    /// Bytes came in. [`Vsock::consume`] them at some time.
    Data {
        /// Of the host.
        port: u32,
        /// At most the credit.
        bytes: Vec<u8>,
    },
    /// The guest sends no more on this port.
    Closed {
        /// Of the host.
        port: u32,
    },
}

impl VsockEvent {
    fn port(&self) -> u32 {
        match self {
            Self::Open { port } | Self::Data { port, .. } | Self::Closed { port } => *port,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data { bytes, .. } => bytes.len(),
            Self::Open { .. } | Self::Closed { .. } => 0,
        }
    }
}

/// What a snapshot keeps of the socket device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    muxer: Muxer,
    held: Held,
}

/// Transmit buffers that were read and are not yet given back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Held {
    heads: Vec<u16>,
    descriptors: usize,
    bytes: u32,
}

/// See the module.
#[derive(Debug)]
pub struct Vsock {
    muxer: Muxer,
    held: Held,
    data: Vec<u8>,
}

impl Vsock {
    /// Listens on these ports, at most [`MAX_PORTS`]; each takes one connection at a time.
    #[must_use]
    pub fn new(ports: &[u32]) -> Self {
        Self { muxer: Muxer::new(ports), held: Held::default(), data: Vec::new() }
    }

    /// Takes bytes for the guest on this port and says how many; try the others again when the guest kicked its queues. They go out with the next
    /// [`Self::flush_rx`]. Where nobody is connected any more, all are taken and dropped: an event has said so.
    pub fn send(&mut self, port: u32, bytes: &[u8]) -> usize {
        self.muxer.send(port, bytes)
    }

    /// The caller is done with `n` bytes that it got from this port. The guest may hear of it with the next [`Self::flush_rx`].
    pub fn consume(&mut self, port: u32, n: usize) {
        self.muxer.consume(port, n);
    }

    /// What happened since the last call. To be called after each access of the guest to the device.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<VsockEvent> {
        self.muxer.take_events()
    }

    /// Puts what is for the guest into its receive buffers. `true`: the driver wants an interrupt. Call it by
    /// [`MmioTransport::drive`](super::MmioTransport::drive).
    pub fn flush_rx(&mut self, queues: &mut [Queue], mem: &Mem) -> Result<bool, Broken> {
        let Some(queue) = queues.get_mut(RX).filter(|queue| queue.ready()) else { return Ok(false) };
        let mut filled = false;
        // The guest may run and fill the queue while this empties it; it can't make this go on for ever.
        for _ in 0..4 * u32::from(queue.size()) {
            if !self.muxer.has_packet() {
                break;
            }
            let Some(chain) = chain::pop(queue, mem)? else {
                // Only now a kick is of interest. When buffers came in between, go on.
                if queue.enable_notification(mem)? {
                    continue;
                }
                break;
            };
            if chain.readable_len() != 0 {
                return Err(Broken::Direction);
            }
            let (have, want) = (chain.writable_len(), HEADER_LEN + 1);
            if have < want {
                return Err(Broken::PacketLength { have, want });
            }
            let Some(header) = self.muxer.packet((have - HEADER_LEN).min(MAX_DATA), &mut self.data) else { break };
            chain.write(mem, 0, &header.bytes())?;
            chain.write(mem, HEADER_LEN, &self.data)?;
            queue.add_used(mem, chain.head(), HEADER_LEN + header.len)?;
            filled = true;
        }
        Ok(filled && wants_interrupt(queue, mem)?)
    }

    fn take_tx(&mut self, queue: &mut Queue, mem: &Mem) -> Result<bool, Broken> {
        for _ in 0..queue.size() {
            let Some(chain) = chain::pop(queue, mem)? else { break };
            if chain.writable_len() != 0 {
                return Err(Broken::Direction);
            }
            let have = chain.readable_len();
            if have < HEADER_LEN {
                return Err(Broken::PacketLength { have, want: HEADER_LEN });
            }
            let mut bytes = [0; HEADER_LEN as usize];
            chain.read(mem, 0, &mut bytes)?;
            let header = Header::parse(&bytes);
            if header.len > have - HEADER_LEN {
                return Err(Broken::PacketLength { have, want: HEADER_LEN.saturating_add(header.len) });
            }
            self.muxer.take(&header, |data| {
                let old = data.len();
                data.resize(old + header.len as usize, 0);
                chain.read(mem, HEADER_LEN, &mut data[old..])
            })?;
            self.held.heads.push(chain.head());
            self.held.descriptors += chain.descriptors();
            self.held.bytes = self.held.bytes.saturating_add(have);
        }
        // The vCPU stands still during a kick, so nothing comes in between the last look and this.
        queue.enable_notification(mem)?;
        if self.held.descriptors <= usize::from(queue.size()) / HELD_PART && self.held.bytes <= HELD_BYTES {
            return Ok(false);
        }
        for head in std::mem::take(&mut self.held).heads {
            queue.add_used(mem, head, 0)?;
        }
        wants_interrupt(queue, mem)
    }
}

impl Device for Vsock {
    type State = VsockState;

    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> &'static [u16] {
        // Receive, transmit, events. At boot the driver fills receive with a page for each entry, and puts 8 buffers in for events.
        &[32, 64, 8]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_bytes(&GUEST_CID.to_le_bytes(), offset, data);
    }

    fn activated(&mut self, _driver_features: u64) {}

    fn reset(&mut self) {
        self.muxer.reset();
        self.held = Held::default();
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], mem: &Mem) -> Result<bool, Broken> {
        let given_back = match queues.get_mut(queue) {
            Some(tx) if queue == TX => self.take_tx(tx, mem)?,
            // More receive buffers, or the event queue's: no event is ever sent.
            _ => false,
        };
        Ok(self.flush_rx(queues, mem)? || given_back)
    }

    fn save(&self) -> VsockState {
        VsockState { muxer: self.muxer.clone(), held: self.held.clone() }
    }

    fn restore(&mut self, state: VsockState) -> Result<(), RestoreError> {
        let max = usize::from(self.queue_max_sizes()[TX]);
        if state.held.heads.len() > max || state.held.descriptors > max {
            return Err(RestoreError::Impossible { device: NAME, what: "the number of its transmit buffers" });
        }
        self.muxer = self.muxer.restored(state.muxer)?;
        self.held = state.held;
        Ok(())
    }
}
