//! What a restart does with executions that had not ended. See [`crate::state`] for what a crash leaves.

use super::dispatch::Dispatcher;
use super::live::Live;
use super::run::{self, Ending};
use crate::catalog::Catalog;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening};
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
}

/// Brings every execution that had not ended back into the queue, oldest first, or to its end. Nothing starts before all are accounted
/// for, so that their order holds.
pub async fn recover(d: &Arc<Dispatcher>, catalog: &Catalog) -> Result<Recovered, StoreError> {
    let mut recovered = Recovered::default();
    let mut waiting = Vec::new();
    for execution in d.store.unfinished().await? {
        let ran = execution.state != State::Queued;
        match revive(d, catalog, execution) {
            (live, Some(ending)) => {
                recovered.failed += 1;
                run::finish(d, &live, ending).await;
            }
            (live, None) if ran => {
                let error = run::interrupted();
                live.happened(Happening::Retrying { kind: error.kind, message: error.message });
                let view = live.view();
                d.store.commit(live.change(&view)).await?;
                live.saved(view);
                recovered.retried += 1;
                waiting.push(live);
            }
            (live, None) => {
                recovered.queued += 1;
                waiting.push(live);
            }
        }
    }
    for live in waiting {
        d.requeue(live);
    }
    Ok(recovered)
}

/// An execution as a live one, and its end where it can't go on.
fn revive(d: &Dispatcher, catalog: &Catalog, execution: Execution) -> (Arc<Live>, Option<Ending>) {
    let id = execution.id.clone();
    let version = catalog.exact(&execution.task, &execution.version);
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
        return (make(Arc::new(lost(&execution)), 0), Some(ending));
    };
    let (policy, bytes) = (version.policy, d.runner.vm_bytes(version.policy.memory_mib));
    if execution.state != State::Queued && execution.attempts > policy.retries {
        return (make(version, bytes), Some(Ending::interrupted()));
    }
    let too_large = d.check_capacity(&version).err().map(|error| Ending::host(error.to_string()));
    (make(version, bytes), too_large)
}

/// Stands for a version that is gone; only its name and hash are used.
fn lost(execution: &Execution) -> crate::state::record::Version {
    crate::state::record::Version {
        task: execution.task.clone(),
        version: Arc::clone(&execution.version),
        entry: crate::manifest::Entry::Exec { file: String::new() },
        policy: crate::manifest::Policy::default(),
        code_bytes: 0,
        created_at: execution.created_at,
    }
}
