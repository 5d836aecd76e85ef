//! A real Linux guest, real monitors: the agent's vsock connection goes on through save and restore, park and resume. Needs /dev/kvm and fails without; kernel and image
//! are those that `TORPOR_KERNEL` and `TORPOR_IMAGES` name, or are made (or found in the cache) by the scripts.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use torpor_protocol::agent::{FailureKind, GuestMessage, HostMessage, Load, Runtime, Start, Stream};
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::{Command, Event, Packing};
use torpor_snapshot::parked::Parked;
use torpor_vmm::client::Client;

const MEMORY_MIB: u32 = 128;
/// A boot that is emulated on a host that others use takes minutes.
const PATIENCE: Duration = Duration::from_secs(300);
const CODE: &str = "import os\n\ndef handler(input, context):\n    os.write(1, b'raw output\\n')\n    os._exit(4)\n";

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn script(name: &str, arguments: &[&str]) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    let output = std::process::Command::new(path).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/{name} failed");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn code_disk() -> File {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("code.erofs"));
    fs::create_dir(&tree).unwrap();
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(tree.join("main.py"), CODE).unwrap();
    let made = std::process::Command::new("mkfs.erofs").arg(&image).arg(&tree).output().unwrap();
    assert!(made.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&made.stderr));
    File::open(image).unwrap()
}

fn frame(message: &HostMessage) -> Vec<u8> {
    message.to_frame().unwrap().encode().unwrap()
}

/// The files of a snapshot.
struct Snapshot {
    state: File,
    memory: File,
}

/// A monitor's process and what its guest has said.
struct Monitor {
    client: Client,
    child: Child,
    decoder: Decoder,
    /// How often the agent's connection was opened.
    opened: u32,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    fn prepared() -> Self {
        let (client, child) = Client::spawn(Path::new(env!("CARGO_BIN_EXE_torpor-vmm"))).unwrap();
        let this = Self { client, child, decoder: Decoder::default(), opened: 0 };
        this.client.set_timeout(PATIENCE).unwrap();
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
        this.client.send(&Command::Prepare { memory_mib: MEMORY_MIB }, &[kvm.as_fd()]).unwrap();
        assert_eq!(this.client.receive().unwrap(), Event::Prepared);
        this
    }

    fn booted(kernel: &File, root: &File) -> Self {
        let this = Self::prepared();
        this.client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()]).unwrap();
        this
    }

    fn restored(snapshot: &Snapshot, root: &File, code: &File, message: &HostMessage) -> Self {
        let this = Self::prepared();
        let fds = [snapshot.state.as_fd(), snapshot.memory.as_fd(), root.as_fd(), code.as_fd()];
        this.client.send(&Command::Restore { code: true, inbox: Some(frame(message)) }, &fds).unwrap();
        this
    }

    /// From the runtime's template and what a machine changed in it.
    fn resumed(parked: &File, template: &Snapshot, root: &File, code: &File, message: &HostMessage) -> Self {
        let this = Self::prepared();
        let fds = [parked.as_fd(), template.memory.as_fd(), root.as_fd(), code.as_fd()];
        this.client.send(&Command::Resume { inbox: frame(message), key: None }, &fds).unwrap();
        this
    }

    /// What comes over vsock until the guest is at the door, or until `last` has come; what comes through the door is left out.
    fn over_vsock(&mut self, last: impl Fn(&GuestMessage) -> bool) -> Vec<GuestMessage> {
        let (mut said, begin) = (Vec::new(), Instant::now());
        while !said.last().is_some_and(&last) {
            assert!(begin.elapsed() < PATIENCE, "so far: {said:?}");
            match self.client.receive().unwrap() {
                Event::Vsock { bytes } => {
                    self.decoder.push(&bytes);
                    while let Some(frame) = self.decoder.next_frame().unwrap() {
                        said.push(GuestMessage::from_frame(frame).unwrap());
                    }
                }
                Event::VsockOpen => self.opened += 1,
                Event::AtDoor => break,
                Event::Outbox { frame } => {
                    let through_the_door = GuestMessage::from_frame(Frame::decode_exact(&frame).unwrap()).unwrap();
                    assert_eq!(through_the_door, GuestMessage::Started);
                }
                Event::Running { .. } => {}
                other => panic!("after {said:?}: {other:?}"),
            }
        }
        said
    }

    fn parked(&self, packing: Packing) -> File {
        let file = tempfile::tempfile().unwrap();
        self.client.send(&Command::Park { origin: Vec::new(), packing, key: None }, &[file.as_fd()]).unwrap();
        assert!(matches!(self.client.receive().unwrap(), Event::Parked { .. }));
        let parked = Parked::read(&file).unwrap();
        parked.verify(&file).unwrap();
        assert!(parked.changed_bytes() > 0 && parked.changed_bytes() < u64::from(MEMORY_MIB) << 19, "{} bytes", parked.changed_bytes());
        file
    }

    /// However much is held back for a guest at the door, the order that lets it go on is taken.
    fn hears_orders_behind(&self, messages: usize, bytes: usize) {
        for _ in 0..messages {
            self.client.send(&Command::Vsock { bytes: vec![0; bytes] }, &[]).unwrap();
        }
        let start = Start { execution: "ex_last".into(), seed: "00".repeat(32), secrets: Vec::new() };
        let message = HostMessage::Start { start, input: b"null".to_vec() };
        self.client.send(&Command::Inbox { frame: frame(&message) }, &[]).unwrap();
        assert!(matches!(self.client.receive().unwrap(), Event::Outbox { .. }));
    }

    fn saved(&self) -> Snapshot {
        let snapshot = Snapshot { state: tempfile::tempfile().unwrap(), memory: tempfile::tempfile().unwrap() };
        self.client.send(&Command::Save, &[snapshot.state.as_fd(), snapshot.memory.as_fd()]).unwrap();
        assert!(matches!(self.client.receive().unwrap(), Event::Saved { .. }));
        snapshot
    }
}

/// Opened once, at boot; after that it is saved and restored as a template of the runtime, and again as one of a task, and carries what the agent says in
/// each machine that goes on from there, once. The machine that has loaded the task is parked as well, as what it changed in the runtime's template.
#[test]
fn the_agents_connection_goes_on_through_save_and_restore() {
    let kernel = File::open(from_env("TORPOR_KERNEL").unwrap_or_else(|| script("build-kernel", &[]))).unwrap();
    let image = from_env("TORPOR_IMAGES").map_or_else(|| script("build-rootfs", &["python"]), |images| images.join("python.erofs"));
    let (root, code) = (File::open(image).unwrap(), code_disk());

    let mut monitor = Monitor::booted(&kernel, &root);
    let said = monitor.over_vsock(|_| false);
    assert!(matches!(&said[..], [GuestMessage::Hello(hello)] if hello.runtime == Runtime::Python), "{said:?}");
    assert_eq!(monitor.opened, 1);
    let runtime = monitor.saved();
    drop(monitor);

    let load = HostMessage::Load(Load {
        entry: "main.py:handler".into(),
        task: "t".into(),
        version: "00".into(),
        portion: "main".into(),
        aux: Vec::new(),
    });
    let mut monitor = Monitor::restored(&runtime, &root, &code, &load);
    let said = monitor.over_vsock(|_| false);
    assert_eq!((said, monitor.opened), (vec![GuestMessage::Loaded], 0));
    let task = monitor.saved();
    let parked = [Packing::None, Packing::Small].map(|packing| monitor.parked(packing));
    // More than the guest has room for while it stands still: what is held back for it would be lost.
    monitor.client.send(&Command::Vsock { bytes: vec![0; 2 << 20] }, &[]).unwrap();
    monitor
        .client
        .send(&Command::Park { origin: Vec::new(), packing: Packing::None, key: None }, &[tempfile::tempfile().unwrap().as_fd()])
        .unwrap();
    let refused = monitor.client.receive().unwrap();
    assert!(matches!(&refused, Event::NotParked { reason } if reason.contains("on their way")), "{refused:?}");
    monitor.hears_orders_behind(3, 6 << 20);
    drop(monitor);

    for number in 0..4 {
        let start = Start { execution: format!("ex_{number}"), seed: "00".repeat(32), secrets: Vec::new() };
        let message = HostMessage::Start { start, input: b"null".to_vec() };
        let mut monitor = match number {
            0 | 1 => Monitor::restored(&task, &root, &code, &message),
            _ => Monitor::resumed(&parked[number - 2], &runtime, &root, &code, &message),
        };
        let mut said = monitor.over_vsock(|message| matches!(message, GuestMessage::Failed(_)));
        let failed = said.pop();
        assert!(
            matches!(&failed, Some(GuestMessage::Failed(failure)) if failure.kind == FailureKind::Exit && failure.exit_code == Some(4)),
            "{failed:?}"
        );
        assert_eq!((said, monitor.opened), (vec![GuestMessage::Log { stream: Stream::Stdout, bytes: b"raw output\n".to_vec() }], 0));
    }
}
