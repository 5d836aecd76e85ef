#![allow(clippy::unwrap_used)]
use super::*;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use torpor_protocol::aux::{MAX_DATA, WINDOW};

fn pair() -> (Conn, UnixStream) {
    let (ours, program) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Conn::new(ours.into()), program)
}

#[test]
fn names_are_added_to_those_that_are_there() {
    let place = |name: &str, port| AuxPlace { name: name.to_owned(), port };
    let text = hosts("127.0.0.1 localhost\n", &[place("a", Some(1)), place("b", None), place("c", Some(2))]);
    assert_eq!(text, "127.0.0.1 localhost\n127.0.1.1 a\n127.0.1.3 c\n");
}

#[test]
fn a_program_is_read_as_far_as_the_host_takes_it() {
    let (mut conn, mut program) = pair();
    assert_eq!(conn.pull().unwrap(), Read::Nothing);
    program.write_all(&vec![7; WINDOW as usize + 1]).unwrap();
    let mut got = 0;
    while let Read::Bytes(bytes) = conn.pull().unwrap() {
        assert!(bytes.len() <= MAX_DATA);
        got += bytes.len();
    }
    assert_eq!((got, conn.pull().unwrap()), (WINDOW as usize, Read::NoCredit));
    assert!(conn.interest().is_empty());
    conn.credit(WINDOW);
    assert_eq!(conn.pull().unwrap(), Read::Bytes(vec![7]));
    drop(program);
    assert_eq!(conn.pull().unwrap(), Read::End);
}

#[test]
fn what_the_host_sends_reaches_the_program_and_is_told_of_when_it_is_much() {
    let (mut conn, mut program) = pair();
    conn.put(&[1; 100]).unwrap();
    assert_eq!(conn.owed(), None);
    conn.put(&vec![1; WINDOW as usize / 2]).unwrap();
    assert_eq!(conn.owed(), Some(100 + WINDOW / 2));
    conn.end().unwrap();
    let mut got = Vec::new();
    program.read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 100 + WINDOW as usize / 2);
    assert!(!conn.done());
    conn.read_done = true;
    assert!(conn.done());
    assert!(conn.put(&[1]).is_err(), "after its end");
}

#[test]
fn more_than_a_window_is_not_held() {
    let (mut conn, _program) = pair();
    let mut refused = false;
    for _ in 0..64 {
        refused |= conn.put(&vec![0; MAX_DATA]).is_err();
    }
    assert!(refused && conn.unsent() <= WINDOW as usize);
}
