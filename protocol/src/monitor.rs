//! What the daemon and a monitor say to each other over the socketpair that the monitor inherits as descriptor 3.
//!
//! Each message is `u32 length (little-endian)` and a postcard body. Descriptors that a [`Command`] needs travel with its first byte as
//! `SCM_RIGHTS`, in the order that the variant names them: a monitor opens nothing by itself.

use crate::limits::MAX_CONTROL;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// The descriptor of a monitor's control socket.
pub const CONTROL_FD: i32 = 3;
/// Most descriptors that come with one message.
pub const MAX_FDS: usize = 4;

/// The key of one file of a parked machine: of that file only, so that nothing is ever encrypted twice alike.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkKey(Zeroizing<[u8; 32]>);

impl ParkKey {
    /// From random bytes.
    #[must_use]
    pub const fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// For whoever encrypts.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Never with its bytes.
impl std::fmt::Debug for ParkKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ParkKey")
    }
}

/// Daemon to monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Make a VM of this size and wait: what a warm monitor is. Descriptors: `/dev/kvm`.
    Prepare {
        /// RAM that the guest's kernel manages.
        memory_mib: u32,
    },
    /// Boot the prepared VM. Descriptors: kernel, root disk.
    Boot {
        /// Added to the kernel command line that the monitor chooses.
        extra_cmdline: String,
    },
    /// Restore the prepared VM from a snapshot and run it. Descriptors: state, memory, root disk, and the code disk where `code` says so.
    Restore {
        /// A code disk is given.
        code: bool,
        /// One frame for the inbox of the door, put there before the vCPU runs.
        #[serde(with = "serde_bytes")]
        inbox: Option<Vec<u8>>,
    },
    /// Restore the prepared VM from a template and what a parked machine changed in it, and run it. All of the parked machine is checked before any
    /// of it is used. Descriptors: parked machine, the template's memory, root disk, code disk.
    Resume {
        /// One frame for the inbox of the door, put there before the vCPU runs.
        #[serde(with = "serde_bytes")]
        inbox: Vec<u8>,
        /// Where the parked machine is encrypted.
        key: Option<ParkKey>,
    },
    /// Put one frame in the inbox of the door; valid after [`Event::AtDoor`].
    Inbox {
        /// The frame.
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
    },
    /// Bytes for the agent's vsock connection.
    Vsock {
        /// Part of a stream of frames.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Put a code disk in. Descriptors: the image.
    CodeDisk,
    /// Save the machine, valid after [`Event::AtDoor`]; it stays at the door. Descriptors: state, memory, both empty and writable.
    Save,
    /// Write down what the machine changed in its template, valid after [`Event::AtDoor`] in a machine that was restored from one; it stays at the door.
    /// Descriptors: the file for it, writable and readable; what it holds is overwritten.
    Park {
        /// Kept in the file as it is, for whoever resumes the machine.
        #[serde(with = "serde_bytes")]
        origin: Vec<u8>,
        /// How memory is written.
        packing: Packing,
        /// All of it but its header is encrypted with this.
        key: Option<ParkKey>,
    },
    /// End now. The guest is not asked.
    Stop,
}

/// How the memory of a parked machine is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    /// As it is.
    None,
    /// Compressed where a sample of it says that this takes less time.
    Fast,
    /// Compressed wherever it gets smaller.
    Small,
}

impl Command {
    /// How many descriptors come with it.
    #[must_use]
    pub const fn fds(&self) -> usize {
        match self {
            Self::Prepare { .. } | Self::CodeDisk => 1,
            Self::Boot { .. } | Self::Save => 2,
            Self::Restore { code: false, .. } => 3,
            Self::Park { .. } => 1,
            Self::Restore { code: true, .. } | Self::Resume { .. } => 4,
            Self::Inbox { .. } | Self::Vsock { .. } | Self::Stop => 0,
        }
    }
}

/// Monitor to daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The VM is made.
    Prepared,
    /// The vCPU is about to run for the first time after boot or restore.
    Running {
        /// From the command's arrival to here.
        micros: u64,
    },
    /// The guest waits at the door; its vCPU stands still.
    AtDoor,
    /// The guest put this frame in the outbox of the door.
    Outbox {
        /// Unchecked bytes of the guest.
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
    },
    /// The agent connected.
    VsockOpen,
    /// Bytes from the agent's connection.
    Vsock {
        /// Unchecked bytes of the guest.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The agent's connection is closed.
    VsockClosed,
    /// The snapshot is written and synced.
    Saved {
        /// Bytes of memory that are not zero and were written.
        memory_bytes: u64,
        /// From the command's arrival to here.
        micros: u64,
    },
    /// The parked machine is written and synced; the VM is as it was before.
    Parked {
        /// Bytes of pages that differ from the template.
        changed_bytes: u64,
        /// Bytes that were written for all of it.
        stored_bytes: u64,
        /// From the command's arrival to here.
        micros: u64,
    },
    /// The machine could not be written down; the VM is as it was before.
    NotParked {
        /// Why.
        reason: String,
    },
    /// The VM is gone; the monitor ends after this.
    Stopped {
        /// Why.
        reason: StopReason,
        /// Last output of the guest's console, lossy UTF-8.
        console: String,
    },
}

/// Why a VM ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StopReason {
    /// The guest powered itself off.
    #[error("the guest powered off")]
    PowerOff,
    /// The guest asked for a reboot.
    #[error("the guest rebooted")]
    Reboot,
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked")]
    Panic,
    /// The guest's processor could not deliver a fault.
    #[error("triple fault in the guest")]
    TripleFault,
    /// A guest broke the rules of one of its devices.
    #[error("the guest broke the rules of {device}: {why}")]
    GuestFault {
        /// Which device.
        device: String,
        /// What it did.
        why: String,
    },
    /// KVM ended the vCPU's run.
    #[error("KVM could not go on running the guest: {0}")]
    Kvm(String),
    /// [`Command::Stop`].
    #[error("stopped as asked")]
    Asked,
    /// A command could not be carried out.
    #[error("{0}")]
    Failed(String),
}

/// Why bytes are not a control message.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The length field is over [`MAX_CONTROL`].
    #[error("control message of {0} bytes, at most {MAX_CONTROL} allowed")]
    TooLong(usize),
    /// The body does not parse, or can't be written.
    #[error("control message: {0}")]
    Body(#[from] postcard::Error),
}

/// A message with its length before it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ControlError> {
    // Longer bytes come in one piece, before which next to nothing is moved.
    let mut out = postcard::to_extend(message, vec![0; 4])?;
    let len = out.len() - 4;
    let short = u32::try_from(len).ok().filter(|_| len <= MAX_CONTROL).ok_or(ControlError::TooLong(len))?;
    out[..4].copy_from_slice(&short.to_le_bytes());
    Ok(out)
}

/// Length of the body that follows these four bytes.
pub fn body_len(prefix: [u8; 4]) -> Result<usize, ControlError> {
    let len = u32::from_le_bytes(prefix) as usize;
    if len > MAX_CONTROL { Err(ControlError::TooLong(len)) } else { Ok(len) }
}

/// A message from its body.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ControlError> {
    Ok(postcard::from_bytes(body)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn control_messages_survive_the_wire() {
        let bytes = encode(&Command::Restore { code: true, inbox: Some(vec![1, 2, 3]) }).unwrap();
        let len = body_len(*bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(len, bytes.len() - 4);
        let back: Command = decode(&bytes[4..]).unwrap();
        assert_eq!((back.fds(), &back), (4, &Command::Restore { code: true, inbox: Some(vec![1, 2, 3]) }));
        let key = ParkKey::new(Zeroizing::new([0xa7; 32]));
        let command = Command::Resume { inbox: vec![1], key: Some(key) };
        assert_eq!(decode::<Command>(&encode(&command).unwrap()[4..]).unwrap(), command);
        assert!(!format!("{command:?}").contains("167"), "{command:?}");
        assert!(body_len(u32::MAX.to_le_bytes()).is_err());
        assert!(decode::<Command>(&[0xff, 0xff]).is_err());
    }
}
