//! The filters of both thread roles, compiled from `policies/` when this crate was built. A call that a role's policy does not allow ends the process.

use crate::error::SandboxError;
use seccompiler::sock_filter;

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads commands, makes the VM, gives orders to the vCPU thread.
    EventLoop,
    /// Runs the guest and answers its exits.
    Vcpu,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::EventLoop, Self::Vcpu];

    /// Its policy, as it is written.
    #[must_use]
    pub const fn policy(self) -> &'static str {
        match self {
            Self::EventLoop => include_str!("../policies/event_loop.policy"),
            Self::Vcpu => include_str!("../policies/vcpu.policy"),
        }
    }

    const fn filter(self) -> &'static [sock_filter] {
        match self {
            Self::EventLoop => EVENT_LOOP,
            Self::Vcpu => VCPU,
        }
    }
}

/// Lets the calling thread make the calls of its role and no others, for good. Threads that it starts later inherit that.
pub fn narrow(role: Role) -> Result<(), SandboxError> {
    seccompiler::apply_filter(role.filter()).map_err(|source| SandboxError::Filter { role, source: Box::new(source) })
}
