//! A descriptor chain, read once from guest memory and checked as a whole.
//!
//! Invariant: every span of a [`Chain`] is in RAM and not empty, readable ones come before writable ones, and all together are under 4 GiB.
//! The guest may change the table afterwards; nobody looks at it again.

use super::{Broken, Mem};
use virtio_bindings::virtio_ring::VRING_DESC_F_INDIRECT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

const DESCRIPTOR_LEN: u64 = 16;

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) addr: GuestAddress,
    pub(crate) len: u32,
}

/// What a driver gave to a device in one go.
#[derive(Debug)]
pub(crate) struct Chain {
    head: u16,
    spans: Vec<Span>,
    readable: usize,
    readable_len: u32,
    writable_len: u32,
}

/// Takes the next chain off a queue.
pub(crate) fn pop(queue: &mut Queue, mem: &Mem) -> Result<Option<Chain>, Broken> {
    let Some(head) = queue.iter(mem)?.next().map(|chain| chain.head_index()) else { return Ok(None) };
    Chain::walk(queue.desc_table(), queue.size(), head, mem).map(Some)
}

impl Chain {
    fn walk(table: u64, size: u16, head: u16, mem: &Mem) -> Result<Self, Broken> {
        let mut chain = Self { head, spans: Vec::with_capacity(4), readable: 0, readable_len: 0, writable_len: 0 };
        let mut index = head;
        for _ in 0..size {
            if index >= size {
                return Err(Broken::DescriptorIndex(index));
            }
            let at = table.checked_add(u64::from(index) * DESCRIPTOR_LEN).ok_or(Broken::DescriptorIndex(index))?;
            let descriptor: Descriptor = mem.read_obj(GuestAddress(at))?;
            chain.push(&descriptor, mem)?;
            if !descriptor.has_next() {
                return Ok(chain);
            }
            index = descriptor.next();
        }
        Err(Broken::ChainLoop)
    }

    fn push(&mut self, descriptor: &Descriptor, mem: &Mem) -> Result<(), Broken> {
        if u32::from(descriptor.flags()) & VRING_DESC_F_INDIRECT != 0 {
            return Err(Broken::Indirect);
        }
        let span = Span { addr: descriptor.addr(), len: descriptor.len() };
        if span.len == 0 {
            return Err(Broken::EmptyDescriptor);
        }
        if !mem.check_range(span.addr, span.len as usize, Permissions::ReadWrite) {
            return Err(Broken::BufferRange { addr: span.addr.0, len: span.len });
        }
        let total = if descriptor.is_write_only() {
            &mut self.writable_len
        } else if self.writable_len > 0 {
            return Err(Broken::Direction);
        } else {
            self.readable += 1;
            &mut self.readable_len
        };
        *total = total.checked_add(span.len).ok_or(Broken::ChainLength)?;
        self.readable_len.checked_add(self.writable_len).ok_or(Broken::ChainLength)?;
        self.spans.push(span);
        Ok(())
    }

    /// Index of its first descriptor, which names it in the used ring.
    pub(crate) fn head(&self) -> u16 {
        self.head
    }

    /// How many descriptors it takes in the table.
    pub(crate) fn descriptors(&self) -> usize {
        self.spans.len()
    }

    /// Bytes for the device to read.
    pub(crate) fn readable_len(&self) -> u32 {
        self.readable_len
    }

    /// Bytes for the device to write.
    pub(crate) fn writable_len(&self) -> u32 {
        self.writable_len
    }

    /// The part of the writable bytes from `from` to `to`, in pieces.
    pub(crate) fn writable(&self, from: u32, to: u32) -> impl Iterator<Item = Span> + '_ {
        cut(&self.spans[self.readable..], from, to)
    }

    /// Fills `out` from the readable bytes at `from`; all of them must be there.
    pub(crate) fn read(&self, mem: &Mem, from: u32, out: &mut [u8]) -> Result<(), Broken> {
        let to = end(from, out.len(), self.readable_len)?;
        let mut rest = out;
        for span in cut(&self.spans[..self.readable], from, to) {
            let (now, later) = rest.split_at_mut(span.len as usize);
            mem.read_slice(now, span.addr)?;
            rest = later;
        }
        Ok(())
    }

    /// Puts `bytes` at `from` of the writable bytes; there must be room.
    pub(crate) fn write(&self, mem: &Mem, from: u32, bytes: &[u8]) -> Result<(), Broken> {
        let to = end(from, bytes.len(), self.writable_len)?;
        let mut rest = bytes;
        for span in self.writable(from, to) {
            let (now, later) = rest.split_at(span.len as usize);
            mem.write_slice(now, span.addr)?;
            rest = later;
        }
        Ok(())
    }
}

fn end(from: u32, len: usize, have: u32) -> Result<u32, Broken> {
    let want = u32::try_from(len).ok().and_then(|len| from.checked_add(len)).unwrap_or(u32::MAX);
    if want > have { Err(Broken::PacketLength { have, want }) } else { Ok(want) }
}

fn cut(spans: &[Span], from: u32, to: u32) -> impl Iterator<Item = Span> + '_ {
    let mut start = 0u32;
    spans.iter().filter_map(move |span| {
        let (begin, end) = (start.max(from), (start + span.len).min(to));
        let skip = begin - start;
        start += span.len;
        (begin < end).then(|| Span { addr: GuestAddress(span.addr.0 + u64::from(skip)), len: end - begin })
    })
}
