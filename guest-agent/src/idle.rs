//! Whether nothing in this machine can run by itself: every thread of every program is asleep in a system call that has no time limit.
//!
//! What is not seen: alarms (`setitimer`, `timer_create`) and limits of sockets (`SO_RCVTIMEO`). They go on when the machine does.
//!
//! A look is exact although it takes the threads one after the other: the machine has one processor, so nobody ran meanwhile where the agent was not
//! taken off it.

use crate::stopped::stat_field;
use nix::sys::resource::{UsageWho, getrusage};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read};

const PF_KTHREAD: u64 = 0x0020_0000;
/// Numbers below are never given a second time: what was a thread of the kernel once is that, or nobody.
const NEVER_AGAIN: u32 = 300;

/// How a system call that waits is limited in time.
enum Limit {
    /// Always, or its limit is not where it can be seen.
    Always,
    /// Where this argument (from 0), a pointer to a time, is not null.
    Pointer(usize),
    /// Where this argument (from 0), a number of ms, is not negative.
    Ms(usize),
    /// A futex: by its operation, where the fourth argument is not null.
    Futex,
}

/// Of the calls that have one.
fn limit(call: i64) -> Option<Limit> {
    Some(match call {
        libc::SYS_nanosleep | libc::SYS_clock_nanosleep | libc::SYS_restart_syscall | libc::SYS_io_uring_enter => Limit::Always,
        libc::SYS_poll => Limit::Ms(2),
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => Limit::Ms(3),
        libc::SYS_ppoll | libc::SYS_rt_sigtimedwait => Limit::Pointer(2),
        libc::SYS_epoll_pwait2 | libc::SYS_semtimedop | libc::SYS_futex_waitv => Limit::Pointer(3),
        libc::SYS_select
        | libc::SYS_pselect6
        | libc::SYS_mq_timedsend
        | libc::SYS_mq_timedreceive
        | libc::SYS_recvmmsg
        | libc::SYS_io_getevents
        | SYS_IO_PGETEVENTS
        | SYS_FUTEX_WAIT => Limit::Pointer(4),
        libc::SYS_futex => Limit::Futex,
        _ => return None,
    })
}

const SYS_IO_PGETEVENTS: i64 = 333;
const SYS_FUTEX_WAIT: i64 = 455;

/// Whether `/proc/PID/task/TID/syscall` names a call that waits for ever if nobody ends it.
fn waits_for_ever(line: &str) -> bool {
    let mut fields = line.split_ascii_whitespace();
    let Some(call) = fields.next().and_then(|number| number.parse::<i64>().ok()).filter(|number| *number >= 0) else { return false };
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        let Some(value) = fields.next().and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()) else { return false };
        *argument = value;
    }
    let argument = |index: usize| arguments.get(index).copied().unwrap_or(1);
    match limit(call) {
        None => true,
        Some(Limit::Always) => false,
        Some(Limit::Pointer(index)) => argument(index) == 0,
        // The upper half of a register that holds an `int` is anything.
        Some(Limit::Ms(index)) => argument(index) & 0x8000_0000 != 0,
        Some(Limit::Futex) => argument(3) == 0,
    }
}

/// The state in `/proc/PID/stat`; the name before it may hold anything.
fn state(stat: &str) -> Option<u8> {
    stat.rsplit_once(')')?.1.trim_start().bytes().next()
}

/// Who runs or could, in `/proc/loadavg`.
fn running(loadavg: &str) -> Option<u64> {
    loadavg.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Longer than any of the files that are read.
const LONGEST: usize = 1024;

/// Reads a file of a process, with as few calls as it takes (each costs a guest dearly): `Ok(None)` where it is gone.
fn read(path: &str) -> Result<Option<String>, std::io::Error> {
    let mut bytes = [0; LONGEST];
    match fs::File::open(path).and_then(|mut file| file.read(&mut bytes)) {
        Ok(len) => Ok(Some(String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

fn numbers(folder: &str) -> Result<Vec<u32>, std::io::Error> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// How often the agent was taken off the processor, or gave it up.
fn switches() -> Option<(i64, i64)> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    Some((usage.voluntary_context_switches(), usage.involuntary_context_switches()))
}

/// Looks at all processes.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    kernel: BTreeSet<u32>,
}

impl Idle {
    /// Whether nothing can run by itself now. What can't be told is no.
    pub(crate) fn look(&mut self) -> bool {
        let before = switches();
        before.is_some() && self.all_asleep().unwrap_or(false) && switches() == before
    }

    fn all_asleep(&mut self) -> Result<bool, std::io::Error> {
        let mut users = Vec::new();
        for pid in numbers("/proc")? {
            if pid == std::process::id() || self.kernel.contains(&pid) {
                continue;
            }
            let Some(stat) = read(&format!("/proc/{pid}/stat"))? else { continue };
            match stat_field(&stat, 9) {
                Some(flags) if flags & PF_KTHREAD != 0 => {
                    if pid < NEVER_AGAIN {
                        self.kernel.insert(pid);
                    }
                    continue;
                }
                Some(_) => users.push(pid),
                None => return Ok(false),
            }
            if stat_field(&stat, 20).is_some_and(|threads| threads <= 1) {
                if !sleeps(&format!("/proc/{pid}"), &stat)? {
                    return Ok(false);
                }
                continue;
            }
            for tid in numbers(&format!("/proc/{pid}/task"))? {
                if !asleep(pid, tid)? {
                    return Ok(false);
                }
            }
        }
        for pid in &users {
            if has_timer(*pid)? {
                return Ok(false);
            }
        }
        // The agent alone: nobody was woken by an interrupt meanwhile, and the kernel's threads have done what there was to do.
        Ok(read("/proc/loadavg")?.and_then(|loadavg| running(&loadavg)) == Some(1))
    }
}

fn asleep(pid: u32, tid: u32) -> Result<bool, std::io::Error> {
    let folder = format!("/proc/{pid}/task/{tid}");
    match read(&format!("{folder}/stat"))? {
        Some(stat) => sleeps(&folder, &stat),
        None => Ok(true),
    }
}

/// Whether a thread does, by its folder and what `stat` there says.
fn sleeps(folder: &str, stat: &str) -> Result<bool, std::io::Error> {
    match state(stat) {
        // Ended, or stopped until somebody lets it go on.
        Some(b'Z' | b'X' | b'x' | b'T') => Ok(true),
        Some(b'S') => Ok(read(&format!("{folder}/syscall"))?.is_none_or(|line| waits_for_ever(&line))),
        // Runs, waits for a disk, or is stopped for the agent ('t'), which lets it go on.
        _ => Ok(false),
    }
}

/// Has a timer as a descriptor, which may be in what it waits for.
fn has_timer(pid: u32) -> Result<bool, std::io::Error> {
    for descriptor in numbers(&format!("/proc/{pid}/fd"))? {
        match fs::read_link(format!("/proc/{pid}/fd/{descriptor}")) {
            Ok(target) if target.as_os_str() == "anon_inode:[timerfd]" => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
#[path = "idle/tests.rs"]
pub(crate) mod tests;
