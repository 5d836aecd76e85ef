//! One torpord: private state folder and socket, real kernel and images.
//!
//! Invariant: when a [`Daemon`] is dropped its process is gone, and so are all monitors that it started; a monitor that is left is a failed test.

use crate::cli::{Ran, Running};
use crate::http::{self, Answer};
use crate::process;
use crate::setup;
use crate::tasks::TaskFolder;
use crate::until;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How a daemon differs from the usual.
#[derive(Debug, Default)]
pub struct Options {
    /// State folder; one in the daemon's own folder otherwise.
    pub state: Option<PathBuf>,
    /// More arguments.
    pub arguments: Vec<String>,
    /// Other images.
    pub images: Option<PathBuf>,
    /// Another guest kernel.
    pub kernel: Option<PathBuf>,
    /// It runs in a network namespace of its own.
    pub own_network: bool,
    /// A program that is started in its place, with torpord and its arguments as more arguments.
    pub wrapper: Vec<String>,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
}

/// A running torpord.
#[derive(Debug)]
pub struct Daemon {
    folder: Option<TempDir>,
    options: Options,
    child: Option<Child>,
}

static SHARED: Mutex<Option<Arc<Daemon>>> = Mutex::new(None);
/// Templates of the tasks that every test may use, and of their runtimes.
static COMMON: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// The daemon that the tests of one binary share, with the tasks `probe` and `shell` pushed. Where `TORPOR_TEST_TEMPLATES` names a folder of
/// templates that an earlier daemon left, those of them that fit are not made again.
pub fn shared() -> Arc<Daemon> {
    let mut slot = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let daemon = Daemon::start(Options::default());
        if let Some(templates) = std::env::var_os("TORPOR_TEST_TEMPLATES") {
            daemon.copy_templates(&entries(Path::new(&templates)));
        }
        daemon.push_probes();
        COMMON.get_or_init(|| entries(&daemon.state().join("templates")));
        Arc::new(daemon)
    };
    Arc::clone(slot.get_or_insert_with(make))
}

/// Ends the shared daemon, if there is one.
pub fn end_shared() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

impl Daemon {
    /// Starts one and waits until it answers.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let mut daemon = Self::new(options);
        daemon.start_again();
        daemon
    }

    /// Starts one that has the templates of `probe` and `shell`, copied from the shared daemon: they depend on what they are made from only, and each
    /// that is not made again saves seconds.
    #[must_use]
    pub fn start_with_templates(options: Options) -> Self {
        let _shared = shared();
        let daemon = Self::start(options);
        daemon.copy_templates(COMMON.get().expect("the shared daemon has its templates"));
        daemon
    }

    /// After the start, which removes templates that no task needs.
    fn copy_templates(&self, from: &[PathBuf]) {
        let into = self.state().join("templates");
        fs::create_dir_all(&into).expect("a state folder");
        let status = Command::new("cp").args(["-a", "--sparse=always"]).args(from).arg(&into).status();
        assert!(status.expect("cp can be started").success(), "the templates can't be copied");
    }

    /// One that is not started: for a start that is to fail.
    #[must_use]
    pub fn unstarted(options: Options) -> Self {
        Self::new(options)
    }

    fn new(options: Options) -> Self {
        let folder = tempfile::Builder::new().prefix("torpor-").tempdir().expect("a temporary folder");
        Self { folder: Some(folder), options, child: None }
    }

    /// Its private folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("torpord.sock")
    }

    /// Its state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.options.state.clone().unwrap_or_else(|| self.folder().join("state"))
    }

    /// What it wrote to its log, from all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("torpord.log")).unwrap_or_default()
    }

    /// A command that would start a daemon like this one.
    #[must_use]
    pub fn command(&self, socket: &Path) -> Command {
        let setup = setup::get();
        let network = ["unshare", "--net", "--"].map(str::to_owned);
        let network = if self.options.own_network { &network[..] } else { &[] };
        let torpord = setup.bin.join("torpord").display().to_string();
        let mut words = network.iter().chain(&self.options.wrapper).chain([&torpord]);
        let mut command = Command::new(words.next().expect("torpord at least"));
        command.args(words);
        command
            .arg("--state-dir")
            .arg(self.state())
            .arg("--socket")
            .arg(socket)
            .arg("--kernel")
            .arg(self.options.kernel.as_ref().unwrap_or(&setup.kernel))
            .arg("--images")
            .arg(self.options.images.as_ref().unwrap_or(&setup.images))
            .args(&self.options.arguments)
            .envs(self.options.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Starts the process, on the state folder as it is, and waits until it answers.
    pub fn start_again(&mut self) {
        self.spawn();
        self.answers(Duration::from_secs(60));
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.folder().join("torpord.log")).expect("a log file");
        let mut command = self.command(&self.socket());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Kills it and starts the next one, without any wait in between: the killed one is reaped last.
    pub fn spawn_again(&mut self) {
        let killed = self.child.take();
        if let Some(killed) = &killed {
            kill(Pid::from_raw(i32::try_from(killed.id()).expect("a process id")), Signal::SIGKILL).expect("our child");
        }
        self.spawn();
        killed.map(|mut killed| killed.wait().expect("our child"));
    }

    /// Waits until the process that was started last answers.
    pub fn answers(&mut self, limit: Duration) {
        let start = Instant::now();
        loop {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("a child can be waited for"));
            assert!(ended.is_none(), "torpord ended: {ended:?}\n{}", self.log());
            // The socket of the last one may be there still, and be held by what that was just starting.
            let peer = UnixStream::connect(self.socket()).ok().and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
            if peer.is_some_and(|peer| !self.options.wrapper.is_empty() || peer.pid() == self.pid().as_raw()) {
                break;
            }
            assert!(start.elapsed() < limit, "torpord does not answer\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let health = self.get("/healthz").expect(200);
        assert_eq!(health["status"], "ok");
    }

    /// What a later start gets in its environment.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.options.environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Waits until it is gone, whatever ended it.
    pub fn gone(&mut self, limit: Duration) {
        let mut child = self.child.take().expect("running");
        until("the daemon's end", limit, || child.try_wait().expect("our child"));
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let id = self.child.as_ref().expect("running").id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    /// Its monitors.
    #[must_use]
    pub fn monitors(&self) -> Vec<Pid> {
        process::monitors_of(self.pid())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our child");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our child");
            child.wait().expect("our child");
        }
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("running");
        let status = until("the daemon's end", limit, || child.try_wait().expect("our child"));
        process::assert_no_orphans();
        status
    }

    /// A `torpor` command for this daemon.
    #[must_use]
    pub fn torpor(&self) -> Command {
        let mut command = Command::new(setup::get().bin.join("torpor"));
        command.env("TORPOR_SOCKET", self.socket());
        command
    }

    /// Runs `torpor` to its end.
    #[must_use]
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Ran {
        self.cli_with(arguments, b"")
    }

    /// Runs `torpor` with this standard input.
    #[must_use]
    pub fn cli_with<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Ran {
        self.cli_start(arguments, input).end()
    }

    /// Starts `torpor`.
    #[must_use]
    pub fn cli_start<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Running {
        let mut command = self.torpor();
        command.args(arguments);
        Running::start(command, input)
    }

    /// Pushes a folder; the new version.
    pub fn push(&self, folder: &Path) -> String {
        let ran = self.cli(&[OsStr::new("task"), OsStr::new("push"), folder.as_os_str()]).expect(0);
        ran.json()["version"].as_str().expect("a version").to_owned()
    }

    /// Pushes the tasks that most tests use.
    pub fn push_probes(&self) {
        for name in ["probe", "shell"] {
            self.push(TaskFolder::copy(name).path());
        }
        for name in ["probe", "shell"] {
            self.template(name);
        }
    }

    /// Waits until a task's newest version can be restored.
    pub fn template(&self, name: &str) {
        // Longer than the daemon itself tries, so that it is the daemon that says what took so long.
        until(&format!("the template of {name}"), Duration::from_secs(500), || {
            let task = self.get(&format!("/v1/tasks/{name}")).expect(200);
            let latest = task["latest"].as_str().expect("a version");
            let versions = task["versions"].as_array().expect("versions");
            let version = versions.iter().find(|version| version["version"] == latest).expect("the latest one");
            assert_ne!(version["template"], "failed", "{task}\n{}", self.log());
            (version["template"] == "ready").then_some(())
        });
    }

    /// Runs a task with `torpor run`, input from its standard input.
    #[must_use]
    pub fn run(&self, task: &str, input: &Value) -> Ran {
        self.cli_with(&["run", task, "--input", "-"], input.to_string().as_bytes())
    }

    /// Runs a task to its success; the result.
    #[must_use]
    pub fn result(&self, task: &str, input: &Value) -> Value {
        self.run(task, input).expect(0).json()
    }

    /// Runs a task over HTTP to its end; the execution.
    #[must_use]
    pub fn execute(&self, task: &str, input: &Value) -> Value {
        self.post(&format!("/v1/tasks/{task}/executions?wait=170"), input.to_string().as_bytes()).expect(201)
    }

    /// Runs a task that is to fail; its execution, with an error of this kind.
    #[must_use]
    pub fn fails(&self, task: &str, input: &Value, kind: &str) -> Value {
        let execution = self.execute(task, input);
        assert_eq!(execution["error"]["kind"], kind, "{execution:#}");
        assert!(execution["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{execution:#}");
        assert!(execution.get("result").is_none_or(Value::is_null), "{execution:#}");
        execution
    }

    /// Queues an execution; its id.
    #[must_use]
    pub fn submit(&self, task: &str, input: &Value) -> String {
        let execution = self.post(&format!("/v1/tasks/{task}/executions"), input.to_string().as_bytes()).expect(201);
        execution["id"].as_str().expect("an id").to_owned()
    }

    /// An execution as it is now.
    #[must_use]
    pub fn execution(&self, id: &str) -> Value {
        self.get(&format!("/v1/executions/{id}")).expect(200)
    }

    /// Waits until an execution is in this state.
    pub fn wait_for(&self, id: &str, state: &str) -> Value {
        until(&format!("{id} {state}"), Duration::from_secs(180), || {
            let execution = self.execution(id);
            (execution["state"] == state).then_some(execution)
        })
    }

    /// Waits until an execution has ended.
    pub fn wait_for_end(&self, id: &str) -> Value {
        until(&format!("the end of {id}"), Duration::from_secs(200), || {
            let execution = self.get(&format!("/v1/executions/{id}?wait=30")).expect(200);
            execution["finished_at"].is_string().then_some(execution)
        })
    }

    /// GET.
    #[must_use]
    pub fn get(&self, path: &str) -> Answer {
        http::request(&self.socket(), "GET", path, b"")
    }

    /// POST.
    #[must_use]
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        http::request(&self.socket(), "POST", path, body)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)), Signal::SIGTERM);
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(10) && child.try_wait().is_ok_and(|status| status.is_none()) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of torpord:\n{}", tail(&self.log(), 6000));
        } else {
            process::assert_no_orphans();
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("a readable folder").path()).collect()
}

fn tail(text: &str, bytes: usize) -> &str {
    let start = (text.len().saturating_sub(bytes)..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[start..]
}
