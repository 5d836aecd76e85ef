//! Normal use, through the command line.

mod waiting;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::setup::root;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};
use waiting::{events_are_followed, events_over_a_restart, order_example, parked_and_resumed_by_hand, signals, waits_are_seen};

pub(crate) const TESTS: &[Test] = tests![
    result_alone,
    execution_in_full,
    failure_is_explained,
    asynchronous_run,
    versions_are_kept,
    removal,
    listing,
    interrupted_wait,
    doctor_and_version,
    no_daemon,
    metrics_and_description,
    wordcount_example,
    checksum_example,
    primes_example,
    order_example,
    waits_are_seen,
    signals,
    parked_and_resumed_by_hand,
    events_are_followed,
    events_over_a_restart,
];

/// `run` prints the result alone, whatever JSON it is.
fn result_alone() {
    let daemon = shared();
    for input in [Value::Null, json!([1, -2.5, "x\u{e9}\n", {"a": null}]), json!("x".repeat(100_000))] {
        assert_eq!(daemon.result("probe", &input), input);
    }
    let file = TaskFolder::empty().file("in.json", "{\"from\": \"a file\"}");
    let argument = format!("@{}", file.path().join("in.json").display());
    assert_eq!(daemon.cli(&["run", "probe", "--input", &argument]).expect(0).json(), json!({"from": "a file"}));
    assert_eq!(daemon.cli(&["run", "probe", "--input", "[true]"]).expect(0).json(), json!([true]));
    let exact = daemon.run("shell", &json!("printf 123456789012345678901234567890")).expect(0);
    assert_eq!(exact.stdout, "123456789012345678901234567890\n", "a number is handed through as it was written");
}

fn execution_in_full() {
    let daemon = shared();
    let id = daemon.execute("probe", &json!([1]))["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("ex_") && id.len() == 29, "{id}");
    let execution = daemon.cli(&["inspect", &id]).expect(0).json();
    assert_eq!((&execution["id"], &execution["task"], &execution["state"]), (&json!(id), &json!("probe"), &json!("succeeded")));
    assert_eq!(execution["result"], json!([1]));
    assert!(execution.get("error").is_none_or(Value::is_null));
    assert_eq!(execution["version"].as_str().unwrap().len(), 64);
    let times: Vec<_> = ["created_at", "started_at", "finished_at"].map(|key| execution[key].as_str().unwrap().to_owned()).into();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times.iter().all(|time| time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T'), "{times:?}");
    let timeline = execution["timeline"].as_array().unwrap();
    let events: Vec<_> = timeline.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for event in ["queued", "starting", "restored", "running", "finished"] {
        assert!(events.contains(&event), "{event} is not in {events:?}");
    }
    assert!(timeline.iter().map(|event| event["at"].as_str().unwrap()).is_sorted(), "{timeline:?}");
    let restored = timeline.iter().find(|event| event["event"] == "restored").unwrap();
    assert!(restored["micros"].as_u64().is_some_and(|micros| micros > 0), "{restored}");
}

fn failure_is_explained() {
    let daemon = shared();
    let ran = daemon.run("probe", &json!({"do": "raise", "message": "no such flour"})).expect(1);
    assert_eq!(ran.stdout, "");
    ran.says(&["exception", "no such flour", "ValueError", "Traceback", "main.py", "in do_raise"]);
    // Only what there is to read is named.
    daemon.run("shell", &json!("echo crumbs >&2; exit 3")).expect(1).says(&["torpor logs ex_"]);
    let silent = daemon.run("shell", &json!("exit 3")).expect(1);
    assert!(!silent.stderr.contains("torpor logs"), "{}", silent.stderr);
}

fn asynchronous_run() {
    let daemon = shared();
    let id = daemon.cli(&["run", "probe", "--async", "--input", r#"{"do": "sleep", "seconds": 1}"#]).expect(0).stdout;
    let id = id.trim();
    assert!(!daemon.execution(id)["finished_at"].is_string());
    let ended = daemon.wait_for_end(id);
    assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!("slept")));
}

fn versions_are_kept() {
    let daemon = shared();
    let code = |number: u32| format!("def handler(input, context):\n    return {number}\n");
    let folder = TaskFolder::copy("probe").named("versions", &[("memory", "\"128MiB\"")]).file("main.py", code(1));
    let first = daemon.push(folder.path());
    assert_eq!(daemon.result("versions", &Value::Null), 1);
    let folder = folder.file("main.py", code(2));
    let second = daemon.push(folder.path());
    assert_ne!(first, second);
    assert_eq!(daemon.push(folder.path()), second, "the same content is the same version");
    assert_eq!(daemon.result("versions", &Value::Null), 2);
    assert_eq!(daemon.result(&format!("versions@{}", &first[..12]), &Value::Null), 1);
    assert_eq!(daemon.result(&format!("versions@{second}"), &Value::Null), 2);
    let task = daemon.cli(&["task", "inspect", "versions"]).expect(0).json();
    assert_eq!(task["latest"], json!(second));
    let versions: Vec<_> = task["versions"].as_array().unwrap().iter().map(|version| version["version"].as_str().unwrap()).collect();
    assert!(versions.len() == 2 && versions.contains(&first.as_str()), "{versions:?}");
    // What was pushed first is not changed by pushing it again, but it is the newest then.
    let folder = folder.file("main.py", code(1));
    assert_eq!(daemon.push(folder.path()), first);
    daemon.cli(&["run", "versions@00000000"]).expect(2).says(&["unknown_version"]);
    daemon.cli(&["run", "versions@123"]).expect(2);
}

fn removal() {
    let daemon = shared();
    daemon.push(TaskFolder::copy("shell").named("removed", &[("memory", "\"64MiB\"")]).path());
    daemon.template("removed");
    let host = daemon.get("/v1/host").expect(200);
    let template = host["templates"].as_array().unwrap().iter().find(|template| template["task"] == "removed").unwrap();
    let template = daemon.state().join("templates").join(template["id"].as_str().unwrap());
    assert!(template.is_dir());
    let id = daemon.submit("removed", &json!("sleep 60"));
    daemon.cli(&["task", "rm", "removed"]).expect(2).says(&["task_busy"]);
    daemon.cli(&["cancel", &id]).expect(0);
    daemon.wait_for_end(&id);
    until("removal", Duration::from_secs(10), || (daemon.cli(&["task", "rm", "removed"]).code == 0).then_some(()));
    daemon.cli(&["run", "removed"]).expect(2).says(&["unknown_task"]);
    daemon.cli(&["task", "inspect", "removed"]).expect(2);
    daemon.cli(&["task", "rm", "removed"]).expect(2);
    assert!(!template.exists(), "its template is still there");
    assert_eq!(daemon.execution(&id)["state"], "cancelled", "what ran is still known");
}

fn listing() {
    let daemon = shared();
    let id = daemon.submit("probe", &json!({"do": "sleep", "seconds": 30}));
    daemon.wait_for(&id, "running");
    let ids = |arguments: &[&str]| {
        let list = daemon.cli(arguments).expect(0).json();
        let list = list["executions"].as_array().unwrap().clone();
        assert!(list.iter().all(|execution| execution.get("result").is_none()), "a list has no results");
        list.iter().map(|execution| execution["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(ids(&["ps"]).contains(&id));
    daemon.cli(&["cancel", &id]).expect(0);
    daemon.wait_for_end(&id);
    assert!(!ids(&["ps"]).contains(&id));
    let all = ids(&["ps", "-a", "--task", "probe"]);
    assert!(all.contains(&id));
    assert!(all.iter().rev().is_sorted(), "newest first: {all:?}");
    assert_eq!(ids(&["ps", "-a", "--limit", "1"]).len(), 1);
    let tasks = daemon.cli(&["task", "ls"]).expect(0).json();
    let names: Vec<_> = tasks["tasks"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"probe") && names.contains(&"shell"), "{names:?}");
}

/// The first Ctrl-C says how to go on, the second leaves, and the execution is none the worse.
fn interrupted_wait() {
    let daemon = shared();
    let running = daemon.cli_start(&["run", "probe", "--input", r#"{"do": "sleep", "seconds": 45}"#], b"");
    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    until("the wait", Duration::from_secs(30), || catches_interrupts(pid).then_some(()));
    kill(pid, Signal::SIGINT).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    kill(pid, Signal::SIGINT).unwrap();
    let ran = running.end().expect(130);
    ran.says(&["torpor cancel ex_", "torpor logs -f ex_"]);
    let id = ran.stderr.split_whitespace().find(|word| word.starts_with("ex_")).unwrap().trim_end_matches(';').to_owned();
    assert!(!daemon.execution(&id)["finished_at"].is_string(), "it is left running");
    daemon.cli(&["cancel", &id]).expect(0);
}

/// Whether a process has a handler for SIGINT, the second signal.
fn catches_interrupts(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & 2 != 0
}

fn doctor_and_version() {
    let daemon = shared();
    let checks = daemon.cli(&["doctor"]).expect(0).json();
    assert_eq!(checks["ok"], true, "{checks}");
    let names: Vec<_> = checks["checks"].as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    for name in ["kvm", "kernel", "image python", "image exec", "disk", "daemon"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let version = daemon.cli(&["version"]).expect(0).json();
    assert_eq!(version["torpor"], version["torpord"]);
    assert!(daemon.cli(&["completions", "bash"]).expect(0).stdout.contains("complete -F"));
}

fn no_daemon() {
    let daemon = shared();
    let nowhere = daemon.folder().join("nowhere.sock");
    for arguments in [vec!["ps"], vec!["run", "probe"], vec!["cancel", "ex_0"]] {
        let mut all = vec!["--socket", nowhere.to_str().unwrap()];
        all.extend(&arguments);
        daemon.cli(&all).expect(3).says(&["nowhere.sock", "TORPOR_SOCKET"]);
    }
    daemon.cli(&["--socket", nowhere.to_str().unwrap(), "doctor"]).expect(1);
    daemon.cli(&["--socket", nowhere.to_str().unwrap(), "version"]).expect(0);
    daemon.cli(&["no-such-command"]).expect(2);
    daemon.cli(&["inspect", "ex_00000000000000000000000000"]).expect(2).says(&["unknown_execution"]);
    daemon.cli(&["inspect", "../tasks"]).expect(2);
    daemon.cli(&["run", "probe", "--input", "@/no/such/file"]).expect(2).says(&["/no/such/file"]);
}

fn metrics_and_description() {
    let daemon = shared();
    let api = daemon.get("/openapi.json").expect(200);
    for path in ["/v1/tasks", "/v1/tasks/{name}/executions", "/v1/executions/{id}/logs", "/v1/host"] {
        assert!(api["paths"].get(path).is_some(), "{path} is not described");
    }
    let _ = daemon.result("probe", &json!(1));
    let metrics = daemon.get("/metrics");
    assert_eq!(metrics.status, 200);
    assert!(metrics.body.contains("# TYPE torpor_"), "{}", metrics.body);
    let host = daemon.get("/v1/host").expect(200);
    assert!(host["memory_budget_bytes"].as_u64().unwrap() > 0 && host["limits"].is_object(), "{host}");
}

fn example(daemon: &Daemon, name: &str, input: &[u8]) {
    daemon.cli(&["task", "push", root().join("examples").join(name).to_str().unwrap()]).expect(0);
    let ran = daemon.cli_with(&["run", name, "--input", "-"], input).expect(0);
    let expected = fs::read_to_string(root().join("examples/data").join(format!("{name}.expected.json"))).unwrap();
    assert_eq!(ran.json(), serde_json::from_str::<Value>(&expected).unwrap());
}

fn novel() -> String {
    fs::read_to_string(root().join("examples/data/persuasion.txt")).unwrap()
}

fn wordcount_example() {
    example(&shared(), "wordcount", json!(novel()).to_string().as_bytes());
}

fn checksum_example() {
    example(&shared(), "checksum", json!(base64(novel().as_bytes())).to_string().as_bytes());
}

fn primes_example() {
    example(&shared(), "primes", &fs::read(root().join("examples/data/primes.json")).unwrap());
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
