#![allow(clippy::unwrap_used)]
use super::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use torpor_protocol::agent::{Load, Start};

/// A file of the device's shape: the mappings are the same, only nobody answers the doorbell.
fn file() -> OwnedFd {
    let file = memfd_create("door", MFdFlags::empty()).unwrap();
    nix::unistd::ftruncate(&file, i64::try_from(layout::MMAP_DOORBELL + layout::PAGE).unwrap()).unwrap();
    file
}

/// A door at which nobody answers.
pub(crate) fn unanswered() -> Door {
    Door::map(file()).unwrap()
}

fn put(door: &Door, message: &HostMessage) {
    let bytes = message.to_frame().unwrap().encode().unwrap();
    nix::sys::uio::pwrite(&door.device, &bytes, i64::try_from(layout::INBOX).unwrap()).unwrap();
    door.word(layout::INBOX_LEN).store(bytes.len() as u64, Ordering::Release);
    door.word(layout::INBOX_SEQ).fetch_add(1, Ordering::AcqRel);
}

fn sent(door: &mut Door) -> GuestMessage {
    let len = usize::try_from(door.word(layout::OUTBOX_LEN).load(Ordering::Acquire)).unwrap();
    GuestMessage::from_frame(Frame::decode_exact(&door.outbox()[..len]).unwrap()).unwrap()
}

#[test]
fn messages_come_in_by_the_inbox() {
    let mut door = Door::map(file()).unwrap();
    let load = HostMessage::Load(Load {
        entry: "main.py:handler".into(),
        task: "t".into(),
        version: "ab".into(),
        portion: "main".into(),
        aux: Vec::new(),
    });
    put(&door, &load);
    door.wait();
    assert_eq!(door.message().unwrap(), load);
    let input = vec![b'7'; torpor_protocol::limits::MAX_INPUT];
    let start = HostMessage::Start { start: Start { execution: "ex_1".into(), seed: "00".repeat(32), secrets: Vec::new() }, input };
    put(&door, &start);
    door.wait();
    assert_eq!(door.message().unwrap(), start);
    let (head, input) = door.start().unwrap();
    assert_eq!(HostMessage::Start { start: head, input: door.inbox().unwrap()[input].to_vec() }, start);
    put(&door, &load);
    assert!(door.start().is_err());
}

#[test]
fn a_length_beyond_the_box_is_refused() {
    let door = Door::map(file()).unwrap();
    for len in [layout::BOX_SIZE + 1, u64::MAX] {
        door.word(layout::INBOX_LEN).store(len, Ordering::Release);
        assert!(matches!(door.message(), Err(AgentError::DoorSize(_))));
    }
    door.word(layout::INBOX_LEN).store(0, Ordering::Release);
    assert!(matches!(door.message(), Err(AgentError::Frame(_))));
}

#[test]
fn messages_written_in_place_are_those_of_the_protocol() {
    let mut door = Door::map(file()).unwrap();
    for stream in [Stream::Stdout, Stream::Stderr] {
        door.log_payload()[..5].copy_from_slice(b"hello");
        door.send_in_place(Prefix::log(stream).unwrap(), 5);
        assert_eq!(sent(&mut door), GuestMessage::Log { stream, bytes: b"hello".to_vec() });
    }
    let json = vec![b'1'; torpor_protocol::limits::MAX_RESULT];
    door.outbox()[PREFIX_LEN..PREFIX_LEN + json.len()].copy_from_slice(&json);
    door.send_in_place(Prefix::result().unwrap(), json.len());
    assert_eq!(sent(&mut door), GuestMessage::Result { drain: false, json });
    door.send(&GuestMessage::Started).unwrap();
    assert_eq!(sent(&mut door), GuestMessage::Started);
}
