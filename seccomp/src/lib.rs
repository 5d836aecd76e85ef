//! The sandbox that a monitor locks itself into: limits of the process, and a seccomp filter per thread role.
//!
//! A monitor gets every descriptor that it needs over its control socket, so it has no need to open, connect, execute or signal anything.
//! [`enter`] is called before the first command is read; [`narrow`] by the vCPU thread before the first order. A system call that is not in a role's list
//! ends the whole process.

mod lists;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads commands, makes the VM, starts the vCPU thread.
    EventLoop,
    /// Runs the guest and answers its exits.
    Vcpu,
}

/// Why the sandbox is not closed. The process must end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A limit or a flag of the process could not be set.
    #[error("{what}: {source}")]
    Process {
        /// Which.
        what: &'static str,
        /// The kernel's reason.
        source: Errno,
    },
    /// The filter can't be built or installed. Where the kernel has no seccomp, a monitor does not run.
    #[error("seccomp filter of the {role:?} thread: {source}")]
    Filter {
        /// Whose.
        role: Role,
        /// The reason.
        source: Box<seccompiler::Error>,
    },
}

/// Open files of a monitor: control socket, KVM, disks, snapshot, and room for those of one command.
const OPEN_FILES: u64 = 64;

/// Locks the whole process in. Call it from the event loop before anything of the outside is read.
pub fn enter() -> Result<(), SandboxError> {
    let process = |what| move |source| SandboxError::Process { what, source };
    prctl::set_no_new_privs().map_err(process("PR_SET_NO_NEW_PRIVS"))?;
    prctl::set_dumpable(false).map_err(process("PR_SET_DUMPABLE"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(process("RLIMIT_CORE"))?;
    setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES).map_err(process("RLIMIT_NOFILE"))?;
    narrow(Role::EventLoop)
}

/// Adds a role's filter to the calling thread. Filters only add up: what the process lost stays lost.
pub fn narrow(role: Role) -> Result<(), SandboxError> {
    let failed = |source: seccompiler::Error| SandboxError::Filter { role, source: Box::new(source) };
    let program = program(role).map_err(|e| failed(seccompiler::Error::Backend(e)))?;
    seccompiler::apply_filter(&program).map_err(failed)
}

fn program(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<i64, Vec<SeccompRule>> = lists::allowed(role).map(|call| (call, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};

    /// Runs `body` in a child that is locked in as `role` and says how it ended.
    fn locked_in(role: Role, body: fn()) -> WaitStatus {
        // SAFETY: the child calls only the sandbox and `body`, which allocate at most through malloc's own locks; the test thread that forks
        // holds none, and the child ends by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
            ForkResult::Child => {
                let closed = enter().and_then(|()| narrow(role));
                if closed.is_ok() {
                    body();
                }
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(closed.is_err())) }
            }
        }
    }

    fn died(status: WaitStatus) -> bool {
        matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _))
    }

    #[test]
    fn what_a_monitor_never_does_ends_it() {
        let denied: [(&str, fn()); 7] = [
            ("open", || drop(std::fs::File::open("/etc/passwd"))),
            ("socket", || drop(std::net::TcpListener::bind("127.0.0.1:0"))),
            ("connect", || drop(std::os::unix::net::UnixStream::connect("/run/x"))),
            ("kill", || {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(1), None);
            }),
            ("exec", || drop(std::process::Command::new("/bin/true").status())),
            ("unlink", || drop(std::fs::remove_file("/nonexistent"))),
            ("unshare", || {
                let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS);
            }),
        ];
        for (what, body) in denied {
            for role in [Role::EventLoop, Role::Vcpu] {
                assert!(died(locked_in(role, body)), "{what} is allowed to {role:?}");
            }
        }
    }

    #[test]
    fn the_event_loop_may_start_a_thread_and_the_vcpu_may_not() {
        let start = || {
            let _ = std::thread::Builder::new().spawn(|| {}).map(std::thread::JoinHandle::join);
        };
        assert!(matches!(locked_in(Role::EventLoop, start), WaitStatus::Exited(_, 0)));
        assert!(died(locked_in(Role::Vcpu, start)));
    }
}
