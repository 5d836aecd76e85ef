//! No-op executions through torpord's HTTP API: the latency of one client, and executions a second of several.

use crate::Failed;
use crate::http::Http;
use crate::stats::{Samples, Table};
use crate::vm::Paths;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How often executions a second are measured.
pub(crate) const ROUNDS: usize = 3;
/// Longest time that a no-op may take: before the first one its templates are made.
const DEADLINE: Duration = Duration::from_secs(300);

/// A torpord of its own.
pub(crate) struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
}

impl Daemon {
    pub(crate) fn start(bin: &Path, paths: &Paths) -> Result<Self, Failed> {
        Self::start_with(bin, paths, &[])
    }

    pub(crate) fn start_with(bin: &Path, paths: &Paths, arguments: &[&str]) -> Result<Self, Failed> {
        let dir = tempfile::tempdir_in(crate::scratch())?;
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let child = Self::spawn(bin, paths, dir.path(), &arguments)?;
        let daemon = Self { child, dir, arguments };
        daemon.listens()?;
        Ok(daemon)
    }

    fn spawn(bin: &Path, paths: &Paths, dir: &Path, arguments: &[String]) -> Result<Child, Failed> {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log"))?;
        let child = Command::new(bin.join("torpord"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--socket")
            .arg(dir.join("sock"))
            .arg("--kernel")
            .arg(&paths.kernel)
            .arg("--images")
            .arg(&paths.images)
            .arg("--monitor")
            .arg(&paths.monitor)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(child)
    }

    /// As a crash would end it, and a service manager start it.
    pub(crate) fn kill_and_start(&mut self, bin: &Path, paths: &Paths) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = Self::spawn(bin, paths, self.dir.path(), &self.arguments)?;
        self.listens()
    }

    fn listens(&self) -> Result<(), Failed> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while Http::connect(&self.socket()).is_err() {
            if Instant::now() > deadline {
                return Err("torpord did not start".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn noop(http: &mut Http, task: &str) -> Result<(), Failed> {
    let deadline = Instant::now() + DEADLINE;
    let mut answer = http.ok("POST", &format!("/v1/tasks/{task}/executions?wait=60"), "application/json", b"null")?;
    while matches!(answer["state"].as_str(), Some("queued" | "starting" | "running")) && Instant::now() < deadline {
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        answer = http.ok("GET", &format!("/v1/executions/{id}?wait=60"), "application/json", b"")?;
    }
    if answer["state"] == "succeeded" { Ok(()) } else { Err(format!("a no-op did not succeed: {answer}").into()) }
}

/// Pushes a runtime's no-op task and runs it until all that is made once is made; gives its name.
pub(crate) fn push(http: &mut Http, runtime: &str, dir: &Path) -> Result<String, Failed> {
    let (folder, _) = crate::code::folder(runtime, dir)?;
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    let task = format!("noop-{runtime}");
    for _ in 0..3 {
        noop(http, &task)?;
    }
    Ok(task)
}

/// All figures of the API.
pub(crate) fn run(bin: &Path, paths: &Paths, runtimes: &[String], runs: usize, table: &mut Table) -> Result<(), Failed> {
    let daemon = Daemon::start(bin, paths)?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    for runtime in runtimes {
        // A connection for each: torpord closes one that is idle while others are measured.
        let mut http = Http::connect(&daemon.socket())?;
        let task = push(&mut http, runtime, dir.path())?;
        let mut latency = Samples::default();
        for _ in 0..runs {
            latency.time(|| noop(&mut http, &task))?;
        }
        table.add(&format!("{runtime}: no-op through the API, one client"), "ms", &latency);
        for clients in [1, 2, 4, 8] {
            let mut rate = Samples::default();
            for _ in 0..ROUNDS {
                rate.add(round(&daemon.socket(), &task, clients, runs)?);
            }
            table.add(&format!("{runtime}: no-ops a second, {clients} clients"), "1/s", &rate);
        }
    }
    Ok(())
}

/// Executions a second of `clients` at once, each of them `runs` times.
pub(crate) fn round(socket: &Path, task: &str, clients: usize, runs: usize) -> Result<f64, Failed> {
    a_second(clients, runs, || {
        let mut http = Http::connect(socket)?;
        (0..runs).try_for_each(|_| noop(&mut http, task))
    })
}

/// How many a second: `worker`, which does `each` of them, `workers` times at once.
pub(crate) fn a_second(workers: usize, each: usize, worker: impl Fn() -> Result<(), Failed> + Sync) -> Result<f64, Failed> {
    let start = Instant::now();
    let done: Result<(), String> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(|| worker().map_err(|error| error.to_string()))).collect();
        all.into_iter().try_for_each(|one| one.join().map_err(|_| "a worker panicked".to_owned())?)
    });
    done?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    Ok((workers * each) as f64 / start.elapsed().as_secs_f64())
}
