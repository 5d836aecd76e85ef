//! What a restart does with executions that had not ended. See [`crate::state`] for what a crash leaves.

use super::dispatch::Dispatcher;
use super::ending::{Ending, interrupted};
use super::live::Live;
use super::run;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::store::StoreError;
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

/// Brings every execution that had not ended back into the queue, oldest first, or to its end. Nothing starts before all are accounted
/// for, so that their order holds.
pub async fn recover(d: &Arc<Dispatcher>) -> Result<Recovered, StoreError> {
    let mut recovered = Recovered::default();
    let (mut waiting, mut parked, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for execution in d.store.unfinished().await? {
        let ran = execution.state != State::Queued;
        let machine = execution.parked.clone();
        match revive(d, execution) {
            (live, Some(ending)) => {
                recovered.failed += 1;
                failed.push(live.id.clone());
                run::finish(d, &live, ending).await;
            }
            (live, None) if let Some(machine) = machine => {
                recovered.parked += 1;
                d.adopt(&live);
                parked.push((live, machine));
            }
            (live, None) if ran => {
                let error = interrupted();
                live.happened(Happening::Retrying { kind: error.kind, message: error.message });
                let view = live.view();
                d.store.commit(live.change(&view)).await?;
                live.saved(view);
                recovered.retried += 1;
                d.adopt(&live);
                waiting.push(live);
            }
            (live, None) => {
                recovered.queued += 1;
                d.adopt(&live);
                waiting.push(live);
            }
        }
    }
    // All that is live is known before anything is waited for.
    for (live, machine) in parked {
        d.watch_deadline(&live);
        tokio::spawn(run::go_on(Arc::clone(d), live, machine));
    }
    for live in waiting {
        d.watch_deadline(&live);
        d.requeue(live);
    }
    // What only those could have waited for.
    failed.iter().for_each(|id| d.abandon_children(id));
    Ok(recovered)
}

/// An execution as a live one, and its end where it can't go on.
fn revive(d: &Dispatcher, execution: Execution) -> (Arc<Live>, Option<Ending>) {
    let id = execution.id.clone();
    let version = d.catalog.portion(&execution.account, &execution.task, &execution.version, &execution.portion);
    let tail = d.logs.measure(&id).unwrap_or_else(|error| {
        tracing::warn!(execution = %id, %error, "its log can't be read and is begun anew");
        crate::logs::Tail::default()
    });
    let make = |version, bytes| {
        let live = Live::new(execution.clone(), version, bytes, true);
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
        let gone = d.parked.file(&parked.file).err().map(|error| Ending::host(format!("its parked machine is gone: {error}")));
        return (make(version, bytes), gone);
    }
    if execution.state != State::Queued && execution.attempts > policy.retries {
        return (make(version, bytes), Some(Ending::interrupted()));
    }
    let too_large = d.check_capacity(&version).err().map(|error| Ending::host(error.to_string()));
    (make(version, bytes), too_large)
}
