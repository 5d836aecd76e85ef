#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::engine::types::ErrorKind;
use crate::engine::vm::VmState;
use std::io::Write;
use std::os::unix::net::UnixStream;
use torpor_protocol::agent::{GuestMessage, Stream};
use torpor_protocol::monitor;

fn door(message: &GuestMessage) -> Event {
    Event::Outbox { frame: message.to_frame().unwrap().encode().unwrap() }
}

fn vsock(messages: &[GuestMessage]) -> Event {
    Event::Vsock { bytes: messages.iter().flat_map(|message| message.to_frame().unwrap().encode().unwrap()).collect() }
}

fn log(bytes: &[u8]) -> GuestMessage {
    GuestMessage::Log { stream: Stream::Stdout, bytes: bytes.to_vec() }
}

fn result(drain: bool) -> GuestMessage {
    GuestMessage::Result { drain, json: b"7".to_vec() }
}

fn say(mut peer: &UnixStream, events: &[Event]) {
    for event in events {
        peer.write_all(&monitor::encode(event).unwrap()).unwrap();
    }
}

/// Listens to a monitor that says these events and then keeps quiet.
async fn listen(events: &[Event]) -> (Result<Answer, ExecutionError>, Vec<Progress>) {
    let (progress, mut seen) = mpsc::channel(64);
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    say(&peer, events);
    let mut session = Session { vm, talk: Conversation::new(), progress: &progress, since: Instant::now() };
    let mut answer = session.listen().await;
    if let Ok(answer) = &mut answer
        && answer.drain
    {
        let _ = tokio::time::timeout(Duration::from_millis(200), session.drain()).await;
    }
    drop(session);
    drop(progress);
    let mut all = Vec::new();
    while let Some(progress) = seen.recv().await {
        all.push(progress);
    }
    (answer, all)
}

async fn fails(events: &[Event]) -> ExecutionError {
    match listen(events).await.0 {
        Err(error) => error,
        Ok(_) => panic!("an answer came of {events:?}"),
    }
}

#[tokio::test]
async fn output_comes_before_the_answer_and_after_it_while_it_drains() {
    let events =
        [door(&GuestMessage::Started), vsock(&[log(b"a")]), door(&result(true)), vsock(&[log(b"b"), GuestMessage::Drained, log(b"c")])];
    let (answer, progress) = listen(&events).await;
    assert!(matches!(answer.unwrap().outcome, Answered::Result(json) if json == b"7"));
    let logs: Vec<&[u8]> =
        progress.iter().filter_map(|p| if let Progress::Log { bytes, .. } = p { Some(&bytes[..]) } else { None }).collect();
    assert_eq!(logs, [b"a", b"b"]);
    assert!(matches!(progress[0], Progress::Started { .. }));
}

#[tokio::test]
async fn a_drain_that_never_ends_is_given_up() {
    let (answer, progress) = listen(&[door(&GuestMessage::Started), door(&result(true)), vsock(&[log(b"x")])]).await;
    assert!(answer.is_ok());
    assert_eq!(progress.len(), 2);
}

#[tokio::test]
async fn each_end_without_an_answer_has_its_kind() {
    let stopped = |reason| Event::Stopped { reason, console: "last".into() };
    let error = fails(&[door(&GuestMessage::Started), stopped(StopReason::Panic)]).await;
    assert_eq!((error.kind, error.console.as_deref()), (ErrorKind::GuestCrashed, Some("last")));
    let fault = StopReason::GuestFault { device: "vsock".into(), why: "credit".into() };
    assert_eq!(fails(&[stopped(fault)]).await.kind, ErrorKind::GuestProtocol);
    assert_eq!(fails(&[Event::Outbox { frame: vec![1, 2, 3] }]).await.kind, ErrorKind::GuestProtocol);
    assert_eq!(fails(&[Event::Vsock { bytes: vec![0xff; 100] }]).await.kind, ErrorKind::GuestProtocol);
    assert_eq!(fails(&[door(&result(false))]).await.kind, ErrorKind::GuestProtocol);
    assert_eq!(fails(&[Event::Prepared]).await.kind, ErrorKind::Host);
}

#[tokio::test]
async fn a_monitor_that_ends_without_a_word_is_the_hosts_fault() {
    let (progress, _seen) = mpsc::channel(1);
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    drop(peer);
    let mut session = Session { vm, talk: Conversation::new(), progress: &progress, since: Instant::now() };
    let Err(error) = session.listen().await else { panic!("an answer from nobody") };
    assert!(error.kind == ErrorKind::Host && error.message.contains("as scripted"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_gone_may_still_be_explained() {
    assert_eq!(fails(&[Event::VsockClosed]).await.kind, ErrorKind::GuestCrashed);
    let (answer, _) = listen(&[Event::VsockClosed, door(&GuestMessage::Started), door(&result(false))]).await;
    assert!(answer.is_ok(), "an answer through the door counts");
}

/// A guest that never stops talking to a client that never listens is held back, and its timeout holds.
#[tokio::test]
async fn a_flood_is_held_back_and_times_out() {
    let (progress, mut seen) = mpsc::channel(2);
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    peer.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let flood = std::thread::spawn(move || {
        let event = monitor::encode(&vsock(&[log(&[b'x'; 60_000])])).unwrap();
        let mut written = 0;
        while (&peer).write_all(&event).is_ok() {
            written += event.len();
        }
        written
    });
    let mut session = Session { vm, talk: Conversation::new(), progress: &progress, since: Instant::now() };
    let ended = tokio::time::timeout(Duration::from_millis(300), session.listen()).await;
    assert!(ended.is_err(), "a flood has no answer");
    drop(session);
    let written = flood.join().unwrap();
    assert!(written < 2 << 20, "{written} bytes were taken from a guest whose client does not listen");
    seen.close();
}

/// The same to a client that listens as fast as it can: the deadline is seen although there is always something to read.
#[tokio::test]
async fn a_flood_that_is_listened_to_times_out() {
    let (progress, mut seen) = mpsc::channel(2);
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    let flood = std::thread::spawn(move || {
        let event = monitor::encode(&vsock(&[log(b"x")])).unwrap().repeat(1000);
        while (&peer).write_all(&event).is_ok() {}
    });
    let reader = tokio::spawn(async move {
        let mut count = 0u64;
        while seen.recv().await.is_some() {
            count += 1;
        }
        count
    });
    let since = Instant::now();
    let mut session = Session { vm, talk: Conversation::new(), progress: &progress, since };
    assert!(tokio::time::timeout(Duration::from_millis(200), session.listen()).await.is_err());
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(session);
    drop(progress);
    assert!(reader.await.unwrap() > 0);
    flood.join().unwrap();
}
