//! One VM, driven through its monitor's control socket as the daemon does it.

use crate::Failed;
use crate::sandbox::BARE;
use command_fds::{CommandFdExt, FdMapping};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::{Duration, Instant};
use torpor_protocol::agent::{GuestMessage, HostMessage, Load, Start};
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::{CONTROL_FD, Command, Event};
use torpor_seccomp::cgroup::Cgroups;
use torpor_seccomp::launch::{Confined, Launcher, MONITOR};
use torpor_vmm::client::{self, Client};

/// Where everything is.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) monitor: PathBuf,
    /// Starts what is measured.
    pub(crate) monitors: Monitors,
    pub(crate) kernel: PathBuf,
    pub(crate) images: PathBuf,
}

/// How monitors are started.
#[derive(Debug, Clone)]
pub(crate) enum Monitors {
    /// In a sandbox, as torpord starts them.
    Confined(Arc<Launcher>),
    /// This program, without.
    Bare(PathBuf),
}

/// A monitor's process.
pub(crate) enum Child {
    Confined(Confined),
    Bare(process::Child),
}

impl Monitors {
    /// As torpord starts them.
    pub(crate) fn open(monitor: &Path) -> Result<Self, Failed> {
        Ok(Self::Confined(Arc::new(Launcher::open(monitor, client::ids()?, Cgroups::none())?)))
    }

    /// Without a sandbox.
    pub(crate) fn bare(program: &Path) -> Self {
        Self::Bare(program.to_owned())
    }

    fn start(&self) -> Result<(Client, Child), Failed> {
        match self {
            Self::Confined(launcher) => {
                let (client, confined) = Client::start(launcher, &MONITOR)?;
                Ok((client, Child::Confined(confined)))
            }
            Self::Bare(program) => {
                let (ours, theirs) = UnixStream::pair()?;
                let mut command = process::Command::new(program);
                command.arg(BARE).env_clear().stdin(process::Stdio::null());
                command.fd_mappings(vec![FdMapping { parent_fd: theirs.into(), child_fd: CONTROL_FD }])?;
                Ok((Client::new(ours), Child::Bare(command.spawn()?)))
            }
        }
    }
}

impl Child {
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::Confined(confined) => confined.process.id(),
            Self::Bare(child) => child.id(),
        }
    }

    fn end(&mut self) -> std::io::Result<()> {
        match self {
            Self::Confined(confined) => confined.process.kill().and_then(|()| confined.process.wait()),
            Self::Bare(child) => child.kill().and_then(|()| child.wait()),
        }
        .map(drop)
    }
}

/// A monitor with its VM.
pub(crate) struct Vm {
    pub(crate) client: Client,
    pub(crate) child: Child,
    stream: Decoder,
}

/// Something that a guest said, or that became of it.
#[derive(Debug)]
pub(crate) enum Said {
    Running,
    AtDoor,
    Message(GuestMessage),
    Saved,
    Parked { stored_bytes: u64 },
}

/// A snapshot's files, and the disks of its VM.
pub(crate) struct Template {
    pub(crate) state: File,
    pub(crate) memory: File,
    pub(crate) root: File,
    pub(crate) code: Option<File>,
    pub(crate) memory_mib: u32,
}

fn open(path: &Path) -> Result<File, Failed> {
    Ok(File::open(path).map_err(|e| format!("{}: {e}", path.display()))?)
}

/// `/dev/kvm`.
pub(crate) fn kvm() -> Result<File, Failed> {
    Ok(OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| format!("/dev/kvm: {e}"))?)
}

impl Vm {
    /// A warm monitor.
    pub(crate) fn prepare(monitors: &Monitors, kvm: &File, memory_mib: u32) -> Result<Self, Failed> {
        let (client, child) = monitors.start()?;
        client.set_timeout(Duration::from_secs(120))?;
        let vm = Self { client, child, stream: Decoder::default() };
        vm.client.send(&Command::Prepare { memory_mib }, &[kvm.as_fd()])?;
        Ok(vm)
    }

    pub(crate) fn prepared(&self) -> Result<(), Failed> {
        match self.client.receive()? {
            Event::Prepared => Ok(()),
            other => Err(format!("instead of Prepared: {other:?}").into()),
        }
    }

    /// What comes next from the VM.
    pub(crate) fn next(&mut self) -> Result<Said, Failed> {
        loop {
            if let Some(frame) = self.stream.next_frame()? {
                return Ok(Said::Message(GuestMessage::from_frame(frame)?));
            }
            match self.client.receive()? {
                Event::Running { .. } => return Ok(Said::Running),
                Event::AtDoor => return Ok(Said::AtDoor),
                Event::Outbox { frame } => return Ok(Said::Message(GuestMessage::from_frame(Frame::decode_exact(&frame)?)?)),
                Event::Vsock { bytes } => self.stream.push(&bytes),
                Event::Saved { .. } => return Ok(Said::Saved),
                Event::Parked { stored_bytes, .. } => return Ok(Said::Parked { stored_bytes }),
                Event::NotParked { reason } => return Err(format!("not parked: {reason}").into()),
                Event::Prepared | Event::VsockOpen | Event::VsockClosed => {}
                Event::Stopped { reason, console } => return Err(format!("VM ended: {reason}\n{console}").into()),
            }
        }
    }

    pub(crate) fn until(&mut self, wanted: impl Fn(&Said) -> bool) -> Result<Said, Failed> {
        loop {
            let said = self.next()?;
            if let Said::Message(GuestMessage::Failed(failure) | GuestMessage::LoadFailed(failure)) = &said {
                return Err(format!("{failure:?}").into());
            }
            if wanted(&said) {
                return Ok(said);
            }
        }
    }

    pub(crate) fn boot(&self, paths: &Paths, root: &Path) -> Result<(), Failed> {
        let (kernel, root) = (open(&paths.kernel)?, open(root)?);
        Ok(self.client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()])?)
    }

    pub(crate) fn restore(&self, template: &Template, inbox: Option<Vec<u8>>) -> Result<(), Failed> {
        let mut fds = vec![template.state.as_fd(), template.memory.as_fd(), template.root.as_fd()];
        fds.extend(template.code.as_ref().map(AsFd::as_fd));
        Ok(self.client.send(&Command::Restore { code: template.code.is_some(), inbox }, &fds)?)
    }

    fn save(&mut self, dir: &Path, name: &str) -> Result<(File, File), Failed> {
        let make = |what: &str| OpenOptions::new().read(true).write(true).create_new(true).open(dir.join(format!("{name}.{what}")));
        let (state, memory) = (make("state")?, make("memory")?);
        self.client.send(&Command::Save, &[state.as_fd(), memory.as_fd()])?;
        self.until(|said| matches!(said, Said::Saved))?;
        Ok((state, memory))
    }

    /// Ends the process and waits for it.
    pub(crate) fn kill(mut self) -> Result<Duration, Failed> {
        let start = Instant::now();
        self.child.end()?;
        Ok(start.elapsed())
    }
}

/// No error leaves a monitor behind.
impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.end();
    }
}

/// Boots a runtime and takes its template.
pub(crate) fn runtime_template(paths: &Paths, kvm: &File, root: &Path, memory_mib: u32, dir: &Path) -> Result<Template, Failed> {
    let mut vm = Vm::prepare(&paths.monitors, kvm, memory_mib)?;
    vm.boot(paths, root)?;
    vm.until(|said| matches!(said, Said::AtDoor))?;
    let (state, memory) = vm.save(dir, "runtime")?;
    vm.kill()?;
    Ok(Template { state, memory, root: open(root)?, code: None, memory_mib })
}

/// Loads a task's code (an image) in a VM of a runtime template, and takes the task's template.
pub(crate) fn task_template(
    paths: &Paths,
    kvm: &File,
    runtime: &Template,
    code: &Path,
    entry: &str,
    dir: &Path,
) -> Result<Template, Failed> {
    let mut vm = Vm::prepare(&paths.monitors, kvm, runtime.memory_mib)?;
    let with_code = Template {
        state: runtime.state.try_clone()?,
        memory: runtime.memory.try_clone()?,
        root: runtime.root.try_clone()?,
        code: Some(open(code)?),
        memory_mib: runtime.memory_mib,
    };
    let load =
        HostMessage::Load(Load { entry: entry.into(), task: "bench".into(), version: "0".into(), portion: "main".into(), aux: Vec::new() });
    vm.restore(&with_code, Some(load.to_frame()?.encode()?))?;
    vm.until(|said| matches!(said, Said::AtDoor))?;
    let (state, memory) = vm.save(dir, "task")?;
    vm.kill()?;
    Ok(Template { state, memory, ..with_code })
}

/// The frame that starts an execution.
pub(crate) fn start_frame(input: &[u8]) -> Result<Vec<u8>, Failed> {
    let start = Start { execution: "ex_bench".into(), seed: "5a".repeat(32), secrets: Vec::new() };
    Ok(HostMessage::Start { start, input: input.to_vec() }.to_frame()?.encode()?)
}
