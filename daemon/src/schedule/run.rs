//! One execution from its VM to its end.
//!
//! ```text
//! admitted --> (starting is durable) --> attempt --> decide --+--> End: slot freed, end durable, clients and waiting executions told
//!                      ^                 ^     |              |
//!                      |    (resuming is |     | parked       |
//!                      |     durable)    +--- wait            |
//!                      +----- Again (after a wait: backoff) ---+--> Requeue (the daemon stops): queued is durable, slot freed
//! ```

use super::asks::Asks;
use super::attempt::attempt;
use super::backoff;
use super::dispatch::Dispatcher;
use super::ending::{Decision, Ending, decide};
use super::estimates::Kind;
use super::guard::guarded;
use super::job::Job;
use super::live::{Cause, Live};
use super::parked::{self, Woken};
use crate::aux::broker::Broker;
use crate::engine::{Begin, ErrorKind, ExecutionError, Outcome, Reuse, RunRequest};
use crate::fault;
use crate::logs::LogWriter;
use crate::manifest::Park;
use crate::secrets::SecretError;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening};
use crate::state::store::StoreError;
use crate::state::time::Timestamp;
use crate::state::waiting::Parked;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Most bytes of an error's message in a timeline.
const RETRY_MESSAGE: usize = 512;
/// How long to wait before a commit is tried again.
const RETRY_COMMIT: Duration = Duration::from_secs(1);

/// Another attempt follows. A timeline tells not all of the error: it would be there again for each attempt.
fn retry(live: &Live, error: &ExecutionError, delay: Duration) {
    let message = &error.message[..error.message.floor_char_boundary(RETRY_MESSAGE)];
    tracing::info!(execution = %live.id, kind = ?error.kind, message, ?delay, "an attempt failed and another follows");
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    live.happened(Happening::Retrying { kind: error.kind, message: message.to_owned(), delay_ms });
}

/// The next attempt begins.
pub(super) fn starting(execution: &mut Execution, now: Timestamp) {
    let attempt = execution.attempts + 1;
    if let Err(error) = execution.apply(now, Happening::Starting { attempt }) {
        tracing::error!(execution = %execution.id, %error, "refused");
    }
}

/// Commits until it is done. False: it never will be; the next start of the daemon accounts for the execution.
pub(super) async fn persist(d: &Dispatcher, live: &Live, execution: Arc<Execution>) -> bool {
    let mut told = false;
    loop {
        match d.store.commit_accepted(|| live.change(&execution)).await {
            Ok(()) => {
                live.saved(execution);
                return true;
            }
            Err(error @ (StoreError::DiskFull | StoreError::Busy | StoreError::Database(_))) => {
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

/// Where an execution is.
enum Stage {
    /// It has memory for a VM.
    Vm { job: Job, begin: Begin, resumed: Option<Arc<Parked>>, tries: u32 },
    /// It has none, and its machine is on disk. How often it was not brought back.
    Parked(Arc<Parked>, u32),
}

impl Stage {
    /// At the beginning. Its program is given what it needs when its VM is.
    fn fresh(job: Job) -> Self {
        Self::Vm { job, begin: Begin::Start { input: Vec::new(), secrets: Vec::new() }, resumed: None, tries: 0 }
    }
}

/// Runs an execution that holds a VM's place. With its input: it was submitted as starting, and its insertion may still be on its way.
pub(super) async fn run(d: Arc<Dispatcher>, live: Arc<Live>, input: Option<Arc<[u8]>>) {
    guarded(&d, &live, Box::pin(begin(&d, &live, input))).await;
}

async fn begin(d: &Arc<Dispatcher>, live: &Arc<Live>, input: Option<Arc<[u8]>>) {
    let job = Job::Execution(live.id.clone());
    if input.is_none() {
        live.happened(Happening::Starting { attempt: live.view().attempts + 1 });
        if live.stored().await.is_err() || !persist(d, live, live.view()).await {
            return drop_it(d, live, job);
        }
    }
    let asks = Asks::begin(d, live).await;
    stages(d, live, Stage::fresh(job), asks, input).await;
}

/// Goes on with an execution that is parked.
pub(super) async fn go_on(d: Arc<Dispatcher>, live: Arc<Live>, parked: Arc<Parked>) {
    let work = Box::pin(async {
        let asks = Asks::restore(&d, &live, &parked).await;
        stages(&d, &live, Stage::Parked(Arc::clone(&parked), 0), asks, None).await;
    });
    guarded(&d, &live, work).await;
}

fn drop_it(d: &Arc<Dispatcher>, live: &Live, job: Job) {
    d.release(job);
    d.forget(&live.id);
}

/// Nobody was ever told of it.
fn drop_unstored(d: &Arc<Dispatcher>, live: &Live, job: Job) {
    if let Err(error) = d.logs.remove(&live.id) {
        tracing::warn!(execution = %live.id, %error, "a log could not be removed; the next start does");
    }
    drop_it(d, live, job);
}

async fn stages(d: &Arc<Dispatcher>, live: &Arc<Live>, mut stage: Stage, mut asks: Asks, mut input: Option<Arc<[u8]>>) {
    let policy = live.version.policy;
    let mut log = d.logs.writer(&live.id, policy.log_cap);
    let broker = || Broker::new(&d.outside.of(&live.account), &live.version.rights.aux, &live.id.to_string());
    let mut aux = broker();
    loop {
        let (job, begin, resumed, tries) = match stage {
            Stage::Parked(parked, tries) => match parked::wait(d, live, (&mut asks, &mut aux), &parked).await {
                Woken::Resume(begin) => {
                    stage = Stage::Vm { job: Job::Execution(live.id.clone()), begin, resumed: Some(parked), tries };
                    continue;
                }
                Woken::End(ending) => return end(d, live, ending, log).await,
                Woken::Moved => {
                    live.stop(Cause::Moved);
                    end(d, live, Ending::of(Some(Cause::Moved), &policy), log).await;
                    if live.view().state.ended() {
                        d.parked.remove(&parked.file);
                    }
                    return;
                }
                Woken::Lost => return,
            },
            Stage::Vm { job, begin, resumed, tries } => (job, begin, resumed, tries),
        };
        let ran = resumed.as_ref().map_or(0, |parked| parked.ran_micros);
        let (keep, mut kept) = oneshot::channel();
        let reuse = if resumed.is_none() && Dispatcher::keeps(live) {
            Reuse { from: d.take_kept(live), keep: Some(keep) }
        } else {
            Reuse::default()
        };
        let mut request = RunRequest {
            execution: live.id.to_string(),
            task: live.task(&d.images),
            begin,
            timeout: Duration::from_millis(policy.timeout_ms).saturating_sub(Duration::from_micros(ran)),
            waits_count: policy.park == Park::Never,
            reuse,
        };
        let since = Instant::now();
        let outcome = match give(d, live, &mut request.begin, &mut input).await {
            // Of its own: one that is parked holds no memory for it.
            Ok(()) => Box::pin(attempt(d, live, request, resumed.clone(), (&mut asks, &mut aux), &mut log)).await,
            Err(error) => Outcome::Failed(error),
        };
        if live.stored().await.is_err() {
            return drop_unstored(d, live, job);
        }
        if matches!(outcome, Outcome::Parked | Outcome::Succeeded { .. }) {
            d.estimates.note(&live.version, Kind::Run, since.elapsed());
        }
        let outcome = match (outcome, live.view().parked.clone(), resumed) {
            // Once that is recorded it is parked, however its VM ended.
            (_, Some(parked), _) => {
                let _ = fault::at("park.ended").await;
                log.close();
                input = None;
                d.release(job);
                stage = Stage::Parked(parked, 0);
                continue;
            }
            (Outcome::NotResumed { error, passing: true }, _, Some(parked)) => {
                d.release(job);
                match parked::again(d, live, &parked, error, tries).await {
                    Ok(()) => {}
                    Err(Woken::End(ending)) => return end(d, live, ending, log).await,
                    Err(_) => return,
                }
                d.waits_no_more(&live.id);
                asks = Asks::restore(d, live, &parked).await;
                stage = Stage::Parked(parked, tries + 1);
                continue;
            }
            (outcome, ..) => outcome,
        };
        match decide(outcome, &live.view(), &policy, live.cause(), d.draining()) {
            Decision::End(ending) => {
                // The place is free at once: the commit of the next one's start joins that of this one's end.
                match kept.try_recv() {
                    Ok(vm) => d.keep(live, &job, vm),
                    Err(_) => d.release(job),
                }
                asks.leave(d);
                return end(d, live, ending, log).await;
            }
            Decision::Again(error) => {
                d.leave_asks(live);
                let delay = backoff::of(&policy, &live.view());
                retry(live, &error, delay);
                if !delay.is_zero() {
                    log.close();
                    return give_up(d, live, job, delay).await;
                }
                live.happened(Happening::Starting { attempt: live.view().attempts + 1 });
                if !persist(d, live, live.view()).await {
                    return drop_it(d, live, job);
                }
                (asks, aux) = (Asks::begin(d, live).await, broker());
                stage = Stage::fresh(job);
            }
            Decision::Requeue(error) => {
                d.leave_asks(live);
                let delay = if error.kind == ErrorKind::Interrupted { Duration::ZERO } else { backoff::of(&policy, &live.view()) };
                retry(live, &error, delay);
                persist(d, live, live.view()).await;
                return d.release(job);
            }
        }
    }
}

/// Gives its VM's place up until it is time for another attempt.
async fn give_up(d: &Arc<Dispatcher>, live: &Arc<Live>, job: Job, delay: Duration) {
    let _ = fault::at("retry.decided").await;
    let since = Instant::now();
    if !persist(d, live, live.view()).await {
        return drop_it(d, live, job);
    }
    d.release(job);
    let _ = fault::at("retry.committed").await;
    tokio::spawn(backoff::wait(Arc::clone(d), Arc::clone(live), delay.saturating_sub(since.elapsed())));
}

/// A program gets its input and its secrets each time that it begins. `known` is its input where that was read before; secrets are never kept with it.
async fn give(d: &Dispatcher, live: &Live, begin: &mut Begin, known: &mut Option<Arc<[u8]>>) -> Result<(), ExecutionError> {
    let Begin::Start { input, secrets } = begin else { return Ok(()) };
    let read = match known.take() {
        Some(read) => read,
        None => d.store.input(&live.id).await.map_err(|error| unread(&error))?.into(),
    };
    *input = read.to_vec();
    *known = Some(read);
    *secrets = d.secrets.given(&live.version).map_err(|error| not_given(&error))?;
    Ok(())
}

fn unread(error: &StoreError) -> ExecutionError {
    ExecutionError::new(ErrorKind::Host, format!("its input can't be read: {error}"))
}

fn not_given(error: &SecretError) -> ExecutionError {
    let kind = if matches!(error, SecretError::Unknown(_)) { ErrorKind::UnknownSecret } else { ErrorKind::Host };
    ExecutionError::new(kind, error.to_string())
}

/// The end, and its log's.
async fn end(d: &Arc<Dispatcher>, live: &Arc<Live>, ending: Ending, mut log: LogWriter) {
    let file = log.end(&live.log);
    finish(d, live, ending).await;
    if let Some(file) = file {
        tokio::task::spawn_blocking(move || file.sync_data());
    }
}

/// Records the end and tells everyone.
pub(super) async fn finish(d: &Arc<Dispatcher>, live: &Live, ending: Ending) {
    let tail = *live.log.borrow();
    let mut execution = (*live.view()).clone();
    let now = live.clock.now();
    if let Some(need_by) = execution.need_by.filter(|need_by| *need_by < now && !execution.late) {
        let _ = execution.apply(now, Happening::Late { by_ms: now.millis_past(need_by) });
    }
    let finished = |state| Happening::Finished { state, log_bytes: tail.kept, log_dropped_bytes: tail.dropped };
    if let Err(error) = execution.apply(now, finished(ending.state)) {
        // The engine broke its promise; what it gave can't be trusted to be this execution's result.
        tracing::error!(execution = %execution.id, %error, "refused");
        execution.error = Ending::host(format!("a fault in torpord: {error}")).error;
        let _ = execution.apply(now, finished(State::Failed));
    } else {
        execution.result = ending.result;
        execution.error = ending.error;
    }
    let execution = Arc::new(execution);
    if persist(d, live, Arc::clone(&execution)).await {
        d.metrics.ended(&execution);
        live.log.send_modify(|tail| tail.ended = true);
        if execution.notify.is_some() {
            d.bell.notify_one();
        }
    }
    d.forget(&execution.id);
    d.ended(&execution, live);
}
