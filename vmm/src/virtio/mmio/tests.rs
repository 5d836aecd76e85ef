#![allow(clippy::unwrap_used)]
use super::*;
use crate::virtio::blk::Blk;
use crate::virtio::testing::{BUFFERS, Driver, DriverQueue, EVENT_IDX, RAM, VERSION_1};
use proptest::prelude::*;

fn driver() -> Driver<Blk> {
    Driver::new(Blk::new(1 << 20, "disk", None))
}

fn read_request(driver: &mut Driver<Blk>) {
    driver.poke(BUFFERS, &[0; 16]);
    driver.add(0, &[(BUFFERS, 16, false), (BUFFERS + 0x1000, 512, true), (BUFFERS + 0x2000, 1, true)]);
}

fn why(result: Result<impl std::fmt::Debug, GuestFault>) -> Broken {
    result.unwrap_err().why
}

#[test]
fn identity_and_features() {
    let mut driver = driver();
    assert_eq!(driver.read(reg::VIRTIO_MMIO_MAGIC_VALUE), u32::from_le_bytes(*b"virt"));
    assert_eq!(driver.read(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_DEVICE_ID), 2);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 64);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    let mut offered = 0u64;
    for select in [1, 0, 2] {
        driver.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, select).unwrap();
        let half = driver.read(reg::VIRTIO_MMIO_DEVICE_FEATURES);
        offered |= if select < 2 { u64::from(half) << (32 * select) } else { u64::from(half) };
    }
    assert_eq!(offered, VERSION_1 | EVENT_IDX | driver.transport.device().features());
    driver.write(reg::VIRTIO_MMIO_QUEUE_SEL, 1).unwrap();
    assert_eq!(driver.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn accesses_of_other_sizes_do_nothing() {
    let mut driver = driver();
    let mut byte = [7];
    driver.transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
    let mut two = [7; 2];
    driver.transport.read(u64::MAX, &mut two);
    assert_eq!(two, [0; 2]);
    assert!(!driver.transport.write(&driver.mem, u64::from(reg::VIRTIO_MMIO_STATUS), &[0xff]).unwrap());
    assert_eq!(driver.read(reg::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn features_ok_does_not_stick_without_version_1_or_with_a_feature_not_offered() {
    for (features, sticks) in [(VERSION_1, true), (EVENT_IDX, false), (VERSION_1 | 1 << 40, false), (VERSION_1 | 1 << 28, false)] {
        let mut driver = driver();
        driver.negotiate(features).unwrap();
        assert_eq!(driver.read(reg::VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK != 0, sticks, "{features:#x}");
    }
    let mut driver = driver();
    driver.negotiate(0).unwrap();
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_STATUS, 15)), Broken::Status { .. }));
}

#[test]
fn status_goes_one_way() {
    for (before, after) in [(0, 2), (1, 7), (3, 1), (0, 16), (1, 1 | 64), (3, 7)] {
        let mut driver = driver();
        if before & 1 != 0 {
            driver.write(reg::VIRTIO_MMIO_STATUS, 1).unwrap();
        }
        if before & 2 != 0 {
            driver.write(reg::VIRTIO_MMIO_STATUS, 3).unwrap();
        }
        assert_eq!(why(driver.write(reg::VIRTIO_MMIO_STATUS, after)), Broken::Status { from: before, to: after });
    }
    let mut driver = driver();
    driver.start(VERSION_1).unwrap();
    driver.write(reg::VIRTIO_MMIO_STATUS, 15 | 128).unwrap();
    assert_eq!(driver.read(reg::VIRTIO_MMIO_STATUS), 15 | 128);
    driver.write(reg::VIRTIO_MMIO_STATUS, 0).unwrap();
    assert_eq!(driver.read(reg::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn registers_have_their_time() {
    let mut driver = driver();
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1)), Broken::Register(_)));
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_QUEUE_NUM, 1)), Broken::Register(_)));
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_QUEUE_READY, 1)), Broken::Register(_)));
    driver.start(VERSION_1).unwrap();
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, 0x1000)), Broken::Register(_)));
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_QUEUE_READY, 1)), Broken::Register(_)));
    assert!(matches!(why(driver.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1)), Broken::Register(_)));
}

fn set_up(change: impl FnOnce(&mut DriverQueue)) -> Result<(), Broken> {
    let mut driver = driver();
    driver.negotiate(VERSION_1).unwrap();
    let mut queue = driver.queues[0].clone();
    change(&mut queue);
    driver.set_up_queue(0, &queue).map_err(|fault| fault.why)
}

#[test]
fn queues_are_checked_when_they_become_ready() {
    set_up(|_| {}).unwrap();
    for size in [0, 3, 128, 65535] {
        let refused = set_up(|queue| queue.size = size).unwrap_err();
        assert_eq!(refused, Broken::QueueSize { queue: 0, size: size.into(), max: 64 });
    }
    assert!(matches!(set_up(|queue| queue.descriptors += 8), Err(Broken::QueueAlign { part: "descriptor table", .. })));
    assert!(matches!(set_up(|queue| queue.avail += 1), Err(Broken::QueueAlign { part: "available ring", .. })));
    assert!(matches!(set_up(|queue| queue.used += 2), Err(Broken::QueueAlign { part: "used ring", .. })));
    for addr in [0, RAM as u64, RAM as u64 - 16, !0xf] {
        assert!(matches!(set_up(|queue| queue.descriptors = addr), Err(Broken::QueueRange { .. })), "{addr:#x}");
    }
    assert!(matches!(set_up(|queue| queue.used = RAM as u64 - 8), Err(Broken::QueueRange { part: "used ring", .. })));
    assert!(matches!(set_up(|queue| queue.avail = queue.descriptors + 16), Err(Broken::QueueOverlap { .. })));
    assert!(matches!(set_up(|queue| queue.used = queue.avail), Err(Broken::QueueOverlap { part: "used ring", .. })));
}

#[test]
fn kicks_count_only_when_all_is_ready() {
    let mut driver = driver();
    assert!(!driver.kick(0).unwrap());
    driver.start(VERSION_1 | EVENT_IDX).unwrap();
    assert_eq!(why(driver.kick(1)), Broken::Kick(1));
    driver.write(reg::VIRTIO_MMIO_QUEUE_READY, 0).unwrap();
    assert_eq!(why(driver.kick(0)), Broken::Kick(0));
}

#[test]
fn interrupts_are_edges_and_not_repeated_before_they_are_acknowledged() {
    let mut driver = Driver::started(Blk::new(1 << 20, "disk", None));
    read_request(&mut driver);
    assert!(driver.kick(0).unwrap());
    assert!(driver.transport.needs_interrupt());
    driver.take_used(0);
    read_request(&mut driver);
    assert!(!driver.kick(0).unwrap(), "the first is not acknowledged");
    assert_eq!(driver.acknowledge(), 1);
    assert!(!driver.transport.needs_interrupt());
    assert_eq!(driver.take_used(0).len(), 1);
    read_request(&mut driver);
    assert!(driver.kick(0).unwrap());
}

#[test]
fn event_idx_and_the_flag_keep_interrupts_away() {
    let mut driver = Driver::started(Blk::new(1 << 20, "disk", None));
    // The driver wants to hear of the third completion only.
    let used_event = driver.queues[0].avail + 4 + 2 * 64;
    driver.poke(used_event, &2u16.to_le_bytes());
    for wanted in [false, false, true] {
        read_request(&mut driver);
        assert_eq!(driver.kick(0).unwrap(), wanted);
    }
    let mut driver = self::driver();
    driver.start(VERSION_1).unwrap();
    for (flag, wanted) in [(1u16, false), (0, true)] {
        driver.poke(driver.queues[0].avail, &flag.to_le_bytes());
        read_request(&mut driver);
        assert_eq!(driver.kick(0).unwrap(), wanted);
    }
}

#[test]
fn a_kick_is_asked_for_after_each() {
    let mut driver = Driver::started(Blk::new(1 << 20, "disk", None));
    for count in 1..=3 {
        read_request(&mut driver);
        driver.kick(0).unwrap();
        assert_eq!(driver.queues[0].avail_event(&driver.mem), count);
    }
}

fn restore(state: MmioState<<Blk as Device>::State>, mem: &Mem) -> Result<MmioTransport<Blk>, RestoreError> {
    let mut transport = MmioTransport::new(Blk::new(0, "", None));
    transport.restore(state, mem)?;
    Ok(transport)
}

#[test]
fn a_restored_device_goes_on() {
    let mut driver = Driver::started(Blk::new(1 << 20, "disk", None));
    for _ in 0..5 {
        read_request(&mut driver);
        driver.kick(0).unwrap();
    }
    driver.take_used(0);
    let saved = driver.transport.save();
    driver.transport = restore(saved.clone(), &driver.mem).unwrap();
    assert_eq!(driver.transport.save(), saved);
    assert!(driver.transport.needs_interrupt());
    driver.acknowledge();
    read_request(&mut driver);
    assert!(driver.kick(0).unwrap());
    assert_eq!(driver.take_used(0), [(15, 513)]);
    let mut capacity = [0; 8];
    driver.transport.read(CONFIG, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2048);
}

#[test]
fn forged_states_are_refused() {
    let mut driver = Driver::started(Blk::new(1 << 20, "disk", None));
    let good = driver.transport.save();
    type Change = fn(&mut MmioState<<Blk as Device>::State>);
    let changes: [Change; 11] = [
        |state| state.kind = 19,
        |state| state.status = 4,
        |state| state.status = 3,
        |state| state.driver_features = 0,
        |state| state.driver_features |= 1 << 50,
        |state| state.interrupt_status = 4,
        |state| state.queues.clear(),
        |state| state.queues[0].setup.size = 65,
        |state| state.queues[0].setup.used = state.queues[0].setup.avail,
        |state| state.queues[0].setup.descriptors = RAM as u64,
        |state| state.queues[0].setup.avail |= 1,
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut state = good.clone();
        change(&mut state);
        assert!(restore(state, &driver.mem).is_err(), "change {number}");
    }
    // Indices are any: the next kick sees whether they fit the ring.
    let mut state = good;
    state.queues[0].next_avail = 1000;
    driver.transport = restore(state, &driver.mem).unwrap();
    assert_eq!(why(driver.kick(0)), Broken::AvailIndex);
}

proptest! {
    #[test]
    fn any_accesses_end_in_an_answer(accesses in prop::collection::vec((0u64..0x120, any::<u32>(), prop::bool::ANY, 0usize..9), 0..60)) {
        let mut driver = driver();
        for (offset, value, write, len) in accesses {
            let mut data = [0; 8];
            data[..4].copy_from_slice(&value.to_le_bytes());
            if !write {
                driver.transport.read(offset, &mut data[..len]);
            } else if driver.transport.write(&driver.mem, offset & !3, &data[..len.min(4)]).is_err() {
                break;
            }
        }
    }
}
