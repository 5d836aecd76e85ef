//! An execution and a version as clients, the scheduler and the store see them.
//!
//! Invariant: an execution's state is what its timeline leads to; [`Execution::apply`] is the only way to change either.

use super::id::ExecutionId;
use super::machine::{IllegalTransition, State, Step};
use super::time::Timestamp;
use crate::engine::{ErrorKind, ExecutionError};
use crate::manifest::{Entry, Policy, TaskName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Which kind of monitor a VM was restored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// It waited with its VM made.
    Warm,
    /// Its process was started for this.
    New,
}

/// Something that happened to an execution, with its figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// Accepted.
    Queued,
    /// A VM is given to it.
    Starting {
        /// Counted from 1.
        attempt: u32,
    },
    /// A template had to be made first.
    Template {
        /// How long that took.
        ms: u64,
    },
    /// The VM is restored and its vCPU runs.
    Restored {
        /// How long that took.
        micros: u64,
        /// In which monitor.
        monitor: Monitor,
    },
    /// The program took the input.
    Running {
        /// From the look for a monitor to here.
        micros: u64,
    },
    /// The attempt failed, another follows.
    Retrying {
        /// Why it failed.
        kind: ErrorKind,
        /// For people.
        message: String,
    },
    /// A client asked for its end.
    Cancelled,
    /// The end.
    Finished {
        /// As what it ended.
        state: State,
        /// Bytes of output that the log holds.
        log_bytes: u64,
        /// Bytes of output over the policy's cap.
        log_dropped_bytes: u64,
    },
}

impl Happening {
    const fn step(&self) -> Option<Step> {
        match self {
            Self::Queued | Self::Template { .. } | Self::Restored { .. } | Self::Cancelled => None,
            Self::Starting { .. } => Some(Step::Start),
            Self::Running { .. } => Some(Step::Run),
            Self::Retrying { .. } => Some(Step::Retry),
            Self::Finished { state, .. } => Some(match state {
                State::Succeeded => Step::Succeed,
                State::TimedOut => Step::TimeOut,
                State::Cancelled => Step::Cancel,
                _ => Step::Fail,
            }),
        }
    }
}

/// One entry of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TimelineEntry {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// One run of a task version on one input.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Execution {
    /// Sorts by age.
    pub id: ExecutionId,
    /// Name of the task.
    #[schema(value_type = String)]
    pub task: TaskName,
    /// Version of the task, 64 hex digits.
    #[schema(value_type = String)]
    pub version: Arc<str>,
    /// Where it is.
    pub state: State,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When the program took its input, in the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// What the program returned: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Arc<RawValue>>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ExecutionError>,
    /// How many times it was given a VM.
    pub attempts: u32,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
}

impl Execution {
    /// A new one, queued.
    #[must_use]
    pub fn new(id: ExecutionId, version: &Version, at: Timestamp) -> Self {
        Self {
            id,
            task: version.task.clone(),
            version: Arc::clone(&version.version),
            state: State::Queued,
            created_at: at,
            started_at: None,
            finished_at: None,
            result: None,
            error: None,
            attempts: 0,
            timeline: vec![TimelineEntry { at, what: Happening::Queued }],
        }
    }

    /// Adds what happened, and moves to the state that follows from it.
    pub fn apply(&mut self, at: Timestamp, what: Happening) -> Result<(), IllegalTransition> {
        if let Some(step) = what.step() {
            self.state = self.state.next(step)?;
        }
        match &what {
            Happening::Starting { attempt } => self.attempts = *attempt,
            Happening::Running { .. } => self.started_at = Some(at),
            Happening::Finished { .. } => self.finished_at = Some(at),
            _ => {}
        }
        self.timeline.push(TimelineEntry { at, what });
        Ok(())
    }
}

/// One immutable version of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Name of the task.
    pub task: TaskName,
    /// Content hash, 64 hex digits.
    pub version: Arc<str>,
    /// Runtime and entry.
    pub entry: Entry,
    /// The rules that its executions run under.
    pub policy: Policy,
    /// Bytes of all its files.
    pub code_bytes: u64,
    /// When it was pushed first.
    pub created_at: Timestamp,
}
