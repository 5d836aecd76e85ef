//! The sandbox of a monitor, from both sides: who starts it gives it a user, namespaces and control groups of its own; then it locks itself in.
//!
//! - [`launch`], [`process`]: starting a monitor, and holding it
//! - [`uids`], [`cgroup`]: what each one gets that no other has
//! - [`confine`]: an empty root, no capabilities, Landlock, limits
//! - [`filter`], [`policy`]: the system calls of each thread role, from `policies/*.policy`
//! - [`host`]: which of these layers a host has
//!
//! A monitor gets every descriptor that it needs over its control socket, so it has no need to open, connect, execute or signal anything.

pub mod cgroup;
pub mod confine;
pub mod error;
pub mod filter;
pub mod host;
pub mod launch;
pub mod policy;
pub mod process;
pub mod uids;

pub use confine::{Plan, enter};
pub use error::{CgroupError, LaunchError, SandboxError};
pub use filter::{Role, narrow};

#[cfg(test)]
mod tests;
