//! The other side of a device, for tests and fuzz targets: guest memory, and a driver that follows the rules or breaks them as it is told.

#![allow(clippy::unwrap_used, missing_docs)]

use super::{Device, GuestFault, Mem, MmioTransport};
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of guest memory.
pub const RAM: usize = 1 << 20;
/// Where buffers of tests begin; queues are below.
pub const BUFFERS: u64 = 0x1_0000;

/// Descriptor flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

const QUEUE_SPACE: u64 = 0x2000;
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
/// VERSION_1.
pub const VERSION_1: u64 = 1 << 32;
/// RING_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;

/// A buffer: address, length, whether the device writes it.
pub type Buffer = (u64, u32, bool);

/// A driver's view of a queue.
#[derive(Debug, Clone)]
pub struct DriverQueue {
    pub descriptors: u64,
    pub avail: u64,
    pub used: u64,
    pub size: u16,
    pub next_descriptor: u16,
    pub next_avail: u16,
    pub seen_used: u16,
}

impl DriverQueue {
    fn at(index: usize, size: u16) -> Self {
        let descriptors = 0x1000 + QUEUE_SPACE * index as u64;
        let (avail, used) = (descriptors + 0x1000, descriptors + 0x1800);
        Self { descriptors, avail, used, size, next_descriptor: 0, next_avail: 0, seen_used: 0 }
    }

    /// Writes one descriptor, whatever it says.
    pub fn descriptor(&self, mem: &Mem, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let at = GuestAddress(self.descriptors + 16 * u64::from(index % self.size));
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        mem.write_slice(&bytes, at).unwrap();
    }

    /// Puts a chain's head in the available ring, whatever it is.
    pub fn offer(&mut self, mem: &Mem, head: u16) {
        let slot = self.avail + 4 + 2 * u64::from(self.next_avail % self.size);
        mem.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.next_avail = self.next_avail.wrapping_add(1);
        mem.write_obj(self.next_avail.to_le(), GuestAddress(self.avail + 2)).unwrap();
    }

    /// Puts a proper chain in.
    pub fn add(&mut self, mem: &Mem, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (i, (addr, len, write)) in buffers.iter().enumerate() {
            let next = (self.next_descriptor + 1) % self.size;
            let more = if i + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(mem, self.next_descriptor, *addr, *len, more | if *write { WRITE } else { 0 }, next);
            self.next_descriptor = next;
        }
        self.offer(mem, head);
        head
    }

    /// What the device gave back since the last look: head and length. Asks for an interrupt for the next.
    pub fn take_used(&mut self, mem: &Mem) -> Vec<(u32, u32)> {
        let index: u16 = mem.read_obj(GuestAddress(self.used + 2)).unwrap();
        let mut used = Vec::new();
        while self.seen_used != index && used.len() <= usize::from(self.size) {
            let slot = self.used + 4 + 8 * u64::from(self.seen_used % self.size);
            let id: u32 = mem.read_obj(GuestAddress(slot)).unwrap();
            let len: u32 = mem.read_obj(GuestAddress(slot + 4)).unwrap();
            used.push((id, len));
            self.seen_used = self.seen_used.wrapping_add(1);
        }
        mem.write_obj(self.seen_used.to_le(), GuestAddress(self.avail + 4 + 2 * u64::from(self.size))).unwrap();
        used
    }

    /// From which index on the device wants a kick.
    pub fn avail_event(&self, mem: &Mem) -> u16 {
        mem.read_obj(GuestAddress(self.used + 4 + 8 * u64::from(self.size))).unwrap()
    }
}

/// A driver and its device.
#[derive(Debug)]
pub struct Driver<D> {
    pub mem: Mem,
    pub transport: MmioTransport<D>,
    pub queues: Vec<DriverQueue>,
}

impl<D: Device> Driver<D> {
    /// A device after power-on.
    pub fn new(device: D) -> Self {
        let mem = Mem::from_ranges(&[(GuestAddress(0), RAM)]).unwrap();
        let sizes = device.queue_max_sizes().to_vec();
        let queues = sizes.iter().enumerate().map(|(i, size)| DriverQueue::at(i, *size)).collect();
        Self { mem, transport: MmioTransport::new(device), queues }
    }

    /// A device whose driver is ready.
    pub fn started(device: D) -> Self {
        let mut driver = Self::new(device);
        driver.start(VERSION_1 | EVENT_IDX).unwrap();
        driver
    }

    pub fn read(&mut self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(u64::from(register), &mut data);
        u32::from_le_bytes(data)
    }

    pub fn write(&mut self, register: u32, value: u32) -> Result<bool, GuestFault> {
        self.transport.write(&self.mem, u64::from(register), &value.to_le_bytes())
    }

    /// Everything that a driver does before its device runs, with these features beside the device's own.
    pub fn start(&mut self, features: u64) -> Result<(), GuestFault> {
        self.negotiate(features)?;
        for index in 0..self.queues.len() {
            self.queues[index] = DriverQueue::at(index, self.queues[index].size);
            let queue = self.queues[index].clone();
            let rings = usize::try_from(QUEUE_SPACE).unwrap();
            self.mem.write_slice(&vec![0; rings], GuestAddress(queue.descriptors)).unwrap();
            self.set_up_queue(index, &queue)?;
        }
        self.write(reg::VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)?;
        Ok(())
    }

    /// From reset to features that the device took.
    pub fn negotiate(&mut self, features: u64) -> Result<(), GuestFault> {
        let features = features | self.transport.device().features();
        self.write(reg::VIRTIO_MMIO_STATUS, 0)?;
        self.write(reg::VIRTIO_MMIO_STATUS, ACKNOWLEDGE)?;
        self.write(reg::VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER)?;
        for (select, half) in [(0, features & u64::from(u32::MAX)), (1, features >> 32)] {
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select)?;
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, u32::try_from(half).unwrap())?;
        }
        self.write(reg::VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK)?;
        Ok(())
    }

    /// Tells the device where a queue is.
    pub fn set_up_queue(&mut self, index: usize, queue: &DriverQueue) -> Result<(), GuestFault> {
        let halves = |value: u64| (u32::try_from(value & u64::from(u32::MAX)).unwrap(), u32::try_from(value >> 32).unwrap());
        self.write(reg::VIRTIO_MMIO_QUEUE_SEL, u32::try_from(index).unwrap())?;
        self.write(reg::VIRTIO_MMIO_QUEUE_NUM, u32::from(queue.size))?;
        for (low, high, value) in [
            (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, reg::VIRTIO_MMIO_QUEUE_DESC_HIGH, queue.descriptors),
            (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH, queue.avail),
            (reg::VIRTIO_MMIO_QUEUE_USED_LOW, reg::VIRTIO_MMIO_QUEUE_USED_HIGH, queue.used),
        ] {
            let (low_half, high_half) = halves(value);
            self.write(low, low_half)?;
            self.write(high, high_half)?;
        }
        self.write(reg::VIRTIO_MMIO_QUEUE_READY, 1)?;
        Ok(())
    }

    /// Puts a proper chain in a queue.
    pub fn add(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        self.queues[queue].add(&self.mem, buffers)
    }

    pub fn kick(&mut self, queue: usize) -> Result<bool, GuestFault> {
        self.write(reg::VIRTIO_MMIO_QUEUE_NOTIFY, u32::try_from(queue).unwrap())
    }

    /// Reads and acknowledges the interrupt status, as a handler does.
    pub fn acknowledge(&mut self) -> u32 {
        let status = self.read(reg::VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(reg::VIRTIO_MMIO_INTERRUPT_ACK, status).unwrap();
        status
    }

    pub fn take_used(&mut self, queue: usize) -> Vec<(u32, u32)> {
        self.queues[queue].take_used(&self.mem)
    }

    pub fn peek(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub fn poke(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }
}
