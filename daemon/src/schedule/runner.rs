//! What the scheduler needs from whoever runs VMs. The daemon's is [`Engine`]; tests of the scheduler bring a scripted one.

use crate::engine::{Engine, EngineStats, ExecutionError, Order, Outcome, Progress, RunRequest, TaskVersion, TemplateState};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Runs executions. See [`Engine`] for what each promises.
pub trait Runner: Send + Sync + 'static {
    /// Runs one execution to its end, or until it is parked.
    fn run(
        &self,
        request: RunRequest,
        progress: mpsc::Sender<Progress>,
        orders: mpsc::UnboundedReceiver<Order>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Outcome>;
    /// Makes a task's template where it is missing.
    fn prepare<'a>(&'a self, task: &'a TaskVersion) -> BoxFuture<'a, Result<(), ExecutionError>>;
    /// Whether a task's template is there.
    fn template_state(&self, task: &TaskVersion) -> TemplateState;
    /// Drops a task's template.
    fn forget(&self, task: &TaskVersion);
    /// What a VM is charged against the memory budget.
    fn vm_bytes(&self, memory_mib: u32) -> u64;
    /// Counters and gauges.
    fn stats(&self) -> EngineStats;
    /// The engine, where it is one: executions move between engines only.
    fn engine(&self) -> Option<&Engine> {
        None
    }
    /// Ends everything.
    fn shutdown(&self) -> BoxFuture<'_, ()>;
}

impl Runner for Engine {
    fn run(
        &self,
        request: RunRequest,
        progress: mpsc::Sender<Progress>,
        orders: mpsc::UnboundedReceiver<Order>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Outcome> {
        Box::pin(Self::run(self, request, progress, orders, cancel))
    }

    fn prepare<'a>(&'a self, task: &'a TaskVersion) -> BoxFuture<'a, Result<(), ExecutionError>> {
        Box::pin(Self::prepare(self, task))
    }

    fn template_state(&self, task: &TaskVersion) -> TemplateState {
        Self::template_state(self, task)
    }

    fn forget(&self, task: &TaskVersion) {
        Self::forget(self, task);
    }

    fn vm_bytes(&self, memory_mib: u32) -> u64 {
        Self::vm_bytes(memory_mib)
    }

    fn stats(&self) -> EngineStats {
        Self::stats(self)
    }

    fn engine(&self) -> Option<&Engine> {
        Some(self)
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(Self::shutdown(self))
    }
}
