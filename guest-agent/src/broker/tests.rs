#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::door::tests::unanswered;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use torpor_protocol::ask::{Answer, Reply, Taken, Waited};
use torpor_protocol::frame::Decoder;

/// An agent's broker, and both ends of what it talks to.
struct Bench {
    broker: Broker,
    door: Door,
    link: Link,
    host: UnixStream,
    decoder: Decoder,
    path: String,
    _folder: Folder,
}

struct Folder(String);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn bench(name: &str) -> Bench {
    let folder = std::env::temp_dir().join(format!("torpor-agent-{}-{name}", std::process::id())).display().to_string();
    std::fs::create_dir_all(&folder).unwrap();
    let path = format!("{folder}/socket");
    let (ours, host) = UnixStream::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    let mut broker = Broker::listen(&path).unwrap();
    broker.open();
    let link = Link::over(ours.into());
    Bench { broker, door: unanswered(), link, host, decoder: Decoder::default(), path, _folder: Folder(folder) }
}

impl Bench {
    fn connect(&mut self) -> (UnixStream, BufReader<UnixStream>) {
        let client = UnixStream::connect(&self.path).unwrap();
        self.turn();
        let reader = BufReader::new(client.try_clone().unwrap());
        (client, reader)
    }

    fn turn(&mut self) {
        self.broker.turn(&self.door, &mut self.link).unwrap();
    }

    /// What the host was asked next.
    fn asked(&mut self) -> Option<(Ask, Vec<u8>)> {
        let mut bytes = vec![0; 1 << 20];
        while let Ok(len @ 1..) = self.host.read(&mut bytes) {
            self.decoder.push(&bytes[..len]);
        }
        match GuestMessage::from_frame(self.decoder.next_frame().unwrap()?).unwrap() {
            GuestMessage::Ask { ask, payload } => Some((ask, payload)),
            other => panic!("{other:?}"),
        }
    }

    fn tell(&mut self, message: &HostMessage) {
        self.host.write_all(&message.to_frame().unwrap().encode().unwrap()).unwrap();
        self.turn();
    }

    fn answer(&mut self, seq: u64, reply: Reply, payload: &[u8]) {
        let answers = Answers { resumed: false, seed: None, answers: vec![Answer { seq, reply }] };
        self.tell(&HostMessage::Answers { answers, payload: payload.to_vec() });
    }
}

fn line(reader: &mut BufReader<UnixStream>) -> String {
    let mut text = String::new();
    reader.read_line(&mut text).unwrap();
    text.trim_end().to_owned()
}

#[test]
fn a_request_is_asked_and_answered_and_the_next_one_waits() {
    let mut bench = bench("order");
    let (mut client, mut reader) = bench.connect();
    client.write_all(b"{\"sleep\":1}\n{\"call\":\"t\",\"input\":{\"a\": 1}}\n").unwrap();
    bench.turn();
    assert_eq!(bench.asked().unwrap().0, Ask { seq: AGENT_SEQ, standing: false, what: What::Sleep { ms: 1000 } });
    assert_eq!(bench.asked(), None);
    assert!(!bench.broker.may_block());
    bench.tell(&HostMessage::Taken(Taken { seq: AGENT_SEQ }));
    assert!(bench.broker.may_block());
    bench.answer(AGENT_SEQ, Reply::Slept, b"");
    assert_eq!(line(&mut reader), r#"{"ok":null}"#);
    let (ask, input) = bench.asked().unwrap();
    assert_eq!((ask.seq, input.as_slice()), (AGENT_SEQ + 1, &br#"{"a": 1}"#[..]));
    let done = |result, more| Waited { execution: "e".into(), state: "succeeded".into(), result, error: None, more };
    // The result did not fit: it is asked for alone.
    bench.answer(ask.seq, Reply::Waited { executions: vec![done(None, true)], timed_out: false }, b"");
    let (again, _) = bench.asked().unwrap();
    assert!(matches!(again.what, What::Wait { results: true, .. }));
    bench.answer(again.seq, Reply::Waited { executions: vec![done(Some(3), false)], timed_out: false }, b"[7]");
    assert_eq!(line(&mut reader), r#"{"ok":[7],"execution":"e"}"#);
    assert_eq!(bench.broker.asks.len(), 0);
    assert_eq!(bench.broker.patience(), PollTimeout::NONE);
}

#[test]
fn one_who_has_gone_gets_no_answer_and_blocks_nobody() {
    let mut bench = bench("gone");
    let (mut client, reader) = bench.connect();
    client.write_all(b"{\"event\":\"T\"}\n").unwrap();
    bench.turn();
    bench.tell(&HostMessage::Taken(Taken { seq: AGENT_SEQ }));
    assert!(bench.broker.may_block());
    drop((client, reader));
    bench.turn();
    assert_eq!((bench.broker.clients.len(), bench.broker.asks.len()), (0, 1));
    assert!(!bench.broker.may_block());
    bench.answer(AGENT_SEQ, Reply::Signalled { len: 2 }, b"{}");
    assert_eq!(bench.broker.asks.len(), 0);
    // One for whom nobody asked is passed over.
    bench.answer(77, Reply::Signalled { len: 2 }, b"{}");
}

#[test]
fn one_who_only_sends_is_still_heard() {
    let mut bench = bench("sends");
    let (mut client, mut reader) = bench.connect();
    client.write_all(b"{\"spawn\":\"t\"}").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    bench.turn();
    assert!(bench.asked().is_some());
    bench.turn();
    assert_eq!(bench.broker.clients.len(), 1);
    bench.answer(AGENT_SEQ, Reply::Spawned { execution: "e".into() }, b"");
    assert_eq!((line(&mut reader), line(&mut reader)), (r#"{"ok":"e"}"#.to_owned(), String::new()));
    assert_eq!(bench.broker.clients.len(), 0);
}

#[test]
fn there_are_limits() {
    let mut bench = bench("limits");
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        clients.push(bench.connect());
    }
    let (_one_more, mut reader) = bench.connect();
    assert!(line(&mut reader).contains("too_many"));
    assert_eq!(line(&mut reader), "");
    for seq in 0..MAX_ASKS as u64 {
        bench.broker.asks.insert(seq, Pending { client: 0, call: false, again: false, taken: true });
    }
    let (client, reader) = &mut clients[0];
    client.write_all(b"{\"sleep\":1}\n").unwrap();
    bench.broker.turn(&bench.door, &mut bench.link).unwrap();
    assert!(line(reader).contains("too_many"));
}

#[test]
fn before_there_is_an_execution_nothing_is_asked() {
    let mut bench = bench("early");
    bench.broker.open = false;
    let (mut client, mut reader) = bench.connect();
    client.write_all(b"{\"sleep\":1}\n").unwrap();
    bench.turn();
    assert!(line(&mut reader).contains("being loaded"));
    assert_eq!(bench.asked(), None);
}

#[test]
fn the_first_look_is_soon_and_the_next_ones_are_not() {
    let mut bench = bench("looks");
    let (mut client, _reader) = bench.connect();
    client.write_all(b"{\"sleep\":1}\n").unwrap();
    bench.turn();
    bench.tell(&HostMessage::Taken(Taken { seq: AGENT_SEQ }));
    assert_eq!(bench.broker.patience(), PollTimeout::from(SOON));
    let _sleeper = crate::idle::tests::Sleeper::start().unwrap();
    for wanted in [2u16, 4, 8, 16, 32, 64, 128, 256, 500, 500] {
        assert!(!bench.broker.quiet(&bench.link));
        // More where the look itself takes long.
        assert!((wanted..=LONGEST).contains(&bench.broker.delay), "{} {wanted}", bench.broker.delay);
    }
    bench.broker.stirred();
    assert_eq!(bench.broker.patience(), PollTimeout::from(FIRST_LOOK));
}
