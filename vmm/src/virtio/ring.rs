//! Where a driver put a queue, and whether that is allowed.
//!
//! ```text
//! registers (Setup) --QueueReady=1, checked--> ready Queue --reset--> empty Queue
//!                      saved QueueState --same checks--^
//! ```
//!
//! Invariant: a queue that is ready has a size that its device allows, and parts that are aligned, in RAM and apart from each other.

use super::{Broken, Mem};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

/// A queue's registers, as the driver wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) size: u32,
    pub(crate) descriptors: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// What a snapshot keeps of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    pub(crate) setup: Setup,
    pub(crate) ready: bool,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
}

type Part = (&'static str, u64, u64, u64);

impl Setup {
    fn parts(&self) -> [Part; 3] {
        let size = u64::from(self.size);
        [
            ("descriptor table", self.descriptors, 16 * size, 16),
            ("available ring", self.avail, 6 + 2 * size, 2),
            ("used ring", self.used, 6 + 8 * size, 4),
        ]
    }

    /// Checks what the driver wrote and makes the queue ready. `others` are the setups of the device's queues that are ready.
    pub(crate) fn start<'a>(
        &self,
        index: usize,
        queue: &mut Queue,
        others: impl Iterator<Item = &'a Self>,
        event_idx: bool,
        mem: &Mem,
    ) -> Result<(), Broken> {
        let max = queue.max_size();
        let size = u16::try_from(self.size).ok().filter(|size| size.is_power_of_two() && *size <= max).ok_or(Broken::QueueSize {
            queue: index,
            size: self.size,
            max,
        })?;
        let mut taken: Vec<Part> = others.flat_map(Self::parts).collect();
        for part in self.parts() {
            let (name, addr, len, align) = part;
            if addr % align != 0 {
                return Err(Broken::QueueAlign { queue: index, part: name, addr });
            }
            let bytes = usize::try_from(len).unwrap_or(usize::MAX);
            if addr == 0 || !mem.check_range(GuestAddress(addr), bytes, Permissions::ReadWrite) {
                return Err(Broken::QueueRange { queue: index, part: name, addr });
            }
            if taken.iter().any(|(_, other, other_len, _)| addr < other + other_len && *other < addr + len) {
                return Err(Broken::QueueOverlap { queue: index, part: name, addr });
            }
            taken.push(part);
        }
        queue.reset();
        queue.try_set_size(size)?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors))?;
        queue.try_set_avail_ring_address(GuestAddress(self.avail))?;
        queue.try_set_used_ring_address(GuestAddress(self.used))?;
        queue.set_event_idx(event_idx);
        queue.set_ready(true);
        Ok(())
    }
}

/// Whether the driver wants an interrupt for what was put in the used ring since the last time that this was asked.
pub(crate) fn wants_interrupt(queue: &mut Queue, mem: &Mem) -> Result<bool, Broken> {
    if queue.event_idx_enabled() {
        return Ok(queue.needs_notification(mem)?);
    }
    let flags: u16 = mem.load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)?;
    Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
}
