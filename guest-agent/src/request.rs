//! The lines of the agent's socket (docs/waits.md): from a request to what is asked for, and from an answer to the line about it. Pure.
//!
//! JSON that is handed on, inputs one way and results the other, stays the text that it is.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use torpor_protocol::ask::{CalleeError, MAX_TARGETS, MAX_WAIT_MS, NeedBy, OnLate, Refusal, Reply, Waited, What};
use torpor_protocol::limits::MAX_INPUT;

/// Longest line: an input, or the ids of as many executions as there may be, and what stands around it.
pub(crate) const MAX_LINE: usize = MAX_INPUT + (512 << 10);

/// Why a request is not passed on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub(crate) struct Wrong {
    /// Its kind.
    pub(crate) kind: Refusal,
    /// For people.
    pub(crate) message: String,
}

impl Wrong {
    /// A request that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Refusal::Invalid, message: message.into() }
    }

    /// More of something than there may be.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self { kind: Refusal::TooMany, message: message.into() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    #[serde(borrow)]
    call: Option<Cow<'a, str>>,
    #[serde(borrow)]
    spawn: Option<Cow<'a, str>>,
    wait: Option<Vec<String>>,
    sleep: Option<f64>,
    #[serde(borrow)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    any: Option<bool>,
    results: Option<bool>,
    timeout: Option<f64>,
    need_by: Option<f64>,
    need_by_at: Option<f64>,
    on_late: Option<OnLate>,
}

/// Whole ms, never less than asked for.
fn ms(seconds: f64, what: &str) -> Result<u64, Wrong> {
    let ms = (seconds * 1000.0).ceil();
    #[allow(clippy::cast_precision_loss)]
    if !(0.0..=MAX_WAIT_MS as f64).contains(&ms) {
        return Err(Wrong::invalid(format!("{what} of {seconds} s is out of range: 0 to {} s are allowed", MAX_WAIT_MS / 1000)));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(ms as u64)
}

/// When a result is needed, in seconds from now on or as a moment, in seconds since 1970.
fn needed(within: Option<f64>, at: Option<f64>) -> Result<Option<NeedBy>, Wrong> {
    match (within, at) {
        (Some(_), Some(_)) => Err(Wrong::invalid("need_by or need_by_at, not both")),
        (Some(seconds), None) => Ok(Some(NeedBy::InMs(ms(seconds, "a need_by")?))),
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (None, Some(seconds)) if (0.0..1e11).contains(&seconds) => Ok(Some(NeedBy::AtMs((seconds * 1000.0) as u64))),
        (None, Some(seconds)) => Err(Wrong::invalid(format!("need_by_at {seconds} is no moment in seconds since 1970"))),
        (None, None) => Ok(None),
    }
}

/// What a line asks for, and the input that goes with it.
pub(crate) fn parse(line: &[u8]) -> Result<(What, &[u8]), Wrong> {
    let request: Request<'_> =
        serde_json::from_slice(line).map_err(|error| Wrong::invalid(format!("the request is not one that is known: {error}")))?;
    let Request { call, spawn, wait, sleep, event, input, any, results, timeout, need_by, need_by_at, on_late } = request;
    let need_by = needed(need_by, need_by_at)?;
    let timeout_ms = timeout.map(|seconds| ms(seconds, "a timeout")).transpose()?;
    let takes = |fits: bool, what: &str| if fits { Ok(()) } else { Err(Wrong::invalid(what)) };
    let (no_input, no_flags) = (input.is_none(), any.is_none() && results.is_none());
    if spawn.is_none() && (need_by.is_some() || on_late.is_some()) {
        return Err(Wrong::invalid("need_by, need_by_at and on_late go with spawn"));
    }
    let what = match (call, spawn, wait, sleep, event) {
        (Some(task), None, None, None, None) => {
            takes(no_flags, "call takes input and timeout")?;
            What::Call { task: task.into_owned(), timeout_ms }
        }
        (None, Some(task), None, None, None) => {
            takes(no_flags && timeout.is_none(), "spawn takes input, need_by or need_by_at, and on_late")?;
            What::Spawn { task: task.into_owned(), need_by, on_late: on_late.unwrap_or_default() }
        }
        (None, None, Some(executions), None, None) => {
            takes(no_input, "wait takes any, results and timeout")?;
            if executions.len() > MAX_TARGETS {
                let message = format!("{} executions in one wait, at most {MAX_TARGETS} are allowed", executions.len());
                return Err(Wrong::too_many(message));
            }
            takes(!executions.is_empty(), "wait takes at least one execution")?;
            What::Wait { executions, any: any.unwrap_or(false), results: results.unwrap_or(true), timeout_ms }
        }
        (None, None, None, Some(seconds), None) => {
            takes(no_input && no_flags && timeout.is_none(), "sleep takes nothing else")?;
            What::Sleep { ms: ms(seconds, "a sleep")? }
        }
        (None, None, None, None, Some(event)) if event == "new" => {
            takes(no_input && no_flags && timeout.is_none(), "a new event takes nothing else")?;
            What::Event {}
        }
        (None, None, None, None, Some(token)) => {
            takes(no_input && no_flags, "event takes timeout")?;
            What::EventWait { token: token.into_owned(), timeout_ms }
        }
        _ => return Err(Wrong::invalid("a request has exactly one of call, spawn, wait, sleep and event")),
    };
    let input: &[u8] = match &what {
        What::Call { .. } | What::Spawn { .. } => input.map_or(b"null", |json| json.get().as_bytes()),
        _ => &[],
    };
    if input.len() > MAX_INPUT {
        return Err(Wrong::invalid(format!("the input is {} bytes of JSON, at most {MAX_INPUT} are allowed", input.len())));
    }
    Ok((what, input))
}

#[derive(Serialize)]
struct Failed<'a> {
    error: ErrorBody<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumed: bool,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    kind: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a CalleeError>,
}

/// A line without its end. What serde refuses to write it could not have read.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn error(kind: &str, message: &str, resumed: bool) -> Vec<u8> {
    json(&Failed { error: ErrorBody { kind, message, execution: None, state: None, failure: None }, resumed })
}

/// The line about a request that is not passed on.
pub(crate) fn refused(wrong: &Wrong) -> Vec<u8> {
    refusal(wrong.kind, &wrong.message, false)
}

fn refusal(kind: Refusal, message: &str, resumed: bool) -> Vec<u8> {
    let name = match kind {
        Refusal::UnknownTask => "unknown_task",
        Refusal::UnknownExecution => "unknown_execution",
        Refusal::UnknownEvent => "unknown_event",
        Refusal::Cycle => "cycle",
        Refusal::TooDeep => "too_deep",
        Refusal::TooMany => "too_many",
        Refusal::NotAllowed => "not_allowed",
        Refusal::Capacity => "capacity",
        Refusal::Late => "late",
        Refusal::Invalid => "invalid",
        Refusal::Host => "host",
    };
    error(name, message, resumed)
}

/// JSON text on one line: between its tokens an end of line is a space, inside of them there is none.
pub(crate) fn one_line(json: &[u8]) -> impl Iterator<Item = u8> + '_ {
    json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte })
}

/// What comes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The line, without its end.
    Line(Vec<u8>),
    /// The result of this execution did not fit: it is to be asked for alone.
    Again(String),
}

fn ok(text: &[u8], more: &str, resumed: bool) -> Said {
    let mut line = b"{\"ok\":".to_vec();
    line.extend(one_line(text));
    line.extend_from_slice(more.as_bytes());
    line.extend_from_slice(if resumed { b",\"resumed\":true}" } else { b"}" });
    Said::Line(line)
}

fn text(value: &str) -> String {
    String::from_utf8(json(&value)).unwrap_or_default()
}

/// The line about an answer to `call` or to anything else; `resumed`: the machine was parked since this client's last answer. `payload` is all that
/// belongs to the answer.
pub(crate) fn answer(call: bool, reply: &Reply, payload: &[u8], resumed: bool) -> Said {
    match reply {
        Reply::Spawned { execution } => ok(text(execution).as_bytes(), "", resumed),
        Reply::Event { token } => ok(text(token).as_bytes(), "", resumed),
        Reply::Slept => ok(b"null", "", resumed),
        Reply::Signalled { .. } => ok(payload, "", resumed),
        Reply::TimedOut => Said::Line(error("timeout", "the event was not signalled in time", resumed)),
        Reply::Refused { kind, message } => Said::Line(refusal(*kind, message, resumed)),
        Reply::Waited { executions, timed_out } if call => match executions.as_slice() {
            [one] => called(one, *timed_out, payload, resumed),
            _ => Said::Line(error("host", "the host answered for another number of executions than were asked for", resumed)),
        },
        Reply::Waited { executions, timed_out } => waited(executions, *timed_out, payload, resumed),
    }
}

fn called(one: &Waited, timed_out: bool, payload: &[u8], resumed: bool) -> Said {
    let ended = matches!(one.state.as_str(), "succeeded" | "failed" | "timed_out");
    if timed_out && !ended {
        let message = format!("the task was not done in time; execution {} is cancelled", one.execution);
        let error =
            ErrorBody { kind: "timeout", message: &message, execution: Some(&one.execution), state: Some(&one.state), failure: None };
        return Said::Line(json(&Failed { error, resumed }));
    }
    if one.more {
        return Said::Again(one.execution.clone());
    }
    if one.state == "succeeded" {
        return ok(payload, &format!(",\"execution\":{}", text(&one.execution)), resumed);
    }
    let none = format!("execution {} ended as {}", one.execution, one.state);
    let message = one.error.as_ref().map_or(none.as_str(), |error| error.message.as_str());
    let error =
        ErrorBody { kind: "task_failed", message, execution: Some(&one.execution), state: Some(&one.state), failure: one.error.as_ref() };
    Said::Line(json(&Failed { error, resumed }))
}

fn waited(executions: &[Waited], timed_out: bool, payload: &[u8], resumed: bool) -> Said {
    let (mut list, mut rest) = (b"[".to_vec(), payload);
    for (index, one) in executions.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        let (result, after) = rest.split_at_checked(one.result.unwrap_or(0)).unwrap_or((rest, &[]));
        rest = after;
        list.extend_from_slice(format!("{{\"execution\":{},\"state\":{}", text(&one.execution), text(&one.state)).as_bytes());
        if one.result.is_some() {
            list.extend_from_slice(b",\"result\":");
            list.extend_from_slice(result);
        }
        if let Some(error) = &one.error {
            list.extend_from_slice(b",\"error\":");
            list.extend(json(error));
        }
        list.extend_from_slice(if one.more { b",\"more\":true}" } else { b"}" });
    }
    list.push(b']');
    ok(&list, &format!(",\"timed_out\":{timed_out}"), resumed)
}

#[cfg(test)]
#[path = "request/tests.rs"]
mod tests;
