//! What happens to the host: crashes, orderly ends, a second daemon, a full disk, more work than fits.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::process::assert_no_orphans;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![killed_while_working, second_daemon, drained, full_disk, more_than_fits, kept_for_a_time];

fn arguments(words: &[&str]) -> Options {
    Options { arguments: words.iter().map(|word| (*word).to_owned()).collect(), ..Options::default() }
}

/// kill -9 with 20 running and 50 waiting: nothing acknowledged is lost, nothing runs on, each ends as its policy says.
fn killed_while_working() {
    // A 64 MiB VM is charged a little more than its memory: 20 of them fit, 21 do not.
    let mut daemon = Daemon::start_with_templates(arguments(&["--max-vms", "20", "--cpu-budget", "20"]));
    let policy: [(&str, &str); 2] = [("memory", "\"64MiB\""), ("timeout", "\"10m\"")];
    daemon.push(TaskFolder::copy("shell").named("once", &policy).path());
    daemon.push(TaskFolder::copy("shell").named("again", &[policy[0], policy[1], ("retries", "1")]).path());
    daemon.template("once");
    daemon.template("again");
    let running: Vec<_> = (0..20).map(|at| daemon.submit(if at % 2 == 0 { "once" } else { "again" }, &json!("sleep 8; echo 1"))).collect();
    until("20 running", Duration::from_secs(200), || running.iter().all(|id| daemon.execution(id)["state"] == "running").then_some(()));
    let waiting: Vec<_> = (0..50).map(|number| daemon.submit("once", &json!(format!("echo {number}")))).collect();
    let states = |ids: &[String], state: &str| ids.iter().filter(|id| daemon.execution(id)["state"] == state).count();
    assert_eq!((states(&running, "running"), states(&waiting, "queued")), (20, 50));
    assert!(daemon.monitors().len() >= 20);

    daemon.kill();
    assert_no_orphans();
    daemon.start_again();

    for (at, id) in running.iter().enumerate() {
        let ended = daemon.wait_for_end(id);
        if at % 2 == 0 {
            assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("failed"), &json!("interrupted")), "{ended:#}");
            assert_eq!(ended["attempts"], 1, "{ended:#}");
        } else {
            assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(1)), "{ended:#}");
            assert_eq!(ended["attempts"], 2, "{ended:#}");
        }
    }
    for (number, id) in waiting.iter().enumerate() {
        let ended = daemon.wait_for_end(id);
        assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(number)), "{ended:#}");
    }
    let list = daemon.get("/v1/executions?all=true&limit=1000").expect(200);
    assert_eq!(list["executions"].as_array().unwrap().len(), 70, "none is lost, none doubled");
}

fn second_daemon() {
    let daemon = shared();
    let other = daemon.folder().join("other.sock");
    let start = Instant::now();
    let mut child = daemon.command(&other).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let status = until("its end", Duration::from_secs(20), || child.try_wait().unwrap());
    assert!(!status.success() && start.elapsed() < Duration::from_secs(20));
    let mut said = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut said).unwrap();
    assert!(said.contains(daemon.state().to_str().unwrap()), "the message does not name the state folder: {said}");
    assert!(!other.exists(), "it took a socket that it can't serve");
    assert_eq!(daemon.result("probe", &json!("unharmed")), "unharmed");
}

/// SIGTERM: what runs may end, nothing new is taken, what waits is there at the next start.
fn drained() {
    let mut daemon = Daemon::start_with_templates(arguments(&["--max-vms", "1"]));
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    let running = daemon.submit("shell", &json!("sleep 3; echo 1"));
    daemon.wait_for(&running, "running");
    let waiting = daemon.submit("shell", &json!("echo 2"));
    daemon.signal(Signal::SIGTERM);
    until("draining", Duration::from_secs(5), || {
        let answer = daemon.post("/v1/tasks/shell/executions", b"\"echo 3\"");
        (answer.status == 503).then(|| answer.refused(503, "draining"))
    });
    let status = daemon.wait(Duration::from_secs(30));
    assert!(status.success(), "{status:?}");
    daemon.start_again();
    let ended = daemon.wait_for_end(&running);
    assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(1)), "{ended:#}");
    let ended = daemon.wait_for_end(&waiting);
    assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(2)), "{ended:#}");
}

/// A small file system of its own, unmounted on drop.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(folder.path()).status().unwrap();
        assert!(status.success(), "tests of a full disk mount a tmpfs: run them as root");
        Self(folder)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A disk that fills up: refusals that say so, nothing half-stored, and all is well again when there is room. The test and its daemon have mounts of their
/// own, so that none is left however they end.
fn full_disk() {
    let test = std::thread::spawn(|| {
        let private = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
            let nothing: Option<&str> = None;
            mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        });
        private.expect("tests of a full disk mount a tmpfs: run them as root");
        fill_a_disk();
    });
    if let Err(failure) = test.join() {
        std::panic::resume_unwind(failure);
    }
}

fn fill_a_disk() {
    let disk = Disk::new("400m");
    let state = disk.0.path().join("state");
    // Its own template: those of all other tests need not fit.
    let daemon = Daemon::start(Options { state: Some(state), ..Options::default() });
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    assert_eq!(daemon.result("shell", &json!("echo 1")), 1);
    let ballast = disk.0.path().join("ballast");
    let filled = std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).unwrap());
    assert!(filled.is_err(), "the disk is full now");
    let folder = TaskFolder::copy("shell").named("late", &[]).file("data", vec![7; 1 << 20]);
    let ran = daemon.cli(&["task", "push", folder.path().to_str().unwrap()]).expect(2);
    ran.says(&["disk_full"]);
    // Small records may still fit where something was freed: then they are kept.
    let answer = daemon.post("/v1/tasks/shell/executions?wait=60", b"\"echo 2\"");
    match answer.status {
        201 => assert!(answer.json()["finished_at"].is_string(), "{}", answer.body),
        _ => drop(answer.refused(507, "disk_full")),
    }
    assert_eq!(daemon.get("/healthz").expect(200)["status"], "ok");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(daemon.result("shell", &json!("echo 3")), 3);
    daemon.push(folder.path());
    assert_eq!(daemon.result("late", &json!("wc -c < data")), 1 << 20);
}

/// A budget for three VMs and twelve executions: never more than three at once, the rest waits in order, and what can never fit is refused.
fn more_than_fits() {
    let daemon = Daemon::start_with_templates(arguments(&["--memory-budget", "320MiB"]));
    daemon.push(TaskFolder::copy("shell").path());
    let huge = TaskFolder::copy("shell").named("huge", &[("memory", "\"1024MiB\"")]);
    let ran = daemon.cli(&["task", "push", huge.path().to_str().unwrap()]).expect(2);
    ran.says(&["over_capacity", "huge", "320MiB", "--memory-budget"]);
    daemon.template("shell");
    let budget = daemon.get("/v1/host").expect(200)["memory_budget_bytes"].as_u64().unwrap();
    assert_eq!(budget, 320 << 20);
    daemon.post("/v1/tasks/huge/executions", b"\"echo 1\"").refused(404, "unknown_task");
    let ids: Vec<_> = (0..12).map(|number| daemon.submit("shell", &json!(format!("sleep 1; echo {number}")))).collect();
    let mut most = 0;
    until("all twelve", Duration::from_secs(300), || {
        let host = daemon.get("/v1/host").expect(200);
        assert!(host["memory_used_bytes"].as_u64().unwrap() <= budget, "{host}");
        most = most.max(host["running"].as_u64().unwrap());
        ids.iter().all(|id| daemon.execution(id)["finished_at"].is_string()).then_some(())
    });
    assert!((2..=4).contains(&most), "{most} at once in a budget for three or four");
    let started: Vec<_> = ids.iter().map(|id| daemon.execution(id)["started_at"].as_str().unwrap().to_owned()).collect();
    assert!(started[..4].iter().max() <= started[8..].iter().min(), "not in order: {started:?}");
    let results: Vec<Value> = ids.iter().map(|id| daemon.execution(id)["result"].clone()).collect();
    assert_eq!(results, (0..12).map(|number| json!(number)).collect::<Vec<_>>());
}

/// What ended is known for as long as `--keep` says, what runs for as long as it runs; a log that a crash left goes at the next start.
fn kept_for_a_time() {
    let mut daemon = Daemon::start_with_templates(arguments(&["--keep", "3s"]));
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    let runs = daemon.submit("shell", &json!("echo begun >&2; sleep 120"));
    daemon.wait_for(&runs, "running");
    let ended = daemon.execute("shell", &json!("echo a line >&2; echo 1"));
    let id = ended["id"].as_str().unwrap();
    let log = daemon.state().join("logs").join(format!("{id}.jsonl"));
    assert!(log.exists());
    until("its removal", Duration::from_secs(60), || (daemon.get(&format!("/v1/executions/{id}")).status == 404).then_some(()));
    daemon.cli(&["logs", id]).expect(2).says(&["unknown_execution", "--keep"]);
    until("the removal of its log", Duration::from_secs(10), || (!log.exists()).then_some(()));
    assert_eq!(daemon.execution(&runs)["state"], "running");
    assert!(daemon.get("/metrics").body.contains("torpor_executions_removed_total 1\n"));

    daemon.kill();
    std::fs::write(&log, "").unwrap();
    daemon.start_again();
    until("the removal of a log of nobody", Duration::from_secs(30), || (!log.exists()).then_some(()));
    until("the removal of what the crash ended", Duration::from_secs(60), || {
        (daemon.get(&format!("/v1/executions/{runs}")).status == 404).then_some(())
    });
}
