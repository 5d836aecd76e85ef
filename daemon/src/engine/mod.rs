//! The engine: turns a task version and an input into an outcome, by way of a microVM.
//!
//! It owns monitors, templates and nothing else: it knows neither the database nor who asks.

mod link;
mod monitor;
mod stats;
mod types;

pub use types::{
    EngineConfig, EngineError, EngineStats, ErrorKind, ExecutionError, Outcome, Progress, RunRequest, TaskVersion, TemplateInfo,
    TemplateState,
};

use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_protocol::door::WINDOW_SIZE;

/// What a monitor costs beside the memory of its guest.
const MONITOR_OVERHEAD: u64 = 8 << 20;

/// Runs executions in microVMs.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
}

impl Engine {
    /// Checks that everything is there that a VM needs, and makes warm monitors in the background.
    pub async fn start(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        Ok(Arc::new(Self { config }))
    }

    /// Runs one execution to its end. The timeout counts from the start of the vCPU; the VM is dead or dying when this returns.
    pub async fn run(&self, request: RunRequest, progress: mpsc::Sender<Progress>, cancel: CancellationToken) -> Outcome {
        let _ = (request, progress, cancel, &self.config);
        Outcome::Failed(ExecutionError::new(ErrorKind::Host, "this build has no engine yet"))
    }

    /// Makes a task's template where it is missing; many callers at once share one attempt.
    pub async fn prepare(&self, task: &TaskVersion) -> Result<(), ExecutionError> {
        let _ = task;
        Err(ExecutionError::new(ErrorKind::Host, "this build has no engine yet"))
    }

    /// Whether a task's template is there.
    #[must_use]
    pub fn template_state(&self, task: &TaskVersion) -> TemplateState {
        let _ = task;
        TemplateState::None
    }

    /// Drops a task's template, from disk too: the task was removed.
    pub fn forget(&self, task: &TaskVersion) {
        let _ = task;
    }

    /// What a VM of this size is charged against a memory budget: its RAM, the door's window and its monitor.
    #[must_use]
    pub fn vm_bytes(memory_mib: u32) -> u64 {
        (u64::from(memory_mib) << 20) + WINDOW_SIZE + MONITOR_OVERHEAD
    }

    /// Counters and gauges as they are now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// Ends all monitors and waits until they are gone.
    pub async fn shutdown(&self) {}
}
