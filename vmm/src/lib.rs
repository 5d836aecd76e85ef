//! Torpor's monitor: one process is one microVM.
//!
//! - [`process`], [`monitor`], [`control`]: how its process begins, the event loop and its socket to the daemon
//! - [`vcpu`]: the thread that runs the guest
//! - [`machine`]: a VM from making to saving
//! - [`park`], [`changed`]: what a VM changed in its template, written down and laid over it again
//! - [`cpu`], [`boot`], [`memory`], [`paging`]: processor, kernel, memory
//! - [`devices`], [`virtio`]: what the guest can touch
//! - [`client`]: the other end of the control socket, for running one by hand, tests and benches
//!
//! The monitor never knows what a task is, and opens nothing but the page map of its own process, before its sandbox closes: every other descriptor
//! comes from the daemon.

pub mod boot;
pub mod changed;
pub mod client;
pub mod control;
pub mod cpu;
pub mod devices;
pub mod entropy;
pub mod error;
pub mod layout;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod paging;
pub mod park;
pub mod process;
pub mod vcpu;
pub mod virtio;
