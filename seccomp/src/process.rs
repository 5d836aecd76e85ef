//! A process that is held by a descriptor: no signal ever goes to a process id that was given to another.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// See the module. It is killed and reaped when this is dropped. Its descriptor becomes readable at its end.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    pidfd: OwnedFd,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) const fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// Its process id, for logs and `/proc`.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.pid
    }

    /// Kills it. One that has ended is no error.
    pub fn kill(&self) -> io::Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: signals the process of a descriptor that lives; no memory is read but through the null pointer, which the call takes for nothing.
        match unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.as_raw_fd(), libc::SIGKILL, none, 0) } {
            0 => Ok(()),
            _ => match io::Error::last_os_error() {
                gone if gone.raw_os_error() == Some(libc::ESRCH) => Ok(()),
                error => Err(error),
            },
        }
    }

    /// How it ended, if it has.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.reap(WaitPidFlag::WNOHANG)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.reap(WaitPidFlag::empty())? {
                return Ok(status);
            }
        }
    }

    fn reap(&mut self, flags: WaitPidFlag) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = match waitid(Id::PIDFd(self.pidfd.as_fd()), flags | WaitPidFlag::WEXITED) {
                Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw((code & 0xff) << 8)),
                Ok(WaitStatus::Signaled(_, signal, core)) => Some(ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 })),
                Ok(_) | Err(nix::errno::Errno::EINTR) => None,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(self.ended)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended.is_none() && self.kill().is_ok() {
            let _ = self.wait();
        }
    }
}
