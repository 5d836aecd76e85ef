//! The processes that the agent, as PID 1, has to reap: those that it started, and every orphan.

use crate::error::AgentError;
use crate::stopped::Traced;
use crate::verdict::Ended;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::os::fd::{AsFd, BorrowedFd};

/// Readable when a child may have ended.
#[derive(Debug)]
pub(crate) struct Children(SignalFd);

impl Children {
    /// From here on `SIGCHLD` comes through the descriptor only.
    pub(crate) fn watch() -> Result<Self, AgentError> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(AgentError::sys("block SIGCHLD"))?;
        SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map(Self).map_err(AgentError::sys("watch for SIGCHLD"))
    }

    /// Forgets a `SIGCHLD` that is pending already, so that it wakes nobody later.
    pub(crate) fn clear(&self) {
        let _ = self.0.read_signal();
    }

    /// Reaps what ended, lets go on what only stopped, and says how `program` ended if it did.
    pub(crate) fn ended(&self, program: &Traced) -> Option<Ended> {
        // What there is to tell is most often the end: the descriptor is emptied only where it is not.
        if let Some(ended) = changed().and_then(|status| program.changed(status)) {
            return Some(ended);
        }
        self.clear();
        while let Some(status) = changed() {
            if let Some(ended) = program.changed(status) {
                return Some(ended);
            }
        }
        None
    }
}

/// One child's change of state, its remains gone if it ended; `None` when no child has changed.
fn changed() -> Option<WaitStatus> {
    waitpid(None, Some(WaitPidFlag::WNOHANG)).ok().filter(|status| status.pid().is_some())
}

impl AsFd for Children {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
