//! A program that has been started but not let go: loaded, and stopped before its first instruction (`PTRACE_TRACEME`); and then its life.
//!
//! ```text
//!  Stopped --let_go--> Traced --exits--> (stopped at its exit: told, never torn down)
//!                        |    \--a stop signal, or several threads at its exit--> (not traced: told when it is gone)
//! ```
//!
//! While it is stopped its memory may be touched, so that the page faults of its start are part of the template, and its environment completed with
//! what was not known when it was started. Tracing stays on for the sake of its end: taking a process apart, page by page, costs a guest more than
//! a short program's whole run, and a machine that is about to be thrown away can do without.

use crate::error::AgentError;
use crate::verdict::Ended;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// Name of the variable that holds the execution's id.
pub(crate) const EXECUTION_VARIABLE: &str = "TORPOR_EXECUTION";
/// Room for an id: its value until the execution is known.
pub(crate) const EXECUTION_ROOM: &str = "????????????????????????????????????????????????????????????????";

const PAGE: u64 = 4096;
/// Memory that is touched at most: enough for a shell or an interpreter, bounded for anything larger.
const TOUCH_MAX: u64 = 16 << 20;
/// What the kernel maps around a page of a file that was read.
const FAULT_AROUND: u64 = 16 * PAGE;
/// How far below the stack pointer a program's first calls reach.
const STACK: u64 = 8 * PAGE;

/// One line of `/proc/PID/maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    writable: bool,
    stack: bool,
}

/// The lines that are memory which may be read from outside: the kernel's own data pages are not.
fn mappings(maps: &str) -> Vec<Mapping> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?.as_bytes();
        let name = fields.nth(3).unwrap_or_default();
        if rights.first() != Some(&b'r') || name.starts_with("[vvar") || name.starts_with("[vsyscall") {
            return None;
        }
        Some(Mapping {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            writable: rights.get(1) == Some(&b'w') && rights.get(3) == Some(&b'p'),
            stack: name == "[stack]",
        })
    };
    maps.lines().filter_map(parse).collect()
}

/// Field number `index` (from 1, as in proc(5)) of `/proc/PID/stat`; the name in field 2 may hold anything.
pub(crate) fn stat_field(stat: &str, index: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(index.checked_sub(3)?)?.parse().ok()
}

/// The program, stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    pid: Pid,
    memory: File,
    threads: File,
    /// Where the value of [`EXECUTION_VARIABLE`] is.
    execution: Option<u64>,
}

impl Stopped {
    /// Waits for the stop that follows a traced child's `execve`.
    pub(crate) fn wait(pid: Pid) -> Result<Result<Self, WaitStatus>, AgentError> {
        match waitpid(pid, None).map_err(AgentError::sys("wait for the program's start"))? {
            WaitStatus::Stopped(..) => {}
            other => return Ok(Err(other)),
        }
        let path = format!("/proc/{pid}/mem");
        let memory = OpenOptions::new().read(true).write(true).open(&path).map_err(|source| AgentError::io("open", path, source))?;
        let options = ptrace::Options::PTRACE_O_TRACEEXIT | ptrace::Options::PTRACE_O_TRACEEXEC | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).map_err(AgentError::sys("watch for the program's exit"))?;
        let path = format!("/proc/{pid}/task");
        let threads = File::open(&path).map_err(|source| AgentError::io("open", path, source))?;
        Ok(Ok(Self { pid, memory, threads, execution: None }))
    }

    fn proc_file(&self, name: &str) -> Result<String, AgentError> {
        let path = format!("/proc/{}/{name}", self.pid);
        std::fs::read_to_string(&path).map_err(|source| AgentError::io("read", path, source))
    }

    /// Touches the memory that its start will use, and finds the place for the execution's id.
    pub(crate) fn prepare(&mut self) -> Result<(), AgentError> {
        let stack_pointer = ptrace::getregs(self.pid).map_err(AgentError::sys("look at the program's registers"))?.rsp;
        let mut left = TOUCH_MAX;
        for mapping in mappings(&self.proc_file("maps")?) {
            let start = if mapping.stack { (stack_pointer & !(PAGE - 1)).saturating_sub(STACK).max(mapping.start) } else { mapping.start };
            let mut at = start;
            // A fault for reading maps the pages around with it, those that are in memory; where none is, the first reads them and the second maps them.
            let step = if mapping.writable { PAGE } else { FAULT_AROUND / 2 };
            while at < mapping.end && left >= step {
                self.touch(at, mapping.writable);
                at = (at & !(step - 1)) + step;
                left -= step;
            }
        }
        // The first thing that a static program's start-up code asks for: found once, it is found faster.
        let _ = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        self.execution = self.find_execution()?;
        Ok(())
    }

    /// A page that can't be touched now is one that the program faults in itself.
    fn touch(&self, at: u64, write: bool) {
        let mut byte = [0];
        if self.memory.read_at(&mut byte, at).is_ok() && write {
            let _ = self.memory.write_at(&byte, at);
        }
    }

    fn find_execution(&self) -> Result<Option<u64>, AgentError> {
        let stat = self.proc_file("stat")?;
        let (Some(start), Some(end)) = (stat_field(&stat, 50), stat_field(&stat, 51)) else { return Ok(None) };
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0).min(64 << 10);
        let mut environment = vec![0; len];
        self.memory.read_exact_at(&mut environment, start).map_err(|source| AgentError::io("read", "the program's environment", source))?;
        let wanted = format!("{EXECUTION_VARIABLE}={EXECUTION_ROOM}");
        let found = environment.windows(wanted.len()).position(|window| window == wanted.as_bytes());
        Ok(found.map(|index| start + (index + EXECUTION_VARIABLE.len() + 1) as u64))
    }

    /// Puts the execution's id into its environment and lets it run.
    pub(crate) fn let_go(self, execution: &str) -> Result<Traced, AgentError> {
        if let Some(at) = self.execution {
            let mut value = [0; EXECUTION_ROOM.len()];
            let len = execution.len().min(value.len() - 1);
            value[..len].copy_from_slice(&execution.as_bytes()[..len]);
            self.memory.write_all_at(&value, at).map_err(|source| AgentError::io("write", "the program's environment", source))?;
        }
        ptrace::cont(self.pid, None).map_err(AgentError::sys("let the program go"))?;
        Ok(Traced { pid: self.pid, threads: self.threads, _memory: self.memory })
    }
}

/// The program, running.
#[derive(Debug)]
pub(crate) struct Traced {
    pid: Pid,
    /// Its folder of threads: the number of links to it says how many there are.
    threads: File,
    /// Closed when nobody waits for anything any more.
    _memory: File,
}

impl Traced {
    /// What a change of a child's state means: how the program ended, if it did.
    pub(crate) fn changed(&self, status: WaitStatus) -> Option<Ended> {
        if status.pid() != Some(self.pid) {
            return None;
        }
        match status {
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXIT) => match (self.single(), ptrace::getevent(self.pid)) {
                (true, Ok(status)) => return i32::try_from(status).ok().map(Ended::from_raw),
                _ => self.go_on(None),
            },
            WaitStatus::PtraceEvent(..) => self.go_on(None),
            // A traced process that is stopped by such a signal is not started again by SIGCONT: what is rare may be slow.
            WaitStatus::Stopped(_, signal @ (Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) => {
                let _ = ptrace::detach(self.pid, signal);
            }
            WaitStatus::Stopped(_, signal) => self.go_on(Some(signal)),
            other => return Ended::from_status(other),
        }
        None
    }

    /// Takes what is left of it apart, after its end was told: for one that is not the last program of this machine.
    pub(crate) fn bury(self) {
        self.go_on(None);
        let _ = waitpid(self.pid, None);
    }

    /// A process that is gone meanwhile is reported as such by the next `wait`.
    fn go_on(&self, signal: Option<Signal>) {
        let _ = ptrace::cont(self.pid, signal);
    }

    /// Only one thread is left, so that its exit is the program's.
    fn single(&self) -> bool {
        const OF_A_FOLDER: u64 = 2;
        fstat(&self.threads).is_ok_and(|stat| stat.st_nlink <= OF_A_FOLDER + 1)
    }
}

#[cfg(test)]
#[path = "stopped/tests.rs"]
mod tests;
