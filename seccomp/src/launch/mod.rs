//! Starts monitors: each a new process with namespaces, user and control groups of its own, that executes an already opened program.
//!
//! ```text
//! parent:  clone  --> ids' maps, control groups --> "go" -----------------> end of file: the program runs | report: it does not
//! child:              waits for "go"                      ids, descriptors, execveat --> locks itself in (see confine)
//! ```
//! Invariant: when [`Launcher::start`] gives a [`Confined`], the program has been executed with descriptors 0 to 3 and no other, in the layers of
//! [`Launcher::plan`]; when it fails, no process and no control group is left.

mod child;

use crate::cgroup::{Cgroup, Cgroups};
use crate::confine::Plan;
use crate::error::LaunchError;
use crate::process::Process;
use crate::uids::{Lease, Uids};
use child::{Child, Ids, REPORT, STEPS};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow};
use std::ffi::{CString, c_char};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// Above descriptors 0 to 3, so that giving the child these overwrites none of those that it still needs.
const LOWEST: RawFd = 4;
/// All but the user namespace.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Namespaces that a process can have of its own on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// User, mount, process, network, IPC and host name.
    All,
    /// The same without the user namespace.
    NoUser,
    /// None.
    None,
}

impl Namespaces {
    const fn flags(self) -> libc::c_int {
        match self {
            Self::All => NAMESPACES | libc::CLONE_NEWUSER,
            Self::NoUser => NAMESPACES,
            Self::None => 0,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Launcher {
    program: File,
    name: CString,
    null: File,
    pub(crate) namespaces: Namespaces,
    /// Why there are not more of them.
    pub(crate) lacking: Option<String>,
    pub(crate) uids: Option<Arc<Uids>>,
    pub(crate) plan: Plan,
    cgroups: Arc<Cgroups>,
}

/// What a process is started with beside its sandbox.
#[derive(Debug)]
pub struct Start<'a> {
    /// Becomes descriptor 3.
    pub control: BorrowedFd<'a>,
    /// Becomes descriptor 2.
    pub stderr: BorrowedFd<'a>,
    /// Arguments; `{plan}` among them is replaced by the plan that the process has to follow.
    pub arguments: &'a [&'a str],
    /// Bytes of memory that it may take at most.
    pub memory: Option<u64>,
}

/// A running process and what it alone has. In this order: its control group and its user id are free once it is gone.
#[derive(Debug)]
pub struct Confined {
    /// The process.
    pub process: Process,
    /// Its control group.
    pub cgroup: Arc<Cgroup>,
    _ids: Option<Lease>,
}

impl Launcher {
    /// Opens the program and finds out what this host has. `uids`: for processes of their own user, where this process may give them one.
    pub fn open(program: &Path, uids: Option<Arc<Uids>>, cgroups: Arc<Cgroups>) -> Result<Self, LaunchError> {
        let failed = |source| LaunchError::Program { path: program.to_owned(), source };
        let name = CString::new(program.file_name().unwrap_or_default().as_encoded_bytes()).unwrap_or_default();
        let null = File::options().read(true).write(true).open("/dev/null").map_err(LaunchError::step("/dev/null"))?;
        let program = File::open(program).map_err(failed)?;
        let plan = Plan { own_root: false, own_user: false, landlock: crate::host::has_landlock() };
        let mut launcher = Self { program, name, null, namespaces: Namespaces::None, lacking: None, uids, plan, cgroups };
        launcher.probe()?;
        launcher.plan.own_root = launcher.namespaces != Namespaces::None;
        launcher.plan.own_user = launcher.uids.is_some();
        Ok(launcher)
    }

    /// Tries what a start will do, up to the program, with fewer namespaces where more do not work.
    fn probe(&mut self) -> Result<(), LaunchError> {
        for namespaces in [Namespaces::All, Namespaces::NoUser, Namespaces::None] {
            self.namespaces = namespaces;
            match self.spawn(None, &[], self.null.as_fd(), self.null.as_fd(), &Cgroup::none()) {
                Ok(_) => return Ok(()),
                Err(error @ LaunchError::Step { .. }) if namespaces != Namespaces::None => self.lacking.get_or_insert(error.to_string()),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    /// Layers that a process that is started here has to reach.
    #[must_use]
    pub const fn plan(&self) -> Plan {
        self.plan
    }

    /// Starts a process. Takes as long as clone and exec do. It is killed when the calling thread ends.
    pub fn start(&self, start: &Start<'_>) -> Result<Confined, LaunchError> {
        let plan = self.plan.to_string();
        let arguments = start.arguments.iter().map(|argument| CString::new(argument.replace("{plan}", &plan)));
        let arguments = [Ok(self.name.clone())].into_iter().chain(arguments).collect::<Result<Vec<_>, _>>();
        let arguments = arguments.map_err(LaunchError::step("its arguments"))?;
        let cgroup = self.cgroups.make()?;
        if let Some(memory) = start.memory {
            cgroup.limits(memory, None, TASKS)?;
        }
        let (process, ids) = self.spawn(Some(&self.program), &arguments, start.control, start.stderr, &cgroup)?;
        Ok(Confined { process, cgroup: Arc::new(cgroup), _ids: ids })
    }

    fn spawn(
        &self,
        program: Option<&File>,
        arguments: &[CString],
        control: BorrowedFd<'_>,
        stderr: BorrowedFd<'_>,
        cgroup: &Cgroup,
    ) -> Result<(Process, Option<Lease>), LaunchError> {
        let lease = self.uids.as_ref().map(Uids::take).transpose()?;
        let ids = match (self.namespaces, &lease) {
            (Namespaces::All, lease) => Ids::Mapped { alone: lease.is_some() },
            (_, Some(lease)) => Ids::Outer(lease.id()),
            (_, None) => Ids::Kept,
        };
        let (mut ours, theirs) = UnixStream::pair().map_err(LaunchError::step("a socket pair"))?;
        let lifted = [theirs.as_fd(), self.null.as_fd(), stderr, control].map(lift);
        let [sync, null, stderr, control] = lifted;
        let (sync, null, stderr, control) = (sync?, null?, stderr?, control?);
        let program = program.map(|program| lift(program.as_fd())).transpose()?;
        let child = Child {
            sync: sync.as_raw_fd(),
            parents: ours.as_raw_fd(),
            null: null.as_raw_fd(),
            stderr: stderr.as_raw_fd(),
            control: control.as_raw_fd(),
            program: program.as_ref().map(AsRawFd::as_raw_fd),
            arguments: arguments.to_vec(),
            ids,
        };
        let mut process = clone(self.namespaces.flags(), &child)?;
        drop((sync, theirs));
        // On an error below, the process is killed by its drop.
        if self.namespaces == Namespaces::All {
            map_ids(process.id(), lease.as_ref())?;
        }
        cgroup.add(process.id())?;
        ours.write_all(&[1]).map_err(LaunchError::step("letting it go on"))?;
        let mut report = Vec::new();
        ours.read_to_end(&mut report).map_err(LaunchError::step("waiting for its program"))?;
        match <[u8; REPORT]>::try_from(report.as_slice()) {
            Err(_) if report.is_empty() => Ok((process, lease)),
            Ok([_, 0, 0, 0, 0]) => {
                process.wait().map_err(LaunchError::step("waiting for its end"))?;
                Ok((process, lease))
            }
            Ok([step, errno @ ..]) => {
                let step = STEPS.get(usize::from(step)).copied().unwrap_or("an unknown step");
                Err(LaunchError::Step { step, source: io::Error::from_raw_os_error(i32::from_ne_bytes(errno)) })
            }
            Err(_) => Err(LaunchError::Step { step: "its report", source: io::ErrorKind::InvalidData.into() }),
        }
    }
}

/// Arguments of a monitor.
pub const MONITOR: [&str; 3] = ["monitor", "--sandbox", "{plan}"];
/// Tasks of a monitor: its two threads, and those that KVM starts for a VM.
pub const TASKS: u32 = 16;

/// The same descriptor with another number, above those that the program gets.
fn lift(fd: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    let number = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(LOWEST)).map_err(LaunchError::step("its descriptors"))?;
    // SAFETY: the kernel has just made this descriptor for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// By clone(2): a filter that looks at the flags can't see those of clone3, so service managers that restrict namespaces leave only this one.
fn clone(flags: libc::c_int, child: &Child) -> Result<Process, LaunchError> {
    let mut pidfd: RawFd = -1;
    let pointers: Vec<*const c_char> = child.pointers();
    // No handler of ours runs in the copy: it forgets them before it lets signals in.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).map_err(LaunchError::step("blocking signals"))?;
    let flags = i64::from(flags | libc::CLONE_PIDFD | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and a stack of its own, this returns twice as fork does; with CLONE_PIDFD the third argument is where that goes, which lives here.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    if pid == 0 {
        // SAFETY: this is the copy, on its only thread.
        unsafe { child.run(&pointers) }
    }
    let failed = io::Error::last_os_error();
    let unblocked = before.thread_set_mask();
    if pid < 0 {
        return Err(LaunchError::step("clone with new namespaces")(failed));
    }
    // SAFETY: CLONE_PIDFD had the kernel make this descriptor for us; nothing else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let process = Process::new(u32::try_from(pid).unwrap_or_default(), pidfd);
    unblocked.map_err(LaunchError::step("letting signals in again"))?;
    Ok(process)
}

/// Makes the process root in its own user namespace: outside it is the leased user, or ours.
fn map_ids(pid: u32, lease: Option<&Lease>) -> Result<(), LaunchError> {
    let write = |file: &str, text: String| fs::write(format!("/proc/{pid}/{file}"), text);
    let (uid, gid) = match lease {
        Some(lease) => (lease.id(), lease.id()),
        None => {
            // Who has no right to give away groups may only map them where they are never changed.
            write("setgroups", "deny".into()).map_err(LaunchError::step("its groups"))?;
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        }
    };
    write("uid_map", format!("0 {uid} 1")).map_err(LaunchError::step("mapping its user id"))?;
    write("gid_map", format!("0 {gid} 1")).map_err(LaunchError::step("mapping its group id"))
}
