#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use std::io::Write;
use std::os::unix::net::UnixStream;
use torpor_protocol::agent::Failure;
use torpor_protocol::monitor::{self, StopReason};

fn vsock(message: &GuestMessage) -> Event {
    Event::Vsock { bytes: message.to_frame().unwrap().encode().unwrap() }
}

fn vm(events: &[Event]) -> (Vm, UnixStream) {
    let (vm, mut peer) = Vm::scripted(VmState::Booting).unwrap();
    for event in [&[Event::Running { micros: 1 }], events].concat() {
        peer.write_all(&monitor::encode(&event).unwrap()).unwrap();
    }
    (vm, peer)
}

async fn loaded(events: &[Event]) -> Result<VmState, ExecutionError> {
    let (mut vm, _peer) = vm(events);
    to_door(&mut vm, |message| match message {
        GuestMessage::Loaded => Ok(true),
        GuestMessage::LoadFailed(failure) => Err(verdict::failure(failure, 128)),
        other => Err(out_of_turn(&other)),
    })
    .await?;
    Ok(vm.state())
}

#[tokio::test]
async fn word_and_arrival_may_come_in_either_order() {
    let word = vsock(&GuestMessage::Loaded);
    assert_eq!(loaded(&[Event::VsockOpen, word.clone(), Event::AtDoor]).await.unwrap(), VmState::AtDoor);
    assert_eq!(loaded(&[Event::AtDoor, word]).await.unwrap(), VmState::AtDoor);
}

#[tokio::test]
async fn what_goes_wrong_on_the_way_is_told() {
    let failure = Failure {
        kind: FailureKind::Load,
        message: "no module named x".into(),
        exception: Some("ModuleNotFoundError".into()),
        traceback: Some("Traceback".into()),
        exit_code: None,
        signal: None,
        drain: false,
    };
    let error = loaded(&[vsock(&GuestMessage::LoadFailed(failure))]).await.unwrap_err();
    assert_eq!((error.kind, error.exception.as_deref()), (ErrorKind::Load, Some("ModuleNotFoundError")));
    let stopped = Event::Stopped { reason: StopReason::Panic, console: "VFS: cannot mount".into() };
    assert_eq!(loaded(&[stopped]).await.unwrap_err().console.as_deref(), Some("VFS: cannot mount"));
    assert_eq!(loaded(&[Event::VsockClosed]).await.unwrap_err().kind, ErrorKind::GuestCrashed);
    assert_eq!(loaded(&[vsock(&GuestMessage::Started)]).await.unwrap_err().kind, ErrorKind::GuestProtocol);
    assert_eq!(loaded(&[Event::Vsock { bytes: vec![0xff; 20] }]).await.unwrap_err().kind, ErrorKind::GuestProtocol);
}

#[tokio::test]
async fn a_root_disk_that_does_not_fit_says_what_to_do() {
    let hello = |protocol, runtime| Hello { protocol, runtime, agent: "9".into(), kernel: "6.1".into() };
    assert!(fits(&hello(agent::VERSION, Runtime::Exec), Runtime::Exec).is_ok());
    for wrong in [hello(agent::VERSION + 1, Runtime::Exec), hello(agent::VERSION, Runtime::Python)] {
        let error = fits(&wrong, Runtime::Exec).unwrap_err();
        assert!(error.message.contains("scripts/build-rootfs exec"), "{error}");
    }
}

#[tokio::test]
async fn a_guest_that_never_arrives_leaves_its_console() {
    let (mut vm, peer) = vm(&[]);
    let late = tokio::time::timeout(Duration::from_millis(10), to_door(&mut vm, |_| Ok(true))).await;
    let event = Event::Stopped { reason: StopReason::Asked, console: "stuck here".into() };
    (&peer).write_all(&monitor::encode(&event).unwrap()).unwrap();
    let error = arrived(late, &mut vm, ErrorKind::Load, "too late").await.unwrap_err();
    assert_eq!((error.kind, error.console.as_deref()), (ErrorKind::Load, Some("stuck here")));
}
