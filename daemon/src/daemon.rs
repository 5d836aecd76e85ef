//! The daemon's life: take the state folder, open what is in it, account for what an earlier daemon left, serve, drain, stop.
//!
//! ```text
//! lock -> socket (clients wait) -> store -> engine -> recover -> serving -- SIGTERM or SIGINT --> draining -> stopped
//!                                                                           (a second signal ends the draining)
//! ```

use crate::accounts::Accounts;
use crate::api::serve::{Door, ListenError, adopt, listen, serve};
use crate::api::tls::{Tls, TlsError};
use crate::api::{App, router};
use crate::aux::Outside;
use crate::catalog::Catalog;
use crate::code::images::Images;
use crate::config::Config;
use crate::cron::timer::Schedules;
use crate::engine::{Engine, EngineConfig, EngineError, SandboxConfig};
use crate::lock::{LockError, StateLock};
use crate::logs::Logs;
use crate::manifest::host::HostPolicy;
use crate::manifest::{ManifestError, format_bytes};
use crate::metrics::Metrics;
use crate::notify::outbox::Outbox;
use crate::parked::ParkedFiles;
use crate::retention::Retention;
use crate::schedule::dispatch::{Dispatcher, Parts, keep_durations};
use crate::schedule::estimates::Estimates;
use crate::schedule::live::task_version;
use crate::schedule::recover::recover;
use crate::schedule::runner::Runner;
use crate::secrets::{SecretError, Secrets};
use crate::state::record::Version;
use crate::state::store::{Store, StoreError};
use sd_notify::NotifyState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use torpor_protocol::limits::MIN_MEMORY_MIB;
use torpor_scheduler::Budget;

/// Where the host's policy is looked for.
const HOST_POLICY: &str = "/etc/torpor/policy.toml";

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another has the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Certificate or key of the TCP listener.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The database.
    #[error("{path}: {source}")]
    Store {
        /// The database's file.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// Secrets, or the key of them.
    #[error(transparent)]
    Secrets(#[from] SecretError),
    /// KVM, kernel or images.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No VM fits the memory budget.
    #[error(
        "a memory budget of {} is too small for a single VM: the smallest takes {}; give a larger one with --memory-budget",
        format_bytes(*budget),
        format_bytes(Engine::vm_bytes(MIN_MEMORY_MIB))
    )]
    Budget {
        /// The budget.
        budget: u64,
    },
    /// The host's policy.
    #[error("{}:{}: {}", path.display(), source.line, source.message)]
    Policy {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Anything else of the host.
    #[error("can't {what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    move |source| DaemonError::Io { what: what.into(), source }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "can't tell the service manager");
    }
}

/// The socket's file, where the daemon made it itself; gone with this.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn socket(config: &Config) -> Result<(UnixListener, Option<SocketFile>), DaemonError> {
    let inherited = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(io_error("take over the service manager's socket"))?;
    match inherited {
        Some(listener) => Ok((adopt(listener).map_err(io_error("take over the service manager's socket"))?, None)),
        None => Ok((listen(&config.socket)?, Some(SocketFile(config.socket.clone())))),
    }
}

/// Where other hosts come in, where they may.
async fn tcp(config: &Config) -> Result<Option<Door>, DaemonError> {
    let (Some(address), Some(cert), Some(key)) = (config.listen, &config.tls_cert, &config.tls_key) else { return Ok(None) };
    let tls = Arc::new(Tls::open(cert, key)?);
    let listener = TcpListener::bind(address).await.map_err(io_error(format!("listen on {address}")))?;
    Ok(Some(Door::Tls(listener, tls)))
}

/// Tells the service manager that the daemon lives, as often as it wants to hear it.
async fn watchdog() {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(period / 2);
    loop {
        tick.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// Removes what is kept no longer, until it is dropped.
fn remove_old(app: &App) -> impl Future<Output = ()> + Send + use<> {
    let (store, logs, metrics) = (app.store.clone(), app.logs.clone(), Arc::clone(&app.metrics));
    let dispatcher = Arc::clone(&app.dispatcher);
    let retention = Retention { keep: app.config.keep, store, logs, metrics };
    async move { retention.run(|id| dispatcher.live(id).is_some(), || dispatcher.behind()).await }
}

async fn either(term: &mut Signal, int: &mut Signal) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

struct Opened {
    app: Arc<App>,
    runner: Arc<dyn Runner>,
    store: Store,
}

fn memory_budget(config: &Config) -> Result<u64, DaemonError> {
    let budget = config.budget().map_err(io_error("find out how much memory the host has"))?;
    if budget < Engine::vm_bytes(MIN_MEMORY_MIB) { Err(DaemonError::Budget { budget }) } else { Ok(budget) }
}

/// Bytes of the disk that a folder is on.
fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    Ok(disk.blocks().saturating_mul(disk.fragment_size()))
}

/// The administrator's caps; none where there is no file and none was asked for.
fn host_policy(config: &Config) -> Result<HostPolicy, DaemonError> {
    let path = config.policy.clone().unwrap_or_else(|| HOST_POLICY.into());
    match std::fs::read(&path) {
        Ok(bytes) => HostPolicy::parse(&bytes).map_err(|source| DaemonError::Policy { path, source }),
        Err(error) if config.policy.is_none() && error.kind() == io::ErrorKind::NotFound => Ok(HostPolicy::default()),
        Err(error) => Err(io_error(format!("read the host's policy {}", path.display()))(error)),
    }
}

/// Name of the control group of the torpord that has this state folder: the next one with it finds what this one leaves.
fn group(state: &Path) -> String {
    let hash = blake3::hash(state.as_os_str().as_encoded_bytes()).to_hex();
    format!("torpor-{}", &hash[..16])
}

async fn open(config: &Config, budget_bytes: u64) -> Result<Opened, DaemonError> {
    let folder = &config.state_dir;
    let metrics = Arc::new(Metrics::default());
    let path = folder.join("torpor.db");
    let store_error = |source| DaemonError::Store { path: path.clone(), source };
    let counted = Arc::clone(&metrics);
    let store = Store::open(&path, move |changes, took| counted.committed(changes, took)).await.map_err(store_error)?;
    let secrets = Secrets::open(&store, config.key_place()).await?;
    let own = nix::unistd::geteuid().as_raw();
    let accounts = Accounts::open(&store, config.unmapped, own).await.map_err(store_error)?;
    let opening = || io_error(format!("use the state folder {}", folder.display()));
    let images = Images::open(folder).map_err(opening())?;
    let logs = Logs::open(folder).map_err(opening())?;
    let caps = Arc::new(host_policy(config)?);
    let catalog = Arc::new(Catalog::load(store.tasks().await.map_err(store_error)?, &caps));
    let swept = images.sweep(|version| catalog.knows(version)).map_err(opening())?;
    if swept > 0 {
        tracing::info!(swept, "removed images of pushes that were never recorded");
    }

    for task in catalog.all() {
        let (account, name) = (&task.latest.account, &task.latest.task);
        for version in task.versions.iter().filter(|version| version.all().any(|portion| !images.path(&portion.code).exists())) {
            tracing::error!(%account, task = %name, version = &*version.version, "its code is missing from the state folder; push it again");
        }
    }

    let machines = store.machines().await.map_err(store_error)?;
    let files: Vec<_> = machines.iter().map(|(account, parked)| (account.clone(), parked.file.clone(), parked.stored_bytes)).collect();
    let parked = ParkedFiles::open(folder, config.parked_quota, &files).map_err(opening())?;
    let needed: Vec<_> = machines.iter().flat_map(|(_, parked)| [parked.base.template.clone(), parked.base.content.clone()]).collect();
    let engine = Engine::start(EngineConfig {
        monitor: config.monitor(),
        kernel: config.kernel.clone(),
        images: config.images.clone(),
        templates: folder.join("templates"),
        warm: config.warm,
        needed: needed.clone(),
        sandbox: SandboxConfig { ids: config.vm_uids, group: group(folder), require_cgroups: config.require_cgroups },
    });
    let engine = engine.await?;
    let versions: Vec<_> = catalog.all().into_iter().flat_map(|task| task.versions).collect();
    let tasks: Vec<_> = versions.iter().flat_map(Version::all).map(|portion| task_version(portion, &images)).collect();
    engine.collect(&tasks, &needed);
    let runner: Arc<dyn Runner> = engine;
    let vms = config.max_vms.map(|vms| usize::try_from(vms).unwrap_or(usize::MAX));
    let budget = Budget { bytes: budget_bytes, vms, cpu: Some(config.cpu_permille()) };
    let last = store.last_id().await.map_err(store_error)?;
    let (packing, runner_of) = (config.parked_packing.into(), Arc::clone(&runner));
    let estimates = Arc::new(Estimates::load(store.durations().await.map_err(store_error)?));
    let outside = Outside::new(Arc::clone(&caps), Arc::new(secrets.clone()), Arc::clone(&metrics));
    let parts = Parts {
        store: store.clone(),
        accounts,
        secrets,
        images,
        logs,
        parked,
        packing,
        catalog: Arc::clone(&catalog),
        caps,
        runner: runner_of,
        outside,
        disk_bytes: disk_bytes(folder).map_err(opening())?,
        estimates,
        metrics,
    };
    let dispatcher = Dispatcher::new(budget, last.as_ref(), parts.clone());
    for task in catalog.all() {
        if let Err(error) = task.latest.all().try_for_each(|portion| dispatcher.check_capacity(portion).map(drop)) {
            tracing::warn!(account = %task.latest.account, task = %task.latest.task, %error, "it was pushed under a larger memory budget and can't run now");
        }
    }
    dispatcher.look_at_history().await;
    let recovered = recover(&dispatcher).await.map_err(store_error)?;
    tracing::info!(budget = budget.bytes, ?recovered, "accounted for the executions of the last run");
    let schedules = Schedules::open(store.clone(), Arc::clone(&catalog), Arc::clone(&dispatcher)).await.map_err(store_error)?;
    let app = App::new(dispatcher, Arc::new(schedules), parts, config.clone());
    Ok(Opened { app, runner, store })
}

/// They would hold secrets. A limit of one byte, not of none: that is what also keeps the kernel from piping one to a program. Monitors inherit it.
fn no_core_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    match setrlimit(Resource::RLIMIT_CORE, 1, 1) {
        // None are allowed, and the limit can't be raised.
        Err(nix::errno::Errno::EPERM) => {
            tracing::warn!(
                "core files are limited to 0 bytes, which a program in kernel.core_pattern still gets; limit them to 1 (LimitCORE=1)"
            );
            Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
        }
        done => Ok(done?),
    }
}

/// Runs the daemon to its end.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    no_core_files().map_err(io_error("switch core files off"))?;
    let config = config.absolute().map_err(io_error("find out the current folder"))?;
    let budget = memory_budget(&config)?;
    let folder = &config.state_dir;
    std::fs::create_dir_all(folder).map_err(io_error(format!("make the state folder {}", folder.display())))?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(folder, private).map_err(io_error(format!("use the state folder {}", folder.display())))?;
    let _lock = StateLock::take(folder)?;
    let signals = "listen for signals";
    let mut term = signal(SignalKind::terminate()).map_err(io_error(signals))?;
    let mut int = signal(SignalKind::interrupt()).map_err(io_error(signals))?;
    // Listening from here on: clients that come early wait.
    let (listener, _socket_file) = socket(&config)?;
    let tcp = tcp(&config).await?;
    let Opened { app, runner, store } = open(&config, budget).await?;

    let router = router(Arc::clone(&app));
    let mut serving = tokio::task::JoinSet::new();
    for door in [Some(Door::Unix(listener, app.dispatcher.accounts.clone())), tcp].into_iter().flatten() {
        serving.spawn(serve(door, router.clone(), app.stopping.clone()));
    }
    let watching = tokio::spawn(watchdog());
    let mut chores = tokio::task::JoinSet::new();
    chores.spawn(remove_old(&app));
    chores.spawn(keep_durations(Arc::downgrade(&app.dispatcher)));
    chores.spawn({
        let (secrets, bell) = (app.dispatcher.secrets.clone(), Arc::clone(&app.dispatcher.bell));
        Arc::new(Outbox::new(store.clone(), Arc::clone(&app.dispatcher.caps), secrets, Arc::clone(&app.metrics), bell)).run()
    });
    chores.spawn({
        let schedules = Arc::clone(&app.schedules);
        async move { schedules.run().await }
    });
    chores.spawn({
        let (keys, store) = (Arc::clone(&app.keys), store.clone());
        async move { keys.run(store).await }
    });
    tracing::info!(socket = %config.socket.display(), listen = ?config.listen, state = %folder.display(), "ready");
    notify(&[NotifyState::Ready]);

    either(&mut term, &mut int).await;
    tracing::info!(timeout = ?config.drain_timeout, "draining");
    notify(&[NotifyState::Stopping]);
    tokio::select! {
        () = app.dispatcher.drain(config.drain_timeout) => {}
        () = either(&mut term, &mut int) => app.dispatcher.drain(Duration::ZERO).await,
    }
    app.stopping.cancel();
    serving.join_all().await;
    watching.abort();
    chores.abort_all();
    app.dispatcher.write_durations().await;
    runner.shutdown().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[test]
    fn a_budget_below_the_smallest_vm_is_refused() {
        let with = |budget: &str| memory_budget(&Config::parse_from(["torpord", "--memory-budget", budget]));
        let message = with("32MiB").unwrap_err().to_string();
        assert!(message.contains("32MiB") && message.contains("--memory-budget"), "{message}");
        let smallest = Engine::vm_bytes(MIN_MEMORY_MIB);
        let exact = format_bytes(smallest);
        assert!(message.contains(&exact), "{message}");
        assert_eq!(with(&exact).unwrap(), smallest);
        assert!(with(&format!("{}KiB", (smallest >> 10) - 1)).is_err());
    }
}
