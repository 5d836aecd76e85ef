//! Many queued executions: what submitting, listing, looking and cancelling take beside them, what memory they take, and how long a restart with them is.
//!
//! Twice: all of one account and wanted now; and of two accounts, each with a moment at which it is needed.

use crate::Failed;
use crate::api::Daemon;
use crate::http::Http;
use crate::stats::{Samples, Table};
use crate::vm::Paths;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Of each request that is measured, by one client.
const SAMPLES: usize = 1000;
/// Clients of the rest.
const CLIENTS: usize = 8;
/// What `--check` allows a submission, a list of what has not ended and a cancellation at the 99th percentile, ...
const MOST_MS: f64 = 50.0;
/// ... and a queued execution of torpord's memory.
const MOST_KIB: f64 = 16.0;
/// The second account.
const OTHER: &str = "other";

/// What is queued.
#[derive(Debug, Clone, Copy)]
struct Load {
    queued: usize,
    /// Whether it is of two accounts, and needed by some moment.
    dues: bool,
}

/// An execution that is queued.
struct Queued {
    account: Option<&'static str>,
    id: String,
}

impl Load {
    fn name(self) -> String {
        format!("{} queued{}", self.queued, if self.dues { " with dues" } else { "" })
    }

    fn accounts(self) -> &'static [Option<&'static str>] {
        if self.dues { &[None, Some(OTHER)] } else { &[None] }
    }

    /// Submits one more, in turn for each account. Dues are hours away, and in no order.
    fn submit(self, http: &mut Http, number: usize) -> Result<Queued, Failed> {
        let accounts = self.accounts();
        http.account = accounts[number % accounts.len()];
        let query = if self.dues { format!("?need_by={}", 14_400 + number * 7919 % 36_000) } else { String::new() };
        Ok(Queued { account: http.account, id: submit(http, &format!("queued/executions{query}"))? })
    }
}

fn push(http: &mut Http, dir: &Path, name: &str, program: &str) -> Result<(), Failed> {
    let folder = dir.join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("main"), program)?;
    fs::set_permissions(folder.join("main"), fs::Permissions::from_mode(0o755))?;
    let policy = "[policy]\nmemory = \"64MiB\"\ntimeout = \"2h\"\ndeadline = \"24h\"\n";
    fs::write(folder.join("torpor.toml"), format!("[task]\nname = \"{name}\"\nruntime = \"exec\"\nentry = \"main\"\n{policy}"))?;
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    Ok(())
}

/// Submits to what this path below the tasks says; the id.
fn submit(http: &mut Http, path: &str) -> Result<String, Failed> {
    let answer = http.ok("POST", &format!("/v1/tasks/{path}"), "application/json", b"{\"order\": 4711}")?;
    Ok(answer["id"].as_str().ok_or("no id")?.to_owned())
}

fn get(http: &mut Http, path: &str) -> Result<Value, Failed> {
    http.ok("GET", path, "application/json", b"")
}

fn cancel(http: &mut Http, of: &Queued) -> Result<(), Failed> {
    http.account = of.account;
    http.ok("POST", &format!("/v1/executions/{}/cancel", of.id), "application/json", b"").map(drop)
}

/// MiB of memory that a process has.
fn resident(id: u32) -> Result<f64, Failed> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// `work` on each of them, several at a time, each with a connection of its own.
fn all<T: Sync, R: Send>(socket: &Path, of: &[T], work: impl Fn(&mut Http, &T) -> Result<R, Failed> + Sync) -> Result<Vec<R>, Failed> {
    let one = |part: &[T]| {
        let mut http = Http::connect(socket)?;
        part.iter().map(|one| work(&mut http, one)).collect::<Result<Vec<R>, Failed>>()
    };
    let done: Result<Vec<Vec<R>>, String> = std::thread::scope(|scope| {
        let parts = of.chunks(of.len().div_ceil(CLIENTS).max(1));
        let workers: Vec<_> = parts.map(|part| scope.spawn(|| one(part).map_err(|error| error.to_string()))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?).collect()
    });
    Ok(done?.into_iter().flatten().collect())
}

/// Its median, bounds and 99th percentile.
fn add(table: &mut Table, what: &str, samples: &Samples) {
    table.add(what, "ms", samples);
    table.one(&format!("{what}: p99"), "ms", samples.p99());
}

/// All figures with `queued` executions; what is more than `--check` allows.
pub(crate) fn run(bin: &Path, paths: &Paths, queued: usize, table: &mut Table) -> Result<Vec<String>, Failed> {
    let mut exceeded = measure(bin, paths, Load { queued, dues: false }, table)?;
    exceeded.extend(measure(bin, paths, Load { queued, dues: true }, table)?);
    Ok(exceeded)
}

fn measure(bin: &Path, paths: &Paths, load: Load, table: &mut Table) -> Result<Vec<String>, Failed> {
    let (mut daemon, name) = (Daemon::start_with(bin, paths, &["--max-vms", "1"])?, load.name());
    let socket = daemon.socket();
    prepare(&socket, load)?;
    let before = resident(daemon.id())?;
    let start = Instant::now();
    let numbers: Vec<usize> = (0..load.queued).collect();
    let mut queued = all(&socket, &numbers, |http, number| load.submit(http, *number))?;
    let took = start.elapsed();
    let full = resident(daemon.id())?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = load.queued as f64;
    let each = (full - before) * 1024.0 / count;
    table.one(&format!("{name}: submissions a second, {CLIENTS} clients"), "1/s", count / took.as_secs_f64());
    table.one(&format!("{name}: torpord's memory before"), "MiB", before);
    table.one(&format!("{name}: torpord's memory with them"), "MiB", full);
    table.one(&format!("{name}: memory of each"), "KiB", each);
    let mut exceeded = one_client(&socket, load, &mut queued, table)?;
    if each > MOST_KIB {
        exceeded.push(format!("{name}: {each:.1} KiB of memory for each, at most {MOST_KIB} are allowed"));
    }
    crowd(&socket, load, table)?;
    let start = Instant::now();
    daemon.kill_and_start(bin, paths)?;
    get(&mut Http::connect(&socket)?, "/healthz")?;
    table.one(&format!("{name}: from a kill -9 to the next answer"), "ms", start.elapsed().as_secs_f64() * 1e3);
    for account in load.accounts() {
        cancel_all(&socket, *account)?;
    }
    table.one(&format!("{name}: torpord's memory once all were cancelled, after that restart"), "MiB", resident(daemon.id())?);
    Ok(exceeded)
}

/// Accounts and tasks, and what holds the only VM.
fn prepare(socket: &Path, load: Load) -> Result<(), Failed> {
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let mut http = Http::connect(socket)?;
    push(&mut http, dir.path(), "blocker", "#!/bin/sh\nexec sleep 7200\n")?;
    for account in load.accounts() {
        if let Some(name) = account {
            http.ok("PUT", &format!("/v1/accounts/{name}"), "application/json", b"{\"weight\": 1}")?;
        }
        http.account = *account;
        push(&mut http, dir.path(), "queued", "#!/bin/sh\necho null\n")?;
    }
    http.account = None;
    let blocker = submit(&mut http, "blocker/executions")?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while get(&mut http, &format!("/v1/executions/{blocker}"))?["state"] != "running" {
        if Instant::now() > deadline {
            return Err("what is to hold the only VM does not run".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Each request by one client, over and over; what is more than `--check` allows.
fn one_client(socket: &Path, load: Load, queued: &mut Vec<Queued>, table: &mut Table) -> Result<Vec<String>, Failed> {
    let mut http = Http::connect(socket)?;
    let mut samples = [const { Samples::EMPTY }; 6];
    let count = SAMPLES.min(load.queued);
    let spread = load.queued / count.max(1);
    for number in 0..count {
        queued.push(samples[0].time(|| load.submit(&mut http, load.queued + number))?);
        samples[1].time(|| get(&mut http, "/v1/executions"))?;
        samples[2].time(|| get(&mut http, "/v1/executions?all=true&state=cancelled"))?;
        let one = &queued[number * spread];
        http.account = one.account;
        samples[3].time(|| get(&mut http, &format!("/v1/executions/{}", one.id)))?;
        samples[4].time(|| get(&mut http, "/v1/host"))?;
        samples[5].time(|| cancel(&mut http, one))?;
    }
    let (name, mut exceeded) = (load.name(), Vec::new());
    for (what, samples) in ["submit", "list", "list of what was cancelled", "inspect", "host", "cancel"].iter().zip(&samples) {
        add(table, &format!("{name}: {what}"), samples);
        if ["submit", "list", "cancel"].contains(what) && samples.p99() > MOST_MS {
            exceeded.push(format!("{name}: {what} takes {:.1} ms at the 99th percentile, at most {MOST_MS} are allowed", samples.p99()));
        }
    }
    Ok(exceeded)
}

/// Several clients at once.
fn crowd(socket: &Path, load: Load, table: &mut Table) -> Result<(), Failed> {
    let mut crowd = Samples::default();
    let numbers: Vec<usize> = (0..SAMPLES).collect();
    for took in all(socket, &numbers, |http, number| {
        let mut one = Samples::default();
        let queued = one.time(|| load.submit(http, *number))?;
        one.time(|| get(http, "/v1/executions"))?;
        one.time(|| cancel(http, &queued))?;
        Ok(one)
    })? {
        crowd.append(&took);
    }
    add(table, &format!("{}: submit, list or cancel, {CLIENTS} clients at once", load.name()), &crowd);
    Ok(())
}

/// Cancels all of an account that has not ended.
fn cancel_all(socket: &Path, account: Option<&'static str>) -> Result<(), Failed> {
    loop {
        let mut http = Http::connect(socket)?;
        http.account = account;
        let left = get(&mut http, "/v1/executions?limit=1000")?;
        let left: Vec<String> =
            left["executions"].as_array().into_iter().flatten().filter_map(|one| Some(one["id"].as_str()?.to_owned())).collect();
        if left.is_empty() {
            return Ok(());
        }
        // What ran or was just ending may be over by itself.
        all(socket, &left, |http, id| {
            http.account = account;
            http.request("POST", &format!("/v1/executions/{id}/cancel"), "application/json", b"").map(drop)
        })?;
    }
}
