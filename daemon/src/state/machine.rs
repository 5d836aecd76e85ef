//! The states of an execution, and the only function that moves between them.
//!
//! ```text
//!               +----------------- Retry ------------------+
//!               v                                          |
//! (submit) -> queued -- Start --> starting -- Run --> running -- Park --> parked
//!               |                    |                 ^ |                  |
//!               |                    |          Resume | |                 Wake
//!               |                    |                 | |                  v
//!               |                    |                 +-|-------------- resuming
//!               v                    v                   v
//!           cancelled      failed, cancelled,     succeeded, failed, timed_out, cancelled
//!                          timed_out
//! ```
//!
//! `Park` leads from resuming back to parked as well, when the machine was not brought back and has not run. `Retry` also leads from starting, parked and resuming back to queued; parked and resuming can also end as failed, timed_out and cancelled; queued can fail
//! (a host that can't run it any more) and time out (its deadline). Nothing leaves succeeded, failed, timed_out and cancelled.

use serde::{Deserialize, Serialize};

/// Where an execution is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for memory.
    Queued,
    /// Has a VM, the program does not run yet.
    Starting,
    /// The program runs.
    Running,
    /// Saved; holds no VM.
    Parked,
    /// Being brought back.
    Resuming,
    /// Ended with a result.
    Succeeded,
    /// Ended with an error.
    Failed,
    /// Ended by its policy's timeout.
    TimedOut,
    /// Ended by a client.
    Cancelled,
}

/// What moves an execution to another state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A VM is given to it.
    Start,
    /// The program took the input.
    Run,
    /// Saved.
    Park,
    /// What it waits for is there.
    Wake,
    /// Its VM runs again.
    Resume,
    /// An attempt ended without a result, another follows.
    Retry,
    /// A result.
    Succeed,
    /// An error.
    Fail,
    /// The timeout passed.
    TimeOut,
    /// A client ended it.
    Cancel,
}

/// A step that the state has no arrow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an execution that is {} can't {step:?}", state.name())]
pub struct IllegalTransition {
    /// Where it was.
    pub state: State,
    /// What was asked.
    pub step: Step,
}

impl State {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Starting,
        Self::Running,
        Self::Parked,
        Self::Resuming,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Cancelled,
    ];

    /// Its name in JSON, in the database and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Parked => "parked",
            Self::Resuming => "resuming",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Nothing follows it.
    #[must_use]
    pub const fn ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::TimedOut | Self::Cancelled)
    }

    /// The state after `step`.
    pub const fn next(self, step: Step) -> Result<Self, IllegalTransition> {
        use State as S;
        Ok(match (self, step) {
            (S::Queued, Step::Start) => S::Starting,
            (S::Starting, Step::Run) | (S::Resuming, Step::Resume) => S::Running,
            (S::Running | S::Resuming, Step::Park) => S::Parked,
            (S::Parked, Step::Wake) => S::Resuming,
            (S::Starting | S::Running | S::Parked | S::Resuming, Step::Retry) => S::Queued,
            (S::Running, Step::Succeed) => S::Succeeded,
            (S::Queued | S::Starting | S::Running | S::Parked | S::Resuming, Step::Fail) => S::Failed,
            (S::Queued | S::Starting | S::Running | S::Parked | S::Resuming, Step::TimeOut) => S::TimedOut,
            (S::Queued | S::Starting | S::Running | S::Parked | S::Resuming, Step::Cancel) => S::Cancelled,
            (state, step) => return Err(IllegalTransition { state, step }),
        })
    }
}
