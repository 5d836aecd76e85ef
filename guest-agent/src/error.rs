//! Why the agent can't go on. Each of these ends the machine; what a program does wrong is a [`torpor_protocol::agent::Failure`] instead.

use nix::errno::Errno;
use std::path::PathBuf;
use torpor_protocol::agent::MessageError;
use torpor_protocol::frame::FrameError;

/// What went wrong, on what.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    /// A file of the guest.
    #[error("can't {what} {path}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A system call on something without a name.
    #[error("{what}: {source}")]
    Sys {
        /// The operation.
        what: &'static str,
        /// The system's answer.
        source: Errno,
    },
    /// The root image is for something else.
    #[error("/etc/torpor/runtime names {name:?}, which this agent does not know; rebuild the image with scripts/build-rootfs")]
    UnknownRuntime {
        /// What the file says.
        name: String,
    },
    /// Nobody answers at the host's end.
    #[error("no connection to the host over vsock: {0}; is the monitor's vsock device there?")]
    NoHost(Errno),
    /// The host's end is gone.
    #[error("the host closed the vsock connection")]
    HostGone,
    /// The monitor put something in the inbox that is not what comes next.
    #[error("the door gave {got} where {want} comes next")]
    Order {
        /// What came.
        got: &'static str,
        /// What the state asks for.
        want: &'static str,
    },
    /// What came in by the door or over vsock is not a message.
    #[error("message of the host: {0}")]
    Message(#[from] MessageError),
    /// What came in by the door or over vsock is not a frame.
    #[error("frame of the host: {0}")]
    Frame(#[from] FrameError),
    /// The window does not hold what its own fields say.
    #[error("the door says {0} bytes, which is more than it holds")]
    DoorSize(u64),
    /// The warm-up program of the image does not work.
    #[error("/etc/torpor/warm of this image ended with {0}; rebuild the image with scripts/build-rootfs")]
    WarmUp(String),
    /// The language host of the image does not work.
    #[error("the language host of this image ended while it warmed up ({0}); rebuild the image with scripts/build-rootfs")]
    HostBroken(String),
}

impl AgentError {
    /// For `map_err` on file operations.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }

    /// For `map_err` on system calls.
    pub(crate) fn sys(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Sys { what, source }
    }
}
