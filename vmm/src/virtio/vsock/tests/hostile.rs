#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn strangers_are_answered_with_rst() {
    for (what, header) in [
        ("a port that nobody listens on", Header { dst_port: 99, ..header(op::REQUEST) }),
        ("another host", Header { dst_cid: 77, ..header(op::REQUEST) }),
        ("itself", Header { dst_cid: GUEST_CID, ..header(op::REQUEST) }),
        ("another type", Header { kind: 2, ..header(op::REQUEST) }),
        ("data without a connection", header(op::RW)),
        ("an answer without a question", header(op::RESPONSE)),
        ("an end without a beginning", header(op::SHUTDOWN)),
        ("credit without a connection", header(op::CREDIT_UPDATE)),
        ("no operation", header(0)),
        ("an unknown operation", header(u16::MAX)),
    ] {
        let mut guest = Guest::new();
        assert!(guest.put(header, &[]).unwrap(), "{what}");
        let got = guest.got();
        let answer = got[0].0;
        assert_eq!((got.len(), answer.op, answer.kind), (1, op::RST, header.kind), "{what}");
        assert_eq!((answer.src_cid, answer.src_port, answer.dst_port), (header.dst_cid, header.dst_port, header.src_port), "{what}");
        assert_eq!(guest.events(), [], "{what}");
    }
    let mut guest = Guest::new();
    assert!(!guest.put(header(op::RST), &[]).unwrap(), "nobody answers RST with RST");
}

#[test]
fn nobody_speaks_in_the_place_of_one_who_is_connected() {
    let mut guest = Guest::connected();
    let stranger = |op| Header { src_port: 6666, ..header(op) };
    guest.put(stranger(op::REQUEST), &[]).unwrap();
    guest.put(stranger(op::RW), b"forged").unwrap();
    guest.put(stranger(op::SHUTDOWN), &[]).unwrap();
    assert_eq!(ops(&guest.got()), [op::RST; 3]);
    assert_eq!(guest.events(), []);
    guest.put(header(op::RW), b"true").unwrap();
    assert_eq!(guest.events(), [data(b"true")]);
}

#[test]
fn packets_that_have_no_place_end_a_connection() {
    for op in [op::REQUEST, op::RESPONSE, 0, 8, u16::MAX] {
        let mut guest = Guest::connected();
        guest.put(header(op), &[]).unwrap();
        assert_eq!((guest.events(), ops(&guest.got())), (vec![VsockEvent::Closed { port: PORT }], vec![op::RST]), "{op}");
        guest.put(header(op::REQUEST), &[]).unwrap();
        assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
    }
}

#[test]
fn broken_packets_drop_the_guest() {
    for cid in [0, 1, 2, 4, u64::MAX] {
        let refused = Guest::new().put(Header { src_cid: cid, ..header(op::REQUEST) }, &[]);
        assert_eq!(refused.unwrap_err().why, Broken::SourceAddress(cid));
    }
    let short = Guest::connected().put_raw(Header { len: 6, ..header(op::RW) }, b"12345");
    assert_eq!(short.unwrap_err().why, Broken::PacketLength { have: 49, want: 50 });
    let huge = Guest::connected().put_raw(Header { len: u32::MAX, ..header(op::RW) }, b"12345");
    assert_eq!(huge.unwrap_err().why, Broken::PacketLength { have: 49, want: u32::MAX });
    let tx = |addr, len, flags| {
        let mut guest = Guest::new();
        guest.driver.queues[TX].descriptor(&guest.driver.mem, 0, addr, len, flags, 0);
        let (mem, queue) = (&guest.driver.mem, &mut guest.driver.queues[TX]);
        queue.offer(mem, 0);
        guest.driver.kick(TX).unwrap_err().why
    };
    assert_eq!(tx(TX_BUFFERS, 43, 0), Broken::PacketLength { have: 43, want: 44 });
    assert_eq!(tx(TX_BUFFERS, 44, WRITE), Broken::Direction);
    assert_eq!(tx(1 << 30, 44, 0), Broken::BufferRange { addr: 1 << 30, len: 44 });
}

#[test]
fn broken_receive_buffers_drop_the_guest() {
    let rx = |len, write| {
        let mut guest = Guest { driver: Driver::started(Vsock::new(&[PORT])), sent: 0, filled: 0 };
        guest.driver.add(RX, &[(RX_BUFFERS, len, write)]);
        guest.put(header(op::REQUEST), &[]).unwrap_err().why
    };
    assert_eq!(rx(44, true), Broken::PacketLength { have: 44, want: 45 });
    assert_eq!(rx(4096, false), Broken::Direction);
}

#[test]
fn answers_that_nobody_takes_are_bounded() {
    let mut guest = Guest { driver: Driver::started(Vsock::new(&[PORT])), sent: 0, filled: 0 };
    for _ in 0..10_000 {
        guest.put(Header { dst_port: 1, ..header(op::REQUEST) }, &[]).unwrap();
    }
    let saved = postcard::to_stdvec(&guest.driver.transport.save()).unwrap();
    assert!(saved.len() < 4096, "{}", saved.len());
    let mut answers = 0;
    guest.fill(32);
    guest.driver.kick(RX).unwrap();
    loop {
        let got = guest.got().len();
        answers += got;
        guest.driver.kick(RX).unwrap();
        if got == 0 {
            break;
        }
    }
    assert_eq!(answers, 256);
}

#[test]
fn events_that_nobody_takes_are_bounded() {
    let mut guest = Guest::new();
    for _ in 0..10_000 {
        guest.put(header(op::REQUEST), &[]).unwrap();
        guest.put(header(op::RW), &[0; 1000]).unwrap();
        guest.put(header(op::RST), &[]).unwrap();
        guest.got();
    }
    let events = guest.events();
    assert_eq!(events.len(), 3, "the port is taken until its bytes are consumed");
    for _ in 0..10_000 {
        guest.host_consumes(1 << 20);
        guest.put(header(op::REQUEST), &[]).unwrap();
        guest.put(header(op::RST), &[]).unwrap();
        guest.got();
    }
    assert_eq!(guest.events().len(), 256);
}
