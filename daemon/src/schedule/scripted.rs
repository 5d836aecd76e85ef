//! A runner for tests of the scheduler and the API: the input says what happens. No VM; the binary never has this.
#![allow(clippy::unwrap_used)]

use super::dispatch::{Dispatcher, Parts};
use super::recover::{Recovered, recover};
use super::runner::Runner;
use crate::accounts::{Accounts, Unmapped};
use crate::aux::Outside;
use crate::catalog::Catalog;
use crate::code::images::Images;
use crate::cron::timer::Schedules;
use crate::engine::{
    Base, Begin, EngineStats, ErrorKind, ExecutionError, Order, Outcome, Packing, Parked, Progress, Reply, RunRequest, TaskVersion,
    TemplateState,
};
use crate::logs::Logs;
use crate::manifest::host::HostPolicy;
use crate::metrics::Metrics;
use crate::notify::outbox::Outbox;
use crate::parked::ParkedFiles;
use crate::secrets::Secrets;
use crate::secrets::key::KeyPlace;
use crate::state::record::Version;
use crate::state::store::Store;
use crate::state::writer::Change;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_protocol::agent::Stream;
use torpor_protocol::ask::{Ask, What};
use torpor_scheduler::Budget;

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
    /// What it asks for, one after the other, each time standing until it is answered; its result is the answers, unless `fail` says otherwise.
    asks: Vec<What>,
    /// Inputs of its calls.
    payload: Option<serde_json::Value>,
    /// Its calls get the input that it got itself.
    same: bool,
    /// It can't be parked.
    unparkable: bool,
    /// It is not brought back so many times.
    unresumable: usize,
    /// Bringing it back takes for ever.
    stuck: bool,
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
    /// Making a template is a fault.
    pub(crate) unpreparable: AtomicBool,
    pub(crate) forgotten: AtomicUsize,
    /// Times that a machine was written down.
    pub(crate) parks: AtomicUsize,
    pub(crate) refused: AtomicUsize,
    /// Executions that were given the VM of another.
    pub(crate) reused: AtomicUsize,
    /// VMs that are kept.
    pub(crate) kept: Arc<AtomicUsize>,
}

/// As of a program with lines of code.
fn failure(kind: ErrorKind) -> ExecutionError {
    let traceback = (kind == ErrorKind::Exception).then(|| "File \"main.py\", line 1: raise".to_owned());
    ExecutionError { traceback, ..ExecutionError::new(kind, "scripted") }
}

/// A kept VM.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Scripted {
    fn attempt(&self, id: &str) -> usize {
        let mut began = self.began.lock().unwrap();
        began.push(id.to_owned());
        began.iter().filter(|other| *other == id).count()
    }

    async fn play(
        &self,
        request: &RunRequest,
        progress: &mpsc::Sender<Progress>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        cancel: &CancellationToken,
    ) -> Outcome {
        let machine = match &request.begin {
            Begin::Start { input, .. } => Machine { input: serde_json::from_slice(input).unwrap_or_default(), ..Machine::default() },
            Begin::Resume { file, answers, unread, .. } => {
                let mut text = String::new();
                (&*file).read_to_string(&mut text).unwrap();
                assert_eq!(unread, b"half");
                let mut machine: Machine = serde_json::Deserializer::from_str(&text).into_iter().next().unwrap().unwrap();
                let script: Script = serde_json::from_value(machine.input.clone()).unwrap_or_default();
                if self.refused.load(Ordering::SeqCst) < script.unresumable {
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    return Outcome::NotResumed { error: ExecutionError::new(ErrorKind::Host, "scripted"), passing: true };
                }
                if script.stuck {
                    cancel.cancelled().await;
                    return Outcome::Cancelled;
                }
                progress.send(Progress::Restored { micros: 1, warm: true }).await.unwrap();
                machine.outstanding = answers.answers.is_empty();
                machine.take(answers);
                return self.ask(machine, progress, orders, cancel).await;
            }
        };
        let attempt = self.attempt(&request.execution);
        let script: Script = serde_json::from_value(machine.input.clone()).unwrap_or_default();
        if !script.asks.is_empty() {
            progress.send(Progress::Restored { micros: 1, warm: true }).await.unwrap();
            progress.send(Progress::Started { micros: 2 }).await.unwrap();
            return self.ask(Machine { attempt, ..machine }, progress, orders, cancel).await;
        }
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
            Some(kind) if script.works_at.is_none_or(|works| attempt < works) => Outcome::Failed(failure(kind)),
            _ => result,
        }
    }
}

/// What a scripted program remembers: its machine's memory, as far as it is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Machine {
    input: serde_json::Value,
    #[serde(default)]
    attempt: usize,
    /// Its last ask is not answered.
    #[serde(skip)]
    outstanding: bool,
    answers: Vec<serde_json::Value>,
}

impl Machine {
    fn take(&mut self, reply: &Reply) {
        let mut payload = reply.payload.as_slice();
        for answer in &reply.answers {
            let (own, rest) = payload.split_at(answer.reply.payload());
            payload = rest;
            let mut told = serde_json::to_value(&answer.reply).unwrap();
            // Results of results of results would double in size with each level.
            told["payload"] = String::from_utf8_lossy(&own[..own.len().min(1000)]).into();
            self.answers.push(told);
        }
    }
}

impl Scripted {
    /// Asks for what comes next until all is answered, or it is parked.
    async fn ask(
        &self,
        mut machine: Machine,
        progress: &mpsc::Sender<Progress>,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        cancel: &CancellationToken,
    ) -> Outcome {
        let script: Script = serde_json::from_value(machine.input.clone()).unwrap();
        while let Some(what) = script.asks.get(machine.answers.len()).cloned() {
            let token = machine.answers.iter().rev().find_map(|answer| answer["token"].as_str().map(str::to_owned));
            let what = match what {
                What::EventWait { token: given, timeout_ms } => What::EventWait { token: token.unwrap_or(given), timeout_ms },
                What::Wait { any, results, timeout_ms, executions } if executions.is_empty() => {
                    let spawned = machine.answers.iter().filter_map(|answer| answer["execution"].as_str().map(str::to_owned));
                    What::Wait { any, results, timeout_ms, executions: spawned.collect() }
                }
                other => other,
            };
            let payload = match &what {
                What::Spawn { .. } | What::Call { .. } if script.same => machine.input.to_string().into_bytes(),
                What::Spawn { .. } | What::Call { .. } => script.payload.clone().unwrap_or_default().to_string().into_bytes(),
                _ => Vec::new(),
            };
            let seq = machine.answers.len() as u64;
            let asked = if std::mem::take(&mut machine.outstanding) {
                // It was brought back without an answer, and waits on.
                Progress::Blocked { seqs: vec![seq], aux: None }
            } else {
                Progress::Asked { ask: Ask { seq, standing: true, what }, payload }
            };
            progress.send(asked).await.unwrap();
            let answered = machine.answers.len();
            while machine.answers.len() == answered {
                let order = tokio::select! {
                    order = orders.recv() => order,
                    () = cancel.cancelled() => return Outcome::Cancelled,
                };
                match order {
                    Some(Order::Answer(reply)) => machine.take(&reply),
                    Some(Order::Park { .. }) if script.unparkable => {
                        progress.send(Progress::NotParked { reason: "scripted".into() }).await.unwrap();
                    }
                    Some(Order::Park { mut file, .. }) => {
                        self.parks.fetch_add(1, Ordering::SeqCst);
                        let text = serde_json::to_vec(&machine).unwrap();
                        if let Err(error) = file.write_all(&text) {
                            progress.send(Progress::NotParked { reason: error.to_string() }).await.unwrap();
                            continue;
                        }
                        let base = Base { template: "t".into(), content: "c".repeat(64) };
                        let (stored_bytes, unread) = (text.len() as u64, b"half".to_vec());
                        let parked = Parked { base, changed_bytes: 4096, stored_bytes, micros: 1, unread, ran: Duration::from_millis(1) };
                        progress.send(Progress::Parked(parked)).await.unwrap();
                    }
                    Some(Order::Aux(_)) => {}
                    Some(Order::End) => return Outcome::Parked,
                    None => return Outcome::Failed(ExecutionError::new(ErrorKind::Host, "no more orders")),
                }
            }
        }
        if let Some(kind) = script.fail.filter(|_| script.works_at.is_none_or(|works| machine.attempt < works)) {
            return Outcome::Failed(failure(kind));
        }
        let result = serde_json::value::to_raw_value(&machine.answers).unwrap();
        Outcome::Succeeded { result }
    }
}

impl Runner for Scripted {
    fn run(
        &self,
        mut request: RunRequest,
        progress: mpsc::Sender<Progress>,
        mut orders: mpsc::UnboundedReceiver<Order>,
        cancel: CancellationToken,
    ) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let mib = u64::from(request.task.memory_mib);
            let now = self.now.fetch_add(mib, Ordering::SeqCst) + mib;
            self.peak.fetch_max(now, Ordering::SeqCst);
            let outcome = self.play(&request, &progress, &mut orders, &cancel).await;
            self.now.fetch_sub(mib, Ordering::SeqCst);
            if request.reuse.from.is_some() {
                self.reused.fetch_add(1, Ordering::SeqCst);
            }
            if let (Outcome::Succeeded { .. }, Some(keep)) = (&outcome, request.reuse.keep.take()) {
                drop(keep.send(Box::new(Counted::new(&self.kept))));
            }
            outcome
        })
    }

    fn prepare<'a>(&'a self, _: &'a TaskVersion) -> BoxFuture<'a, Result<(), ExecutionError>> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            assert!(!self.unpreparable.load(Ordering::SeqCst), "as scripted");
            Ok(())
        })
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
    pub(crate) logs: Logs,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) parts: Parts,
    pub(crate) recovered: Recovered,
    folder: PathBuf,
}

impl Daemon {
    pub(crate) async fn start(folder: &Path, budget_mib: u64) -> Self {
        Self::start_under(folder, budget_mib, Arc::default()).await
    }

    /// The same under an administrator's caps.
    pub(crate) async fn start_under(folder: &Path, budget_mib: u64, caps: Arc<HostPolicy>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let counted = Arc::clone(&metrics);
        let store = Store::open(&folder.join("torpor.db"), move |n, took| counted.committed(n, took)).await.unwrap();
        let (images, logs) = (Images::open(folder).unwrap(), Logs::open(folder).unwrap());
        let runner = Arc::new(Scripted::default());
        let budget = Budget { bytes: budget_mib << 20, vms: None, cpu: None };
        let last = store.last_id().await.unwrap();
        let machines = store.machines().await.unwrap();
        let files: Vec<_> = machines.iter().map(|(account, parked)| (account.clone(), parked.file.clone(), parked.stored_bytes)).collect();
        let parked = ParkedFiles::open(folder, 1 << 20, &files).unwrap();
        let catalog = Arc::new(Catalog::load(store.tasks().await.unwrap(), &caps));
        let secrets = Secrets::open(&store, KeyPlace::find(None, None, folder)).await.unwrap();
        let parts = Parts {
            store: store.clone(),
            accounts: Accounts::open(&store, Unmapped::default(), nix::unistd::geteuid().as_raw()).await.unwrap(),
            secrets: secrets.clone(),
            images,
            logs: logs.clone(),
            parked,
            packing: Packing::Fast,
            catalog: Arc::clone(&catalog),
            caps: Arc::clone(&caps),
            runner: Arc::clone(&runner) as Arc<dyn Runner>,
            outside: Outside::new(Arc::default(), Arc::new(secrets), Arc::clone(&metrics)),
            disk_bytes: 1 << 40,
            estimates: Arc::new(super::estimates::Estimates::load(store.durations().await.unwrap())),
            metrics,
        };
        let dispatcher = Dispatcher::new(budget, last.as_ref(), parts.clone());
        let recovered = recover(&dispatcher).await.unwrap();
        Self { dispatcher, runner, store, logs, catalog, parts, recovered, folder: folder.to_owned() }
    }

    /// Its state folder.
    pub(crate) fn state_dir(&self) -> &Path {
        &self.folder
    }

    /// Its schedules, as the database has them. Nothing runs them.
    pub(crate) async fn schedules(&self) -> Schedules {
        Schedules::open(self.store.clone(), Arc::clone(&self.catalog), Arc::clone(&self.dispatcher)).await.unwrap()
    }

    /// What tells ends of executions. Nothing runs it.
    pub(crate) fn outbox(&self) -> Outbox {
        let bell = Arc::clone(&self.dispatcher.bell);
        let metrics = Arc::clone(&self.parts.metrics);
        Outbox::new(self.store.clone(), Arc::clone(&self.parts.caps), self.parts.secrets.clone(), metrics, bell)
    }

    /// Stores a version as a push does.
    pub(crate) async fn put(&self, version: &Arc<Version>) {
        self.store.commit(Change::PutVersion(Arc::clone(version))).await.unwrap();
        self.catalog.put(Arc::clone(version));
    }
}
