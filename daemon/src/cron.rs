//! Schedules: executions that are made at the times of a cron expression.
//!
//! ```text
//! fired_to --[`rule`]: its times up to now--> [`plan`]: missed? overlapping? --> execution, and fired_to moved on, in one commit
//!                                                  \-- skipped --> fired_to moved on, and why
//! ```
//! - [`rule`]: an expression and a time zone
//! - [`plan`]: which times are run, pure
//! - [`timer`]: carries it out
//!
//! Invariants: `fired_to` only moves on, but where somebody resumes a schedule; every time up to it is decided for good. A time makes at most one execution, which the
//! database makes sure of: it takes no second one of a schedule and a time, and none whose time is not after `fired_to`. What a crash leaves undecided is decided by the
//! next start, as missed where it is late. The clock that counts is the host's; when it is set back, nothing is run until it is there again.

mod clock;
pub mod plan;
pub mod rule;
pub mod timer;

#[cfg(test)]
mod tests;

use crate::hex;
use crate::manifest::{AccountName, TaskName};
use crate::notify::Notify;
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use rule::Rule;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use torpor_protocol::ask::OnLate;

/// Most schedules of an account.
pub const MAX_SCHEDULES: usize = 1000;
/// Largest input of a schedule, in bytes.
pub const MAX_INPUT: usize = 64 << 10;

/// What becomes of times that passed while nothing could run: torpord was away, or the clock was set forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// One execution stands for all of them.
    #[default]
    Once,
    /// Each has its execution, of the newest [`plan::MOST_MISSED`].
    All,
}

/// What becomes of a time at which the execution before has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It has its execution all the same.
    Allow,
}

impl Missed {
    /// Its name in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Skip, Self::Once, Self::All].into_iter().find(|missed| missed.name() == name)
    }
}

impl Overlap {
    /// Its name in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Allow => "allow",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Skip, Self::Allow].into_iter().find(|overlap| overlap.name() == name)
    }
}

/// When the result of an execution is needed, after the time that it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// So many seconds.
    pub by_s: u32,
    /// What to do where that is certain to be missed.
    pub on_late: OnLate,
}

/// What made an execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fired {
    /// The schedule's id.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// The time that it is for.
    pub at: Timestamp,
}

/// Something that was not run, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Skipped {
    /// When that was decided.
    pub at: Timestamp,
    /// For people.
    pub message: String,
}

/// A schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Unlike any other's, of those that are gone too.
    pub id: Arc<str>,
    /// Whose it is.
    pub account: AccountName,
    /// What people call it; no other of the account has this name.
    pub name: TaskName,
    /// What it runs: `NAME`, or `NAME@HASH`.
    pub task: String,
    /// When.
    pub rule: Rule,
    /// What becomes of times that were missed.
    pub missed: Missed,
    /// What becomes of times at which the execution before has not ended.
    pub overlap: Overlap,
    /// When the results of its executions are needed; at once where there is nothing.
    pub need: Option<Need>,
    /// Where the ends of its executions are told.
    pub notify: Option<Notify>,
    /// Nothing is run.
    pub paused: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Every time up to here is decided.
    pub fired_to: Timestamp,
    /// Its last execution.
    pub last: Option<ExecutionId>,
    /// What it did not run lately.
    pub skipped: Option<Skipped>,
}

/// A new schedule's id.
pub fn new_id() -> Result<Arc<str>, getrandom::Error> {
    let mut random = [0; 10];
    getrandom::fill(&mut random)?;
    Ok(format!("sc_{}", hex::encode(&random)).into())
}

impl Schedule {
    /// The name of its task, whatever version it runs.
    #[must_use]
    pub fn task_name(&self) -> &str {
        self.task.split_once('@').map_or(&self.task, |(name, _)| name)
    }

    /// The next time that is not decided.
    #[must_use]
    pub fn next(&self) -> Option<Timestamp> {
        if self.paused { None } else { self.rule.next(self.fired_to) }
    }
}
