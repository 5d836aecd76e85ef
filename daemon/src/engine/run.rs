//! One execution: a VM is restored with its first message already in the inbox, listened to until it answers, is parked or goes down, and thrown away.
//!
//! ```text
//!   template -> monitor (warm or new) -+- Restore + Start ---> Running -> Started -+-> (session.rs) -> Result | Failed -> (Drained)
//!                                      +- Resume + Answers --> Running ------------+        |
//!                                                                                           +-> Parked, End
//! ```
//! Invariants: the VM is used for this execution only, unless it is kept for others of its kind ([`kept`]); when this returns its monitor is dead, being
//! killed by its supervisor, or handed on; nothing
//! that a guest does or leaves undone makes it wait past the timeout, a full progress channel included; a parked machine that is told not to have been
//! resumed has not run one instruction.

mod kept;
mod session;

use super::Engine;
use super::guest::Conversation;
use super::host::Spec;
use super::pool::PoolError;
use super::stats::micros;
use super::template::{NoGround, Template};
use super::types::{Begin, ErrorKind, ExecutionError, Order, Outcome, Progress, Reply, RunRequest, TaskVersion};
use super::verdict;
use super::vm::{Vm, VmError};
use session::{Answered, Clock, End, Session};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::{HostMessage, MessageError, Secret, Start};
use torpor_protocol::ask::Answers;
use torpor_protocol::monitor::{Command, Event, ParkKey, StopReason};
use torpor_seccomp::CgroupError;
use zeroize::Zeroize;

/// For output that a guest still has after its answer: long enough for one that hardly gets a processor, as an orderly guest ends it sooner.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A snapshot that does not run by then never will.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);
/// Warm monitors tried, should they turn out dead, before a new one is started.
const WARM_ATTEMPTS: usize = 2;
/// Larger results are checked on a thread of their own.
const LARGE_RESULT: usize = 256 << 10;

/// Why a restore did not lead to a running vCPU.
#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error("its VM can't be limited as its policy says: {0}")]
    Limit(#[from] CgroupError),
    #[error("the monitor refused the snapshot: {0}")]
    Refused(StopReason),
    #[error("the snapshot did not run within {} s; is the host overloaded?", RESTORE_TIMEOUT.as_secs())]
    Slow,
}

impl RestoreError {
    /// It did not come to a run for sure, and another attempt may end differently. A monitor says that its vCPU runs before it does; what it had said is
    /// read before its end is.
    const fn passing(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::Vm(VmError::Ended(_)))
    }

    /// The vCPU may have run although nobody was told.
    const fn may_have_run(&self) -> bool {
        matches!(self, Self::Slow | Self::Vm(VmError::Link(_) | VmError::Illegal(_)))
    }
}

pub(super) async fn run(
    engine: &Engine,
    mut request: RunRequest,
    progress: &mpsc::Sender<Progress>,
    orders: &mut mpsc::UnboundedReceiver<Order>,
    cancel: &CancellationToken,
) -> Outcome {
    let begun = tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled,
        begun = begin(engine, &mut request, progress) => begun,
    };
    // Its input and its secrets are in the machine, and needed no more.
    request.begin = Begin::Start { input: Vec::new(), secrets: Vec::new() };
    let mut session = match begun {
        Ok(session) => session,
        Err(outcome) => return outcome,
    };
    let end = tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled,
        end = session.listen(orders) => end,
    };
    let answer = match end {
        Err(error) => return Outcome::Failed(engine.interrupted_or(error)),
        Ok(End::TimedOut) => return Outcome::TimedOut,
        Ok(End::Parked) => return Outcome::Parked,
        Ok(End::Answered(answer)) => answer,
    };
    if answer.drain {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, session.drain(orders)).await;
    }
    match request.reuse.keep.take().filter(|_| matches!(answer.outcome, Answered::Result(_))) {
        Some(keep) => kept::keep(session, &request.task, keep).await,
        None => drop(session),
    }
    match answer.outcome {
        Answered::Failed(error) => Outcome::Failed(error),
        Answered::Result(json) if json.len() <= LARGE_RESULT => verdict::result(json),
        Answered::Result(json) => tokio::task::spawn_blocking(|| verdict::result(json)).await.unwrap_or_else(|error| {
            Outcome::Failed(ExecutionError::new(ErrorKind::Host, format!("checking the result broke off: {error}")))
        }),
    }
}

/// Up to the running vCPU.
async fn begin<'a>(engine: &'a Engine, request: &mut RunRequest, progress: &'a mpsc::Sender<Progress>) -> Result<Session<'a>, Outcome> {
    if let Some(session) = kept::begin(engine, request, progress).await {
        return Ok(session);
    }
    let request = &*request;
    match &request.begin {
        Begin::Start { input, secrets } => {
            start(engine, request, (input, secrets), progress).await.map_err(|error| Outcome::Failed(engine.interrupted_or(error)))
        }
        Begin::Resume { file, key, base, unread, answers } => {
            let template = engine.templates.parked_on(base, &request.task).await;
            let template = template.map_err(|NoGround { error, passing }| Outcome::NotResumed { error, passing })?;
            let talk = Conversation::resumed(unread);
            resume(engine, request, &template, (file, key.as_ref()), answers, talk, progress).await
        }
    }
}

async fn start<'a>(
    engine: &'a Engine,
    request: &RunRequest,
    (input, secrets): (&[u8], &[Secret]),
    progress: &'a mpsc::Sender<Progress>,
) -> Result<Session<'a>, ExecutionError> {
    let asked = Instant::now();
    let (template, made) = engine.templates.get(&Spec::Task(request.task.clone())).await?;
    if made {
        let _ = progress.send(Progress::TemplateMade { micros: micros(asked.elapsed()) }).await;
    }
    let command = Wiped(Command::Restore { code: true, inbox: Some(start_frame(request, input, secrets)?) });
    let since = Instant::now();
    let restored = tokio::time::timeout(RESTORE_TIMEOUT, restore(engine, &template.task_fds(), &command.0, &request.task)).await;
    let vm = restored.unwrap_or(Err(RestoreError::Slow)).map_err(|error| {
        if matches!(error, RestoreError::Refused(_)) {
            engine.templates.suspect(&template);
        }
        tracing::error!(execution = request.execution, template = template.id, "restore failed: {error}");
        ExecutionError::new(ErrorKind::Host, error.to_string())
    })?;
    let (micros, warm) = (micros(since.elapsed()), vm.warm);
    engine.stats.restored(warm, micros);
    tracing::debug!(execution = request.execution, pid = vm.pid(), micros, warm, "restored");
    let clock = Clock::new(request.timeout, request.waits_count);
    let _ = progress.send(Progress::Restored { micros, warm }).await;
    let parts = (Arc::clone(&template.ground), Arc::clone(&engine.stats));
    Ok(Session::new(vm, Conversation::new(), parts, clock, progress, since))
}

async fn resume<'a>(
    engine: &'a Engine,
    request: &RunRequest,
    template: &Arc<Template>,
    (file, key): (&File, Option<&ParkKey>),
    answers: &Reply,
    talk: Conversation,
    progress: &'a mpsc::Sender<Progress>,
) -> Result<Session<'a>, Outcome> {
    let host = |error: ExecutionError| Outcome::NotResumed { error, passing: false };
    let command = Command::Resume { inbox: answers_frame(answers, true).map_err(host)?, key: key.cloned() };
    let since = Instant::now();
    let fds = template.parked_fds(file);
    let resumed = tokio::time::timeout(RESTORE_TIMEOUT, restore(engine, &fds, &command, &request.task)).await;
    let vm = resumed.unwrap_or(Err(RestoreError::Slow)).map_err(|error| {
        tracing::error!(execution = request.execution, template = template.id, "not resumed: {error}");
        let told = ExecutionError::new(ErrorKind::Host, format!("its parked machine can't be resumed: {error}"));
        if error.may_have_run() {
            return Outcome::Failed(engine.interrupted_or(told));
        }
        Outcome::NotResumed { passing: error.passing(), error: engine.interrupted_or(told) }
    })?;
    let (micros, warm) = (micros(since.elapsed()), vm.warm);
    engine.stats.resumed(micros);
    tracing::debug!(execution = request.execution, pid = vm.pid(), micros, warm, "resumed");
    let clock = Clock::new(request.timeout, request.waits_count);
    let _ = progress.send(Progress::Restored { micros, warm }).await;
    let parts = (Arc::clone(&template.ground), Arc::clone(&engine.stats));
    let session = Session::new(vm, talk, parts, clock, progress, since);
    Ok(if answers.answers.is_empty() { session.hollow() } else { session })
}

/// A command with a [`Start`], which may hold secrets and is wiped.
struct Wiped(Command);

impl Drop for Wiped {
    fn drop(&mut self) {
        if let Command::Restore { inbox: Some(frame), .. } | Command::Inbox { frame } = &mut self.0 {
            frame.zeroize();
        }
    }
}

async fn restore(engine: &Engine, fds: &[BorrowedFd<'_>], command: &Command, task: &TaskVersion) -> Result<Vm, RestoreError> {
    for _ in 0..WARM_ATTEMPTS {
        let Some(vm) = engine.pool.take(task.memory_mib) else { break };
        match begun(vm.limited(task)?, fds, command).await {
            Err(RestoreError::Vm(VmError::Ended(why))) => {
                tracing::warn!("a warm monitor was gone when it was needed: {why}");
                engine.stats.warm_lost();
            }
            other => return other,
        }
    }
    begun(engine.pool.fresh(task.memory_mib).await?.limited(task)?, fds, command).await
}

async fn begun(mut vm: Vm, fds: &[BorrowedFd<'_>], command: &Command) -> Result<Vm, RestoreError> {
    vm.send(command, fds).await?;
    loop {
        match vm.recv().await? {
            Event::Running { micros } => {
                tracing::debug!(pid = vm.pid(), micros, "the monitor's share of the restore");
                return Ok(vm);
            }
            Event::Stopped { reason, .. } => return Err(RestoreError::Refused(reason)),
            _ => {}
        }
    }
}

fn seed() -> Result<String, ExecutionError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| ExecutionError::new(ErrorKind::Host, format!("no entropy: {error}")))?;
    Ok(blake3::Hash::from_bytes(seed).to_hex().to_string())
}

fn frame(message: &HostMessage, what: &str) -> Result<Vec<u8>, ExecutionError> {
    let encode = || {
        let mut frame = message.to_frame()?;
        let bytes = frame.encode()?;
        frame.body.zeroize();
        Ok::<_, MessageError>(bytes)
    };
    encode().map_err(|error| ExecutionError::new(ErrorKind::Host, format!("{what} can't be sent: {error}")))
}

fn start_frame(request: &RunRequest, input: &[u8], secrets: &[Secret]) -> Result<Vec<u8>, ExecutionError> {
    let start = Start { execution: request.execution.clone(), seed: seed()?, secrets: secrets.to_vec() };
    frame(&HostMessage::Start { start, input: input.to_vec() }, "the input")
}

fn answers_frame(reply: &Reply, resumed: bool) -> Result<Vec<u8>, ExecutionError> {
    let seed = if resumed { Some(seed()?) } else { None };
    let answers = Answers { resumed, seed, answers: reply.answers.clone() };
    frame(&HostMessage::Answers { answers, payload: reply.payload.clone() }, "an answer")
}

impl Template {
    /// The descriptors of a resume, in the command's order.
    fn parked_fds<'a>(&'a self, parked: &'a File) -> Vec<BorrowedFd<'a>> {
        let mut fds = self.task_fds();
        if let Some(state) = fds.first_mut() {
            *state = parked.as_fd();
        }
        fds
    }
}

#[cfg(test)]
mod tests;
