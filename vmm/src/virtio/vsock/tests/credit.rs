#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

#[test]
fn a_caller_that_does_not_read_stops_the_guest() {
    let mut guest = Guest::connected();
    let piece = vec![1; 4096];
    for _ in 0..CREDIT / 4096 {
        guest.put(header(op::RW), &piece).unwrap();
    }
    let total: usize = guest.events().iter().map(VsockEvent::len).sum();
    assert_eq!(total, CREDIT as usize);
    assert_eq!(guest.got(), [], "there is no credit to tell of");
    // Reading a little is not worth a packet, reading a quarter is.
    assert!(!guest.host_consumes(LOW - 1));
    assert!(guest.host_consumes(1));
    let update = guest.got()[0].0;
    assert_eq!((update.op, update.fwd_cnt, update.buf_alloc), (op::CREDIT_UPDATE, u32::try_from(LOW).unwrap(), CREDIT));
}

const LOW: usize = CREDIT as usize / 4;

#[test]
fn credit_is_told_rarely() {
    let mut guest = Guest::connected();
    let mut updates = 0;
    for _ in 0..1024 {
        guest.put(header(op::RW), &[0; 4096]).unwrap();
        let n = guest.events().iter().map(VsockEvent::len).sum();
        guest.host_consumes(n);
        let got = guest.got();
        updates += ops(&got).iter().filter(|op| **op == op::CREDIT_UPDATE).count();
    }
    // 4 MiB, and one packet for each three quarters of the credit.
    assert_eq!(updates, 21);
}

#[test]
fn the_guest_may_ask_for_credit() {
    let mut guest = Guest::connected();
    guest.put(header(op::RW), b"12345").unwrap();
    guest.events();
    guest.host_consumes(3);
    assert!(guest.put(header(op::CREDIT_REQUEST), &[]).unwrap());
    let answer = guest.got()[0].0;
    assert_eq!((answer.op, answer.fwd_cnt), (op::CREDIT_UPDATE, 3));
}

#[test]
fn the_guests_credit_bounds_what_it_is_sent() {
    let mut guest = Guest::new();
    guest.put(Header { buf_alloc: 100, ..header(op::REQUEST) }, &[]).unwrap();
    guest.got();
    let bytes: Vec<u8> = (0..250).collect();
    assert_eq!(guest.host_sends(&bytes), (250, true));
    assert_eq!(guest.got()[0].1, bytes[..100]);
    assert!(!guest.flush());
    let update = |taken, buf_alloc| Header { fwd_cnt: taken, buf_alloc, ..header(op::CREDIT_UPDATE) };
    assert!(guest.put(update(60, 100), &[]).unwrap());
    assert_eq!(guest.got()[0].1, bytes[100..160]);
    // Less than before, and even less than what is on its way, is allowed.
    assert!(!guest.put(update(60, 10), &[]).unwrap());
    assert!(guest.put(update(160, 10), &[]).unwrap());
    assert_eq!(guest.got()[0].1, bytes[160..170]);
    assert!(guest.put(update(170, u32::MAX), &[]).unwrap());
    assert_eq!(guest.got()[0].1, bytes[170..]);
}

#[test]
fn what_the_host_sends_is_bounded() {
    let mut guest = Guest::new();
    guest.put(Header { buf_alloc: 0, ..header(op::REQUEST) }, &[]).unwrap();
    guest.got();
    let limit = CREDIT as usize;
    assert_eq!(guest.host_sends(&vec![0; limit + 10]), (limit, false));
    assert_eq!(guest.host_sends(&[0]), (0, false));
    // 32 buffers of 4052 bytes of data, then the rest as they are filled again.
    let update = Header { buf_alloc: u32::MAX, ..header(op::CREDIT_UPDATE) };
    assert!(guest.put(update, &[]).unwrap());
    assert_eq!(guest.got().iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), 32 * 4052);
    assert_eq!(guest.host_sends(&vec![0; limit]), (32 * 4052, true));
}

#[test]
fn lies_about_credit() {
    // More than the host allowed.
    let mut guest = Guest::connected();
    for _ in 0..CREDIT / 4096 {
        guest.put(header(op::RW), &[0; 4096]).unwrap();
    }
    assert_eq!(guest.put(header(op::RW), b"x").unwrap_err().why, Broken::CreditExceeded { sent: 1, credit: 0 });
    // More taken than was ever sent.
    let mut guest = Guest::connected();
    guest.host_sends(b"12345");
    let lie = guest.put(Header { fwd_cnt: 6, ..header(op::CREDIT_UPDATE) }, &[]);
    assert_eq!(lie.unwrap_err().why, Broken::CreditClaim { claimed: 6, outstanding: 5 });
    // Packets of two threads of the guest may pass each other.
    let mut guest = Guest::connected();
    guest.host_sends(b"12345");
    guest.put(Header { fwd_cnt: 5, ..header(op::CREDIT_UPDATE) }, &[]).unwrap();
    guest.put(Header { fwd_cnt: 2, ..header(op::RW) }, b"late").unwrap();
    assert_eq!(guest.events(), [data(b"late")]);
}

#[test]
fn a_port_is_free_again_when_its_bytes_are_consumed() {
    let mut guest = Guest::connected();
    guest.put(header(op::RW), &[0; 100]).unwrap();
    guest.put(header(op::RST), &[]).unwrap();
    assert_eq!(guest.events(), [data(&[0; 100]), VsockEvent::Closed { port: PORT }]);
    guest.put(header(op::REQUEST), &[]).unwrap();
    assert_eq!(ops(&guest.got()), [op::RST]);
    guest.host_consumes(99);
    guest.put(header(op::REQUEST), &[]).unwrap();
    assert_eq!(ops(&guest.got()), [op::RST]);
    guest.host_consumes(1000);
    guest.put(header(op::REQUEST), &[]).unwrap();
    assert_eq!(ops(&guest.got()), [op::RESPONSE]);
    assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Whatever pace both sides have, every byte arrives once and in order, and nobody waits for ever.
    #[test]
    fn streams_arrive(
        up in prop::collection::vec(1usize..6000, 1..60),
        down in prop::collection::vec(1usize..60_000, 1..20),
        pace in prop::collection::vec((0usize..50_000, 0u32..60_000, any::<bool>()), 1..10),
    ) {
        let mut guest = Guest::connected();
        let byte = |at: usize| u8::try_from(at % 251).unwrap();
        let (mut to_send, mut consumed, mut held) = (0usize, 0usize, 0usize);
        let total_down: usize = down.iter().sum();
        let (mut host_sent, mut guest_got, mut guest_said) = (0usize, 0usize, 0u32);
        let mut up = up.into_iter().peekable();
        let mut paces = pace.into_iter().cycle();
        for _ in 0..20_000 {
            let (host_pace, guest_pace, save) = paces.next().unwrap();
            let room = CREDIT as usize - (to_send - consumed);
            if let Some(len) = up.next_if(|len| *len <= room) {
                let bytes: Vec<u8> = (to_send..to_send + len).map(byte).collect();
                guest.put(Header { fwd_cnt: guest_said, ..header(op::RW) }, &bytes).unwrap();
                for event in guest.events() {
                    let VsockEvent::Data { bytes, .. } = event else {
                        prop_assert!(false, "{event:?}");
                        continue;
                    };
                    prop_assert!(bytes.iter().zip(consumed + held..).all(|(got, at)| *got == byte(at)));
                    held += bytes.len();
                }
                to_send += len;
            }
            let n = held.min(host_pace + 1);
            guest.host_consumes(n);
            consumed += n;
            held -= n;
            let bytes: Vec<u8> = (host_sent..total_down.min(host_sent + 40_000)).map(byte).collect();
            host_sent += guest.host_sends(&bytes).0;
            for (_, bytes) in guest.got() {
                prop_assert!(bytes.iter().zip(guest_got..).all(|(got, at)| *got == byte(at)));
                guest_got += bytes.len();
            }
            let behind = u32::try_from(guest_got).unwrap() - guest_said;
            guest_said += behind.min(guest_pace + 1);
            guest.put(Header { fwd_cnt: guest_said, ..header(op::CREDIT_UPDATE) }, &[]).unwrap();
            guest.driver.kick(RX).unwrap();
            guest.driver.take_used(TX);
            if save && held == 0 {
                guest = snapshot::moved(guest);
            }
            if up.peek().is_none() && held == 0 && guest_got == total_down {
                return Ok(());
            }
        }
        prop_assert!(false, "stuck: {to_send} up, {guest_got} of {total_down} down");
    }
}
