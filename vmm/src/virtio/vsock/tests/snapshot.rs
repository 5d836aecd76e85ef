#![allow(clippy::unwrap_used)]
use super::*;
use crate::virtio::{MmioState, RestoreError};

type State = MmioState<VsockState>;

fn restored(state: State, mem: &Mem) -> Result<MmioTransport<Vsock>, RestoreError> {
    let mut transport = MmioTransport::new(Vsock::new(&[PORT, OTHER]));
    transport.restore(state, mem)?;
    Ok(transport)
}

/// The same guest in another process, by way of bytes.
pub(super) fn moved(mut guest: Guest) -> Guest {
    let bytes = postcard::to_stdvec(&guest.driver.transport.save()).unwrap();
    guest.driver.transport = restored(postcard::from_bytes(&bytes).unwrap(), &guest.driver.mem).unwrap();
    guest
}

#[test]
fn a_connection_goes_on_as_if_nothing_was() {
    let mut guest = Guest::connected();
    guest.put(header(op::RW), b"before").unwrap();
    assert_eq!(guest.events(), [data(b"before")]);
    guest.host_consumes(6);
    guest.host_sends(b"12345");
    guest.got();
    let held = guest.driver.transport.device().held.clone();
    assert!(!held.heads.is_empty());
    let mut guest = moved(guest);
    assert_eq!(guest.driver.transport.device().held, held);
    assert!(!guest.flush(), "the guest hears nothing of it");
    assert_eq!((guest.events(), guest.got()), (vec![], vec![]));
    guest.put(Header { fwd_cnt: 5, ..header(op::RW) }, b"after").unwrap();
    assert_eq!(guest.events(), [data(b"after")]);
    guest.host_consumes(5);
    guest.host_sends(b"6789");
    let packets = guest.got();
    assert_eq!((packets[0].0.fwd_cnt, packets[0].1.as_slice()), (11, b"6789".as_slice()));
}

#[test]
fn what_is_on_its_way_survives() {
    let mut guest = Guest { driver: Driver::started(Vsock::new(&[PORT, OTHER])), sent: 0, filled: 0 };
    guest.put(header(op::REQUEST), &[]).unwrap();
    guest.put(header(op::RW), b"up").unwrap();
    guest.put(Header { dst_port: 9, ..header(op::REQUEST) }, &[]).unwrap();
    guest.host_sends(b"down");
    let mut guest = moved(guest);
    assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }, data(b"up")]);
    guest.fill(3);
    assert!(guest.driver.kick(RX).unwrap());
    let packets = guest.got();
    assert_eq!(ops(&packets), [op::RST, op::RESPONSE, op::RW]);
    assert_eq!(packets[2].1, b"down");
    // The two bytes that came over the save are still the caller's to consume.
    guest.host_consumes(10);
    guest.put(header(op::CREDIT_REQUEST), &[]).unwrap();
    assert_eq!(guest.got()[0].0.fwd_cnt, 2);
}

#[test]
fn what_another_process_got_is_consumed() {
    let mut guest = Guest::connected();
    for _ in 0..CREDIT / 4096 {
        guest.put(header(op::RW), &[0; 4096]).unwrap();
    }
    guest.events();
    guest.driver.acknowledge();
    let mut guest = moved(guest);
    assert!(guest.flush(), "the guest had no credit left and hears of it");
    let update = guest.got()[0].0;
    assert_eq!((update.op, update.fwd_cnt), (op::CREDIT_UPDATE, CREDIT));
    // One that was gone is forgotten.
    let mut guest = Guest::connected();
    guest.put(header(op::RW), b"last words").unwrap();
    guest.put(header(op::RST), &[]).unwrap();
    guest.events();
    let mut guest = moved(guest);
    guest.put(header(op::REQUEST), &[]).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
}

#[test]
fn an_interrupt_that_was_not_seen_comes_again() {
    let mut guest = Guest::connected();
    guest.host_sends(b"x");
    assert!(moved(guest).driver.transport.needs_interrupt());
}

#[test]
fn forged_states_are_refused() {
    let mut guest = Guest::connected();
    guest.put(header(op::RW), b"abc").unwrap();
    let good = guest.driver.transport.save();
    let mem = &guest.driver.mem;
    restored(good.clone(), mem).unwrap();
    let other_ports = {
        let mut transport = MmioTransport::new(Vsock::new(&[PORT]));
        transport.restore(good.clone(), mem)
    };
    assert!(matches!(other_ports, Err(RestoreError::Mismatch { .. })));
    // Each word of the encoded state in turn becomes something else: refused or taken, never a panic, and never over a bound.
    let bytes = postcard::to_stdvec(&good).unwrap();
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let Ok(state) = postcard::from_bytes::<State>(&bytes) else { continue };
            let Ok(mut transport) = restored(state, mem) else { continue };
            let _ = transport.device_mut().take_events();
            transport.device_mut().consume(PORT, usize::MAX);
            let _ = transport.drive(mem, |vsock, queues, mem| vsock.flush_rx(queues, mem));
            let _ = transport.write(mem, 0x50, &1u32.to_le_bytes());
        }
    }
}
