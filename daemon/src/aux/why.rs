//! Why a connection to an auxiliary service is refused or ended.

use crate::manifest::format_bytes;
use std::time::Duration;

/// See the module. Each reads as the end of "aux NAME: ".
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// The guest names a service that its task has not.
    #[error("refused: the task declares no such service")]
    Unknown,
    /// The administrator does not allow it any more.
    #[error("refused: {0} is not in `aux` of the host's policy; the administrator has to allow it")]
    NotAllowed(String),
    /// The manifest's limit.
    #[error("refused: {0} connections of this execution are open, which is all that `connections` allows")]
    Connections(u32),
    /// The limit of all services together.
    #[error("refused: {0} connections of this execution to all its services are open, which is all that it may have")]
    All(usize),
    /// The manifest's limit.
    #[error("closed: this execution has exchanged the {} that `bytes` allows", format_bytes(*.0))]
    Bytes(u64),
    /// Nobody there.
    #[error("refused: can't connect to {to}: {source}")]
    Connect {
        /// The service's address.
        to: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error("refused: {to} does not answer within {} s", after.as_secs())]
    Late {
        /// The service's address.
        to: String,
        /// How long was waited.
        after: Duration,
    },
    /// It broke.
    #[error("broken: {0}")]
    Broken(String),
    /// The guest sent more than it may.
    #[error("closed: the guest sent more than it was allowed to")]
    Flow,
    /// `on_park = "close"`.
    #[error("closed: the execution was parked (on_park = \"close\")")]
    Parked,
    /// `on_park = "hold"`, but its other end is gone.
    #[error("closed: it was held while the execution was parked, and torpord was started anew or the execution moved to another host")]
    Lost,
    /// A request that is not allowed, or failed.
    #[error("{0}")]
    Request(String),
}

impl Why {
    /// Its word in metrics.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Unknown | Self::NotAllowed(_) => "not_allowed",
            Self::Connections(_) | Self::All(_) | Self::Bytes(_) => "limit",
            Self::Connect { .. } | Self::Late { .. } => "unreachable",
            Self::Broken(_) => "broken",
            Self::Flow => "flow",
            Self::Parked => "parked",
            Self::Lost => "lost",
            Self::Request(_) => "request",
        }
    }
}
