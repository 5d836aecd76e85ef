//! What a restart does with executions that had not ended. See [`crate::state`] for what a crash leaves.

use super::backoff;
use super::dispatch::Dispatcher;
use super::ending::{Ending, interrupted};
use super::live::{Cause, Live};
use super::run;
use crate::manifest::Replay;
use crate::parked::ParkError;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::StoreError;
use futures_util::future::{join_all, try_join_all};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// What a restart did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Waited, and wait again.
    pub queued: usize,
    /// Ran, and wait for another attempt.
    pub retried: usize,
    /// Ran or waited, and have failed.
    pub failed: usize,
    /// Parked, and stay so until what they wait for is there.
    pub parked: usize,
}

/// Brings every execution that had not ended back into the queue, oldest first, or to its end. Nothing starts, and nobody looks at others, before all are
/// known, so that their order holds and none is taken for one that is not there.
pub async fn recover(d: &Arc<Dispatcher>) -> Result<Recovered, StoreError> {
    let (mut waiting, mut retried, mut parked, mut over) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let inputs = d.store.input_sizes().await?;
    for execution in d.store.unfinished().await? {
        let ran = execution.state != State::Queued;
        let machine = execution.parked.clone();
        let input = inputs.get(&execution.id).copied().unwrap_or_default();
        let (live, ending) = revive(d, execution, input);
        d.adopt(&live);
        match (ending, machine) {
            (Some(ending), machine) => {
                if let Some(machine) = machine {
                    d.parked.remove(&machine.file);
                }
                // Nobody takes it for one that goes on.
                live.stop(Cause::Daemon);
                over.push((live, ending));
            }
            (None, Some(machine)) => parked.push((live, machine)),
            (None, None) => {
                if ran {
                    let error = interrupted();
                    live.happened(Happening::Retrying { kind: error.kind, message: error.message, delay_ms: 0 });
                    retried.push(Arc::clone(&live));
                }
                waiting.push(live);
            }
        }
    }
    let recovered = Recovered { queued: waiting.len() - retried.len(), retried: retried.len(), failed: over.len(), parked: parked.len() };
    // Sent together: they share commits.
    try_join_all(retried.iter().map(|live| again(d, live))).await?;
    for (live, machine) in &parked {
        for ask in machine.asks.iter().filter(|ask| !ask.targets().is_empty()) {
            // As before, so there is no cycle.
            let _ = d.graph().add(&live.id, ask.seq, ask.targets());
            d.lift(&live.id, ask.targets());
        }
    }
    let left = left(d, &retried).await?;
    for (live, machine) in parked {
        d.watch_deadline(&live);
        tokio::spawn(run::go_on(Arc::clone(d), live, machine));
    }
    let mut queued = Vec::new();
    for live in &waiting {
        let left = backoff::left(&live.view(), live.clock.now());
        if left.is_zero() {
            queued.push(Arc::clone(live));
        } else {
            tokio::spawn(backoff::wait(Arc::clone(d), Arc::clone(live), left));
        }
    }
    d.requeue(&queued);
    // Only now: a deadline that has passed finds it in the queue.
    waiting.iter().for_each(|live| d.watch_deadline(live));
    left.iter().for_each(|id| d.abandon(id, Cause::Parent));
    join_all(over.into_iter().map(|(live, ending)| async move { run::finish(d, &live, ending).await })).await;
    Ok(recovered)
}

/// What only an attempt that was interrupted can have waited for, and what an execution left that ended just before.
async fn left(d: &Dispatcher, retried: &[Arc<Live>]) -> Result<Vec<ExecutionId>, StoreError> {
    let below: Vec<_> = d.all_live().into_iter().filter_map(|live| Some((live.parent.clone()?, live.id.clone()))).collect();
    let gone: BTreeSet<_> = below.iter().map(|(parent, _)| parent).filter(|parent| d.live(parent).is_none()).cloned().collect();
    let ended = d.store.ends(&gone.into_iter().collect::<Vec<_>>()).await?;
    let ended = ended.into_iter().filter(|parent| parent.state != State::Succeeded).map(|parent| parent.id);
    let anew = retried.iter().filter(|live| live.version.policy.replay == Replay::None).map(|live| live.id.clone());
    let parents: BTreeSet<_> = ended.chain(anew).collect();
    Ok(below.into_iter().filter(|(parent, _)| parents.contains(parent)).map(|(_, child)| child).collect())
}

/// Records that another attempt follows; where the disk is full, in the reserve.
async fn again(d: &Dispatcher, live: &Live) -> Result<(), StoreError> {
    let view = live.view();
    d.store.commit_accepted(|| live.change(&view)).await?;
    live.saved(view);
    Ok(())
}

/// An execution as a live one, and its end where it can't go on.
fn revive(d: &Dispatcher, execution: Execution, input: u64) -> (Arc<Live>, Option<Ending>) {
    let id = execution.id.clone();
    let version = d.catalog.portion(&execution.account, &execution.task, &execution.version, &execution.portion);
    let tail = d.logs.measure(&id).unwrap_or_else(|error| {
        tracing::warn!(execution = %id, %error, "its log can't be read and is begun anew");
        crate::logs::Tail::default()
    });
    let make = |version, bytes| {
        let live = Live::known(execution.clone(), version, (bytes, input));
        live.log.send_replace(tail);
        Arc::new(live)
    };
    let Some(version) = version else {
        let ending = Ending::host("its version of the task is not in the database; push the task again");
        return (
            make(Arc::new(Version::lost(&execution.account, &execution.task, &execution.version, execution.created_at)), 0),
            Some(ending),
        );
    };
    let (policy, bytes) = (version.policy, d.runner.vm_bytes(version.policy.memory_mib));
    if let Some(parked) = &execution.parked {
        // What can't be opened for another reason is tried when it is brought back.
        let gone = |error: &ParkError| matches!(error, ParkError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        let gone = d.parked.file(&parked.file).err().filter(gone);
        let gone = gone.map(|error| Ending::host(format!("its parked machine is gone: {error}")));
        let too_large = || d.check_capacity(&version).err().map(|error| Ending::host(error.to_string()));
        let ending = gone.or_else(too_large);
        return (make(version, bytes), ending);
    }
    if execution.state != State::Queued && execution.attempts > policy.retries {
        return (make(version, bytes), Some(Ending::interrupted()));
    }
    let too_large = d.check_capacity(&version).err().map(|error| Ending::host(error.to_string()));
    (make(version, bytes), too_large)
}
