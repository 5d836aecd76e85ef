//! A runner for tests of the scheduler and the API: the input says what happens. No VM; the binary never has this.
#![allow(clippy::unwrap_used)]

use super::core::Budget;
use super::dispatch::Dispatcher;
use super::recover::{Recovered, recover};
use super::runner::Runner;
use crate::catalog::Catalog;
use crate::code::images::Images;
use crate::engine::{EngineStats, ErrorKind, ExecutionError, Outcome, Progress, RunRequest, TaskVersion, TemplateState};
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::state::record::Version;
use crate::state::store::Store;
use crate::state::writer::Change;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::Stream;

/// An input of a scripted execution.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Script {
    /// How long it runs.
    ms: u64,
    /// Kind of error that it ends with.
    fail: Option<ErrorKind>,
    /// Succeeds in this attempt and later ones, whatever `fail` says.
    works_at: Option<usize>,
    /// Pieces of 64 KiB that it prints.
    chunks: usize,
    /// A line that it prints.
    print: Option<String>,
    /// Ends by its timeout.
    time_out: bool,
    /// The runner has a fault.
    panic: bool,
    /// Gives a result without having started.
    lie: bool,
}

/// The runner, and what it saw.
#[derive(Debug, Default)]
pub(crate) struct Scripted {
    /// Ids in the order in which they began.
    pub(crate) began: Mutex<Vec<String>>,
    /// Most memory that ran at once, in MiB.
    pub(crate) peak: AtomicU64,
    now: AtomicU64,
    pub(crate) prepared: AtomicUsize,
    pub(crate) forgotten: AtomicUsize,
}

impl Scripted {
    fn attempt(&self, id: &str) -> usize {
        let mut began = self.began.lock().unwrap();
        began.push(id.to_owned());
        began.iter().filter(|other| *other == id).count()
    }

    async fn play(&self, request: &RunRequest, progress: &mpsc::Sender<Progress>, cancel: &CancellationToken) -> Outcome {
        let attempt = self.attempt(&request.execution);
        let script: Script = serde_json::from_slice(&request.input).unwrap_or_default();
        let result = Outcome::Succeeded { result: serde_json::value::RawValue::from_string(attempt.to_string()).unwrap() };
        assert!(!script.panic, "as scripted");
        if script.lie {
            return result;
        }
        progress.send(Progress::Restored { micros: 1, warm: true }).await.unwrap();
        progress.send(Progress::Started { micros: 2 }).await.unwrap();
        if let Some(line) = script.print {
            progress.send(Progress::Log { stream: Stream::Stdout, bytes: line.into_bytes() }).await.unwrap();
        }
        for _ in 0..script.chunks {
            progress.send(Progress::Log { stream: Stream::Stdout, bytes: vec![b'x'; 64 << 10] }).await.unwrap();
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(script.ms)) => {}
            () = cancel.cancelled() => return Outcome::Cancelled,
        }
        match script.fail {
            _ if script.time_out => Outcome::TimedOut,
            Some(kind) if script.works_at.is_none_or(|works| attempt < works) => Outcome::Failed(ExecutionError::new(kind, "scripted")),
            _ => result,
        }
    }
}

impl Runner for Scripted {
    fn run(&self, request: RunRequest, progress: mpsc::Sender<Progress>, cancel: CancellationToken) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let mib = u64::from(request.task.memory_mib);
            let now = self.now.fetch_add(mib, Ordering::SeqCst) + mib;
            self.peak.fetch_max(now, Ordering::SeqCst);
            let outcome = self.play(&request, &progress, &cancel).await;
            self.now.fetch_sub(mib, Ordering::SeqCst);
            outcome
        })
    }

    fn prepare<'a>(&'a self, _: &'a TaskVersion) -> BoxFuture<'a, Result<(), ExecutionError>> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }

    fn template_state(&self, _: &TaskVersion) -> TemplateState {
        TemplateState::None
    }

    fn forget(&self, _: &TaskVersion) {
        self.forgotten.fetch_add(1, Ordering::SeqCst);
    }

    fn vm_bytes(&self, memory_mib: u32) -> u64 {
        u64::from(memory_mib) << 20
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// A scheduler on a real store in `folder`, as a start of the daemon makes it.
pub(crate) struct Daemon {
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) runner: Arc<Scripted>,
    pub(crate) store: Store,
    pub(crate) images: Images,
    pub(crate) logs: Logs,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) catalog: Catalog,
    pub(crate) recovered: Recovered,
}

impl Daemon {
    pub(crate) async fn start(folder: &Path, budget_mib: u64) -> Self {
        let metrics = Arc::new(Metrics::default());
        let counted = Arc::clone(&metrics);
        let store = Store::open(&folder.join("torpor.db"), move |n, took| counted.committed(n, took)).await.unwrap();
        let (images, logs) = (Images::open(folder).unwrap(), Logs::open(folder).unwrap());
        let runner = Arc::new(Scripted::default());
        let budget = Budget { bytes: budget_mib << 20, vms: None };
        let last = store.last_id().await.unwrap();
        let kept = (images.clone(), logs.clone());
        let dispatcher =
            Dispatcher::new(budget, last.as_ref(), store.clone(), kept, Arc::clone(&runner) as Arc<dyn Runner>, Arc::clone(&metrics));
        let catalog = Catalog::load(store.tasks().await.unwrap());
        let recovered = recover(&dispatcher, &catalog).await.unwrap();
        Self { dispatcher, runner, store, images, logs, metrics, catalog, recovered }
    }

    /// Stores a version as a push does.
    pub(crate) async fn put(&self, version: &Arc<Version>) {
        self.store.commit(Change::PutVersion(Arc::clone(version))).await.unwrap();
        self.catalog.put(Arc::clone(version));
    }
}
