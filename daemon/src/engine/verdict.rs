//! From how a VM or a program ended to the outcome that its caller sees. Pure.

use super::pool::PoolError;
use super::types::{ErrorKind, ExecutionError, Outcome};
use super::vm::VmError;
use serde_json::value::RawValue;
use torpor_protocol::agent::{Failure, FailureKind};
use torpor_protocol::limits::{CONSOLE_TAIL, MAX_RESULT};
use torpor_protocol::monitor::StopReason;

/// Deepest nesting of a result: what JSON readers commonly take.
const MAX_DEPTH: usize = 128;
/// Longest name of an exception that is kept; a message and a traceback were bounded when they came in.
const MAX_NAME: usize = 256;

/// What a program returned, if it is JSON as others can read it.
pub(super) fn result(json: Vec<u8>) -> Outcome {
    match checked(json) {
        Ok(result) => Outcome::Succeeded { result },
        Err(error) => Outcome::Failed(error),
    }
}

fn checked(json: Vec<u8>) -> Result<Box<RawValue>, ExecutionError> {
    if json.len() > MAX_RESULT {
        let mut error = ExecutionError::new(ErrorKind::ResultTooLarge, format!("the result is larger than {} MiB", MAX_RESULT >> 20));
        error.limit = Some(mib(MAX_RESULT >> 20));
        return Err(error);
    }
    let invalid = |why: String| ExecutionError::new(ErrorKind::InvalidResult, format!("the result is not JSON: {why}"));
    let text = String::from_utf8(json).map_err(|error| invalid(error.to_string()))?;
    let depth = depth(text.as_bytes());
    if depth > MAX_DEPTH {
        let mut error = ExecutionError::new(
            ErrorKind::InvalidResult,
            format!("the result is nested {depth} levels deep, at most {MAX_DEPTH} are allowed"),
        );
        error.limit = Some(format!("{MAX_DEPTH} levels"));
        return Err(error);
    }
    RawValue::from_string(text).map_err(|error| invalid(error.to_string()))
}

/// Deepest nesting of arrays and objects in JSON text.
fn depth(json: &[u8]) -> usize {
    let (mut now, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A failure that the guest reported.
pub(super) fn failure(failure: Failure, memory_mib: u32) -> ExecutionError {
    let kind = match failure.kind {
        FailureKind::Exception => ErrorKind::Exception,
        FailureKind::Exit => ErrorKind::Exit,
        FailureKind::Signal => ErrorKind::Signal,
        FailureKind::OutOfMemory => ErrorKind::OutOfMemory,
        FailureKind::InvalidResult => ErrorKind::InvalidResult,
        FailureKind::ResultTooLarge => ErrorKind::ResultTooLarge,
        FailureKind::Load => ErrorKind::Load,
    };
    let limit = match kind {
        ErrorKind::OutOfMemory => Some(mib(memory_mib)),
        ErrorKind::ResultTooLarge => Some(mib(MAX_RESULT >> 20)),
        _ => None,
    };
    ExecutionError {
        kind,
        message: failure.message,
        exception: failure.exception.map(|name| head(name, MAX_NAME)),
        traceback: failure.traceback,
        exit_code: failure.exit_code,
        signal: failure.signal,
        console: None,
        limit,
    }
}

/// The VM ended before its program answered.
pub(super) fn stopped(reason: &StopReason, console: String, memory_mib: u32) -> ExecutionError {
    let kind = match reason {
        // A kernel that finds nobody left to end for memory panics.
        StopReason::Panic if console.contains("Out of memory") || console.contains("out of memory") => ErrorKind::OutOfMemory,
        StopReason::PowerOff | StopReason::Reboot | StopReason::Panic | StopReason::TripleFault | StopReason::Kvm(_) => {
            ErrorKind::GuestCrashed
        }
        StopReason::GuestFault { .. } => ErrorKind::GuestProtocol,
        StopReason::Asked | StopReason::Failed(_) => ErrorKind::Host,
    };
    let message = match kind {
        ErrorKind::OutOfMemory => format!("the guest ran out of its {} of memory: {reason}", mib(memory_mib)),
        ErrorKind::Host => format!("the monitor gave up: {reason}; torpord's log has more"),
        _ => reason.to_string(),
    };
    let mut error = ExecutionError::new(kind, message);
    error.limit = (kind == ErrorKind::OutOfMemory).then(|| mib(memory_mib));
    error.console = Some(tail(console, CONSOLE_TAIL)).filter(|console| !console.is_empty());
    error
}

fn head(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}

fn tail(mut text: String, most: usize) -> String {
    text.drain(..text.ceil_char_boundary(text.len().saturating_sub(most)));
    text
}

/// The agent is gone, the VM is not.
pub(super) fn agent_gone() -> ExecutionError {
    ExecutionError::new(ErrorKind::GuestCrashed, "the guest's agent closed its connection before the program answered")
}

/// Torpord is shutting down.
pub(super) fn interrupted() -> ExecutionError {
    ExecutionError::new(ErrorKind::Interrupted, "torpord shut down while this ran")
}

impl From<VmError> for ExecutionError {
    fn from(error: VmError) -> Self {
        Self::new(ErrorKind::Host, format!("{error}; torpord's log has more"))
    }
}

impl From<PoolError> for ExecutionError {
    fn from(error: PoolError) -> Self {
        Self::new(ErrorKind::Host, error.to_string())
    }
}

fn mib(count: impl std::fmt::Display) -> String {
    format!("{count}MiB")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn kind(json: &[u8]) -> Option<ErrorKind> {
        match result(json.to_vec()) {
            Outcome::Succeeded { .. } => None,
            Outcome::Failed(error) => Some(error.kind),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn results_are_json_or_refused() {
        for good in [&b"1"[..], b" {\"a\": [1, \"[[[\\\"\"]}\n", b"null", "\"\u{fc}\"".as_bytes()] {
            assert_eq!(kind(good), None, "{}", String::from_utf8_lossy(good));
        }
        for bad in [&b""[..], b"NaN", b"{", b"1 2", b"'a'", b"\"\xff\"", b"[1,]"] {
            assert_eq!(kind(bad), Some(ErrorKind::InvalidResult), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn results_are_bounded_in_depth_and_size() {
        let nested = |levels: usize| [vec![b'['; levels], vec![b']'; levels]].concat();
        assert_eq!(kind(&nested(MAX_DEPTH)), None);
        assert_eq!(kind(&nested(MAX_DEPTH + 1)), Some(ErrorKind::InvalidResult));
        assert_eq!(kind(&nested(1 << 20)), Some(ErrorKind::InvalidResult));
        let mut large = vec![b'1'; MAX_RESULT];
        assert_eq!(kind(&large), None);
        large.push(b'1');
        assert_eq!(kind(&large), Some(ErrorKind::ResultTooLarge));
    }

    #[test]
    fn each_end_of_a_vm_has_its_kind() {
        for (reason, kind) in [
            (StopReason::PowerOff, ErrorKind::GuestCrashed),
            (StopReason::Panic, ErrorKind::GuestCrashed),
            (StopReason::TripleFault, ErrorKind::GuestCrashed),
            (StopReason::Kvm("x".into()), ErrorKind::GuestCrashed),
            (StopReason::GuestFault { device: "vsock".into(), why: "x".into() }, ErrorKind::GuestProtocol),
            (StopReason::Failed("x".into()), ErrorKind::Host),
        ] {
            let error = stopped(&reason, "last line".into(), 128);
            assert_eq!((error.kind, error.console.as_deref()), (kind, Some("last line")));
        }
        let error = stopped(&StopReason::Panic, "Kernel panic - not syncing: Out of memory".into(), 128);
        assert_eq!((error.kind, error.limit.as_deref()), (ErrorKind::OutOfMemory, Some("128MiB")));
    }

    #[test]
    fn what_a_guest_tells_of_itself_is_bounded() {
        assert_eq!((head("ü".repeat(200), 255).len(), tail("ü".repeat(200), 255).len()), (254, 254));
        assert_eq!((head("abc".into(), 9).as_str(), tail("abc".into(), 9).as_str()), ("abc", "abc"));
        let long = stopped(&StopReason::Panic, "x".repeat(1 << 20), 128);
        assert_eq!(long.console.unwrap().len(), CONSOLE_TAIL);
    }

    #[test]
    fn a_reported_lack_of_memory_names_the_limit() {
        let told = Failure {
            kind: FailureKind::OutOfMemory,
            message: "killed".into(),
            exception: None,
            traceback: None,
            exit_code: None,
            signal: Some(9),
            drain: false,
        };
        let error = failure(told, 256);
        assert_eq!((error.kind, error.limit.as_deref(), error.signal), (ErrorKind::OutOfMemory, Some("256MiB"), Some(9)));
    }
}
