//! How a program is started: its own user, its limits, its environment, and the pipes between it and the agent.
//!
//! Invariant: a child never has more than uid 1000's rights, can't get more (`no_new_privs`), is the first that the kernel ends when memory is short, and
//! inherits no descriptor of the agent but those named.

use crate::broker::{SOCKET, SOCKET_VARIABLE};
use crate::error::AgentError;
use crate::setup::Place;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Gid, Uid, pipe2, setgid, setgroups, setsid, setuid};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The user that programs run as, and its group.
pub(crate) const USER: u32 = 1000;
/// What the pipes of an `exec` program can hold, so that most programs never wait for the agent.
pub(crate) const PIPE_SIZE: i32 = 1 << 20;

/// Both ends of the program's outputs, the agent's.
#[derive(Debug)]
pub(crate) struct Outputs {
    /// What the program writes on descriptor 1.
    pub(crate) stdout: File,
    /// What it writes on descriptor 2.
    pub(crate) stderr: File,
}

/// What a child gets beyond its command line.
pub(crate) struct Launch<'a> {
    /// The machine.
    pub(crate) place: &'a Place,
    /// Descriptors that stay open in the child, under their own numbers.
    pub(crate) keep: Vec<RawFd>,
}

/// A pipe, the agent's end never blocking.
fn pipe(size: i32) -> Result<(File, OwnedFd), AgentError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(AgentError::sys("make a pipe"))?;
    nonblocking(&read)?;
    fcntl(&read, FcntlArg::F_SETPIPE_SZ(size)).map_err(AgentError::sys("widen a pipe"))?;
    Ok((File::from(read), write))
}

/// Reads and writes of this end give up instead of waiting.
pub(crate) fn nonblocking(fd: &impl AsFd) -> Result<(), AgentError> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop).map_err(AgentError::sys("make a pipe non-blocking"))
}

/// Pipes for the child's outputs, put into `command`.
pub(crate) fn outputs(command: &mut Command, size: i32) -> Result<Outputs, AgentError> {
    let (stdout, child_stdout) = pipe(size)?;
    let (stderr, child_stderr) = pipe(size)?;
    command.stdout(Stdio::from(child_stdout)).stderr(Stdio::from(child_stderr));
    Ok(Outputs { stdout, stderr })
}

/// Processes and threads that the program may have at a time: enough for real programs, not enough to use the memory up with them.
fn processes(place: &Place) -> u64 {
    (place.memory_mib * 2).clamp(64, 4096)
}

/// Memory that one process may ask for, touched or not, in bytes: far more than the machine has, so that stacks of threads and the like are no matter,
/// but bounded, so that a program that asks for ever is refused instead of asking for ever.
fn address_space(place: &Place) -> u64 {
    (place.memory_mib * 4).max(1024) << 20
}

/// The environment of every program.
pub(crate) fn environment(command: &mut Command) {
    // The kernel command line sets it where the kernel can't keep wide vector registers.
    let tunables = std::env::var_os("GLIBC_TUNABLES");
    command.env_clear().envs([
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("USER", "task"),
        ("LOGNAME", "task"),
        ("LANG", "C.UTF-8"),
        // Named, so that the C library does not look for a changed /etc/localtime at every call.
        ("TZ", "UTC"),
        (SOCKET_VARIABLE, SOCKET),
    ]);
    if let Some(tunables) = tunables {
        command.env("GLIBC_TUNABLES", tunables);
    }
}

/// What runs in the child before `execve`.
fn become_program(keep: &[RawFd], processes: u64, data: u64) -> nix::Result<()> {
    setsid()?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    setrlimit(Resource::RLIMIT_NPROC, processes, processes)?;
    setrlimit(Resource::RLIMIT_NOFILE, 1024, 4096)?;
    setrlimit(Resource::RLIMIT_DATA, data, data)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    setgroups(&[])?;
    setgid(Gid::from_raw(USER))?;
    setuid(Uid::from_raw(USER))?;
    nix::sys::prctl::set_no_new_privs()?;
    for fd in keep {
        // SAFETY: the caller keeps the descriptors open until the child has been started.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    nix::sys::ptrace::traceme()
}

/// Makes the child start as the unprivileged user, stopped before its first instruction (see [`crate::stopped`]). Its priority and scheduling class are the ordinary ones: the agent's reset on fork.
pub(crate) fn unprivileged(command: &mut Command, launch: &Launch<'_>) {
    let (keep, processes, data) = (launch.keep.clone(), processes(launch.place), address_space(launch.place));
    let prepare = move || {
        std::fs::write("/proc/self/oom_score_adj", "1000")?;
        become_program(&keep, processes, data).map_err(std::io::Error::from)
    };
    // SAFETY: the agent is single-threaded, so the child of its fork may do what any process may.
    unsafe { command.pre_exec(prepare) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_the_memory() {
        for (memory_mib, limit) in [(0, 64), (64, 128), (128, 256), (1 << 30, 4096)] {
            assert_eq!(processes(&Place { memory_mib }), limit);
        }
        assert_eq!(address_space(&Place { memory_mib: 64 }), 1 << 30);
        assert_eq!(address_space(&Place { memory_mib: 2048 }), 8 << 30);
    }
}
