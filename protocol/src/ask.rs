//! What a program asks for while it runs, and how it is answered.
//!
//! ```text
//! guest                                        daemon
//! Ask { seq, standing }  + payload   ->
//!                                    <-   Taken { seq }            (vsock only: the daemon knows of it)
//! Blocked { seqs }                   ->                            (door; the agent stands there now)
//!                                    <-   Answers [..] + payloads  (door where the guest stands there, vsock otherwise)
//! ```
//! Each ask is answered exactly once, whatever happens to its machine meanwhile. Two speakers ask: a language host that is alone in its machine sends
//! its ask through the door and stands there until it is answered (`standing`); everybody else asks the agent over its socket, and the agent
//! asks over vsock. When nothing in the machine can run but what waits for answers, the agent says so ([`Blocked`]) and stands at the door. A guest
//! that stands at the door may be parked; the first thing that it gets there is the answers.
//!
//! Numbers (`seq`) are chosen by the speaker: a language host's are below [`AGENT_SEQ`], the agent's from there on. One that is outstanding must not be
//! used again.

use serde::{Deserialize, Serialize};

/// First number of the agent's asks.
pub const AGENT_SEQ: u64 = 1 << 32;
/// Most asks of one execution that wait for their answers.
pub const MAX_ASKS: usize = 1024;
/// Most executions that one ask waits for.
pub const MAX_TARGETS: usize = 10_000;
/// Most bytes of results in one message of answers; what does not fit is asked for one by one.
pub const MAX_INLINE: usize = 4 << 20;
/// Longest time that may be given, in ms: a year.
pub const MAX_WAIT_MS: u64 = 366 * 86_400_000;

/// Header of [`crate::agent::GuestMessage::Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Names the answer.
    pub seq: u64,
    /// The speaker is alone in its machine and stands at the door from now on, until it is answered.
    #[serde(default)]
    pub standing: bool,
    /// What is asked for.
    #[serde(flatten)]
    pub what: What,
}

/// When a result is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeedBy {
    /// In so many ms from now on, of time outside; at most [`MAX_WAIT_MS`].
    InMs(u64),
    /// At this moment: ms since 1970, UTC.
    AtMs(u64),
}

/// What to do with an execution that is certain to miss the time at which it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLate {
    /// Run it all the same.
    #[default]
    Run,
    /// Refuse it.
    Refuse,
}

impl OnLate {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Refuse => "refuse",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Run, Self::Refuse].into_iter().find(|on_late| on_late.name() == name)
    }

    /// It is run.
    #[must_use]
    pub const fn is_run(&self) -> bool {
        matches!(self, Self::Run)
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum What {
    /// Start an execution of a task; the payload is its input. Answer: [`Reply::Spawned`].
    Spawn {
        /// `NAME`, `NAME@HASH`, or `portion:NAME` for a portion of the caller's own version.
        task: String,
        /// When its result is needed: it may be put off until it has to begin. At once where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        need_by: Option<NeedBy>,
        /// What to do where that is certain to be missed.
        #[serde(default, skip_serializing_if = "OnLate::is_run")]
        on_late: OnLate,
    },
    /// Start one and wait for its end; the payload is its input. One that is not done in time is cancelled. Answer: [`Reply::Waited`] with one entry.
    Call {
        /// As in [`Self::Spawn`].
        task: String,
        /// No limit where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Wait until executions have ended. With `timeout_ms` 0: only look. Answer: [`Reply::Waited`].
    Wait {
        /// Their ids, at most [`MAX_TARGETS`].
        executions: Vec<String>,
        /// Answer when one of them has ended, not all.
        #[serde(default)]
        any: bool,
        /// Results are wanted, not only states.
        #[serde(default)]
        results: bool,
        /// No limit where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
    /// Wait. Answer: [`Reply::Slept`].
    Sleep {
        /// How long, of time outside: parked time counts.
        ms: u64,
    },
    /// Make an event. Answer: [`Reply::Event`].
    Event {},
    /// Wait for an event that this execution made. Answer: [`Reply::Signalled`] or [`Reply::TimedOut`].
    EventWait {
        /// The event's.
        token: String,
        /// No limit where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
    },
}

/// Body of [`crate::agent::GuestMessage::Blocked`]: nothing in the machine can run but what waits for these answers; the agent stands at the door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// All asks that the guest has no answer to.
    pub seqs: Vec<u64>,
    /// How many messages about connections the agent has heard (see [`crate::aux`]).
    #[serde(default)]
    pub aux: u64,
}

/// Body of [`crate::agent::HostMessage::Taken`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Of the ask.
    pub seq: u64,
}

/// Header of [`crate::agent::HostMessage::Answers`]. Payloads follow in the order of the answers that have one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// The machine was parked meanwhile: set the clock, take `seed`.
    #[serde(default)]
    pub resumed: bool,
    /// Entropy for random number generators in user mode where `resumed` (32 bytes, lower-case hex).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
    /// May be none at all: then something is on its way over vsock, and the speaker at the door looks there.
    pub answers: Vec<Answer>,
}

/// The answer to one ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the ask.
    pub seq: u64,
    /// What it is.
    #[serde(flatten)]
    pub reply: Reply,
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Reply {
    /// It is durable and will run.
    Spawned {
        /// Its id.
        execution: String,
    },
    /// How far the executions are: all of them in the order of the ask, or in `any` mode and after a timeout those too that have not ended.
    Waited {
        /// One entry for each execution of the ask.
        executions: Vec<Waited>,
        /// The time passed before what was waited for.
        timed_out: bool,
    },
    /// The time passed.
    Slept,
    /// An event.
    Event {
        /// To hand out: who knows it may signal the event, once.
        token: String,
    },
    /// The event was signalled.
    Signalled {
        /// Bytes of its data (JSON) in the payload.
        len: usize,
    },
    /// The event was not signalled in time.
    TimedOut,
    /// What was asked for can't be.
    Refused {
        /// What kind of refusal it is.
        kind: Refusal,
        /// For people.
        message: String,
    },
}

impl Reply {
    /// Bytes of the payload that belong to it.
    #[must_use]
    pub fn payload(&self) -> usize {
        match self {
            Self::Waited { executions, .. } => {
                executions.iter().filter_map(|waited| waited.result).fold(0, |sum, len| sum.saturating_add(len))
            }
            Self::Signalled { len } => *len,
            Self::Spawned { .. } | Self::Slept | Self::Event { .. } | Self::TimedOut | Self::Refused { .. } => 0,
        }
    }
}

/// How far an execution is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Its id.
    pub execution: String,
    /// Its state's name: `succeeded`, `failed`, `timed_out`, `cancelled`; or any other, where it has not ended.
    pub state: String,
    /// Bytes of its result (JSON) in the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<usize>,
    /// Why it has no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CalleeError>,
    /// Result or error were wanted and did not fit: ask for this one alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

/// Why an execution has no result, as its caller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalleeError {
    /// One of the kinds of the API.
    pub kind: String,
    /// For people.
    pub message: String,
    /// Type of the exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// Where it was raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// Exit status of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

/// Why an ask is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No task or no version of that name.
    UnknownTask,
    /// No execution with that id.
    UnknownExecution,
    /// No event with that token, or of another execution.
    UnknownEvent,
    /// It would wait for itself.
    Cycle,
    /// Calls nested too deeply.
    TooDeep,
    /// Too many of something: children, asks, events, executions in one ask.
    TooMany,
    /// A policy does not allow it: the caller's, or that of what it would call.
    NotAllowed,
    /// The task's VM would never fit this host, or the host takes no new work.
    Capacity,
    /// Its result can't be there when it is needed, and it was asked to be refused then.
    Late,
    /// The ask itself makes no sense: an input that is no JSON, a time out of range.
    Invalid,
    /// The host failed; its message says how.
    Host,
}
