//! `torpor-vmm boot`: the monitor and a small stand-in for the daemon in one process, over the same control socket as ever.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IsTerminal, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use torpor_protocol::agent::GuestMessage;
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::{CONTROL_FD, Command, Event, StopReason, body_len, decode, encode};
use torpor_vmm::monitor::{self, Options};

type Failed = Box<dyn std::error::Error>;

/// Boot one VM by hand.
#[derive(clap::Args)]
pub(crate) struct Boot {
    /// Kernel, an ELF vmlinux.
    #[arg(long)]
    kernel: PathBuf,
    /// Root disk, a file system image.
    #[arg(long)]
    rootfs: PathBuf,
    /// RAM, whole MiB.
    #[arg(long, default_value = "128MiB", value_parser = mebibytes)]
    memory: u32,
    /// Show the guest's console and give it standard input.
    #[arg(long)]
    console: bool,
    /// Added to the kernel's command line.
    #[arg(long, default_value = "")]
    cmdline: String,
    /// Stop as soon as the guest waits at the door.
    #[arg(long)]
    until_door: bool,
}

fn mebibytes(text: &str) -> Result<u32, String> {
    text.trim_end_matches("MiB").parse().map_err(|_| format!("{text:?} is not a size like 128MiB"))
}

/// Serves the daemon that started this process.
pub(crate) fn serve() -> Result<ExitCode, Failed> {
    // SAFETY: the daemon starts monitors with the control socket as this descriptor, and nothing else here owns it. Where it is not open or no
    // socket, the first read of it fails and the process ends.
    let socket = unsafe { UnixStream::from_raw_fd(CONTROL_FD) };
    monitor::run(socket, Options::default())?;
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<OwnedFd, Failed> {
    Ok(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?.into())
}

fn send(socket: &UnixStream, command: &Command, fds: &[OwnedFd]) -> Result<(), Failed> {
    let bytes = encode(command)?;
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn receive(mut socket: &UnixStream) -> io::Result<Event> {
    let bad = |e: torpor_protocol::monitor::ControlError| io::Error::new(io::ErrorKind::InvalidData, e);
    let mut prefix = [0; 4];
    socket.read_exact(&mut prefix)?;
    let mut body = vec![0; body_len(prefix).map_err(bad)?];
    socket.read_exact(&mut body)?;
    decode(&body).map_err(bad)
}

impl Boot {
    pub(crate) fn run(self) -> Result<ExitCode, Failed> {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let kvm = kvm.map_err(|e| format!("/dev/kvm: {e}: a VM needs a host with KVM and access to it"))?;
        let (kernel, rootfs) = (open(&self.kernel)?, open(&self.rootfs)?);
        let (ours, theirs) = UnixStream::pair()?;
        let options = Options { console: self.console };
        std::thread::spawn(move || {
            if let Err(error) = monitor::run(theirs, options) {
                eprintln!("torpor-vmm: {error}");
            }
        });
        let start = Instant::now();
        send(&ours, &Command::Prepare { memory_mib: self.memory }, &[kvm.into()])?;
        send(&ours, &Command::Boot { extra_cmdline: self.cmdline.clone() }, &[kernel, rootfs])?;
        self.follow(&ours, start)
    }

    fn follow(&self, ours: &UnixStream, start: Instant) -> Result<ExitCode, Failed> {
        let mut stream = Decoder::default();
        let say = |what: &str| eprintln!("[{:9.3} ms] {what}", start.elapsed().as_secs_f64() * 1e3);
        loop {
            match receive(ours)? {
                Event::Prepared => say("VM made"),
                Event::Running { micros } => say(&format!("running, {micros} us after the command")),
                Event::AtDoor => {
                    say("the guest waits at the door");
                    if self.until_door {
                        return Ok(ExitCode::SUCCESS);
                    }
                    if !io::stdin().is_terminal() && !self.console {
                        send(ours, &Command::Stop, &[])?;
                    }
                }
                Event::Outbox { frame } => say(&format!("door: {:?}", Frame::decode_exact(&frame).map(GuestMessage::from_frame))),
                Event::VsockOpen => say("the agent connected"),
                Event::VsockClosed => say("the agent's connection is closed"),
                Event::Vsock { bytes } => {
                    stream.push(&bytes);
                    while let Some(frame) = stream.next_frame()? {
                        say(&format!("agent: {:?}", GuestMessage::from_frame(frame)));
                    }
                }
                Event::Saved { memory_bytes, micros } => say(&format!("saved {memory_bytes} bytes in {micros} us")),
                Event::Stopped { reason, console } => {
                    say(&reason.to_string());
                    if !self.console && !console.is_empty() {
                        eprintln!("last console output:\n{}", console.trim_end());
                    }
                    let orderly = matches!(reason, StopReason::PowerOff | StopReason::Reboot | StopReason::Asked);
                    return Ok(if orderly { ExitCode::SUCCESS } else { ExitCode::FAILURE });
                }
            }
        }
    }
}
