//! Every way to fail, what is said then, and the exit code.

use crate::api::Refusal;
use std::io;
use std::path::{Path, PathBuf};

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The command line or what it points to can't be used.
    #[error("{0}")]
    Usage(String),
    /// A local file can't be read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// What was done to it.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{0}")]
    Refused(Refusal),
    /// Nobody listens at the socket.
    #[error("no torpord at {} ({source}); start it, or name its socket with --socket or TORPOR_SOCKET", socket.display())]
    NoDaemon { socket: PathBuf, source: io::Error },
    /// Nobody answers at another host, or not whom its certificate would have to name.
    #[error("no torpord at {host}: {why}")]
    NoHost { host: String, why: String },
    /// Somebody listens at the socket, but not to this user.
    #[error("{} is there, but this user may not use it; be root, or join the group that owns it (see `ls -l`)", socket.display())]
    Denied { socket: PathBuf },
    /// The daemon was there and went away, or did not answer in time.
    #[error("lost torpord at {place}: {why}")]
    Lost { place: String, why: String },
    /// An answer that is not what the API promises.
    #[error("torpord's answer to {request} makes no sense: {why}; are torpor and torpord of the same version?")]
    Answer { request: String, why: String },
    /// An answer, or a part of one, that is larger than this program takes.
    #[error("torpord's answer to {request} is larger than the {} that torpor takes at once", crate::output::size(*limit))]
    TooLarge { request: String, limit: u64 },
    /// Standard output can't be written.
    #[error("can't write the output: {0}")]
    Output(#[source] io::Error),
    /// The execution, or a check of the doctor, failed; what there is to say has been said.
    #[error("failed")]
    Failed,
    /// Interrupted a second time while waiting.
    #[error("interrupted")]
    Interrupted,
}

impl CliError {
    /// 1: the execution failed. 2: usage, or refused by the daemon. 3: no daemon. 130: interrupted.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage(_) | Self::File { .. } | Self::Refused(_) | Self::Answer { .. } | Self::TooLarge { .. } | Self::Output(_) => 2,
            Self::NoDaemon { .. } | Self::NoHost { .. } | Self::Denied { .. } | Self::Lost { .. } => 3,
            Self::Interrupted => 130,
        }
    }

    /// A socket that can't be connected to.
    pub(crate) fn unreachable(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        if source.kind() == io::ErrorKind::PermissionDenied { Self::Denied { socket } } else { Self::NoDaemon { socket, source } }
    }

    /// What goes to standard error; nothing where the reader of a pipe went away or all has been said.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Failed | Self::Interrupted => None,
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            other => Some(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_others_is_not_a_missing_one() {
        let socket = Path::new("/run/x.sock");
        let denied = CliError::unreachable(socket, io::Error::from(io::ErrorKind::PermissionDenied));
        let text = denied.to_string();
        assert!(text.starts_with("/run/x.sock is there, but this user may not use it") && !text.contains("start it"), "{text}");
        let missing = CliError::unreachable(socket, io::Error::from(io::ErrorKind::NotFound));
        assert!(missing.to_string().contains("start it"));
        assert_eq!((denied.exit_code(), missing.exit_code()), (3, 3));
    }
}
