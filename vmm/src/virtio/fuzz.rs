//! Bodies of the fuzz targets: bytes become a script of what a driver, the host and a snapshot do to a device.
//!
//! Whatever the script says, nothing may panic, and what a device holds stays under its bounds. Errors are answers like any other.

use super::blk::Blk;
use super::testing::{BUFFERS, Driver, EVENT_IDX, VERSION_1};
use super::vsock::packet::{self, Header};
use super::vsock::{GUEST_CID, Vsock, VsockEvent};
use super::{Device, Mem, MmioState, MmioTransport};
use std::fs::File;
use virtio_queue::Queue;
use vm_memory::{Bytes, GuestAddress};

const PORTS: [u32; 2] = [1024, 1025];
/// More than this must no script make a device's saved state: the vsock bounds for two ports, and some.
const MAX_STATE: usize = (3 * PORTS.len() * (256 << 10)) + (64 << 10);

/// Reads numbers off the script; zeros where it ends.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn number<const N: usize>(&mut self) -> [u8; N] {
        let mut number = [0; N];
        let len = self.0.len().min(N);
        let (now, later) = self.0.split_at(len);
        number[..len].copy_from_slice(now);
        self.0 = later;
        number
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.number())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.number())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }

    /// Mostly a small value, which gets further than any of four bytes.
    fn length(&mut self) -> u32 {
        match self.u8() {
            0xff => self.u32(),
            0xfe => u32::from(self.u16()),
            small => u32::from(small),
        }
    }

    /// Mostly in RAM.
    fn address(&mut self) -> u64 {
        match self.u8() {
            0xff => self.u64(),
            page => (u64::from(page) << 12) + u64::from(self.u8()),
        }
    }
}

/// What is special about a device.
trait Subject: Device {
    fn make(file: &File) -> Self;
    /// One step that only this device knows. `false`: the guest is dropped.
    fn step(driver: &mut Driver<Self>, script: &mut Script<'_>) -> bool
    where
        Self: Sized;
}

/// Anything to a disk.
pub fn blk(script: &[u8]) {
    run::<Blk>(script);
}

/// Anything to the socket.
pub fn vsock(script: &[u8]) {
    run::<Vsock>(script);
}

fn run<D: Subject>(script: &[u8]) {
    let Ok(file) = File::open("/dev/zero") else { return };
    let mut script = Script(script);
    let mut driver = Driver::new(D::make(&file));
    let features = if script.u8() & 1 == 0 { VERSION_1 | EVENT_IDX } else { VERSION_1 };
    if driver.start(features).is_err() {
        return;
    }
    while !script.0.is_empty() && step(&mut driver, &mut script, &file) {}
    let len = postcard::experimental::serialized_size(&driver.transport.save());
    assert!(len.is_ok_and(|len| len <= MAX_STATE), "a device's state grows without bound");
}

fn step<D: Subject>(driver: &mut Driver<D>, script: &mut Script<'_>, file: &File) -> bool {
    let kind = script.u8();
    let count = driver.queues.len();
    let at = usize::from(script.u8()) % count;
    let (mem, queue) = (&driver.mem, &mut driver.queues[at]);
    match kind % 12 {
        0 => {
            let (register, value) = (u32::from(script.u8()), script.u32());
            driver.write(register, value).is_ok()
        }
        1 => {
            let mut data = [0; 8];
            let (offset, len) = (u64::from(script.u16() % 0x200), usize::from(script.u8() % 9));
            driver.transport.read(offset, &mut data[..len]);
            true
        }
        2 => {
            let index = script.u16() % queue.size;
            queue.descriptor(mem, index, script.address(), script.length(), script.u16() % 8, script.u16());
            true
        }
        3 => {
            queue.offer(mem, script.u16());
            true
        }
        4 | 5 => {
            let count = 1 + script.u8() % 5;
            let writable = script.u8();
            let buffers: Vec<_> = (0..count).map(|i| (script.address(), script.length(), writable >> i & 1 != 0)).collect();
            queue.add(mem, &buffers);
            true
        }
        6 => driver.kick(at).is_ok(),
        7 => {
            queue.take_used(mem);
            driver.acknowledge();
            true
        }
        8 => {
            let (addr, value) = (script.address(), script.u64());
            let _ = mem.write_slice(&value.to_le_bytes(), GuestAddress(addr));
            true
        }
        9 => moved(driver, script, file),
        _ => D::step(driver, script),
    }
}

/// Save and restore, with up to two bytes of the snapshot changed. `false`: it was refused.
fn moved<D: Subject>(driver: &mut Driver<D>, script: &mut Script<'_>, file: &File) -> bool {
    let Ok(mut bytes) = postcard::to_stdvec(&driver.transport.save()) else { return false };
    for _ in 0..script.u8() % 3 {
        let at = usize::from(script.u16()) % bytes.len();
        bytes[at] = script.u8();
    }
    let Ok(state) = postcard::from_bytes::<MmioState<D::State>>(&bytes) else { return true };
    let mut transport = MmioTransport::new(D::make(file));
    let fine = transport.restore(state, &driver.mem).is_ok();
    driver.transport = transport;
    fine
}

impl Subject for Blk {
    fn make(file: &File) -> Self {
        Self::new(1 << 20, "fuzz", file.try_clone().ok())
    }

    fn step(driver: &mut Driver<Self>, script: &mut Script<'_>) -> bool {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&u32::from(script.u8() % 12).to_le_bytes());
        header[8..].copy_from_slice(&u64::from(script.u16()).to_le_bytes());
        driver.poke(BUFFERS, &header);
        driver.add(0, &[(BUFFERS, 16, false), (script.address(), script.length(), true), (BUFFERS + 32, 1, true)]);
        driver.kick(0).is_ok()
    }
}

impl Subject for Vsock {
    fn make(_file: &File) -> Self {
        Self::new(&PORTS)
    }

    fn step(driver: &mut Driver<Self>, script: &mut Script<'_>) -> bool {
        let port = PORTS[usize::from(script.u8() & 1)];
        let flush = |vsock: &mut Self, queues: &mut [Queue], mem: &Mem| vsock.flush_rx(queues, mem);
        match script.u8() % 5 {
            0 => {
                let device = driver.transport.device_mut();
                let (mut got, events) = (0, device.take_events());
                for event in &events {
                    got += if let VsockEvent::Data { bytes, .. } = event { bytes.len() } else { 0 };
                }
                assert!(got <= PORTS.len() * (256 << 10), "more than the credit for all ports");
                true
            }
            1 => {
                driver.transport.device_mut().consume(port, script.length() as usize);
                driver.transport.drive(&driver.mem, flush).is_ok()
            }
            2 => {
                let bytes = vec![0; usize::from(script.u16()) * 8];
                driver.transport.device_mut().send(port, &bytes);
                driver.transport.drive(&driver.mem, flush).is_ok()
            }
            3 => {
                for _ in 0..script.u8() % 32 {
                    driver.add(0, &[(BUFFERS, 4096, true)]);
                }
                driver.kick(0).is_ok()
            }
            _ => packet(driver, script, port),
        }
    }
}

/// A packet that is mostly well-formed.
fn packet(driver: &mut Driver<Vsock>, script: &mut Script<'_>, port: u32) -> bool {
    let odd = script.u8();
    let len = u32::from(script.u16());
    let header = Header {
        src_cid: if odd == 1 { script.u64() } else { GUEST_CID },
        dst_cid: if odd == 2 { script.u64() } else { packet::HOST_CID },
        src_port: u32::from(script.u8() & 1),
        dst_port: if odd == 3 { script.u32() } else { port },
        len: if odd == 4 { script.u32() } else { len },
        kind: if odd == 5 { script.u16() } else { packet::STREAM },
        op: u16::from(script.u8() % 9),
        flags: u32::from(script.u8()),
        buf_alloc: script.length() << (script.u8() % 16),
        fwd_cnt: script.length(),
    };
    driver.poke(BUFFERS + 0x8000, &header.bytes());
    driver.add(1, &[(BUFFERS + 0x8000, 44 + len, false)]);
    driver.kick(1).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn scripts_to_a_disk(script in prop::collection::vec(any::<u8>(), 0..600)) {
            super::blk(&script);
        }

        #[test]
        fn scripts_to_the_socket(script in prop::collection::vec(any::<u8>(), 0..600)) {
            super::vsock(&script);
        }
    }
}
