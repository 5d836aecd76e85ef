#![allow(clippy::unwrap_used)]
use super::connection::CREDIT;
use super::packet::{HOST_CID, STREAM, op};
use super::*;
use crate::virtio::testing::{BUFFERS, Driver, WRITE};
use crate::virtio::{GuestFault, MmioTransport};

mod credit;
mod hostile;
mod snapshot;

pub(super) const PORT: u32 = 1024;
pub(super) const OTHER: u32 = 1025;
pub(super) const GUEST_PORT: u32 = 50_000;

const RX_BUFFERS: u64 = BUFFERS;
const RX_LEN: u32 = 4096;
const TX_BUFFERS: u64 = BUFFERS + 0x4_0000;
const TX_SPACE: u64 = 0x2000;

/// A guest with its driver.
pub(super) struct Guest {
    pub(super) driver: Driver<Vsock>,
    sent: u64,
    filled: u64,
}

/// What the guest got.
pub(super) type Packet = (Header, Vec<u8>);

pub(super) fn header(op: u16) -> Header {
    Header {
        src_cid: GUEST_CID,
        dst_cid: HOST_CID,
        src_port: GUEST_PORT,
        dst_port: PORT,
        kind: STREAM,
        op,
        buf_alloc: 256 << 10,
        ..Header::default()
    }
}

impl Guest {
    /// With all its receive buffers in place, as a driver has them after boot.
    pub(super) fn new() -> Self {
        let mut guest = Self { driver: Driver::started(Vsock::new(&[PORT, OTHER])), sent: 0, filled: 0 };
        guest.fill(32);
        assert!(!guest.driver.kick(RX).unwrap());
        guest
    }

    /// With an open connection; nothing to see is left.
    pub(super) fn connected() -> Self {
        let mut guest = Self::new();
        guest.put(header(op::REQUEST), &[]).unwrap();
        assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
        let answers = guest.got();
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].0.op, op::RESPONSE);
        guest
    }

    pub(super) fn fill(&mut self, count: u64) {
        for _ in 0..count {
            let at = RX_BUFFERS + (self.filled % 32) * u64::from(RX_LEN);
            self.driver.add(RX, &[(at, RX_LEN, true)]);
            self.filled += 1;
        }
    }

    /// Sends a packet whose length is that of the data; `true`: an interrupt came.
    pub(super) fn put(&mut self, header: Header, data: &[u8]) -> Result<bool, GuestFault> {
        self.put_raw(Header { len: u32::try_from(data.len()).unwrap(), ..header }, data)
    }

    /// Sends a packet as it is, header and data apart.
    pub(super) fn put_raw(&mut self, header: Header, data: &[u8]) -> Result<bool, GuestFault> {
        let at = TX_BUFFERS + (self.sent % 16) * TX_SPACE;
        self.sent += 1;
        self.driver.poke(at, &header.bytes());
        let mut buffers = vec![(at, HEADER_LEN, false)];
        if !data.is_empty() {
            self.driver.poke(at + 64, data);
            buffers.push((at + 64, u32::try_from(data.len()).unwrap(), false));
        }
        self.driver.add(TX, &buffers);
        self.driver.kick(TX)
    }

    /// Takes what is in the receive queue and gives the buffers back.
    pub(super) fn got(&mut self) -> Vec<Packet> {
        self.driver.acknowledge();
        let used = self.driver.take_used(RX);
        let packets: Vec<Packet> = used.iter().map(|(head, len)| self.received(*head, *len)).collect();
        self.fill(used.len() as u64);
        packets
    }

    fn received(&self, head: u32, len: u32) -> Packet {
        let descriptor = self.driver.peek(self.driver.queues[RX].descriptors + 16 * u64::from(head), 8);
        let at = u64::from_le_bytes(descriptor.try_into().unwrap());
        let header = Header::parse(&self.driver.peek(at, HEADER_LEN as usize).try_into().unwrap());
        assert_eq!(len, HEADER_LEN + header.len);
        assert_eq!((header.dst_cid, header.flags), (GUEST_CID, 0));
        (header, self.driver.peek(at + u64::from(HEADER_LEN), header.len as usize))
    }

    pub(super) fn events(&mut self) -> Vec<VsockEvent> {
        self.driver.transport.device_mut().take_events()
    }

    /// The host sends; how much was taken, and whether an interrupt came.
    pub(super) fn host_sends(&mut self, bytes: &[u8]) -> (usize, bool) {
        let taken = self.driver.transport.device_mut().send(PORT, bytes);
        (taken, self.flush())
    }

    pub(super) fn host_consumes(&mut self, n: usize) -> bool {
        self.driver.transport.device_mut().consume(PORT, n);
        self.flush()
    }

    pub(super) fn flush(&mut self) -> bool {
        self.driver.transport.drive(&self.driver.mem, |vsock, queues, mem| vsock.flush_rx(queues, mem)).unwrap()
    }
}

pub(super) fn ops(packets: &[Packet]) -> Vec<u16> {
    packets.iter().map(|(header, _)| header.op).collect()
}

pub(super) fn data(bytes: &[u8]) -> VsockEvent {
    VsockEvent::Data { port: PORT, bytes: bytes.to_vec() }
}

#[test]
fn the_guest_connects_and_talks() {
    let mut guest = Guest::new();
    assert!(guest.put(header(op::REQUEST), &[]).unwrap());
    assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
    let answers = guest.got();
    let (answer, bytes) = &answers[0];
    assert_eq!(answers.len(), 1);
    assert!(bytes.is_empty());
    let expected = Header {
        src_cid: HOST_CID,
        dst_cid: GUEST_CID,
        src_port: PORT,
        dst_port: GUEST_PORT,
        kind: STREAM,
        op: op::RESPONSE,
        buf_alloc: CREDIT,
        ..Header::default()
    };
    assert_eq!(*answer, expected);
    // Data costs the guest no packet and no interrupt.
    assert!(!guest.put(header(op::RW), b"hello").unwrap());
    assert!(!guest.put(header(op::RW), b" host").unwrap());
    assert_eq!(guest.events(), [data(b"hello host")]);
    assert!(!guest.host_consumes(10));
    assert_eq!(guest.host_sends(b"hello guest"), (11, true));
    let packets = guest.got();
    assert_eq!(packets[0].1, b"hello guest");
    assert_eq!(packets[0].0.fwd_cnt, 10);
}

#[test]
fn packets_of_any_shape() {
    let mut guest = Guest::connected();
    // Header and data in one descriptor, with room behind.
    let whole = Header { len: 5, ..header(op::RW) }.bytes();
    guest.driver.poke(TX_BUFFERS, &whole);
    guest.driver.poke(TX_BUFFERS + 44, b"first and more");
    guest.driver.add(TX, &[(TX_BUFFERS, 60, false)]);
    guest.driver.kick(TX).unwrap();
    assert_eq!(guest.events(), [data(b"first")]);
    // Cut everywhere.
    let mut buffers: Vec<_> = (0..44).step_by(11).map(|at| (TX_BUFFERS + at, 11, false)).collect();
    buffers.extend([(TX_BUFFERS + 44, 2, false), (TX_BUFFERS + 46, 3, false)]);
    guest.driver.add(TX, &buffers);
    guest.driver.kick(TX).unwrap();
    assert_eq!(guest.events(), [data(b"first")]);
    // A receive buffer in pieces.
    let mut guest = Guest { driver: Driver::started(Vsock::new(&[PORT])), sent: 0, filled: 0 };
    let pieces = [(RX_BUFFERS, 40, true), (RX_BUFFERS + 100, 6, true), (RX_BUFFERS + 200, 100, true)];
    guest.driver.add(RX, &pieces);
    guest.driver.add(RX, &pieces);
    guest.put(header(op::REQUEST), &[]).unwrap();
    guest.host_sends(b"pieces");
    assert_eq!(guest.driver.take_used(RX), [(0, 44), (3, 50)]);
    assert_eq!(guest.driver.peek(RX_BUFFERS + 104, 2), b"pi");
    assert_eq!(guest.driver.peek(RX_BUFFERS + 200, 4), b"eces");
}

#[test]
fn transmit_buffers_come_back_in_bulk() {
    let mut guest = Guest::connected();
    let mut interrupts = 0;
    for _ in 0..67 {
        interrupts += u32::from(guest.put(header(op::RW), b"x").unwrap());
        guest.events();
        guest.host_consumes(1);
        let held = &guest.driver.transport.device().held;
        assert!(held.descriptors <= 32, "the driver has always room for a packet of 19 descriptors");
        guest.driver.acknowledge();
        guest.driver.take_used(TX);
    }
    // The request took one descriptor, each packet of data two.
    assert_eq!(interrupts, 4);
    let mut guest = Guest::connected();
    let interrupts: u32 = (0..36).map(|_| u32::from(guest.put(header(op::RW), &[0; 4096]).unwrap())).sum();
    assert_eq!(interrupts, 1, "large ones come back earlier, unless the driver does not look");
    guest.got();
    assert!(guest.driver.take_used(TX).len() > 30);
}

#[test]
fn receive_kicks_are_asked_for_only_when_buffers_ran_out() {
    let mut guest = Guest { driver: Driver::started(Vsock::new(&[PORT])), sent: 0, filled: 0 };
    guest.put(header(op::REQUEST), &[]).unwrap();
    assert_eq!(guest.host_sends(b"waits"), (5, false));
    assert_eq!(guest.driver.queues[RX].avail_event(&guest.driver.mem), 0);
    guest.fill(1);
    assert!(guest.driver.kick(RX).unwrap());
    assert_eq!(guest.driver.queues[RX].avail_event(&guest.driver.mem), 1, "one more packet waits");
    assert_eq!(ops(&guest.got()), [op::RESPONSE]);
    assert!(guest.driver.kick(RX).unwrap());
    assert_eq!(guest.got()[0].1, b"waits");
    guest.driver.kick(RX).unwrap();
    assert_eq!(guest.driver.queues[RX].avail_event(&guest.driver.mem), 1, "nothing waits");
}

#[test]
fn ends_of_a_connection() {
    // The guest closes.
    let mut guest = Guest::connected();
    guest.put(header(op::SHUTDOWN), &[]).unwrap();
    assert_eq!(guest.events(), []);
    guest.put(Header { flags: 3, ..header(op::SHUTDOWN) }, &[]).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Closed { port: PORT }]);
    assert_eq!(ops(&guest.got()), [op::RST]);
    // It resets.
    let mut guest = Guest::connected();
    guest.put(header(op::RST), &[]).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Closed { port: PORT }]);
    assert_eq!(guest.got(), []);
    // Bytes for one who is gone are dropped.
    assert_eq!(guest.host_sends(&[0; 1 << 20]), (1 << 20, false));
    // It connects again.
    guest.put(Header { src_port: 1, ..header(op::REQUEST) }, &[]).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Open { port: PORT }]);
    // It starts over.
    guest.driver.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Closed { port: PORT }]);
    assert_eq!(guest.driver.transport.device().held, Held::default());
}

#[test]
fn half_open_connections() {
    // The guest sends no more, but receives.
    let mut guest = Guest::connected();
    let send = Header { flags: packet::SHUTDOWN_SEND, ..header(op::SHUTDOWN) };
    guest.put(send, &[]).unwrap();
    guest.put(send, &[]).unwrap();
    assert_eq!(guest.events(), [VsockEvent::Closed { port: PORT }]);
    assert_eq!(guest.host_sends(b"answer"), (6, true));
    assert_eq!(guest.got()[0].1, b"answer");
    guest.put(header(op::RW), b"after all").unwrap();
    assert_eq!((guest.events(), ops(&guest.got())), (vec![], vec![op::RST]));
    // The guest receives no more, but sends.
    let mut guest = Guest::connected();
    guest.put(Header { flags: packet::SHUTDOWN_RECEIVE, ..header(op::SHUTDOWN) }, &[]).unwrap();
    assert_eq!(guest.host_sends(b"nobody reads this"), (17, false));
    guest.put(header(op::RW), b"still here").unwrap();
    assert_eq!(guest.events(), [data(b"still here")]);
    guest.put(send, &[]).unwrap();
    assert_eq!((guest.events(), ops(&guest.got())), (vec![VsockEvent::Closed { port: PORT }], vec![op::RST]));
}

#[test]
fn connections_take_turns() {
    let mut guest = Guest::new();
    guest.put(header(op::REQUEST), &[]).unwrap();
    guest.put(Header { dst_port: OTHER, ..header(op::REQUEST) }, &[]).unwrap();
    guest.got();
    for port in [PORT, OTHER] {
        let sent = guest.driver.transport.device_mut().send(port, &[0; 20_000]);
        assert_eq!(sent, 20_000);
    }
    guest.flush();
    let ports: Vec<u32> = guest.got().iter().map(|(header, _)| header.src_port).collect();
    assert_eq!(ports[..4], [PORT, OTHER, PORT, OTHER]);
    assert_eq!(ports.len(), 10);
}

#[test]
fn the_guest_reads_its_address() {
    let mut guest = Guest::new();
    let mut config = [0xff; 8];
    guest.driver.transport.read(0x100, &mut config);
    assert_eq!(u64::from_le_bytes(config), GUEST_CID);
    assert_eq!(guest.driver.transport.device().kind(), 19);
    assert!(!guest.driver.kick(2).unwrap());
}
