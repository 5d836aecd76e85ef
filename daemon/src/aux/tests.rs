#![allow(clippy::unwrap_used, clippy::panic)]
use super::Outside;
use super::broker::{Broker, Next};
use super::secret::MemorySecrets;
use crate::manifest::SecretName;
use crate::manifest::aux::{Aux, Http, OnPark, Part, Target, Template};
use crate::manifest::host::HostPolicy;
use crate::manifest::names::AuxName;
use crate::metrics::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use torpor_protocol::aux::{FromGuest, MAX_DATA, Relay, ToGuest, WINDOW};

fn aux(name: &str, port: u16, on_park: OnPark) -> Aux {
    Aux {
        name: AuxName::try_from(name.to_owned()).unwrap(),
        target: Target::Tcp { host: "127.0.0.1".into(), port },
        port: None,
        on_park,
        connections: 2,
        bytes: 1 << 20,
        line: 1,
    }
}

fn outside(allowed: &str) -> Arc<Outside> {
    let caps = HostPolicy::parse(format!("[caps]\naux = [{allowed}]\n").as_bytes()).unwrap();
    let name = SecretName::try_from("key".to_owned()).unwrap();
    Outside::new(Arc::new(caps), Arc::new(MemorySecrets([(name, "s3cret".to_owned())].into())), Arc::new(Metrics::default()))
}

/// A service, and the next connection to it.
struct Service(TcpListener);

impl Service {
    async fn new() -> (Self, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (Self(listener), port)
    }

    async fn next(&self) -> TcpStream {
        timely(self.0.accept()).await.unwrap().0
    }
}

async fn timely<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.unwrap()
}

async fn told(broker: &mut Broker) -> ToGuest {
    loop {
        if let Next::Tell(told) = timely(broker.next()).await {
            return told;
        }
    }
}

async fn line(broker: &mut Broker) -> String {
    loop {
        if let Next::Log(line) = timely(broker.next()).await {
            return line;
        }
    }
}

async fn silent(broker: &mut Broker) -> bool {
    tokio::time::timeout(Duration::from_millis(100), broker.next()).await.is_err()
}

fn open(conn: u32) -> FromGuest {
    FromGuest::Open { conn, service: 0 }
}

fn data(conn: u32, bytes: &[u8]) -> FromGuest {
    FromGuest::Relay(conn, Relay::Data(bytes.to_vec()))
}

fn say(conn: u32, relay: Relay) -> FromGuest {
    FromGuest::Relay(conn, relay)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let (service, port) = Service::new().await;
    let mut broker = Broker::new(&outside("\"*\""), &[aux("a", port, OnPark::Hold)], "ex");
    broker.hear(open(1));
    broker.hear(data(1, b"before it is connected"));
    broker.hear(say(1, Relay::End));
    let mut stream = service.next().await;
    let mut got = String::new();
    timely(stream.read_to_string(&mut got)).await.unwrap();
    assert_eq!(got, "before it is connected");
    stream.write_all(b"answer").await.unwrap();
    drop(stream);
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::Data(b"answer".to_vec())));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::End));
    assert!(broker.held().is_empty(), "both ways have ended");
    assert_eq!(broker.sent(), 2);
    broker.hear(data(1, b"late"));
    assert!(silent(&mut broker).await);
}

#[tokio::test]
async fn nobody_sends_more_than_the_other_takes() {
    let (service, port) = Service::new().await;
    let mut broker = Broker::new(&outside("\"*\""), &[aux("a", port, OnPark::Hold)], "ex");
    broker.hear(open(1));
    let mut stream = service.next().await;
    let all = 3 * WINDOW as usize;
    let writing = tokio::spawn(async move {
        stream.write_all(&vec![1; all]).await.unwrap();
        stream
    });
    let mut got = 0;
    while got < WINDOW as usize {
        match told(&mut broker).await {
            ToGuest::Relay(1, Relay::Data(bytes)) if bytes.len() <= MAX_DATA => got += bytes.len(),
            other => panic!("{other:?}"),
        }
    }
    assert!(silent(&mut broker).await, "the window is used up");
    broker.hear(say(1, Relay::Credit(1)));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::Data(vec![1])));
    assert!(silent(&mut broker).await);
    broker.hear(say(1, Relay::Credit(WINDOW)));
    while got < 2 * WINDOW as usize {
        let ToGuest::Relay(1, Relay::Data(bytes)) = told(&mut broker).await else { panic!("no data") };
        got += bytes.len();
    }
    broker.hear(say(1, Relay::Credit(WINDOW)));
    let mut stream = timely(writing).await.unwrap();
    // The other way: what the service takes is told to the guest, what it may not send ends the connection.
    for _ in 0..2 {
        broker.hear(data(1, &vec![2; MAX_DATA]));
    }
    let mut back = vec![0; 2 * MAX_DATA];
    timely(stream.read_exact(&mut back)).await.unwrap();
    let mut credit = 0;
    while credit < WINDOW {
        if let ToGuest::Relay(1, Relay::Credit(bytes)) = told(&mut broker).await {
            credit += bytes;
        }
    }
    for _ in 0..200 {
        broker.hear(data(1, &vec![2; MAX_DATA]));
    }
    while told(&mut broker).await != ToGuest::Relay(1, Relay::Reset) {}
}

#[tokio::test]
async fn what_is_not_allowed_is_reset_and_said() {
    let (service, port) = Service::new().await;
    let mut broker = Broker::new(&outside("\"tcp:127.0.0.1:1\""), &[aux("a", port, OnPark::Hold)], "ex");
    broker.hear(open(1));
    assert!(line(&mut broker).await.contains("not in `aux` of the host's policy"));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::Reset));
    let mut broker = Broker::new(&outside("\"*\""), &[aux("a", port, OnPark::Hold)], "ex");
    for conn in 1..=3 {
        broker.hear(open(conn));
    }
    assert!(line(&mut broker).await.contains("refused: 2 connections"));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(3, Relay::Reset));
    broker.hear(FromGuest::Open { conn: 4, service: 9 });
    assert_eq!(told(&mut broker).await, ToGuest::Relay(4, Relay::Reset));
    // A number that was used.
    broker.hear(open(2));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(2, Relay::Reset));
    drop(service);
    broker.hear(open(5));
    assert!(line(&mut broker).await.contains("refused"));
}

#[tokio::test]
async fn a_program_that_goes_on_and_on_does_not_fill_its_log() {
    let mut broker = Broker::new(&outside(""), &[aux("a", 1, OnPark::Hold)], "ex");
    for conn in 1..1000 {
        broker.hear(open(conn));
    }
    let lines = line(&mut broker).await;
    assert_eq!(lines.lines().count(), 33);
    assert!(lines.ends_with("more of this is not logged\n"));
}

#[tokio::test]
async fn bytes_are_limited() {
    let (service, port) = Service::new().await;
    let mut broker = Broker::new(&outside("\"*\""), &[Aux { bytes: 1024, ..aux("a", port, OnPark::Hold) }], "ex");
    broker.hear(open(1));
    let mut stream = service.next().await;
    broker.hear(data(1, &[0; 1000]));
    stream.write_all(&[0; 1000]).await.unwrap();
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::Reset));
    assert!(line(&mut broker).await.contains("`bytes` allows"));
    broker.hear(open(2));
    assert!(line(&mut broker).await.contains("`bytes` allows"));
}

#[tokio::test]
async fn a_park_holds_closes_or_is_refused() {
    let (service, port) = Service::new().await;
    let services = [aux("hold", port, OnPark::Hold), aux("close", port, OnPark::Close), aux("refuse", port, OnPark::Refuse)];
    let mut broker = Broker::new(&outside("\"*\""), &services, "ex");
    broker.hear(FromGuest::Open { conn: 1, service: 0 });
    let mut held = service.next().await;
    broker.hear(FromGuest::Open { conn: 2, service: 1 });
    broker.hear(data(2, b"last words"));
    let mut closed = service.next().await;
    broker.hear(FromGuest::Open { conn: 3, service: 2 });
    let refused = service.next().await;
    assert!(broker.refuses().unwrap().contains("refuse"));
    broker.hear(say(3, Relay::End));
    drop(refused);
    assert_eq!(told(&mut broker).await, ToGuest::Relay(3, Relay::End));
    assert_eq!(broker.refuses(), None);
    broker.parked();
    assert_eq!(broker.held(), ["hold"]);
    let mut words = String::new();
    timely(closed.read_to_string(&mut words)).await.unwrap();
    assert_eq!(words, "last words");
    assert!(broker.last_lines().unwrap().contains("closed: the execution was parked"));
    assert!(!broker.calls());
    held.write_all(b"while it was parked").await.unwrap();
    timely(broker.called()).await;
    broker.resumed(&broker.held(), false);
    let ToGuest::Held { base, conns } = told(&mut broker).await else { panic!("not first of all") };
    assert_eq!((conns, broker.sent()), (vec![1], base));
    assert_eq!(told(&mut broker).await, ToGuest::Relay(1, Relay::Data(b"while it was parked".to_vec())));
    assert_eq!(broker.sent(), base.wrapping_add(1));
    // Another daemon has none of them.
    let mut other = Broker::new(&outside("\"*\""), &services, "ex");
    other.resumed(&broker.held(), true);
    assert!(line(&mut other).await.contains("aux hold: closed: it was held"));
    assert!(matches!(told(&mut other).await, ToGuest::Held { conns, .. } if conns.is_empty()));
}

#[tokio::test]
async fn what_was_sent_before_the_end_arrives() {
    let (service, port) = Service::new().await;
    let mut broker = Broker::new(&outside("\"*\""), &[aux("a", port, OnPark::Hold)], "ex");
    broker.hear(open(1));
    broker.hear(data(1, b"last words"));
    drop(broker);
    let mut words = String::new();
    timely(service.next().await.read_to_string(&mut words)).await.unwrap();
    assert_eq!(words, "last words");
}

#[tokio::test]
async fn requests_are_written_anew() {
    let (service, port) = Service::new().await;
    let key = Template(vec![Part::Secret(SecretName::try_from("key".to_owned()).unwrap())]);
    let http = Http {
        tls: false,
        host: "127.0.0.1".into(),
        port,
        methods: vec!["GET".into()],
        paths: vec!["/a*".into()],
        headers: vec![("x-key".into(), key)],
    };
    let server = Aux { target: Target::Http(http), ..aux("pay", port, OnPark::Hold) };
    let mut broker = Broker::new(&outside("\"*\""), &[server], "ex");
    broker.hear(open(1));
    broker.hear(data(1, b"GET /b HTTP/1.1\r\nHost: pay\r\n\r\nGET /a?q=1 HTTP/1.1\r\nHost: pay\r\nX-Key: mine\r\n\r\n"));
    let mut denied = String::new();
    while !denied.contains("\"not_allowed\"") {
        if let ToGuest::Relay(1, Relay::Data(bytes)) = told(&mut broker).await {
            denied.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    assert!(denied.starts_with("HTTP/1.1 403 Forbidden"), "{denied}");
    let mut stream = service.next().await;
    let mut head = vec![0; 4096];
    let len = timely(stream.read(&mut head)).await.unwrap();
    let head = String::from_utf8_lossy(&head[..len]).into_owned();
    assert!(head.starts_with("GET /a?q=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("x-key: s3cret\r\n") && !head.contains("mine") && head.contains(&format!("host: 127.0.0.1:{port}\r\n")),
        "{head}"
    );
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("ok") {
        if let ToGuest::Relay(1, Relay::Data(bytes)) = told(&mut broker).await {
            answer.push_str(&String::from_utf8(bytes).unwrap());
        }
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
