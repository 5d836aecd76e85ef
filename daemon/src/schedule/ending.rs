//! From how one VM of an execution ended to what follows. Pure.

use super::live::Cause;
use crate::engine::{ErrorKind, ExecutionError, Outcome};
use crate::manifest::{Policy, format_millis};
use crate::state::machine::State;
use crate::state::record::Execution;
use serde_json::value::RawValue;
use std::sync::Arc;

/// As what an execution ends.
#[derive(Debug, Clone)]
pub struct Ending {
    /// The state.
    pub(super) state: State,
    /// What the program returned.
    pub(super) result: Option<Arc<RawValue>>,
    /// Why it returned nothing.
    pub(super) error: Option<ExecutionError>,
}

impl Ending {
    /// With an error.
    #[must_use]
    pub fn failed(error: ExecutionError) -> Self {
        Self { state: State::Failed, result: None, error: Some(error) }
    }

    /// Because it was told to end.
    #[must_use]
    pub fn of(cause: Option<Cause>, policy: &Policy) -> Self {
        let (state, kind, message) = match cause {
            Some(Cause::Deadline) => {
                let limit = policy.deadline_ms.map(format_millis);
                let message = limit.as_ref().map_or("did not end within the deadline of the execution that called it".into(), |limit| {
                    format!("did not end within {limit} of its submission")
                });
                let mut error = ExecutionError::new(ErrorKind::Deadline, message);
                error.limit = limit;
                return Self { state: State::TimedOut, result: None, error: Some(error) };
            }
            Some(Cause::Unparked) => {
                return Self::host(
                    "it waited in a VM that others wait for, and could not be parked: parked machines take all that they may, or the disk is full; \
                     end what is parked, or raise torpord's --parked-quota or the account's `parked` in the host's policy",
                );
            }
            Some(Cause::Parent) => (State::Cancelled, ErrorKind::Cancelled, "the execution that started it ended without its result"),
            Some(Cause::Moved) => (State::Cancelled, ErrorKind::Moved, "moved to another host, where it goes on"),
            _ => (State::Cancelled, ErrorKind::Cancelled, "cancelled by a client"),
        };
        Self { state, result: None, error: Some(ExecutionError::new(kind, message)) }
    }

    /// By the daemon's own end, with no retry left.
    #[must_use]
    pub fn interrupted() -> Self {
        Self::failed(interrupted())
    }

    /// Because this host can't run it.
    #[must_use]
    pub fn host(message: impl Into<String>) -> Self {
        Self::failed(ExecutionError::new(ErrorKind::Host, message))
    }
}

/// What a daemon that went away is to an execution.
#[must_use]
pub fn interrupted() -> ExecutionError {
    let message = "torpord stopped while it ran; run it again, or set `retries` in the policy to have that done";
    ExecutionError::new(ErrorKind::Interrupted, message)
}

/// What follows an attempt.
#[derive(Debug)]
pub(super) enum Decision {
    End(Ending),
    Again(ExecutionError),
    Requeue(ExecutionError),
}

/// A new attempt after this kind of error may end differently.
#[must_use]
pub const fn retriable(kind: ErrorKind) -> bool {
    !matches!(
        kind,
        ErrorKind::Load | ErrorKind::UnknownSecret | ErrorKind::Timeout | ErrorKind::Deadline | ErrorKind::Cancelled | ErrorKind::Moved
    )
}

/// What follows from how an attempt ended. `stopping`: the daemon takes no new work.
pub(super) fn decide(outcome: Outcome, execution: &Execution, policy: &Policy, cause: Option<Cause>, stopping: bool) -> Decision {
    let left = execution.attempts <= policy.retries;
    match outcome {
        Outcome::Succeeded { result } => Decision::End(Ending { state: State::Succeeded, result: Some(result.into()), error: None }),
        Outcome::TimedOut => {
            let limit = format_millis(policy.timeout_ms);
            let mut error = ExecutionError::new(ErrorKind::Timeout, format!("did not end within {limit}; its VM was stopped"));
            error.limit = Some(limit);
            Decision::End(Ending { state: State::TimedOut, result: None, error: Some(error) })
        }
        Outcome::Cancelled if cause == Some(Cause::Daemon) => {
            if left {
                Decision::Requeue(interrupted())
            } else {
                Decision::End(Ending::interrupted())
            }
        }
        Outcome::Cancelled => Decision::End(Ending::of(cause, policy)),
        // Not ends: whoever calls this has gone on with them.
        Outcome::Parked => Decision::End(Ending::host("it was parked by nobody")),
        Outcome::NotResumed { error, .. } => Decision::End(Ending::failed(error)),
        Outcome::Failed(error) if left && retriable(error.kind) && cause.is_none_or(|cause| cause == Cause::Daemon) => {
            if stopping {
                Decision::Requeue(error)
            } else {
                Decision::Again(error)
            }
        }
        Outcome::Failed(error) => Decision::End(Ending::failed(error)),
    }
}
