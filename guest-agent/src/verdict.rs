//! From the way a program ended, and what it wrote, to the message about it. Pure.

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::value::RawValue;
use torpor_protocol::agent::{Failure, FailureKind};
use torpor_protocol::limits::{MAX_FAILURE_TEXT, MAX_RESULT};

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with a status.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

impl Ended {
    /// From what `waitpid` says; `None` while the program only changed state.
    pub(crate) fn from_status(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => Some(Self::Exit(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Signal(signal as i32)),
            _ => None,
        }
    }

    /// From the status that `wait` would give, as the kernel encodes it.
    pub(crate) const fn from_raw(status: i32) -> Self {
        if libc::WIFSIGNALED(status) { Self::Signal(libc::WTERMSIG(status)) } else { Self::Exit(libc::WEXITSTATUS(status)) }
    }

    /// For people.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Exit(code) => format!("exit status {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => format!("signal {number}, {}", signal.as_str()),
                Err(_) => format!("signal {number}"),
            },
        }
    }
}

/// A failure with nothing but a kind and a message.
pub(crate) fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    let message = cut(message.into(), MAX_FAILURE_TEXT);
    Failure { kind, message, exception: None, traceback: None, exit_code: None, signal: None, drain: false }
}

/// A text of at most `max` bytes.
pub(crate) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

/// The failure of a program that ended although it should not have, or not like this.
pub(crate) fn ended(ended: Ended, ran_out: bool, what: &str) -> Failure {
    if ran_out {
        let message = format!("out of memory: the guest's kernel had to end processes, {what} ended with {}", ended.describe());
        return failure(FailureKind::OutOfMemory, message);
    }
    let message = format!("{what} ended with {}", ended.describe());
    match ended {
        Ended::Exit(code) => Failure { exit_code: Some(code), ..failure(FailureKind::Exit, message) },
        Ended::Signal(number) => Failure { signal: Some(number), ..failure(FailureKind::Signal, message) },
    }
}

/// The failure of a program that wrote more than a result may hold.
pub(crate) fn too_large() -> Failure {
    failure(FailureKind::ResultTooLarge, format!("the program wrote more than {MAX_RESULT} bytes on its standard output"))
}

/// The JSON text in what a successful program wrote, where in `stdout` it is; nothing written is `null`.
pub(crate) fn result(stdout: &[u8]) -> Result<Option<std::ops::Range<usize>>, Failure> {
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let value: &RawValue = serde_json::from_slice(stdout).map_err(|error| {
        let start = String::from_utf8_lossy(&stdout[..stdout.len().min(200)]).into_owned();
        let what = format!("what the program wrote on its standard output is not one JSON value: {error}; it starts with {start:?}");
        failure(FailureKind::InvalidResult, what)
    })?;
    let json = value.get();
    let start = stdout.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    Ok(Some(start..start + json.len()))
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
