#![allow(clippy::unwrap_used)]
use super::*;

fn pair() -> (Client, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (Client::new(ours, 0).unwrap(), theirs)
}

#[test]
fn lines_come_whole_and_one_at_a_time() {
    let (mut client, mut theirs) = pair();
    assert_eq!(client.read(true).unwrap(), Input::Part);
    theirs.write_all(b"one\ntw").unwrap();
    assert_eq!(client.read(true).unwrap(), Input::Line(b"one".to_vec()));
    assert_eq!(client.read(true).unwrap(), Input::Part);
    theirs.write_all(b"o\n\nlast").unwrap();
    assert_eq!(client.read(true).unwrap(), Input::Line(b"two".to_vec()));
    assert_eq!(client.read(true).unwrap(), Input::Line(Vec::new()));
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(true).unwrap(), Input::Line(b"last".to_vec()));
    assert!(client.done());
    assert_eq!(client.read(true).unwrap(), Input::End);
}

#[test]
fn a_long_line_waits_for_its_turn() {
    let (mut client, mut theirs) = pair();
    let writer = std::thread::spawn(move || {
        theirs.write_all(&vec![b'x'; 1 << 20]).unwrap();
        theirs.write_all(b"\n").unwrap();
        theirs
    });
    while !client.large() {
        assert_eq!(client.read(false).unwrap(), Input::Part);
    }
    assert_eq!(client.interest(false), EpollFlags::empty());
    assert_eq!(client.interest(true), EpollFlags::EPOLLIN);
    let line = loop {
        assert!(client.input.len() < 2 * SMALL || client.large());
        match client.read(true).unwrap() {
            Input::Line(line) => break line,
            other => assert_eq!(other, Input::Part),
        }
    };
    assert_eq!(line.len(), 1 << 20);
    drop(writer.join().unwrap());
}

#[test]
fn a_line_without_an_end_is_refused() {
    let (mut client, mut theirs) = pair();
    let writer = std::thread::spawn(move || theirs.write_all(&vec![b'x'; MAX_LINE + (1 << 20)]));
    while client.read(true).unwrap() != Input::TooLong {}
    drop(client);
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn what_does_not_go_now_goes_later() {
    let (mut client, mut theirs) = pair();
    client.say(vec![b'y'; 4 << 20]).unwrap();
    assert!(client.unsent() > 0);
    assert_eq!(client.interest(true), EpollFlags::EPOLLOUT);
    theirs.set_nonblocking(true).unwrap();
    let (mut got, mut chunk) = (0, vec![0; 1 << 20]);
    while got < (4 << 20) + 1 {
        client.write().unwrap();
        got += theirs.read(&mut chunk).unwrap_or(0);
    }
    assert_eq!(client.unsent(), 0);
    drop(theirs);
    assert!(client.say(b"nobody".to_vec()).is_err());
}
