//! What a monitor has from the process that started it.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_monitor_keeps_no_descriptor_but_its_socket() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" monitor 3<&0 4>&1 9>&1 0</dev/null 1>/dev/null", env!("CARGO_BIN_EXE_torpor-vmm")]);
    command.stdin(OwnedFd::from(theirs)).stdout(writer).stderr(Stdio::inherit());
    let mut monitor = command.spawn().unwrap();
    drop(command);
    let (told, closed) = mpsc::channel();
    std::thread::spawn(move || told.send(reader.read_to_end(&mut Vec::new()).is_ok()));
    let closed = closed.recv_timeout(Duration::from_secs(20));
    // It still lives: it did not close them by its end.
    let lives = monitor.try_wait().unwrap().is_none();
    drop(ours);
    monitor.kill().unwrap();
    monitor.wait().unwrap();
    assert_eq!((closed, lives), (Ok(true), true));
}
