//! What becomes of an execution whose own task has a fault.
//!
//! Invariant: however that task ends, nobody holds a place that nobody uses, and no execution is left without an owner.

use super::dispatch::Dispatcher;
use super::ending::Ending;
use super::job::Job;
use super::live::Live;
use super::run;
use crate::caught::caught;
use crate::engine::ExecutionError;
use crate::parked::ParkedFiles;
use std::pin::Pin;
use std::sync::Arc;

/// Does the work of an execution's own task, which lies in a place of its own: what waits for days is held once, and not by each future around it.
pub(super) async fn guarded(d: &Arc<Dispatcher>, live: &Arc<Live>, work: Pin<Box<impl Future<Output = ()>>>) {
    let Err(error) = caught(work).await else { return };
    tracing::error!(execution = %live.id, "a fault in torpord, in the task of an execution, which fails; report it");
    // What is half done may lead to another one.
    if caught(over(d, live, error)).await.is_err() {
        tracing::error!(execution = %live.id, "another one while it was ended; the next start of torpord accounts for it");
    }
}

async fn over(d: &Arc<Dispatcher>, live: &Arc<Live>, error: ExecutionError) {
    // It may wait for a place, or have it, or neither.
    d.withdraw(&Job::Execution(live.id.clone()));
    let left = live.view();
    if left.state.ended() {
        d.forget(&live.id);
        return d.ended(&left, live);
    }
    if live.stored().await.is_err() {
        return d.forget(&live.id);
    }
    run::finish(d, live, Ending::failed(error)).await;
    if live.view().state.ended() {
        d.parked.remove(&ParkedFiles::name(&live.id));
    }
}
