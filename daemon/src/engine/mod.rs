//! The engine: turns a task version and an input into an outcome, by way of a microVM.
//!
//! - [`types`]: what goes in and comes out
//! - [`host`], [`fingerprint`]: KVM, kernel, root disks, and the identity of templates
//! - [`link`], [`monitor`], [`vm`]: one monitor process, its control socket, its state machine
//! - [`pool`]: warm monitors
//! - [`template`]: snapshots that VMs start from, made once
//! - [`run`], [`guest`], [`verdict`]: one execution, what its guest says, and what that means
//!
//! It owns monitors, templates and nothing else: it knows neither the database nor who asks.
#![allow(clippy::result_large_err, reason = "an execution fails at most once; its error is moved, not copied along hot paths")]

mod fingerprint;
mod guest;
mod host;
mod link;
mod monitor;
mod pool;
mod run;
mod stats;
mod template;
mod types;
mod verdict;
mod vm;

pub use types::{
    Base, Begin, EngineConfig, EngineError, EngineStats, ErrorKind, ExecutionError, Kept, Order, Outcome, Packing, ParkKey, Parked,
    Progress, Reply, Reuse, RunRequest, SandboxConfig, TaskVersion, TemplateInfo, TemplateState,
};

use host::{Host, Spec};
use monitor::Launcher;
use pool::Pool;
use stats::Stats;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use template::Templates;
pub use template::{TemplateDraft, TemplateFiles};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::Runtime;
use torpor_protocol::door::WINDOW_SIZE;
use torpor_seccomp::cgroup::Cgroups;
use torpor_seccomp::host::{Layer, Status, layers, may_use_ids};
use torpor_seccomp::launch;
use torpor_seccomp::uids::{LOCK, Uids};
use torpor_snapshot::parked::Origin;

/// What a monitor costs beside the memory of its guest.
const MONITOR_OVERHEAD: u64 = 8 << 20;
/// For killed monitors to be gone.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs executions in microVMs.
#[derive(Debug)]
pub struct Engine {
    launcher: Arc<Launcher>,
    layers: Vec<Layer>,
    cgroups: Arc<Cgroups>,
    pool: Arc<Pool>,
    templates: Arc<Templates>,
    stats: Arc<Stats>,
    closing: CancellationToken,
}

impl Engine {
    /// Checks that everything is there that a VM needs, removes half-made templates, and begins to make warm monitors.
    pub async fn start(config: EngineConfig) -> Result<Arc<Self>, EngineError> {
        let (stats, closing, wake) = (Arc::new(Stats::default()), CancellationToken::new(), Arc::new(Notify::new()));
        let (counters, token, warm) = (stats.clone(), closing.clone(), config.warm);
        let opened = tokio::task::spawn_blocking(move || {
            let (monitors, layers, cgroups) = sandbox(&config)?;
            let launcher = Launcher::new(monitors, counters.clone(), token, wake.clone());
            let launcher = Arc::new(launcher.map_err(|error| EngineError::Broken(error.to_string()))?);
            let host = Arc::new(Host::open(&config)?);
            let pool = Pool::new(launcher.clone(), host.kvm.clone(), counters.clone(), warm, wake);
            let templates = Templates::open(&config.templates, host, pool.clone(), counters, &config.needed)
                .map_err(|source| EngineError::Templates { path: config.templates, source })?;
            Ok((launcher, layers, cgroups, pool, Arc::new(templates)))
        });
        let (launcher, layers, cgroups, pool, templates) = opened.await.map_err(|error| EngineError::Broken(error.to_string()))??;
        tokio::spawn(pool.clone().keep(closing.clone()));
        Ok(Arc::new(Self { launcher, layers, cgroups, pool, templates, stats, closing }))
    }

    /// Runs one execution to its end, or until it is parked. The timeout counts from the start of the vCPU; the VM is dead or dying when this returns.
    pub async fn run(
        &self,
        request: RunRequest,
        progress: mpsc::Sender<Progress>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        cancel: CancellationToken,
    ) -> Outcome {
        let outcome = run::run(self, request, &progress, &mut orders, &cancel).await;
        self.pool.settled();
        outcome
    }

    /// Makes a task's template where it is missing; many callers at once share one attempt.
    pub async fn prepare(&self, task: &TaskVersion) -> Result<(), ExecutionError> {
        let made = self.templates.get(&Spec::Task(task.clone())).await;
        made.map(drop).map_err(|error| self.interrupted_or(error))
    }

    /// Whether a task's template is there.
    #[must_use]
    pub fn template_state(&self, task: &TaskVersion) -> TemplateState {
        self.templates.state(task)
    }

    /// Drops a task's template, from disk too: the task was removed.
    pub fn forget(&self, task: &TaskVersion) {
        self.templates.forget(task);
    }

    /// Removes the templates that none of these tasks and no parked machine (`needed`, ids) needs. To be called before anything else is asked for.
    pub fn collect(&self, tasks: &[TaskVersion], needed: &[String]) {
        match self.templates.collect(tasks, needed) {
            Ok(0) => {}
            Ok(templates) => tracing::info!(templates, "removed templates that no task needs"),
            Err(error) => tracing::warn!(%error, "can't look for templates that no task needs; the next start does"),
        }
    }

    /// Why a parked machine of that origin can't run here: a sentence for each difference.
    #[must_use]
    pub fn differences(&self, origin: &Origin, runtime: Runtime) -> Vec<String> {
        self.templates.differences(origin, runtime)
    }

    /// The files of a parked machine's template.
    pub async fn template_files(&self, base: &Base, task: &TaskVersion) -> Result<TemplateFiles, ExecutionError> {
        self.templates.files(base, task).await
    }

    /// Name of a template with this content, if there is one.
    pub async fn template_with(&self, content: &str) -> Result<Option<String>, ExecutionError> {
        self.templates.with_content(content).await
    }

    /// Begins to take in a template from another host. Blocks.
    pub fn begin_template(&self, content: &str) -> Result<TemplateDraft, ExecutionError> {
        self.templates.begin_import(content)
    }

    /// Checks one that was taken in and puts it in its place, under the hash of its content. Blocks.
    pub fn keep_template(&self, draft: TemplateDraft, meta: &[u8], task: &TaskVersion, code: &str) -> Result<(), ExecutionError> {
        self.templates.commit_import(draft, meta, task, code)
    }

    /// Removes one that was taken in for nothing.
    pub fn drop_template(&self, content: &str) {
        self.templates.drop_import(content);
    }

    /// What a VM of this size is charged against a memory budget: its RAM, the door's window and its monitor.
    #[must_use]
    pub fn vm_bytes(memory_mib: u32) -> u64 {
        (u64::from(memory_mib) << 20) + WINDOW_SIZE + MONITOR_OVERHEAD
    }

    /// Layers of the sandbox of monitors, as this host has them.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Counters and gauges as they are now.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats { templates: self.templates.list(), ..self.stats.snapshot() }
    }

    /// Ends all monitors and waits until they are gone. What still runs ends as interrupted.
    pub async fn shutdown(&self) {
        self.closing.cancel();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.launcher.join()).await.is_err() {
            tracing::error!("monitors are still there {SHUTDOWN_TIMEOUT:?} after they were killed");
        }
        self.cgroups.close();
    }

    /// A failure while everything is being ended is not the execution's own.
    fn interrupted_or(&self, error: ExecutionError) -> ExecutionError {
        if self.closing.is_cancelled() && error.kind == ErrorKind::Host { verdict::interrupted() } else { error }
    }
}

/// Finds out what this host has to lock monitors in, and says so. Blocks.
fn sandbox(config: &EngineConfig) -> Result<(launch::Launcher, Vec<Layer>, Arc<Cgroups>), EngineError> {
    if let Err(source) = std::fs::File::open(&config.monitor) {
        return Err(EngineError::Monitor { path: config.monitor.clone(), source });
    }
    let SandboxConfig { ids, group, require_cgroups } = &config.sandbox;
    let cgroups = Cgroups::open(group, *require_cgroups).map_err(|error| EngineError::Sandbox(error.into()))?;
    let uids = may_use_ids(*ids).then(|| Uids::open(*ids, Path::new(LOCK))).transpose().map_err(EngineError::Sandbox)?;
    let launcher = launch::Launcher::open(&config.monitor, uids, Arc::clone(&cgroups)).map_err(EngineError::Sandbox)?;
    let layers = layers(&launcher, &cgroups);
    for Layer { layer, status, detail } in &layers {
        match status {
            Status::On => tracing::info!("sandbox: {layer}: {detail}"),
            Status::Missing => tracing::warn!("sandbox: this host has no {layer}: {detail}"),
        }
    }
    Ok((launcher, layers, cgroups))
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}
