//! Which monitors are alive, and whose children they are.
//!
//! The test process is a subreaper: monitors that outlive their daemon become its own children, so that none can hide.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getpid};
use std::fs;
use std::time::{Duration, Instant};

const MONITOR: &str = "torpor-vmm";

/// Makes this process the parent of its descendants' orphans.
pub fn adopt_orphans() {
    nix::sys::prctl::set_child_subreaper(true).expect("Linux has subreapers");
}

/// Processes with this parent that are monitors and alive.
#[must_use]
pub fn monitors_of(parent: Pid) -> Vec<Pid> {
    let Ok(all) = fs::read_dir("/proc") else { panic!("/proc is mounted") };
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_monitor(*pid, parent)).map(Pid::from_raw).collect()
}

fn is_monitor(pid: i32, parent: Pid) -> bool {
    // The name is in brackets and may hold anything; what follows it is state and parent.
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((head, tail)) = stat.rsplit_once(')') else { return false };
    let mut fields = tail.split_whitespace();
    let (state, ppid) = (fields.next(), fields.next());
    let ours = head.contains(MONITOR) && ppid == Some(parent.to_string().as_str());
    if ours && state == Some("Z") && parent == getpid() {
        // As init does with orphans.
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
    ours && state != Some("Z")
}

/// Monitors whose daemon is gone.
#[must_use]
pub fn orphans() -> Vec<Pid> {
    let orphans = monitors_of(getpid());
    for pid in &orphans {
        match waitpid(*pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(_) | Err(Errno::ECHILD) => {}
            Err(errno) => panic!("can't wait for an orphan: {errno}"),
        }
    }
    orphans
}

/// Panics where a monitor outlives its daemon for long.
pub fn assert_no_orphans() {
    let start = Instant::now();
    loop {
        let left = orphans();
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "monitors without a daemon: {left:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Resident memory of a process, in bytes.
#[must_use]
pub fn resident(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap_or(0) * 1024
}
