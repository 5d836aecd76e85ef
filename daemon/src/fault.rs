//! Faults on demand, for tests: what becomes of an execution when torpord, its disk or its descriptors give out at a certain step.
//!
//! `TORPOR_TEST_FAULT=STEP:ACTION`, where ACTION is `abort` (the process is gone at once), `panic` (the task is), `hold=PATH` (the file is made, and the step waits until it is
//! removed), or the name of an error: `ENOSPC`, `EIO`, `EMFILE`. Without the variable a step costs one comparison.

use nix::errno::Errno;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// All steps of parking, resuming, waiting for another attempt and running what a schedule is due for and telling an end, in order.
pub const STEPS: [&str; 18] = [
    "park.decided",
    "park.file",
    "park.written",
    "park.renamed",
    "park.committed",
    "park.ended",
    "resume.ready",
    "resume.admitted",
    "resume.recorded",
    "resume.running",
    "resume.freed",
    "retry.decided",
    "retry.committed",
    "retry.due",
    "cron.due",
    "cron.committed",
    "notify.sent",
    "notify.recorded",
];

#[derive(Debug)]
enum Action {
    Abort,
    Panic,
    Hold(PathBuf),
    Fail(Errno),
}

static FAULT: OnceLock<Option<(String, Action)>> = OnceLock::new();

fn parse(text: &str) -> Option<(String, Action)> {
    let (step, action) = text.split_once(':')?;
    let action = match action.split_once('=') {
        Some(("hold", path)) => Action::Hold(path.into()),
        _ => match action {
            "abort" => Action::Abort,
            "panic" => Action::Panic,
            "ENOSPC" => Action::Fail(Errno::ENOSPC),
            "EIO" => Action::Fail(Errno::EIO),
            "EMFILE" => Action::Fail(Errno::EMFILE),
            _ => return None,
        },
    };
    STEPS.contains(&step).then(|| (step.to_owned(), action))
}

/// A step is reached.
pub async fn at(step: &'static str) -> io::Result<()> {
    debug_assert!(STEPS.contains(&step));
    let fault = FAULT.get_or_init(|| {
        let text = std::env::var("TORPOR_TEST_FAULT").ok()?;
        let fault = parse(&text);
        if fault.is_none() {
            tracing::error!(text, "TORPOR_TEST_FAULT is not STEP:ACTION");
        }
        fault
    });
    let Some((wanted, action)) = fault else { return Ok(()) };
    if wanted != step {
        return Ok(());
    }
    tracing::warn!(step, ?action, "a fault on demand");
    match action {
        Action::Abort => std::process::abort(),
        Action::Panic => std::panic::resume_unwind(Box::new(step)),
        Action::Fail(errno) => Err((*errno).into()),
        Action::Hold(path) => {
            let made = std::fs::write(path, step);
            while made.is_ok() && path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        }
    }
}

/// What torpord takes the host's clock to be wrong by, in microseconds: for a test, which can't set that. `TORPOR_TEST_CLOCK` names a file of that number.
pub fn clock_offset() -> i64 {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = FILE.get_or_init(|| std::env::var_os("TORPOR_TEST_CLOCK").map(PathBuf::from));
    let offset = |file: &PathBuf| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    file.as_ref().and_then(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_steps_and_actions_are_faults() {
        assert!(matches!(parse("park.file:ENOSPC"), Some((_, Action::Fail(Errno::ENOSPC)))));
        assert!(matches!(parse("resume.ready:hold=/x"), Some((_, Action::Hold(_)))));
        assert!(parse("park.file:explode").is_none() && parse("lunch:abort").is_none() && parse("abort").is_none());
    }
}
