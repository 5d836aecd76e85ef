//! Why a monitor could not do what it was told. A guest's own misdeeds are
//! [`torpor_protocol::monitor::StopReason`]s.

use crate::memory::MemoryError;
use crate::virtio::RestoreError;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// A KVM call failed.
    #[error("{call}: {source}")]
    Kvm {
        /// Which.
        call: &'static str,
        /// The kernel's reason.
        source: kvm_ioctls::Error,
    },
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Guest memory that the monitor itself lays out could not be written or read.
    #[error("{what} in guest memory: {source}")]
    GuestMemory {
        /// What.
        what: &'static str,
        /// vm-memory's reason.
        source: vm_memory::GuestMemoryError,
    },
    /// The kernel can't be loaded.
    #[error("loading the kernel: {0}")]
    Kernel(String),
    /// A snapshot is refused or could not be written.
    #[error(transparent)]
    Snapshot(#[from] torpor_snapshot::SnapshotError),
    /// A snapshot's devices are not what a device could have saved.
    #[error("damaged snapshot: {0}")]
    Device(#[from] RestoreError),
    /// A snapshot that this host or VM can't take.
    #[error("this snapshot can't run here: {0}")]
    Incompatible(String),
    /// A command that does not fit the VM's state, or without its descriptors.
    #[error("{0}")]
    Command(&'static str),
    /// The control socket or another descriptor.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The guest was dropped.
    #[error(transparent)]
    Guest(torpor_protocol::monitor::StopReason),
    /// The sandbox is not closed.
    #[error(transparent)]
    Sandbox(#[from] torpor_seccomp::SandboxError),
    /// The daemon's side of the control socket is closed.
    #[error("the daemon is gone")]
    DaemonGone,
    /// The daemon sent something else than a control message.
    #[error(transparent)]
    Control(#[from] torpor_protocol::monitor::ControlError),
}

impl VmmError {
    /// For `map_err` after a KVM call.
    pub(crate) fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { call, source }
    }

    /// For `map_err` after an access to guest memory.
    pub(crate) fn guest_memory(what: &'static str) -> impl FnOnce(vm_memory::GuestMemoryError) -> Self {
        move |source| Self::GuestMemory { what, source }
    }

    /// For `map_err` after I/O.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}
