//! Order, caps, cut characters, cursors.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::state::id::IdSource;

struct Fixture {
    _state: tempfile::TempDir,
    logs: Logs,
    id: ExecutionId,
    tail: watch::Sender<Tail>,
}

impl Fixture {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let logs = Logs::open(state.path()).unwrap();
        let id = IdSource::default().next(Timestamp::now(), [7; 10]);
        Self { _state: state, logs, id, tail: watch::Sender::default() }
    }

    fn all(&self) -> Vec<(Stream, String)> {
        let page = self.logs.read(&self.id, 0, self.tail.borrow().bytes).unwrap();
        page.entries.into_iter().map(|(entry, _)| (entry.stream, entry.text)).collect()
    }
}

#[test]
fn entries_come_back_in_order() {
    let f = Fixture::new();
    assert!(f.all().is_empty());
    let mut writer = f.logs.writer(&f.id, 100);
    writer.push(Stream::Stdout, b"one\n", &f.tail);
    writer.push(Stream::Stderr, b"tw\0o\n", &f.tail);
    writer.push(Stream::Stdout, b"", &f.tail);
    writer.push(Stream::Stdout, b"\xff\n", &f.tail);
    writer.end(&f.tail);
    let want = [(Stream::Stdout, "one\n"), (Stream::Stderr, "tw\0o\n"), (Stream::Stdout, "\u{fffd}\n")];
    assert_eq!(f.all(), want.map(|(stream, text)| (stream, text.to_owned())));
    assert_eq!(f.logs.measure(&f.id).unwrap().bytes, f.tail.borrow().bytes);
}

#[test]
fn a_cut_character_is_put_together_by_stream() {
    let f = Fixture::new();
    let mut writer = f.logs.writer(&f.id, 100);
    let euro = "€".as_bytes();
    writer.push(Stream::Stdout, &euro[..1], &f.tail);
    writer.push(Stream::Stderr, b"x", &f.tail);
    writer.push(Stream::Stdout, &euro[1..2], &f.tail);
    writer.push(Stream::Stdout, &euro[2..], &f.tail);
    writer.push(Stream::Stdout, &euro[..2], &f.tail);
    writer.end(&f.tail);
    let texts: Vec<String> = f.all().into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["x", "€", "\u{fffd}"]);
}

#[test]
fn output_over_the_cap_is_counted_and_dropped() {
    let f = Fixture::new();
    let mut writer = f.logs.writer(&f.id, 10);
    for _ in 0..5 {
        writer.push(Stream::Stdout, b"abcd", &f.tail);
    }
    writer.end(&f.tail);
    let tail = *f.tail.borrow();
    assert_eq!((tail.kept, tail.dropped), (10, 10));
    assert_eq!(f.all().into_iter().map(|(_, text)| text).collect::<String>(), "abcdabcdab");
}

#[test]
fn a_gigabyte_of_output_takes_no_room() {
    let f = Fixture::new();
    let mut writer = f.logs.writer(&f.id, 1 << 20);
    let chunk = vec![b'x'; 64 << 10];
    for _ in 0..(1 << 30) / chunk.len() {
        writer.push(Stream::Stdout, &chunk, &f.tail);
    }
    writer.end(&f.tail);
    let tail = *f.tail.borrow();
    assert_eq!((tail.kept, tail.dropped), (1 << 20, (1 << 30) - (1 << 20)));
    assert!(tail.bytes < (1 << 20) + 4096);
}

#[test]
fn tiny_pieces_and_escapes_do_not_grow_the_file_past_its_limit() {
    let cap = 64 << 10;
    for piece in [&b"\x01"[..], b"x", b"\xff", &[1; 9000]] {
        let f = Fixture::new();
        let mut writer = f.logs.writer(&f.id, cap);
        let mut sent = 0;
        while sent < 2 * cap {
            writer.push(Stream::Stdout, piece, &f.tail);
            sent += piece.len() as u64;
        }
        writer.push(Stream::Stderr, "€".as_bytes().split_last().unwrap().1, &f.tail);
        writer.end(&f.tail);
        let tail = *f.tail.borrow();
        assert!(fs::metadata(f.logs.path(&f.id)).unwrap().len() <= 4 * cap + 4096);
        assert_eq!(tail.kept + tail.dropped, sent + 2, "all is accounted for");
        assert_eq!(f.logs.measure(&f.id).unwrap().bytes, tail.bytes);
        assert!(tail.kept > 3000, "{}", tail.kept);
    }
}

#[test]
fn ordinary_lines_fill_the_cap() {
    let f = Fixture::new();
    let mut writer = f.logs.writer(&f.id, 64 << 10);
    for _ in 0..3000 {
        writer.push(Stream::Stdout, b"24 characters of output\n", &f.tail);
    }
    assert_eq!(f.tail.borrow().kept, 64 << 10);
}

#[test]
fn reading_goes_on_after_any_cursor_and_a_restart_after_half_a_line() {
    let f = Fixture::new();
    let mut writer = f.logs.writer(&f.id, 1000);
    for n in 0..5 {
        writer.push(Stream::Stdout, format!("{n}").as_bytes(), &f.tail);
    }
    writer.end(&f.tail);
    let end = f.tail.borrow().bytes;
    let whole = f.logs.read(&f.id, 0, end).unwrap();
    for (n, (_, cursor)) in whole.entries.iter().enumerate() {
        assert_eq!(f.logs.read(&f.id, *cursor, end).unwrap().entries, whole.entries[n + 1..]);
    }
    // A cursor that is none, and one past the end.
    assert!(f.logs.read(&f.id, 3, end).unwrap().entries.len() < 5);
    assert!(f.logs.read(&f.id, end + 100, u64::MAX).unwrap().entries.is_empty());

    let path = f.logs.path(&f.id);
    File::options().append(true).open(&path).unwrap().write_all(b"{\"at\":\"20").unwrap();
    let tail = f.logs.measure(&f.id).unwrap();
    assert_eq!((tail.bytes, tail.kept), (end, 5));
    let restarted = watch::Sender::new(tail);
    f.logs.writer(&f.id, 1000).push(Stream::Stdout, b"5", &restarted);
    let texts: String = f.logs.read(&f.id, 0, u64::MAX).unwrap().entries.into_iter().map(|(entry, _)| entry.text).collect();
    assert_eq!(texts, "012345");
}
