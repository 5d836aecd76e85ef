#![allow(clippy::unwrap_used)]
use super::*;
use crate::virtio::GuestFault;
use crate::virtio::testing::{BUFFERS, Driver, INDIRECT, NEXT, RAM, WRITE};
use proptest::prelude::*;
use std::io::Write;

const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from((at * 31 + at / 512) % 251).unwrap()).collect()
}

fn disk(capacity: u64, contents: &[u8]) -> Driver<Blk> {
    Driver::started(Blk::new(capacity, "a serial number of over twenty bytes", Some(file(contents))))
}

fn header(driver: &Driver<Blk>, kind: u32, sector: u64) {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    driver.poke(BUFFERS, &bytes);
}

/// Status and used length of a request with one buffer of this length.
fn request(driver: &mut Driver<Blk>, kind: u32, sector: u64, len: u32) -> (u8, u32) {
    header(driver, kind, sector);
    driver.poke(STATUS, &[0xff]);
    let mut buffers = vec![(BUFFERS, 16, false)];
    if len > 0 {
        buffers.push((DATA, len, kind != VIRTIO_BLK_T_OUT));
    }
    buffers.push((STATUS, 1, true));
    let head = driver.add(0, &buffers);
    driver.kick(0).unwrap();
    let used = driver.take_used(0);
    assert_eq!(used.len(), 1);
    assert_eq!(used[0].0, u32::from(head));
    (driver.peek(STATUS, 1)[0], used[0].1)
}

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

#[test]
fn reads_what_the_file_has() {
    let contents = pattern(64 << 10);
    let mut driver = disk(64 << 10, &contents);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 3, 4096), (OK, 4097));
    assert_eq!(driver.peek(DATA, 4096), contents[3 * 512..][..4096]);
    // The last sector, and nothing beyond it.
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 127, 512), (OK, 513));
    assert_eq!(driver.peek(DATA, 512), contents[127 * 512..]);
    for (sector, len) in [(127, 1024), (128, 512), (u64::MAX, 512), (u64::MAX / 512, 512), (0, 511), (0, 513)] {
        assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, sector, len), (IOERR, 1), "{sector} {len}");
    }
}

#[test]
fn reads_into_many_buffers_and_from_a_split_header() {
    let contents = pattern(8192);
    let mut driver = disk(8192, &contents);
    header(&driver, VIRTIO_BLK_T_IN, 1);
    let pieces = [(DATA, 1, true), (DATA + 0x5000, 1000, true), (DATA + 0x2000, 23, true)];
    let mut buffers = vec![(BUFFERS, 3, false), (BUFFERS + 3, 13, false)];
    buffers.extend(pieces);
    buffers.push((STATUS, 1, true));
    driver.add(0, &buffers);
    assert!(driver.kick(0).unwrap());
    assert_eq!(driver.take_used(0), [(0, 1025)]);
    let got: Vec<u8> = pieces.iter().flat_map(|(addr, len, _)| driver.peek(*addr, *len as usize)).collect();
    assert_eq!(got, contents[512..1536]);
}

#[test]
fn the_status_may_share_a_buffer_with_data() {
    let contents = pattern(1024);
    let mut driver = disk(1024, &contents);
    header(&driver, VIRTIO_BLK_T_IN, 1);
    driver.poke(DATA, &[0xff; 513]);
    driver.add(0, &[(BUFFERS, 16, false), (DATA, 513, true)]);
    driver.kick(0).unwrap();
    assert_eq!(driver.peek(DATA, 512), contents[512..]);
    assert_eq!(driver.peek(DATA + 512, 1), [OK]);
}

#[test]
fn beyond_the_file_are_zeros_and_files_can_be_changed() {
    let mut driver = disk(16 << 10, &[7; 700]);
    driver.poke(DATA, &[0xff; 4096]);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 1, 4096), (OK, 4097));
    let mut expected = vec![0; 4096];
    expected[..188].fill(7);
    assert_eq!(driver.peek(DATA, 4096), expected);
    driver.transport.device_mut().set_backing(None);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 0, 4096), (OK, 4097));
    assert_eq!(driver.peek(DATA, 4096), [0; 4096]);
    driver.transport.device_mut().set_backing(Some(file(&[9; 512])));
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 0, 512), (OK, 513));
    assert_eq!(driver.peek(DATA, 512), [9; 512]);
}

#[test]
fn a_file_that_can_not_be_read_is_an_error_of_the_disk() {
    let mut driver = disk(512, &[]);
    let folder = File::open(std::env::temp_dir()).unwrap();
    driver.transport.device_mut().set_backing(Some(folder));
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 0, 512), (IOERR, 1));
}

#[test]
fn other_requests() {
    let mut driver = disk(1024, &[]);
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_OUT, 0, 512), (IOERR, 1));
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_FLUSH, 0, 0), (OK, 1));
    assert_eq!(request(&mut driver, 77, 0, 512), (UNSUPP, 1));
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, 20), (OK, 21));
    assert_eq!(driver.peek(DATA, 20), b"a serial number of o");
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_GET_ID, 0, 4), (OK, 5));
    // No data at all is a read of no sectors.
    assert_eq!(request(&mut driver, VIRTIO_BLK_T_IN, 0, 0), (OK, 1));
    // A header that is cut off still gets its status.
    driver.add(0, &[(BUFFERS, 15, false), (STATUS, 1, true)]);
    driver.kick(0).unwrap();
    assert_eq!(driver.peek(STATUS, 1), [IOERR]);
}

#[test]
fn a_request_has_a_largest_size() {
    // Buffers may lie over each other, so a small guest could ask for very much.
    let mut driver = disk(1 << 30, &[]);
    header(&driver, VIRTIO_BLK_T_IN, 0);
    let mut buffers = vec![(BUFFERS, 16, false)];
    buffers.extend([(BUFFERS + 0x8000, 512 << 10, true); 10]);
    buffers.push((STATUS, 1, true));
    driver.add(0, &buffers);
    driver.kick(0).unwrap();
    assert_eq!(driver.peek(STATUS, 1), [IOERR]);
}

#[test]
fn configuration() {
    let mut driver = disk(3 * 512 + 100, &[]);
    let mut config = [0xff; 24];
    driver.transport.read(0x100, &mut config);
    assert_eq!(config[..8], 3u64.to_le_bytes());
    assert_eq!(config[8..12], (64u32 << 10).to_le_bytes());
    assert_eq!(config[12..16], 62u32.to_le_bytes());
    assert_eq!(config[16..], [0; 8]);
    let mut one = [0xff];
    driver.transport.read(u64::MAX, &mut one);
    assert_eq!(one, [0]);
}

/// A chain of raw descriptors: address, length, flags, next.
fn broken(descriptors: &[(u64, u32, u16, u16)]) -> Result<bool, GuestFault> {
    let mut driver = disk(1 << 20, &[]);
    header(&driver, VIRTIO_BLK_T_IN, 0);
    for (index, (addr, len, flags, next)) in (0..).zip(descriptors) {
        driver.queues[0].descriptor(&driver.mem, index, *addr, *len, *flags, *next);
    }
    let (mem, queue) = (&driver.mem, &mut driver.queues[0]);
    queue.offer(mem, 0);
    driver.kick(0)
}

#[test]
fn chains_that_break_the_rules_drop_the_guest() {
    let ram = RAM as u64;
    let head = (BUFFERS, 16, NEXT, 1);
    for (descriptors, why) in [
        (vec![(BUFFERS, 16, NEXT, 0)], Broken::ChainLoop),
        (vec![head, (DATA, 512, NEXT | WRITE, 1)], Broken::ChainLoop),
        (vec![head, (DATA, 512, NEXT | WRITE, 64)], Broken::DescriptorIndex(64)),
        (vec![head, (DATA, 512, INDIRECT, 0)], Broken::Indirect),
        (vec![head, (DATA, 0, WRITE, 0)], Broken::EmptyDescriptor),
        (vec![head, (ram - 8, 16, WRITE, 0)], Broken::BufferRange { addr: ram - 8, len: 16 }),
        (vec![head, (u64::MAX, 2, WRITE, 0)], Broken::BufferRange { addr: u64::MAX, len: 2 }),
        (vec![head, (0, u32::MAX, WRITE, 0)], Broken::BufferRange { addr: 0, len: u32::MAX }),
        (vec![head, (DATA, 512, WRITE | NEXT, 2), (DATA, 1, 0, 0)], Broken::Direction),
        (vec![(BUFFERS, 16, 0, 0)], Broken::NoStatus),
    ] {
        let fault = broken(&descriptors).unwrap_err();
        assert_eq!((fault.device, &fault.why), ("virtio-blk", &why), "{descriptors:?}");
        assert!(fault.to_string().starts_with("virtio-blk: "));
    }
}

#[test]
fn the_ring_itself_can_lie() {
    let mut driver = disk(1 << 20, &[]);
    let (mem, queue) = (&driver.mem, &mut driver.queues[0]);
    queue.offer(mem, 64);
    assert_eq!(driver.kick(0).unwrap_err().why, Broken::DescriptorIndex(64));
    let mut driver = disk(1 << 20, &[]);
    driver.poke(driver.queues[0].avail + 2, &65u16.to_le_bytes());
    assert_eq!(driver.kick(0).unwrap_err().why, Broken::AvailIndex);
}

#[test]
fn buffers_over_each_other_or_over_the_rings_hurt_only_the_guest() {
    let mut driver = disk(1 << 20, &pattern(4096));
    header(&driver, VIRTIO_BLK_T_IN, 0);
    let rings = driver.queues[0].descriptors;
    driver.add(0, &[(BUFFERS, 16, false), (rings, 4096, true), (rings, 2048, true), (rings + 8, 2049, true)]);
    let _ = driver.kick(0);
    let _ = driver.kick(0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_read_is_the_files_or_refused(sector in 0u64..40, cuts in prop::collection::vec(1u32..700, 1..20), file_len in 0usize..20_000) {
        let contents = pattern(file_len);
        let capacity = 32 * 512;
        let mut driver = disk(capacity, &contents);
        header(&driver, VIRTIO_BLK_T_IN, sector);
        let total: u32 = cuts.iter().sum();
        let mut buffers = vec![(BUFFERS, 16, false)];
        let mut at = DATA;
        for cut in &cuts {
            buffers.push((at, *cut, true));
            at += u64::from(*cut) + 5;
        }
        buffers.push((STATUS, 1, true));
        driver.add(0, &buffers);
        driver.kick(0).unwrap();
        let valid = total.is_multiple_of(512) && sector * 512 + u64::from(total) <= capacity;
        prop_assert_eq!(driver.peek(STATUS, 1)[0], if valid { OK } else { IOERR });
        if valid {
            let mut whole = contents;
            whole.resize(64 * 512, 0);
            let got: Vec<u8> = buffers[1..=cuts.len()].iter().flat_map(|(addr, len, _)| driver.peek(*addr, *len as usize)).collect();
            let from = usize::try_from(sector * 512).unwrap();
            prop_assert_eq!(got, &whole[from..from + total as usize]);
        }
    }
}
