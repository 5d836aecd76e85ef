//! Why a process is not locked in, or was not started.

use crate::Role;
use std::io;
use std::path::PathBuf;

/// The monitor's side: it is not locked in, so it must end.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step of the kernel's interface failed.
    #[error("locking in, {step}: {source}")]
    Step {
        /// Which.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The host has Landlock, and it does not hold.
    #[error("Landlock: {0}")]
    Landlock(String),
    /// The filter can't be installed. Where the kernel has no seccomp, a monitor does not run.
    #[error("seccomp filter of the {role:?} thread: {source}; the host's kernel needs CONFIG_SECCOMP_FILTER")]
    Filter {
        /// Whose.
        role: Role,
        /// The reason.
        source: Box<seccompiler::Error>,
    },
}

impl SandboxError {
    /// For `map_err`.
    pub(crate) fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// The starter's side.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program can't be opened.
    #[error("can't open {path}: {source}")]
    Program {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The new process did not come into being, or not as far as its program.
    #[error("starting a process, {step}: {source}")]
    Step {
        /// Which step.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No user id is free.
    #[error("all {0} user ids for VMs are in use; give a larger range with --vm-uids")]
    Ids(u32),
    /// The file that says which torpord has which ids.
    #[error("can't take user ids for VMs by a lock on {path}: {source}")]
    IdLock {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A control group of a VM.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl LaunchError {
    /// For `map_err`.
    pub(crate) fn step<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Step { step, source: source.into() }
    }
}

/// Control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Something is missing that was asked for.
    #[error("--require-cgroups: {0}")]
    Required(String),
    /// A file of the hierarchy.
    #[error("control group, {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// On which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
