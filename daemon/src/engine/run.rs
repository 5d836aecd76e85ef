//! One execution: a VM is restored with the input already in its inbox, listened to until it answers, and thrown away.
//!
//! ```text
//!   template -> monitor (warm or new) -> Restore + Start in one command -> Running -> Started -> Log* -> Result | Failed -> (Drained)
//!                                                                             |          timeout, cancel, crash at any point
//!                                                                             +-- the policy's timeout counts from here
//! ```
//! Invariants: the VM is used for this execution only; when this returns its monitor is dead or being killed by its supervisor; nothing
//! that a guest does or leaves undone makes it wait past the timeout, a full progress channel included.

use super::Engine;
use super::guest::{Broken, Conversation, Said};
use super::host::Spec;
use super::pool::PoolError;
use super::stats::micros;
use super::template::Template;
use super::types::{ErrorKind, ExecutionError, Outcome, Progress, RunRequest};
use super::verdict;
use super::vm::{Vm, VmError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::{HostMessage, Start};
use torpor_protocol::monitor::{Command, Event, StopReason};

/// For output that a guest still has after its answer: long enough for one that hardly gets a processor, as an orderly guest ends it sooner.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A snapshot that does not run by then never will.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);
/// After the agent's connection closed: for the kernel to say why, or for an answer through the door.
const AGENT_GONE_TIMEOUT: Duration = Duration::from_secs(2);
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
    #[error("the monitor refused the template: {0}")]
    Refused(StopReason),
    #[error("the template did not run within {} s; is the host overloaded?", RESTORE_TIMEOUT.as_secs())]
    Slow,
}

/// What a guest answered.
struct Answer {
    outcome: Answered,
    drain: bool,
}

enum Answered {
    Result(Vec<u8>),
    Failed(ExecutionError),
}

/// Everything that happens while the guest's clock runs.
struct Session<'a> {
    vm: Vm,
    talk: Conversation,
    progress: &'a mpsc::Sender<Progress>,
    since: Instant,
}

pub(super) async fn run(engine: &Engine, request: RunRequest, progress: &mpsc::Sender<Progress>, cancel: &CancellationToken) -> Outcome {
    let mut session = tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled,
        begun = begin(engine, &request, progress) => match begun {
            Ok(session) => session,
            Err(error) => return Outcome::Failed(engine.interrupted_or(error)),
        },
    };
    let answer = tokio::select! {
        biased;
        () = cancel.cancelled() => return Outcome::Cancelled,
        answer = tokio::time::timeout(request.timeout, session.listen()) => answer,
    };
    let answer = match answer {
        Err(_elapsed) => return Outcome::TimedOut,
        Ok(Err(error)) => return Outcome::Failed(engine.interrupted_or(error)),
        Ok(Ok(answer)) => answer,
    };
    if answer.drain {
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, session.drain()).await;
    }
    drop(session);
    match answer.outcome {
        Answered::Failed(error) => Outcome::Failed(error),
        Answered::Result(json) if json.len() <= LARGE_RESULT => verdict::result(json),
        Answered::Result(json) => tokio::task::spawn_blocking(|| verdict::result(json)).await.unwrap_or_else(|error| {
            Outcome::Failed(ExecutionError::new(ErrorKind::Host, format!("checking the result broke off: {error}")))
        }),
    }
}

/// Up to the running vCPU.
async fn begin<'a>(engine: &Engine, request: &RunRequest, progress: &'a mpsc::Sender<Progress>) -> Result<Session<'a>, ExecutionError> {
    let asked = Instant::now();
    let (template, made) = engine.templates.get(&Spec::Task(request.task.clone())).await?;
    if made {
        let _ = progress.send(Progress::TemplateMade { micros: micros(asked.elapsed()) }).await;
    }
    let command = Command::Restore { code: true, inbox: Some(start_frame(request)?) };
    let since = Instant::now();
    let restored = tokio::time::timeout(RESTORE_TIMEOUT, restore(engine, &template, &command, request.task.memory_mib)).await;
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
    let _ = progress.send(Progress::Restored { micros, warm }).await;
    Ok(Session { vm, talk: Conversation::new(), progress, since })
}

async fn restore(engine: &Engine, template: &Template, command: &Command, memory_mib: u32) -> Result<Vm, RestoreError> {
    for _ in 0..WARM_ATTEMPTS {
        let Some(vm) = engine.pool.take(memory_mib) else { break };
        match start(vm, template, command).await {
            Err(RestoreError::Vm(VmError::Ended(why))) => {
                tracing::warn!("a warm monitor was gone when it was needed: {why}");
                engine.stats.warm_lost();
            }
            other => return other,
        }
    }
    start(engine.pool.fresh(memory_mib).await?, template, command).await
}

async fn start(mut vm: Vm, template: &Template, command: &Command) -> Result<Vm, RestoreError> {
    vm.send(command, &template.task_fds()).await?;
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

fn start_frame(request: &RunRequest) -> Result<Vec<u8>, ExecutionError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| ExecutionError::new(ErrorKind::Host, format!("no entropy: {error}")))?;
    let start = Start { execution: request.execution.clone(), seed: blake3::Hash::from_bytes(seed).to_hex().to_string() };
    let message = HostMessage::Start { start, input: request.input.clone() };
    let frame = message.to_frame().and_then(|frame| Ok(frame.encode()?));
    frame.map_err(|error| ExecutionError::new(ErrorKind::Host, format!("the input can't be sent: {error}")))
}

impl Session<'_> {
    /// Until the guest answers or goes down.
    async fn listen(&mut self) -> Result<Answer, ExecutionError> {
        let mut agent_gone: Option<tokio::time::Instant> = None;
        loop {
            while let Some(said) = self.talk.next_said()? {
                if let Some(answer) = self.hear(said).await {
                    return Ok(answer);
                }
            }
            let event = match agent_gone {
                None => self.vm.recv().await?,
                Some(deadline) => match tokio::time::timeout_at(deadline, self.vm.recv()).await {
                    Ok(event) => event?,
                    Err(_elapsed) => return Err(verdict::agent_gone()),
                },
            };
            match event {
                Event::Outbox { frame } => {
                    let said = self.talk.outbox(&frame)?;
                    if let Some(answer) = self.hear(said).await {
                        return Ok(answer);
                    }
                }
                Event::Vsock { bytes } => self.talk.vsock(&bytes),
                Event::Stopped { reason, console } => return Err(verdict::stopped(&reason, console, self.vm.memory_mib)),
                Event::VsockClosed => agent_gone = Some(tokio::time::Instant::now() + AGENT_GONE_TIMEOUT),
                Event::AtDoor | Event::VsockOpen | Event::Prepared | Event::Running { .. } | Event::Saved { .. } => {}
            }
        }
    }

    async fn hear(&mut self, said: Said) -> Option<Answer> {
        let progress = match said {
            Said::Started => Progress::Started { micros: micros(self.since.elapsed()) },
            Said::Log { stream, bytes } => Progress::Log { stream, bytes },
            Said::Result { drain, json } => return Some(Answer { outcome: Answered::Result(json), drain }),
            Said::Failed(failure) => {
                let drain = failure.drain;
                return Some(Answer { outcome: Answered::Failed(verdict::failure(failure, self.vm.memory_mib)), drain });
            }
            Said::Drained => return None,
        };
        let _ = self.progress.send(progress).await;
        None
    }

    /// Output after the answer, as long as there is some and the guest keeps to the rules.
    async fn drain(&mut self) -> Result<(), ExecutionError> {
        loop {
            while let Some(said) = self.talk.next_said()? {
                if self.drained(said).await? {
                    return Ok(());
                }
            }
            match self.vm.recv().await? {
                Event::Outbox { frame } => {
                    let said = self.talk.outbox(&frame)?;
                    if self.drained(said).await? {
                        return Ok(());
                    }
                }
                Event::Vsock { bytes } => self.talk.vsock(&bytes),
                Event::Stopped { .. } | Event::VsockClosed => return Ok(()),
                _ => {}
            }
        }
    }

    async fn drained(&mut self, said: Said) -> Result<bool, Broken> {
        if said == Said::Drained {
            return Ok(true);
        }
        self.hear(said).await;
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
