//! No-op executions through torpord's HTTP API: the latency of one client, and executions a second of several.

use crate::Failed;
use crate::http::Http;
use crate::stats::{Samples, Table};
use crate::vm::Paths;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A torpord of its own.
struct Daemon {
    child: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    fn start(bin: &Path, paths: &Paths) -> Result<Self, Failed> {
        let dir = tempfile::tempdir_in(crate::scratch())?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = Command::new(bin.join("torpord"))
            .arg("--state-dir")
            .arg(dir.path().join("state"))
            .arg("--socket")
            .arg(dir.path().join("sock"))
            .arg("--kernel")
            .arg(&paths.kernel)
            .arg("--images")
            .arg(&paths.images)
            .arg("--monitor")
            .arg(&paths.monitor)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let daemon = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(30);
        while Http::connect(&daemon.socket()).is_err() {
            if Instant::now() > deadline {
                return Err("torpord did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn noop(http: &mut Http, task: &str) -> Result<(), Failed> {
    let answer = http.ok("POST", &format!("/v1/tasks/{task}/executions?wait=60"), "application/json", b"null")?;
    if answer["state"] == "succeeded" { Ok(()) } else { Err(format!("a no-op did not succeed: {answer}").into()) }
}

fn push(http: &mut Http, runtime: &str, dir: &Path) -> Result<String, Failed> {
    let (folder, _) = crate::code::folder(runtime, dir)?;
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    Ok(format!("noop-{runtime}"))
}

/// All figures of the API.
pub(crate) fn run(bin: &Path, paths: &Paths, runtimes: &[String], runs: usize, table: &mut Table) -> Result<(), Failed> {
    let daemon = Daemon::start(bin, paths)?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    for runtime in runtimes {
        // A connection for each: torpord closes one that is idle while others are measured.
        let mut http = Http::connect(&daemon.socket())?;
        let task = push(&mut http, runtime, dir.path())?;
        for _ in 0..3 {
            noop(&mut http, &task)?;
        }
        let mut latency = Samples::default();
        for _ in 0..runs {
            latency.time(|| noop(&mut http, &task))?;
        }
        table.add(&format!("{runtime}: no-op through the API, one client"), "ms", &latency);
        for clients in [1, 2, 4, 8] {
            let rate = throughput(&daemon.socket(), &task, clients, runs)?;
            table.add(&format!("{runtime}: no-ops a second, {clients} clients"), "1/s", &rate);
        }
    }
    Ok(())
}

/// Three rounds, each of `runs` executions a client.
fn throughput(socket: &Path, task: &str, clients: usize, runs: usize) -> Result<Samples, Failed> {
    let mut rate = Samples::default();
    for _ in 0..3 {
        let start = Instant::now();
        let done: Result<(), String> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..clients)
                .map(|_| {
                    scope.spawn(|| -> Result<(), String> {
                        let mut http = Http::connect(socket).map_err(|e| e.to_string())?;
                        for _ in 0..runs {
                            noop(&mut http, task).map_err(|e| e.to_string())?;
                        }
                        Ok(())
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a client panicked".to_owned())?)
        });
        done?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        rate.add((clients * runs) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(rate)
}
