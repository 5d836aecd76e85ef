//! One execution from its VM to its end.
//!
//! ```text
//! admitted --> (starting is durable) --> attempt --> decide --+--> End: slot freed, end durable, clients told
//!                      ^                                      |
//!                      +-------------- Again -----------------+--> Requeue (the daemon stops): queued is durable, slot freed
//! ```

use super::core::Job;
use super::dispatch::Dispatcher;
use super::live::{Cause, Live};
use crate::engine::{ErrorKind, ExecutionError, Outcome, Progress, RunRequest};
use crate::logs::LogWriter;
use crate::manifest::format_millis;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Monitor};
use crate::state::store::StoreError;
use crate::state::time::Timestamp;
use futures_util::FutureExt;
use serde_json::value::RawValue;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces of progress between engine and here. Each is at most 64 KiB of output, so this bounds memory; when it is full the guest waits.
const PROGRESS: usize = 16;
/// Most bytes of an error's message in a timeline.
const RETRY_MESSAGE: usize = 512;
/// How long to wait before a commit is tried again.
const RETRY_COMMIT: Duration = Duration::from_secs(1);

/// As what an execution ends.
#[derive(Debug, Clone)]
pub struct Ending {
    state: State,
    result: Option<Arc<RawValue>>,
    error: Option<ExecutionError>,
}

impl Ending {
    fn failed(error: ExecutionError) -> Self {
        Self { state: State::Failed, result: None, error: Some(error) }
    }

    /// By a client.
    #[must_use]
    pub fn cancelled() -> Self {
        let error = ExecutionError::new(ErrorKind::Cancelled, "cancelled by a client");
        Self { state: State::Cancelled, result: None, error: Some(error) }
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
    !matches!(kind, ErrorKind::Load | ErrorKind::Timeout | ErrorKind::Cancelled)
}

/// What follows from how an attempt ended. `stopping`: the daemon takes no new work.
pub(super) fn decide(
    outcome: Outcome,
    execution: &Execution,
    policy: &crate::manifest::Policy,
    cause: Option<Cause>,
    stopping: bool,
) -> Decision {
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
        Outcome::Cancelled => Decision::End(Ending::cancelled()),
        Outcome::Failed(error) if left && retriable(error.kind) && cause != Some(Cause::Client) => {
            if stopping {
                Decision::Requeue(error)
            } else {
                Decision::Again(error)
            }
        }
        Outcome::Failed(error) => Decision::End(Ending::failed(error)),
    }
}

/// An error as a timeline tells it: the whole of it would be there again for each attempt.
fn retrying(error: ExecutionError) -> Happening {
    let end = error.message.floor_char_boundary(RETRY_MESSAGE);
    Happening::Retrying { kind: error.kind, message: error.message[..end].to_owned() }
}

/// The next attempt begins.
pub(super) fn starting(execution: &mut Execution) {
    let attempt = execution.attempts + 1;
    if let Err(error) = execution.apply(Timestamp::now(), Happening::Starting { attempt }) {
        tracing::error!(execution = %execution.id, %error, "refused");
    }
}

/// Commits until it is done. False: it never will be; the next start of the daemon accounts for the execution.
async fn persist(d: &Dispatcher, live: &Live, execution: Arc<Execution>) -> bool {
    let mut told = false;
    loop {
        match d.store.commit_accepted(|| live.change(&execution)).await {
            Ok(()) => {
                live.saved(execution);
                return true;
            }
            Err(error @ (StoreError::DiskFull | StoreError::Database(_))) => {
                if !told {
                    tracing::error!(execution = %execution.id, %error, "can't record an execution's state; trying again every second");
                    told = true;
                }
                tokio::time::sleep(RETRY_COMMIT).await;
            }
            Err(error) => {
                tracing::error!(execution = %execution.id, %error, "can't record an execution's state");
                return false;
            }
        }
    }
}

/// Runs an execution that holds a VM's place. With its input: it was submitted as starting, and its insertion may still be on its way.
pub(super) async fn run(d: Arc<Dispatcher>, live: Arc<Live>, input: Option<Arc<[u8]>>) {
    let id = live.view().id.clone();
    let job = Job::Execution(id.clone());
    let drop_it = || {
        d.release(job.clone());
        d.forget(&id);
    };
    // Nobody was ever told of it.
    let drop_unstored = || {
        if let Err(error) = d.logs.remove(&id) {
            tracing::warn!(execution = %id, %error, "a log could not be removed; the next start does");
        }
        drop_it();
    };
    let input = match input {
        Some(input) => input,
        None => {
            live.happened(Happening::Starting { attempt: live.view().attempts + 1 });
            if live.stored().await.is_err() || !persist(&d, &live, live.view()).await {
                return drop_it();
            }
            match d.store.input(&id).await {
                Ok(input) => input.into(),
                Err(error) => {
                    d.release(job);
                    return finish(&d, &live, Ending::host(format!("its input can't be read: {error}"))).await;
                }
            }
        }
    };
    let mut log = d.logs.writer(&id, live.version.policy.log_cap);
    loop {
        let outcome = attempt(&d, &live, &input, &mut log).await;
        if live.stored().await.is_err() {
            return drop_unstored();
        }
        match decide(outcome, &live.view(), &live.version.policy, live.cause(), d.draining()) {
            Decision::End(ending) => {
                let file = log.end(&live.log);
                // The place is free at once: the commit of the next one's start joins that of this one's end.
                d.release(job);
                finish(&d, &live, ending).await;
                if let Some(file) = file {
                    tokio::task::spawn_blocking(move || file.sync_data());
                }
                return;
            }
            Decision::Again(error) => {
                live.happened(retrying(error));
                live.happened(Happening::Starting { attempt: live.view().attempts + 1 });
                if !persist(&d, &live, live.view()).await {
                    return drop_it();
                }
            }
            Decision::Requeue(error) => {
                live.happened(retrying(error));
                persist(&d, &live, live.view()).await;
                return d.release(job);
            }
        }
    }
}

async fn attempt(d: &Dispatcher, live: &Live, input: &[u8], log: &mut LogWriter) -> Outcome {
    let (progress, mut happened) = mpsc::channel(PROGRESS);
    let request = RunRequest {
        execution: live.view().id.to_string(),
        task: live.task(d.images.path(&live.version.version)),
        input: input.to_vec(),
        timeout: Duration::from_millis(live.version.policy.timeout_ms),
    };
    let watching = async {
        while let Some(progress) = happened.recv().await {
            match progress {
                Progress::TemplateMade { micros } => live.happened(Happening::Template { ms: micros / 1000 }),
                Progress::Restored { micros, warm } => {
                    let monitor = if warm { Monitor::Warm } else { Monitor::New };
                    live.happened(Happening::Restored { micros, monitor });
                }
                Progress::Started { micros } => live.happened(Happening::Running { micros }),
                Progress::Log { stream, bytes } => log.push(stream, &bytes, &live.log),
            }
        }
    };
    // A fault of the engine must not keep the place in the queue for ever.
    let running = AssertUnwindSafe(d.runner.run(request, progress, live.cancel.clone())).catch_unwind();
    let (outcome, ()) = tokio::join!(running, watching);
    outcome.unwrap_or_else(|_| {
        let message = "a fault in torpord ended the attempt; its log says where";
        Outcome::Failed(ExecutionError::new(ErrorKind::Host, message))
    })
}

/// Records the end and tells everyone.
pub(super) async fn finish(d: &Dispatcher, live: &Live, ending: Ending) {
    let tail = *live.log.borrow();
    let mut execution = (*live.view()).clone();
    let finished = |state| Happening::Finished { state, log_bytes: tail.kept, log_dropped_bytes: tail.dropped };
    if let Err(error) = execution.apply(Timestamp::now(), finished(ending.state)) {
        // The engine broke its promise; what it gave can't be trusted to be this execution's result.
        tracing::error!(execution = %execution.id, %error, "refused");
        execution.error = Ending::host(format!("a fault in torpord: {error}")).error;
        let _ = execution.apply(Timestamp::now(), finished(State::Failed));
    } else {
        execution.result = ending.result;
        execution.error = ending.error;
    }
    let execution = Arc::new(execution);
    if persist(d, live, Arc::clone(&execution)).await {
        d.metrics.ended(&execution);
        live.log.send_modify(|tail| tail.ended = true);
    }
    d.forget(&execution.id);
}
