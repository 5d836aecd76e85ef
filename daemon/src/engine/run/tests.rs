#![allow(clippy::unwrap_used, clippy::panic)]
use super::session::Answer;
use super::*;
use crate::engine::template::Ground;
use crate::engine::types::ErrorKind;
use crate::engine::types::Parked;
use crate::engine::vm::VmState;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use torpor_protocol::agent::{GuestMessage, Stream};
use torpor_protocol::ask::{AGENT_SEQ, Answer as AskAnswer, Ask, Reply as AskReply, What};
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

fn session(vm: Vm, progress: &mpsc::Sender<Progress>, timeout: Duration) -> Session<'_> {
    let parts = (Ground::nowhere(), Arc::default());
    Session::new(vm, Conversation::new(), parts, Clock::new(timeout, false), progress, Instant::now())
}

const LONG: Duration = Duration::from_secs(3600);

fn no_orders() -> mpsc::UnboundedReceiver<Order> {
    mpsc::unbounded_channel().1
}

/// Listens to a monitor that says these events and then keeps quiet.
async fn listen(events: &[Event]) -> (Result<Answer, ExecutionError>, Vec<Progress>) {
    let (progress, mut seen) = mpsc::channel(64);
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    say(&peer, events);
    let mut session = session(vm, &progress, LONG);
    let answer = match session.listen(&mut no_orders()).await {
        Ok(End::Answered(answer)) => Ok(answer),
        Ok(_) => panic!("neither an answer nor an error came of {events:?}"),
        Err(error) => Err(error),
    };
    if let Ok(answer) = &answer
        && answer.drain
    {
        let _ = tokio::time::timeout(Duration::from_millis(200), session.drain(&mut no_orders())).await;
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
    let mut session = session(vm, &progress, LONG);
    let Err(error) = session.listen(&mut no_orders()).await else { panic!("an answer from nobody") };
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
    let mut session = session(vm, &progress, Duration::from_millis(300));
    assert!(matches!(session.listen(&mut no_orders()).await, Ok(End::TimedOut)), "a flood has no answer");
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
    let mut session = session(vm, &progress, Duration::from_millis(200));
    assert!(matches!(session.listen(&mut no_orders()).await, Ok(End::TimedOut)));
    assert!(since.elapsed() < Duration::from_secs(5));
    drop(session);
    drop(progress);
    assert!(reader.await.unwrap() > 0);
    flood.join().unwrap();
}

fn ask(seq: u64) -> GuestMessage {
    GuestMessage::Ask { ask: Ask { seq, standing: true, what: What::Sleep { ms: 5 } }, payload: Vec::new() }
}

fn command(mut peer: &UnixStream) -> Command {
    let mut prefix = [0; 4];
    peer.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; monitor::body_len(prefix).unwrap()];
    peer.read_exact(&mut body).unwrap();
    monitor::decode(&body).unwrap()
}

fn slept(seq: u64) -> Order {
    Order::Answer(Reply { answers: vec![AskAnswer { seq, reply: AskReply::Slept }], payload: Vec::new() })
}

/// A guest that stands is parked on order; an answer that comes before the end of its machine lets it go on.
#[tokio::test]
async fn a_standing_guest_is_written_down_and_goes_on_or_ends() {
    let (progress, mut seen) = mpsc::channel(64);
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    say(&peer, &[door(&GuestMessage::Started), door(&ask(1))]);
    let mut session = session(vm, &progress, LONG);
    let script = async {
        assert!(matches!(seen.recv().await, Some(Progress::Started { .. })));
        assert!(matches!(seen.recv().await, Some(Progress::Asked { .. })));
        let park = || Order::Park { file: tempfile::tempfile().unwrap(), packing: crate::engine::Packing::None, key: None };
        orders.send(park()).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        say(&peer, &[Event::AtDoor]);
        let peer = tokio::task::spawn_blocking(move || {
            assert!(matches!(command(&peer), Command::Park { .. }), "not before it is at the door");
            say(&peer, &[Event::Parked { changed_bytes: 3, stored_bytes: 2, micros: 1 }]);
            peer
        });
        let peer = peer.await.unwrap();
        assert!(matches!(seen.recv().await, Some(Progress::Parked(Parked { changed_bytes: 3, .. }))));
        orders.send(slept(1)).unwrap();
        let peer = tokio::task::spawn_blocking(move || {
            assert!(matches!(command(&peer), Command::Inbox { .. }));
            say(&peer, &[door(&ask(2)), Event::AtDoor]);
            peer
        });
        let peer = peer.await.unwrap();
        assert!(matches!(seen.recv().await, Some(Progress::Asked { .. })));
        orders.send(Order::End).unwrap();
        peer
    };
    let (end, _peer) = tokio::join!(session.listen(&mut ordered), script);
    assert!(matches!(end, Ok(End::Parked)));
}

/// Time in which a guest stands does not count, unless its policy says so.
#[tokio::test(start_paused = true)]
async fn a_standing_guest_has_time() {
    for waits_count in [false, true] {
        let (progress, _seen) = mpsc::channel(64);
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
        say(&peer, &[door(&GuestMessage::Started), door(&ask(1)), Event::AtDoor]);
        let clock = Clock::new(Duration::from_millis(300), waits_count);
        let mut session = Session::new(vm, Conversation::new(), (Ground::nowhere(), Arc::default()), clock, &progress, Instant::now());
        let late = tokio::time::timeout(Duration::from_secs(60), session.listen(&mut ordered)).await;
        assert_eq!(late.is_ok(), waits_count);
        drop(orders);
    }
}

/// A guest that says that it stands and computes on.
#[tokio::test]
async fn time_stands_still_for_who_is_at_the_door_alone() {
    let (progress, _seen) = mpsc::channel(64);
    let (_orders, mut ordered) = mpsc::unbounded_channel();
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    say(&peer, &[door(&GuestMessage::Started), door(&ask(1))]);
    let mut session = session(vm, &progress, Duration::from_millis(300));
    let end = tokio::time::timeout(Duration::from_secs(60), session.listen(&mut ordered)).await;
    assert!(matches!(end, Ok(Ok(End::TimedOut))));
}

/// And one that has answers to no end held back for it.
#[tokio::test]
async fn what_is_held_back_for_a_guest_is_bounded() {
    let (progress, mut seen) = mpsc::channel(64);
    let (orders, mut ordered) = mpsc::unbounded_channel();
    let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
    say(&peer, &[door(&GuestMessage::Started), door(&ask(1))]);
    let mut session = session(vm, &progress, LONG);
    let answers = async {
        while !matches!(seen.recv().await, Some(Progress::Asked { .. })) {}
        for _ in 0..20 {
            orders.send(Order::Answer(Reply { answers: Vec::new(), payload: vec![0; 6 << 20] })).unwrap();
        }
    };
    let listening = tokio::time::timeout(Duration::from_secs(60), session.listen(&mut ordered));
    let (end, ()) = tokio::join!(listening, answers);
    assert_eq!(end.unwrap().err().unwrap().kind, ErrorKind::GuestProtocol);
}

#[tokio::test]
async fn a_guest_that_asks_twice_while_it_stands_broke_the_protocol() {
    assert_eq!(fails(&[door(&GuestMessage::Started), door(&ask(1)), door(&ask(2))]).await.kind, ErrorKind::GuestProtocol);
    assert_eq!(fails(&[door(&ask(1))]).await.kind, ErrorKind::GuestProtocol, "before it has started");
    assert_eq!(fails(&[door(&GuestMessage::Started), vsock(&[ask(1)])]).await.kind, ErrorKind::GuestProtocol, "who stands is at the door");
}

/// Who was brought back before there was an answer gets it where it listens: who asked at the door when it is there again, the agent at once.
#[tokio::test]
async fn an_answer_that_comes_during_a_resume_finds_who_asked() {
    for (seq, waits) in [(1, true), (AGENT_SEQ, false)] {
        let (progress, mut seen) = mpsc::channel(64);
        let (orders, mut ordered) = mpsc::unbounded_channel();
        let (vm, peer) = Vm::scripted(VmState::Running).unwrap();
        say(&peer, &[door(&GuestMessage::Started)]);
        let mut session = session(vm, &progress, LONG).hollow();
        let script = async {
            assert!(matches!(seen.recv().await, Some(Progress::Started { .. })));
            orders.send(slept(seq)).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            if waits {
                say(&peer, &[Event::AtDoor]);
            }
            let told = tokio::task::spawn_blocking(move || (command(&peer), peer)).await.unwrap();
            orders.send(Order::End).unwrap();
            told
        };
        let (end, (told, _peer)) = tokio::join!(session.listen(&mut ordered), script);
        assert!(matches!(end, Ok(End::Parked)));
        assert_eq!(matches!(told, Command::Inbox { .. }), waits, "{seq}");
        assert_eq!(matches!(told, Command::Vsock { .. }), !waits, "{seq}");
    }
}
