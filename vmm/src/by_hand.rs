//! `torpor-vmm boot`: the monitor and a small stand-in for the daemon in one process, over the same control socket as ever.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use torpor_protocol::agent::GuestMessage;
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::{Command, Event, StopReason};
use torpor_vmm::client::Client;
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

fn open(path: &Path) -> Result<File, Failed> {
    Ok(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?)
}

impl Boot {
    pub(crate) fn run(self) -> Result<ExitCode, Failed> {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm");
        let kvm = kvm.map_err(|e| format!("/dev/kvm: {e}: a VM needs a host with KVM and access to it"))?;
        let (kernel, rootfs) = (open(&self.kernel)?, open(&self.rootfs)?);
        let (ours, theirs) = UnixStream::pair()?;
        let options = Options { console: self.console, sandbox: None };
        std::thread::spawn(move || {
            if let Err(error) = monitor::run(theirs, options) {
                eprintln!("torpor-vmm: {error}");
            }
        });
        let start = Instant::now();
        let client = Client::new(ours);
        client.send(&Command::Prepare { memory_mib: self.memory }, &[kvm.as_fd()])?;
        client.send(&Command::Boot { extra_cmdline: self.cmdline.clone() }, &[kernel.as_fd(), rootfs.as_fd()])?;
        self.follow(&client, start)
    }

    fn follow(&self, client: &Client, start: Instant) -> Result<ExitCode, Failed> {
        let mut stream = Decoder::default();
        let say = |what: &str| eprintln!("[{:9.3} ms] {what}", start.elapsed().as_secs_f64() * 1e3);
        loop {
            match client.receive()? {
                Event::Prepared => say("VM made"),
                Event::Running { micros } => say(&format!("running, {micros} us after the command")),
                Event::AtDoor => {
                    say("the guest waits at the door");
                    if self.until_door {
                        return Ok(ExitCode::SUCCESS);
                    }
                    if !io::stdin().is_terminal() && !self.console {
                        client.send(&Command::Stop, &[])?;
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
                Event::Parked { stored_bytes, micros, .. } => say(&format!("parked in {stored_bytes} bytes and {micros} us")),
                Event::NotParked { reason } => say(&format!("not parked: {reason}")),
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
