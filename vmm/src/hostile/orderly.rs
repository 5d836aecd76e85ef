//! A life that ends by itself, which a daemon's monitor does not get to: it is killed as soon as it has said that it is over.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use torpor_protocol::monitor::{Command, Event};
use torpor_vmm::client::Client;

/// Has a monitor boot a kernel that is none, and waits until it has ended.
pub(crate) fn end(monitor: &Path) {
    let (client, mut confined) = Client::spawn(monitor).expect("a monitor");
    let kvm = File::options().read(true).write(true).open("/dev/kvm").expect("/dev/kvm");
    let nothing = File::open("/dev/null").expect("/dev/null");
    client.send(&Command::Prepare { memory_mib: 64 }, &[kvm.as_fd()]).expect("a command");
    assert_eq!(client.receive().expect("an event"), Event::Prepared);
    client.send(&Command::Boot { extra_cmdline: String::new() }, &[nothing.as_fd(), nothing.as_fd()]).expect("a command");
    assert!(matches!(client.receive().expect("an event"), Event::Stopped { .. }), "it can't be booted");
    let status = confined.process.wait().expect("an end");
    assert!(status.success(), "{status}");
}
