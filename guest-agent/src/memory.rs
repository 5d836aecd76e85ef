//! Whether the kernel ended something because memory was short. It says so in its log only (there are no counters in the guest's kernel).

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek, read};
use std::os::fd::OwnedFd;

const KERNEL_LOG: &str = "/dev/kmsg";
const MARK: &[u8] = b"Out of memory: Killed process";

/// One record of the log says that a process was ended.
fn is_kill(record: &[u8]) -> bool {
    record.windows(MARK.len()).any(|window| window == MARK)
}

/// The kernel's log, from where it was opened on: a program's failure is told sooner when a boot's messages are not looked through.
#[derive(Debug)]
pub(crate) struct KernelLog(Option<OwnedFd>);

impl KernelLog {
    /// What is said after this.
    pub(crate) fn from_here() -> Self {
        let log = open(KERNEL_LOG, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty());
        Self(log.ok().filter(|log| lseek(log, 0, Whence::SeekEnd).is_ok()))
    }

    /// Whether the kernel has ended something since. The log's ring buffer is bounded, and one record is at most 8 KiB.
    pub(crate) fn ran_out(&self) -> bool {
        let Some(log) = &self.0 else { return false };
        let mut record = [0u8; 8 << 10];
        loop {
            match read(log, &mut record) {
                Ok(0) => return false,
                Ok(len) if is_kill(&record[..len]) => return true,
                // A record that was overwritten while we read: the next read goes on behind it.
                Ok(_) | Err(Errno::EPIPE) => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_told_from_other_records() {
        assert!(is_kill(b"3,512,8123456,-;Out of memory: Killed process 71 (python3) total-vm:1kB\n"));
        assert!(!is_kill(b"4,2,0,-;Command line: root=/dev/vda\n"));
        assert!(!is_kill(b""));
    }
}
