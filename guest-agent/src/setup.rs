//! What a program expects of a machine: mounts, loopback, a host name, limits. All of it is done before a template is taken.

use crate::error::AgentError;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The disk that the monitor puts a task's code in.
const CODE_DISK: &str = "/dev/vdb";
/// Where a task's code is.
pub(crate) const TASK: &str = "/task";
/// Bytes in a MiB.
const MIB: u64 = 1 << 20;

/// What later steps need to know of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// RAM that the kernel manages, in MiB.
    pub(crate) memory_mib: u64,
}

/// Says something on the console, even where no console was open at boot.
pub(crate) fn say(text: &str) {
    // Two records of the kernel's log at most: it cuts them at about 1,000 bytes.
    let text: String = text.chars().take(900).collect();
    let written = fs::OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut log| log.write_all(format!("<2>{text}").as_bytes()));
    if written.is_err() {
        eprintln!("{text}");
    }
}

fn mounted(source: &str, target: &str, kind: &str, flags: MsFlags, options: &str) -> Result<(), AgentError> {
    match mount(Some(source), target, Some(kind), flags, Some(options)) {
        // `EBUSY`: the kernel mounted it itself.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(errno) => Err(AgentError::io("mount", target, errno.into())),
    }
}

fn quiet() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME
}

/// Devices: what the first message to the host needs.
pub(crate) fn devices() -> Result<(), AgentError> {
    mounted("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID, "mode=0755")
}

/// Everything else.
pub(crate) fn place() -> Result<Place, AgentError> {
    let noexec = quiet() | MsFlags::MS_NOEXEC;
    mounted("proc", "/proc", "proc", noexec, "")?;
    mounted("sysfs", "/sys", "sysfs", noexec | MsFlags::MS_RDONLY, "")?;
    for folder in ["/dev/pts", "/dev/shm"] {
        match fs::create_dir(folder) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(AgentError::io("create", folder, error)),
        }
    }
    mounted("devpts", "/dev/pts", "devpts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0620,ptmxmode=0666")?;
    mounted("tmpfs", "/dev/shm", "tmpfs", quiet(), "mode=1777,size=25%,nr_inodes=8k")?;
    mounted("tmpfs", "/tmp", "tmpfs", quiet(), "mode=1777,size=40%,nr_inodes=16k")?;
    mounted("tmpfs", "/run", "tmpfs", quiet(), "mode=0755,size=1m,nr_inodes=256")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, link) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(AgentError::io("create", link, error)),
        }
    }
    nix::unistd::sethostname("torpor").map_err(AgentError::sys("set the host name"))?;
    loopback()?;
    // Statistics that nobody reads: their worker would wake every program's VM once a second.
    let _ = fs::write("/proc/sys/vm/stat_interval", "86400");
    // A program that is ended because memory is short is enough of a report.
    let _ = fs::write("/proc/sys/vm/oom_dump_tasks", "0");
    let _ = fs::write("/proc/sys/kernel/dmesg_restrict", "1");
    fs::write("/proc/self/oom_score_adj", "-1000").map_err(|source| AgentError::io("write", "/proc/self/oom_score_adj", source))?;
    limits()?;
    stay_in_memory()?;
    let memory = fs::read_to_string("/proc/meminfo").map_err(|source| AgentError::io("read", "/proc/meminfo", source))?;
    Ok(Place { memory_mib: total_memory(&memory).unwrap_or(64 * MIB) / MIB })
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn loopback() -> Result<(), AgentError> {
    let any = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let socket = match any {
        Ok(socket) => socket,
        // A kernel without IPv4 has no loopback to bring up.
        Err(Errno::EAFNOSUPPORT) => return Ok(()),
        Err(errno) => return Err(AgentError::Sys { what: "open a socket for the loopback interface", source: errno }),
    };
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: `SIOCSIFFLAGS` reads one `ifreq`, which lives until the call returns.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(answer).map(drop).map_err(AgentError::sys("bring the loopback interface up"))
}

/// The agent's own way of running: it must get its turn under any load, and never takes it from a program that is about to end anyway.
fn limits() -> Result<(), AgentError> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(AgentError::sys("switch core files off"))?;
    let batch = libc::sched_param { sched_priority: 0 };
    // SAFETY: reads one `sched_param`, which lives until the call returns.
    let answer = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK, &raw const batch) };
    Errno::result(answer).map(drop).map_err(AgentError::sys("become a batch process"))?;
    // SAFETY: takes and gives integers only.
    let answer = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    Errno::result(answer).map(drop).map_err(AgentError::sys("raise the agent's priority"))
}

/// Keeps the pages that the agent uses in memory. What can't be taken away makes the kernel see sooner that memory is short, and say so, instead
/// of reading the same pages from the disk again and again.
fn stay_in_memory() -> Result<(), AgentError> {
    // SAFETY: takes and gives integers only.
    let answer = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    Errno::result(answer).map(drop).map_err(AgentError::sys("keep the agent in memory"))
}

/// Puts a file in the place of another.
pub(crate) fn lay_over(file: &str, over: &str) -> Result<(), AgentError> {
    let bound = mount(Some(file), over, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(|errno| AgentError::io("put a file over", over, errno.into()))
}

/// Gives back the memory of files that were read once and are mapped by nobody.
pub(crate) fn drop_caches() {
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
}

/// Puts the code disk, which the monitor has just changed, on [`TASK`].
pub(crate) fn mount_code() -> Result<(), AgentError> {
    let disk = open(CODE_DISK, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| AgentError::io("open", CODE_DISK, errno.into()))?;
    const BLKFLSBUF: libc::c_ulong = 0x1261;
    // SAFETY: `BLKFLSBUF` takes no argument: it drops what the kernel holds of the disk.
    let answer = unsafe { libc::ioctl(disk.as_raw_fd(), BLKFLSBUF, 0) };
    Errno::result(answer).map_err(|errno| AgentError::io("flush", CODE_DISK, errno.into()))?;
    drop(disk);
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some(CODE_DISK), Path::new(TASK), Some("erofs"), flags, None::<&str>)
        .map_err(|errno| AgentError::io("mount the code disk on", TASK, errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(total_memory("MemTotal:         112640 kB\nMemFree: 1 kB\n"), Some(112_640 << 10));
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert_eq!(total_memory("MemTotal: lots\n"), None);
    }
}
