//! The virtual processor: what it is told of itself, how it starts, how it is saved, and what is done for it where the host's KVM can't.
//!
//! - [`cpuid`]: the CPUID table
//! - [`start`]: registers and page tables at the kernel's entry
//! - [`state`]: save and restore
//! - [`vector`]: XSAVE and XRSTOR for guests whose kernel mode is emulated
//! - [`host`]: what this host's KVM can do, found by trying

pub mod cpuid;
pub mod host;
pub mod start;
pub mod state;
pub mod vector;
