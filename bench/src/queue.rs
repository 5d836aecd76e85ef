//! Many queued executions: what submitting, listing, looking and cancelling take beside them, what memory they take, and how long a restart with them is.

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

fn push(http: &mut Http, dir: &Path, name: &str, program: &str) -> Result<(), Failed> {
    let folder = dir.join(name);
    fs::create_dir(&folder)?;
    fs::write(folder.join("main"), program)?;
    fs::set_permissions(folder.join("main"), fs::Permissions::from_mode(0o755))?;
    let policy = "[policy]\nmemory = \"64MiB\"\ntimeout = \"2h\"\ndeadline = \"24h\"\n";
    fs::write(folder.join("torpor.toml"), format!("[task]\nname = \"{name}\"\nruntime = \"exec\"\nentry = \"main\"\n{policy}"))?;
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    Ok(())
}

fn submit(http: &mut Http, task: &str) -> Result<String, Failed> {
    let answer = http.ok("POST", &format!("/v1/tasks/{task}/executions"), "application/json", b"{\"order\": 4711}")?;
    Ok(answer["id"].as_str().ok_or("no id")?.to_owned())
}

fn post(http: &mut Http, path: &str) -> Result<Value, Failed> {
    http.ok("POST", path, "application/json", b"")
}

fn get(http: &mut Http, path: &str) -> Result<Value, Failed> {
    http.ok("GET", path, "application/json", b"")
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

/// All figures with `queued` executions.
pub(crate) fn run(bin: &Path, paths: &Paths, queued: usize, table: &mut Table) -> Result<(), Failed> {
    let mut daemon = Daemon::start_with(bin, paths, &["--max-vms", "1"])?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let (socket, mut http) = (daemon.socket(), Http::connect(&daemon.socket())?);
    push(&mut http, dir.path(), "blocker", "#!/bin/sh\nexec sleep 7200\n")?;
    push(&mut http, dir.path(), "queued", "#!/bin/sh\necho null\n")?;
    let blocker = submit(&mut http, "blocker")?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while get(&mut http, &format!("/v1/executions/{blocker}"))?["state"] != "running" {
        if Instant::now() > deadline {
            return Err("what is to hold the only VM does not run".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let before = resident(daemon.id())?;
    let start = Instant::now();
    let mut ids = all(&socket, &vec![(); queued], |http, ()| submit(http, "queued"))?;
    let took = start.elapsed();
    let full = resident(daemon.id())?;
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = queued as f64;
    table.one(&format!("{queued} queued: submissions a second, {CLIENTS} clients"), "1/s", count / took.as_secs_f64());
    table.one(&format!("{queued} queued: torpord's memory before"), "MiB", before);
    table.one(&format!("{queued} queued: torpord's memory with them"), "MiB", full);
    table.one(&format!("{queued} queued: memory of each"), "KiB", (full - before) * 1024.0 / count);

    let mut http = Http::connect(&socket)?;
    let mut samples = [const { Samples::EMPTY }; 6];
    let spread = queued / SAMPLES.min(queued).max(1);
    for number in 0..SAMPLES.min(queued) {
        let id = ids[number * spread].clone();
        ids.push(samples[0].time(|| submit(&mut http, "queued"))?);
        samples[1].time(|| get(&mut http, "/v1/executions"))?;
        samples[2].time(|| get(&mut http, "/v1/executions?all=true&state=cancelled"))?;
        samples[3].time(|| get(&mut http, &format!("/v1/executions/{id}")))?;
        samples[4].time(|| get(&mut http, "/v1/host"))?;
        samples[5].time(|| post(&mut http, &format!("/v1/executions/{id}/cancel")))?;
    }
    for (what, samples) in ["submit", "list", "list of what was cancelled", "inspect", "host", "cancel"].iter().zip(&samples) {
        add(table, &format!("{queued} queued: {what}"), samples);
    }
    drop(http);
    let mut crowd = Samples::default();
    for took in all(&socket, &[(); SAMPLES], |http, ()| {
        let mut one = Samples::default();
        let id = one.time(|| submit(http, "queued"))?;
        one.time(|| get(http, "/v1/executions"))?;
        one.time(|| post(http, &format!("/v1/executions/{id}/cancel")))?;
        Ok(one)
    })? {
        crowd.append(&took);
    }
    add(table, &format!("{queued} queued: submit, list or cancel, {CLIENTS} clients at once"), &crowd);

    let start = Instant::now();
    daemon.kill_and_start(bin, paths)?;
    get(&mut Http::connect(&socket)?, "/healthz")?;
    table.one(&format!("{queued} queued: from a kill -9 to the next answer"), "ms", start.elapsed().as_secs_f64() * 1e3);
    let live = |http: &mut Http| get(http, "/v1/executions?limit=1000");
    loop {
        let left = live(&mut Http::connect(&socket)?)?;
        let left: Vec<String> =
            left["executions"].as_array().into_iter().flatten().filter_map(|one| Some(one["id"].as_str()?.to_owned())).collect();
        if left.is_empty() {
            break;
        }
        // What ran or was just ending may be over by itself.
        all(&socket, &left, |http, id| http.request("POST", &format!("/v1/executions/{id}/cancel"), "application/json", b"").map(drop))?;
    }
    table.one(&format!("{queued} queued: torpord's memory once all were cancelled, after that restart"), "MiB", resident(daemon.id())?);
    Ok(())
}
