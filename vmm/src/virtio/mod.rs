//! The guest's devices: virtio over MMIO, a read-only disk and a stream socket to the host.
//!
//! ```text
//! vCPU exit -> mmio (registers, negotiation, status) -> Device::notify -> ring + chain (queues in guest memory)
//! ```
//!
//! Everything here runs in the thread that calls it, mostly the vCPU's: a kick is worked off before the guest goes on.
//! Invariant: whatever the guest puts in its memory or registers ends in an answer or in a [`GuestFault`]; nothing panics, and no
//! allocation grows with anything but the fixed limits of a device.

use serde::{Serialize, de::DeserializeOwned};
use virtio_queue::Queue;

pub mod blk;
mod chain;
mod fault;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod mmio;
mod ring;
#[cfg(any(test, feature = "fuzz"))]
pub mod testing;
pub mod vsock;

pub use fault::{Broken, GuestFault, RestoreError};
pub use mmio::{MmioState, MmioTransport};
pub use ring::QueueState;

/// Guest memory as devices see it.
pub type Mem = vm_memory::GuestMemoryMmap<()>;

/// What a device adds to its transport.
pub trait Device: Send {
    /// What a snapshot keeps of it.
    type State: Serialize + DeserializeOwned + Clone + Send;

    /// For messages: which device it is.
    fn name(&self) -> &'static str;
    /// Virtio device id.
    fn kind(&self) -> u32;
    /// Features beside those of the transport and the rings.
    fn features(&self) -> u64;
    /// Largest size of each queue, powers of two.
    fn queue_max_sizes(&self) -> &'static [u16];
    /// Reads configuration space. `data` is zeroed before; what is beyond the device's configuration stays so.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The driver is ready and may kick queues from now on.
    fn activated(&mut self, driver_features: u64);
    /// The driver wants to start over.
    fn reset(&mut self);
    /// The driver kicked this queue. `true`: the driver wants an interrupt for what was done.
    fn notify(&mut self, queue: usize, queues: &mut [Queue], mem: &Mem) -> Result<bool, Broken>;
    /// For a snapshot.
    fn save(&self) -> Self::State;
    /// From a snapshot. The state may be damaged or forged.
    fn restore(&mut self, state: Self::State) -> Result<(), RestoreError>;
}

/// Copies what `config` has at `offset` into `data`.
fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset).ok().and_then(|offset| config.get(offset..)).unwrap_or_default();
    data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
}
