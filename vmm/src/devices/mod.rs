//! All devices of a VM and where they sit on its buses.
//!
//! The vCPU thread calls in here at each exit, the event loop when bytes for the guest arrive; one lock around [`Devices`] keeps
//! them apart. A device works at once, in the thread that touched it: no hand-over, no event descriptor whose removal would cost milliseconds.
//!
//! Invariant: a line is low whenever the lock is free. An interrupt is an edge, and a line that one thread has raised and not yet lowered gives the
//! other none: the guest would never hear of what that one did, nor, as its status register then says that it was told, of anything after it.

pub mod console;
pub mod door;

use crate::error::VmmError;
use crate::layout::{CODE_DISK, I8042_PORT, SERIAL_IRQ, SERIAL_PORT, VIRTIO_BASE, VIRTIO_IRQ, VIRTIO_SIZE};
use crate::memory::GuestMemory;
use crate::virtio::blk::Blk;
use crate::virtio::mmio::{MmioState, MmioTransport};
use crate::virtio::vsock::{Vsock, VsockEvent};
use crate::virtio::{Device, GuestFault, RestoreError};
use console::Console;
use door::{Door, Touch};
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use std::fs::File;
use torpor_protocol::agent::VSOCK_PORT;
use torpor_protocol::door as layout;
use torpor_protocol::monitor::StopReason;

/// virtio-mmio devices, in the order of their addresses and interrupts.
pub const VIRTIO_DEVICES: u64 = 3;
const VSOCK: u64 = 0;
const ROOT: u64 = 1;
const CODE: u64 = 2;
const RESET: u8 = 0xfe;
/// Capacity of the root disk that the guest sees when it has none yet: a restore brings the real one.
const NO_DISK: u64 = 0;

/// Interrupt lines to pulse after a call, before the lock that it was made under is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lines(u32);

impl Lines {
    const fn none() -> Self {
        Self(0)
    }

    fn add(&mut self, irq: u32) {
        self.0 |= 1 << irq;
    }

    /// Raises and lowers each line: all are edge-triggered. `held`: only who holds the lock may.
    pub fn pulse(self, held: &Devices, vm: &VmFd) -> Result<(), VmmError> {
        self.edges(held, |irq, level| vm.set_irq_line(irq, level).map_err(VmmError::kvm("KVM_IRQ_LINE")))
    }

    fn edges(self, _held: &Devices, mut set: impl FnMut(u32, bool) -> Result<(), VmmError>) -> Result<(), VmmError> {
        for irq in (0..u32::BITS).filter(|irq| self.0 & (1 << irq) != 0) {
            set(irq, true)?;
            set(irq, false)?;
        }
        Ok(())
    }
}

/// See the module.
pub struct Devices {
    /// Guest memory.
    pub memory: GuestMemory,
    /// The serial port.
    pub console: Console,
    /// The door.
    pub door: Door,
    vsock: MmioTransport<Vsock>,
    root: MmioTransport<Blk>,
    code: MmioTransport<Blk>,
}

/// What a snapshot keeps of [`Devices`]. Disks' contents are not part of it: they come as descriptors.
#[derive(Serialize, Deserialize)]
pub struct DevicesState {
    door: Door,
    vsock: MmioState<<Vsock as Device>::State>,
    root: MmioState<<Blk as Device>::State>,
    code: MmioState<<Blk as Device>::State>,
}

impl Devices {
    /// Devices as they are before a kernel knows them.
    #[must_use]
    pub fn new(memory: GuestMemory, copy_console: bool) -> Self {
        Self {
            memory,
            console: Console::new(copy_console),
            door: Door::default(),
            vsock: MmioTransport::new(Vsock::new(&[VSOCK_PORT])),
            root: MmioTransport::new(Blk::new(NO_DISK, "root", None)),
            code: MmioTransport::new(Blk::new(CODE_DISK, "code", None)),
        }
    }

    /// Puts the root disk in, before boot or restore.
    pub fn set_root(&mut self, root: File) -> Result<(), VmmError> {
        let bytes = root.metadata().map_err(VmmError::io("reading the root disk's size"))?.len();
        let disk = Blk::new(bytes, "root", Some(root));
        self.root = MmioTransport::new(disk);
        Ok(())
    }

    /// Puts a code disk in, or takes it out.
    pub fn set_code(&mut self, code: Option<File>) {
        self.code.device_mut().set_backing(code);
    }

    /// For a snapshot.
    #[must_use]
    pub fn save(&self) -> DevicesState {
        DevicesState { door: self.door.clone(), vsock: self.vsock.save(), root: self.root.save(), code: self.code.save() }
    }

    /// From a snapshot. Guest memory must be that of the snapshot already: queues are checked against it.
    /// Gives the lines of interrupts that the guest has not seen yet.
    pub fn restore(&mut self, state: DevicesState) -> Result<Lines, RestoreError> {
        let mem = &self.memory.mem;
        self.door = state.door;
        self.vsock.restore(state.vsock, mem)?;
        self.root.restore(state.root, mem)?;
        self.code.restore(state.code, mem)?;
        let mut lines = Lines::none();
        let pending = [self.vsock.needs_interrupt(), self.root.needs_interrupt(), self.code.needs_interrupt()];
        for (slot, _) in (0..).zip(pending).filter(|(_, pending)| *pending) {
            lines.add(irq_of(slot));
        }
        Ok(lines)
    }

    /// A read of memory that is not RAM.
    pub fn mmio_read(&mut self, address: u64, data: &mut [u8]) -> Touch {
        if let Some(offset) = door_offset(address) {
            return self.door.read(&self.memory, offset, data);
        }
        match virtio_slot(address) {
            Some((VSOCK, offset)) => self.vsock.read(offset, data),
            Some((ROOT, offset)) => self.root.read(offset, data),
            Some((CODE, offset)) => self.code.read(offset, data),
            _ => data.fill(0xff),
        }
        Touch::Done
    }

    /// A write to memory that is not RAM.
    pub fn mmio_write(&mut self, address: u64, data: &[u8]) -> Result<(Touch, Lines), StopReason> {
        let mut lines = Lines::none();
        if let Some(offset) = door_offset(address) {
            return Ok((self.door.write(&self.memory, offset, data)?, lines));
        }
        let Some((slot, offset)) = virtio_slot(address) else { return Ok((Touch::Done, lines)) };
        let mem = &self.memory.mem;
        let raise = match slot {
            VSOCK => self.vsock.write(mem, offset, data),
            ROOT => self.root.write(mem, offset, data),
            _ => self.code.write(mem, offset, data),
        };
        if raise.map_err(dropped)? {
            lines.add(irq_of(slot));
        }
        Ok((Touch::Done, lines))
    }

    /// A port read.
    pub fn port_read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        let Some(first) = data.first_mut() else { return };
        if let Some(offset) = serial_offset(port) {
            *first = self.console.read(offset);
        } else if port == I8042_PORT {
            *first = 0;
        }
    }

    /// A port write.
    pub fn port_write(&mut self, port: u16, data: &[u8]) -> (Touch, Lines) {
        let mut lines = Lines::none();
        let Some(value) = data.first().copied() else { return (Touch::Done, lines) };
        if let Some(offset) = serial_offset(port) {
            if self.console.write(offset, value) {
                lines.add(SERIAL_IRQ);
            }
        } else if port == I8042_PORT && value == RESET {
            return (Touch::Stop(StopReason::Reboot), lines);
        }
        (Touch::Done, lines)
    }

    /// Bytes for the agent's connection. Gives how many were taken and the lines to pulse.
    pub fn vsock_send(&mut self, bytes: &[u8]) -> Result<(usize, Lines), StopReason> {
        let taken = self.vsock.device_mut().send(VSOCK_PORT, bytes);
        Ok((taken, self.vsock_flush()?))
    }

    /// The daemon took `n` bytes of the agent's: gives the guest credit for more.
    pub fn vsock_consumed(&mut self, n: usize) -> Result<Lines, StopReason> {
        self.vsock.device_mut().consume(VSOCK_PORT, n);
        self.vsock_flush()
    }

    fn vsock_flush(&mut self) -> Result<Lines, StopReason> {
        let mut lines = Lines::none();
        let flushed = self.vsock.drive(&self.memory.mem, |vsock, queues, mem| vsock.flush_rx(queues, mem));
        if flushed.map_err(dropped)? {
            lines.add(irq_of(VSOCK));
        }
        Ok(lines)
    }

    /// What the agent's connection brought since the last call.
    pub fn vsock_events(&mut self) -> Vec<VsockEvent> {
        self.vsock.device_mut().take_events()
    }
}

fn dropped(fault: GuestFault) -> StopReason {
    StopReason::GuestFault { device: fault.device.to_owned(), why: fault.why.to_string() }
}

fn irq_of(slot: u64) -> u32 {
    VIRTIO_IRQ + u32::try_from(slot).unwrap_or(0)
}

fn door_offset(address: u64) -> Option<u64> {
    address.checked_sub(layout::KERNEL_REGS).filter(|offset| *offset < 2 * layout::PAGE)
}

fn virtio_slot(address: u64) -> Option<(u64, u64)> {
    let offset = address.checked_sub(VIRTIO_BASE)?;
    let slot = offset / VIRTIO_SIZE;
    (slot < VIRTIO_DEVICES).then_some((slot, offset % VIRTIO_SIZE))
}

fn serial_offset(port: u16) -> Option<u8> {
    port.checked_sub(SERIAL_PORT).filter(|offset| *offset < 8).and_then(|offset| u8::try_from(offset).ok())
}

impl Lines {
    /// The serial port's.
    #[must_use]
    pub const fn serial() -> Self {
        Self(1 << SERIAL_IRQ)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::machine::lock;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    /// A thread is stopped between the two halves of its edge, which a busy host does; the other has an interrupt for the guest meanwhile.
    #[test]
    fn two_threads_give_two_edges_of_one_line_however_they_meet() {
        let devices = Arc::new(Mutex::new(Devices::new(GuestMemory::new(64).unwrap(), false)));
        let levels = Arc::new(Mutex::new(Vec::new()));
        let (is_high, high) = channel();
        let other = std::thread::spawn({
            let (devices, levels) = (Arc::clone(&devices), Arc::clone(&levels));
            move || {
                high.recv().unwrap();
                let held = lock(&devices);
                let note = |irq, level| {
                    levels.lock().unwrap().push((irq, level));
                    Ok(())
                };
                Lines::serial().edges(&held, note).unwrap();
            }
        });
        let held = lock(&devices);
        let slow = |irq, level| {
            levels.lock().unwrap().push((irq, level));
            if level {
                is_high.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        };
        Lines::serial().edges(&held, slow).unwrap();
        drop(held);
        other.join().unwrap();
        assert_eq!(*levels.lock().unwrap(), [true, false, true, false].map(|level| (SERIAL_IRQ, level)));
    }
}
