//! VMs that run more than one execution, one after the other, of the same portion of the same version: `isolation = "task"`.
//!
//! ```text
//!   answered -- at the door again, nothing unsaid --> kept -- Start in the inbox --> runs the next
//!                                                      +--- dropped: it ends
//! ```
//! Only a machine that began at its template and was never parked is kept, so that what a machine is a difference to stays what it was.

use super::super::guest::Conversation;
use super::super::stats::micros;
use super::super::template::Ground;
use super::super::types::{Begin, Kept, Progress, RunRequest, TaskVersion};
use super::super::vm::Vm;
use super::Engine;
use super::session::{Clock, Session};
use super::{Wiped, start_frame};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use torpor_protocol::monitor::Command;

/// How long a guest may take from its answer to the door.
const SETTLE: Duration = Duration::from_secs(1);

/// See the module.
struct KeptVm {
    vm: Vm,
    ground: Arc<Ground>,
    task: TaskVersion,
}

/// Hands on the VM of a session that has answered, where it can be used again.
pub(super) async fn keep(mut session: Session<'_>, task: &TaskVersion, keep: oneshot::Sender<Kept>) {
    let settled = tokio::time::timeout(SETTLE, session.settle()).await;
    if matches!(settled, Ok(true)) {
        let (vm, ground) = session.into_vm();
        // Nobody may want it any more: then it ends.
        let _ = keep.send(Box::new(KeptVm { vm, ground, task: task.clone() }));
    }
}

/// A session in the VM that the request brings; none where it brings none, or that is gone: then the execution gets one of its own.
pub(super) async fn begin<'a>(engine: &Engine, request: &mut RunRequest, progress: &'a mpsc::Sender<Progress>) -> Option<Session<'a>> {
    let KeptVm { mut vm, ground, task } = *request.reuse.from.take()?.downcast::<KeptVm>().ok()?;
    let Begin::Start { input, secrets } = &request.begin else { return None };
    if task != request.task || vm.is_gone() {
        return None;
    }
    let since = Instant::now();
    let command = Wiped(Command::Inbox { frame: start_frame(request, input, secrets).ok()? });
    // A VM that went down meanwhile has run nothing of this execution.
    vm.send(&command.0, &[]).await.ok()?;
    tracing::debug!(execution = request.execution, pid = vm.pid(), "used again");
    let clock = Clock::new(request.timeout, request.waits_count);
    let _ = progress.send(Progress::Reused { micros: micros(since.elapsed()) }).await;
    let parts = (ground, Arc::clone(&engine.stats));
    Some(Session::new(vm, Conversation::new(), parts, clock, progress, since))
}
