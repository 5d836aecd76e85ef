//! A real engine on this host: monitor, kernel and root disks from `TORPOR_BIN_DIR`, `TORPOR_KERNEL` and `TORPOR_IMAGES`, or made (or found in
//! the cache) by cargo and by the scripts. Tasks are made as a client's push makes them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_daemon::code::images::Images;
use torpor_daemon::code::{check, intake};
use torpor_daemon::engine::{Begin, Engine, EngineConfig, Order, Outcome, Progress, Reuse, RunRequest, SandboxConfig, TaskVersion};
use torpor_protocol::agent::Runtime;
use torpor_seccomp::uids::Range;

struct Setup {
    monitor: PathBuf,
    kernel: PathBuf,
    images: PathBuf,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{} failed", program.display());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn setup() -> &'static Setup {
    static SETUP: OnceLock<Setup> = OnceLock::new();
    SETUP.get_or_init(|| {
        let target = from_env("CARGO_TARGET_DIR").unwrap_or_else(|| root().join("target"));
        let scripts = root().join("scripts");
        let bin = from_env("TORPOR_BIN_DIR").unwrap_or_else(|| {
            output(Path::new("cargo"), &["build", "--release", "--quiet", "-p", "torpor-vmm"]);
            target.join("release")
        });
        let images = from_env("TORPOR_IMAGES").unwrap_or_else(|| {
            let dir = target.join("torpor-tests").join("engine-images");
            for runtime in ["python", "exec"] {
                output(&scripts.join("build-rootfs"), &[runtime, "--out", dir.to_str().unwrap()]);
            }
            dir
        });
        let kernel = from_env("TORPOR_KERNEL").unwrap_or_else(|| output(&scripts.join("build-kernel"), &[]).into());
        Setup { monitor: bin.join("torpor-vmm"), kernel, images }
    })
}

/// Lets a test wait for what happens in the background.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let since = Instant::now();
    while !check() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what} does not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An engine with a state folder of its own.
pub(crate) struct Bench {
    pub(crate) engine: Arc<Engine>,
    pub(crate) config: EngineConfig,
    code: Images,
    _dir: tempfile::TempDir,
}

/// What an execution did, from its start to its end.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) progress: Vec<Progress>,
}

impl Ran {
    pub(crate) fn result(&self) -> &str {
        match &self.outcome {
            Outcome::Succeeded { result } => result.get(),
            other => panic!("no result: {other:?}; {:?}", self.progress),
        }
    }

    pub(crate) fn error(&self) -> &torpor_daemon::engine::ExecutionError {
        match &self.outcome {
            Outcome::Failed(error) => error,
            other => panic!("no failure: {other:?}"),
        }
    }

    pub(crate) fn log(&self) -> String {
        let bytes: Vec<u8> = self
            .progress
            .iter()
            .filter_map(|p| if let Progress::Log { bytes, .. } = p { Some(bytes.clone()) } else { None })
            .flatten()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn restored(&self) -> Option<(u64, bool)> {
        self.progress.iter().find_map(|p| if let Progress::Restored { micros, warm } = p { Some((*micros, *warm)) } else { None })
    }

    pub(crate) fn started(&self) -> Option<u64> {
        self.progress.iter().find_map(|p| if let Progress::Started { micros } = p { Some(*micros) } else { None })
    }
}

impl Bench {
    /// Another life of the daemon on the same state folder.
    pub(crate) async fn restart(&mut self) {
        self.engine.shutdown().await;
        self.engine = Engine::start(self.config.clone()).await.unwrap();
    }

    /// Process ids of this process's monitors.
    pub(crate) fn monitors() -> Vec<i32> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        let pids: Vec<i32> =
            children.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect();
        let is_monitor = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "torpor-vmm");
        pids.into_iter().filter(is_monitor).collect()
    }

    pub(crate) async fn new(warm: usize) -> Self {
        // Beside the target folder: a real file system, which /tmp need not be.
        let parent = setup().images.parent().unwrap();
        let dir = tempfile::tempdir_in(parent).unwrap();
        let config = EngineConfig {
            monitor: setup().monitor.clone(),
            kernel: setup().kernel.clone(),
            images: setup().images.clone(),
            templates: dir.path().join("templates"),
            warm,
            needed: Vec::new(),
            sandbox: SandboxConfig { ids: Range::DEFAULT, group: format!("torpor-test-{}", std::process::id()), require_cgroups: false },
        };
        let engine = Engine::start(config.clone()).await.unwrap();
        Self { engine, config, code: Images::open(dir.path()).unwrap(), _dir: dir }
    }

    /// A task of one file.
    pub(crate) fn task(&self, runtime: Runtime, memory_mib: u32, source: &str) -> TaskVersion {
        let (file, entry) = match runtime {
            Runtime::Python => ("main.py", "main.py:handler"),
            Runtime::Exec => ("run", "run"),
        };
        let manifest = format!(
            "[task]\nname = \"t\"\nruntime = \"{}\"\nentry = \"{entry}\"\n[policy]\nmemory = \"{memory_mib}MiB\"\n",
            runtime.name()
        );
        let mut tar = tar::Builder::new(self.code.spool().unwrap());
        for (path, text) in [("torpor.toml", manifest.as_str()), (file, source)] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o755);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let spool = tar.into_inner().unwrap();
        let tree = intake::read(&spool).unwrap();
        let checked = check::check(&spool, tree).unwrap();
        self.code.keep(&checked, &spool, false).unwrap();
        let code = self.code.path(&checked.version);
        TaskVersion {
            account: "default".into(),
            task: "t".into(),
            version: checked.version,
            portion: "main".into(),
            aux: Vec::new(),
            runtime,
            entry: entry.into(),
            cpu_permille: None,
            memory_mib,
            code,
        }
    }

    pub(crate) async fn run(&self, task: &TaskVersion, input: &str) -> Ran {
        self.run_for(task, input, Duration::from_secs(60), CancellationToken::new()).await
    }

    pub(crate) async fn run_for(&self, task: &TaskVersion, input: &str, timeout: Duration, cancel: CancellationToken) -> Ran {
        let (sender, mut receiver) = mpsc::channel(16);
        let begin = Begin::Start { input: input.into(), secrets: Vec::new() };
        let request =
            RunRequest { execution: "ex_test".into(), task: task.clone(), begin, timeout, waits_count: false, reuse: Reuse::default() };
        let gather = async {
            let mut all = Vec::new();
            while let Some(progress) = receiver.recv().await {
                all.push(progress);
            }
            all
        };
        let (outcome, progress) = tokio::join!(self.engine.run(request, sender, no_orders(), cancel), gather);
        Ran { outcome, progress }
    }
}

/// For a program that asks for nothing.
pub(crate) fn no_orders() -> mpsc::UnboundedReceiver<Order> {
    mpsc::unbounded_channel().1
}
