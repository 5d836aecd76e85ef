//! Why a guest is dropped, and why a saved device is refused.

/// A guest broke the rules of one of its devices. Its kernel is hostile or out of its mind; there is nothing to answer it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{device}: {why}")]
pub struct GuestFault {
    /// Which device.
    pub device: &'static str,
    /// What it did.
    pub why: Broken,
}

/// A rule that a guest broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Status bits were cleared without a reset, set out of order, or do not exist.
    #[error("device status {from:#x} changed to {to:#x}")]
    Status {
        /// Status before.
        from: u32,
        /// Status written.
        to: u32,
    },
    /// A register was written when it may not be.
    #[error("register {0:#x} written at the wrong time")]
    Register(u64),
    /// A kick for a queue that does not exist or is not ready.
    #[error("kick of queue {0}, which is not ready")]
    Kick(u32),
    /// A queue's size is not a power of two, or too large.
    #[error("queue {queue} of {size} entries, at most {max} and a power of two allowed")]
    QueueSize {
        /// Which.
        queue: usize,
        /// What was asked for.
        size: u32,
        /// What the device allows.
        max: u16,
    },
    /// A part of a queue is misaligned.
    #[error("{part} of queue {queue} at {addr:#x} is not aligned")]
    QueueAlign {
        /// Which queue.
        queue: usize,
        /// Which of its parts.
        part: &'static str,
        /// Where it was put.
        addr: u64,
    },
    /// A part of a queue is not in RAM.
    #[error("{part} of queue {queue} at {addr:#x} is not in RAM")]
    QueueRange {
        /// Which queue.
        queue: usize,
        /// Which of its parts.
        part: &'static str,
        /// Where it was put.
        addr: u64,
    },
    /// Parts of queues overlap.
    #[error("{part} of queue {queue} at {addr:#x} overlaps another part of a queue")]
    QueueOverlap {
        /// Which queue.
        queue: usize,
        /// Which of its parts.
        part: &'static str,
        /// Where it was put.
        addr: u64,
    },
    /// More chains were announced than a queue can hold.
    #[error("available index announces more than the queue holds")]
    AvailIndex,
    /// Guest memory that was checked before could not be touched.
    #[error("guest memory: {0}")]
    Memory(String),
    /// A descriptor index is beyond the table.
    #[error("descriptor {0} is beyond the table")]
    DescriptorIndex(u16),
    /// A chain has more descriptors than the table: it is a loop.
    #[error("descriptor chain is a loop")]
    ChainLoop,
    /// An indirect descriptor, which was not offered.
    #[error("indirect descriptor without the feature")]
    Indirect,
    /// A descriptor of no bytes.
    #[error("descriptor of no bytes")]
    EmptyDescriptor,
    /// A buffer is not in RAM.
    #[error("buffer of {len} bytes at {addr:#x} is not in RAM")]
    BufferRange {
        /// Where.
        addr: u64,
        /// How long.
        len: u32,
    },
    /// A chain of 4 GiB or more.
    #[error("descriptor chain is longer than 4 GiB")]
    ChainLength,
    /// A buffer to read after one to write, or a buffer of the wrong direction.
    #[error("buffer of the wrong direction")]
    Direction,
    /// A request without room for its status.
    #[error("request without room for its status")]
    NoStatus,
    /// A packet buffer is too small, or smaller than the packet says.
    #[error("packet buffer of {have} bytes, {want} needed")]
    PacketLength {
        /// Bytes in the chain.
        have: u32,
        /// Bytes needed.
        want: u32,
    },
    /// A packet with another source than the guest's address.
    #[error("packet from address {0}, which is not the guest's")]
    SourceAddress(u64),
    /// More data than the host gave credit for.
    #[error("{sent} bytes sent on a connection, {credit} allowed")]
    CreditExceeded {
        /// What came.
        sent: u32,
        /// What was left.
        credit: u32,
    },
    /// The guest says that it took more than it was sent.
    #[error("guest says that it took {claimed} bytes more, of {outstanding} sent")]
    CreditClaim {
        /// By its word.
        claimed: u32,
        /// Sent and not yet acknowledged.
        outstanding: u32,
    },
}

impl From<vm_memory::GuestMemoryError> for Broken {
    fn from(error: vm_memory::GuestMemoryError) -> Self {
        Self::Memory(error.to_string())
    }
}

impl From<virtio_queue::Error> for Broken {
    fn from(error: virtio_queue::Error) -> Self {
        match error {
            virtio_queue::Error::InvalidAvailRingIndex => Self::AvailIndex,
            other => Self::Memory(other.to_string()),
        }
    }
}

/// Why a saved device is refused. The snapshot is damaged, forged or of another machine; take another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The saved queues break the rules for queues.
    #[error("saved {device}: {why}")]
    Queue {
        /// Which device.
        device: &'static str,
        /// Which rule.
        why: Broken,
    },
    /// Another device, or another build of it.
    #[error("saved {device}: {what} does not fit this machine's device")]
    Mismatch {
        /// Which device.
        device: &'static str,
        /// What differs.
        what: &'static str,
    },
    /// Values that no device ever has.
    #[error("saved {device}: {what} is not possible")]
    Impossible {
        /// Which device.
        device: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}
