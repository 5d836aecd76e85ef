//! An execution and a version as clients, the scheduler and the store see them.
//!
//! Invariant: an execution's state is what its timeline leads to; [`Execution::apply`] is the only way to change either.

use super::id::ExecutionId;
use super::machine::{IllegalTransition, State, Step};
use super::time::Timestamp;
use super::waiting::{CallKey, Parked, WaitView};
use crate::cron::Fired;
use crate::engine::{ErrorKind, ExecutionError};
use crate::manifest::flow::End;
use crate::manifest::host::HostPolicy;
use crate::manifest::{AccountName, Declared, Entry, Policy, PortionName, Rights, TaskName};
use crate::notify::Delivery;
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
    /// It had run an execution of the same task before.
    Kept,
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
    /// Parked: its machine is on disk, its VM gone.
    Parked {
        /// What it waits for.
        waiting: Vec<WaitView>,
        /// Bytes of memory that differ from the template.
        changed_bytes: u64,
        /// Bytes on disk.
        stored_bytes: u64,
        /// From the decision to here.
        micros: u64,
    },
    /// It could not be parked and goes on.
    NotParked {
        /// Why.
        reason: String,
    },
    /// What it waited for is there, or its time is over: it is being brought back.
    Resuming,
    /// Its VM runs again.
    Resumed {
        /// How long that took.
        micros: u64,
        /// In which monitor.
        monitor: Monitor,
    },
    /// It was not brought back and has not run; it is tried again.
    NotResumed {
        /// Why.
        reason: String,
    },
    /// It came from another host.
    Imported,
    /// The attempt failed, another follows.
    Retrying {
        /// Why it failed.
        kind: ErrorKind,
        /// For people.
        message: String,
        /// How long it waits before that.
        #[serde(default, skip_serializing_if = "is_zero")]
        delay_ms: u64,
    },
    /// Another attempt begins, and knows what earlier ones had called with success.
    Replaying {
        /// How many calls that are.
        calls: u32,
    },
    /// It will not be done when it is needed, or was not.
    Late {
        /// How much later than that, in ms: at least, or after its end in fact.
        by_ms: u64,
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
            Self::Queued
            | Self::Template { .. }
            | Self::Restored { .. }
            | Self::Cancelled
            | Self::NotParked { .. }
            | Self::Imported
            | Self::Replaying { .. }
            | Self::Late { .. } => None,
            Self::Parked { .. } | Self::NotResumed { .. } => Some(Step::Park),
            Self::Resuming => Some(Step::Wake),
            Self::Resumed { .. } => Some(Step::Resume),
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
    /// Whose it is.
    #[schema(value_type = String)]
    pub account: AccountName,
    /// Name of the task.
    #[schema(value_type = String)]
    pub task: TaskName,
    /// Version of the task, 64 hex digits.
    #[schema(value_type = String)]
    pub version: Arc<str>,
    /// Portion of the task.
    #[serde(skip_serializing_if = "PortionName::is_main")]
    #[schema(value_type = Option<String>)]
    pub portion: PortionName,
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
    /// How many times it was begun.
    pub attempts: u32,
    /// The execution that started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub parent: Option<ExecutionId>,
    /// How many executions are above it.
    #[serde(skip_serializing_if = "is_zero")]
    pub depth: u32,
    /// When it must have ended: by its policy's deadline, or by that of whoever called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// When its result is needed: while the host is busy it may be put off, and is to be done by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need_by: Option<Timestamp>,
    /// It is not done when it is needed, or can't be any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub late: bool,
    /// Names the calls of its parent up to this one, and their inputs.
    #[serde(skip)]
    pub call_key: Option<CallKey>,
    /// The schedule that made it, and the time that it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Fired>,
    /// Where its end is told, and whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notify: Option<Delivery>,
    /// It failed, and is not run again before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// What it waits for now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitView>,
    /// How many times it was parked.
    #[serde(skip_serializing_if = "is_zero")]
    pub parks: u32,
    /// How long it was parked, in ms, all times together.
    #[serde(skip_serializing_if = "is_zero")]
    pub parked_ms: u64,
    /// Since when it is parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parked_since: Option<Timestamp>,
    /// Its machine, while it is parked.
    #[serde(skip)]
    pub parked: Option<Arc<Parked>>,
    /// What happened, in order.
    pub timeline: Vec<TimelineEntry>,
}

fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Parks that a timeline tells of one by one; later ones are only counted.
const TOLD_PARKS: u32 = 256;

impl Execution {
    /// A new one, queued.
    #[must_use]
    pub fn new(id: ExecutionId, version: &Version, at: Timestamp) -> Self {
        Self {
            id,
            account: version.account.clone(),
            task: version.task.clone(),
            version: Arc::clone(&version.version),
            portion: version.portion.clone(),
            state: State::Queued,
            created_at: at,
            started_at: None,
            finished_at: None,
            result: None,
            error: None,
            attempts: 0,
            parent: None,
            depth: 0,
            due: version.policy.deadline_ms.map(|ms| at.later(ms)),
            need_by: None,
            late: false,
            call_key: None,
            not_before: None,
            schedule: None,
            notify: None,
            waiting: Vec::new(),
            parks: 0,
            parked_ms: 0,
            parked_since: None,
            parked: None,
            timeline: vec![TimelineEntry { at, what: Happening::Queued }],
        }
    }

    /// Adds what happened, and moves to the state that follows from it.
    pub fn apply(&mut self, at: Timestamp, what: Happening) -> Result<(), IllegalTransition> {
        if let Some(step) = what.step() {
            self.state = self.state.next(step)?;
        }
        if self.state != State::Parked {
            self.parked = None;
        }
        match &what {
            Happening::Starting { attempt } => {
                self.attempts = *attempt;
                self.not_before = None;
            }
            Happening::Running { .. } => self.started_at = Some(at),
            Happening::Finished { .. } => {
                self.stop_parking(at);
                self.finished_at = Some(at);
                self.notify.iter_mut().for_each(|delivery| delivery.ended(at));
                // It was expected to be, and was not.
                self.late = self.need_by.is_some_and(|need_by| at > need_by);
                self.not_before = None;
                self.waiting.clear();
            }
            Happening::Parked { .. } => {
                self.parks = self.parks.saturating_add(1);
                self.parked_since = Some(at);
            }
            Happening::Resuming => self.stop_parking(at),
            Happening::NotResumed { .. } => self.parked_since = Some(at),
            Happening::Late { .. } => self.late = true,
            Happening::Retrying { delay_ms, .. } => {
                self.not_before = (*delay_ms > 0).then(|| at.later(*delay_ms));
                self.stop_parking(at);
                self.waiting.clear();
            }
            _ => {}
        }
        let told = !matches!(what, Happening::Parked { .. } | Happening::Resuming | Happening::Resumed { .. }) || self.parks <= TOLD_PARKS;
        if told {
            self.timeline.push(TimelineEntry { at, what });
        }
        Ok(())
    }
}

impl Execution {
    /// By when it is to have ended, for whatever reason.
    #[must_use]
    pub fn must_end(&self) -> Option<Timestamp> {
        [self.due, self.need_by].into_iter().flatten().min()
    }

    /// Bytes of its log; 0 before its end.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        match self.timeline.last() {
            Some(TimelineEntry { what: Happening::Finished { log_bytes, .. }, .. }) => *log_bytes,
            _ => 0,
        }
    }

    /// When its last attempt was begun.
    #[must_use]
    pub fn begun_at(&self) -> Option<Timestamp> {
        self.timeline.iter().rev().find(|entry| matches!(entry.what, Happening::Starting { .. })).map(|entry| entry.at)
    }

    fn stop_parking(&mut self, at: Timestamp) {
        if let Some(since) = self.parked_since.take() {
            self.parked_ms = self.parked_ms.saturating_add(u64::try_from(at.0.saturating_sub(since.0) / 1000).unwrap_or(0));
        }
    }
}

/// One immutable version of a task, or one of the portions of it other than main.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Whose it is.
    pub account: AccountName,
    /// Name of the task.
    pub task: TaskName,
    /// Content hash of the whole task, 64 hex digits.
    pub version: Arc<str>,
    /// Which portion this is.
    pub portion: PortionName,
    /// Content hash of the portion's code, which names its image; that of the task where main is all there is.
    pub code: Arc<str>,
    /// Runtime and entry.
    pub entry: Entry,
    /// The figures of its policy, as its manifest declares them.
    pub declared: Declared,
    /// The rules that its executions run under.
    pub policy: Policy,
    /// What it may reach.
    pub rights: Arc<Rights>,
    /// Bytes of all its files.
    pub code_bytes: u64,
    /// When it was pushed first.
    pub created_at: Timestamp,
    /// In main: the other portions.
    pub portions: Vec<Arc<Version>>,
}

impl Version {
    /// One of its portions, by name; for main.
    #[must_use]
    pub fn portion(self: &Arc<Self>, name: &PortionName) -> Option<Arc<Self>> {
        if self.portion == *name { Some(Arc::clone(self)) } else { self.portions.iter().find(|other| other.portion == *name).cloned() }
    }

    /// Main and all others; for main.
    pub fn all(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::once(self).chain(&self.portions)
    }

    /// The same version of the same task; the portion may be another.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.account == other.account && self.task == other.task && self.version == other.version
    }

    /// Stands for a version that is gone; only its name and hash are used.
    #[must_use]
    pub fn lost(account: &AccountName, task: &TaskName, version: &str, at: Timestamp) -> Self {
        Self {
            account: account.clone(),
            task: task.clone(),
            version: version.into(),
            portion: PortionName::main(),
            code: version.into(),
            entry: Entry::Exec { file: String::new() },
            declared: Declared::default(),
            policy: Policy::default(),
            rights: Arc::default(),
            code_bytes: 0,
            created_at: at,
            portions: Vec::new(),
        }
    }

    /// As one end of a call.
    #[must_use]
    pub fn end(&self) -> End<'_> {
        End { task: &self.task, portion: &self.portion, rights: &self.rights }
    }

    /// The same under these caps.
    #[must_use]
    pub fn under(mut self, host: &HostPolicy) -> Self {
        self.policy = host.resolve(&self.account, &self.declared).policy;
        self.portions = self.portions.into_iter().map(|other| Arc::new(Arc::unwrap_or_clone(other).under(host))).collect();
        self
    }
}
