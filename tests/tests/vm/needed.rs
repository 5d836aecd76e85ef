//! Results that are needed by a time, and retries that do not run again what was done.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] =
    tests![programs_say_when_they_need_it, clients_say_when_they_need_it, a_busy_host_puts_off_what_may_wait, a_retry_runs_no_call_again,];

const POLICY: &str = "memory = \"128MiB\"\ntimeout = \"60s\"\ncalls = [\"*\"]\n";

fn push(daemon: &Daemon, name: &str, policy: &str, code: &str) {
    let manifest = format!("[task]\nname = \"{name}\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n\n[policy]\n{POLICY}{policy}");
    daemon.push(TaskFolder::empty().manifest(&manifest).file("main.py", code).path());
    daemon.template(name);
}

fn seconds(moment: &Value) -> f64 {
    let time = chrono::DateTime::parse_from_rfc3339(moment.as_str().unwrap_or_else(|| panic!("{moment}"))).unwrap();
    time.timestamp_micros() as f64 / 1e6
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn programs_say_when_they_need_it() {
    let daemon = shared();
    let code = "\
import torpor
from datetime import datetime, timedelta, timezone

def handler(input, context):
    soon = torpor.spawn(\"probe\", 1, need_by=40)
    later = torpor.spawn(\"probe\", 2, need_by=datetime.now(timezone.utc) + timedelta(hours=1))
    try:
        torpor.spawn(\"probe\", 3, need_by=datetime(2020, 1, 1, tzinfo=timezone.utc), on_late=\"refuse\")
    except torpor.Late as late:
        refused = str(late)
    past = torpor.spawn(\"probe\", 4, need_by=0.001)
    return {\"ids\": [soon.id, later.id, past.id], \"results\": torpor.gather([soon, later, past]), \"refused\": refused}
";
    push(&daemon, "planner", "deadline = \"30m\"\n", code);
    let begun = now();
    let result = daemon.result("planner", &Value::Null);
    assert_eq!(result["results"], json!([1, 2, 4]), "{result}");
    assert!(result["refused"].as_str().unwrap().contains("can't be done when it is needed"), "{result}");
    let child = |at: usize| daemon.execution(result["ids"][at].as_str().unwrap());
    let within = |at: usize, least: f64, most: f64| {
        let left = seconds(&child(at)["need_by"]) - begun;
        assert!((least..most).contains(&left), "{at}: {left} s of {least} to {most}");
    };
    within(0, 40.0, 100.0);
    // Its parent must have ended by then.
    within(1, 1800.0, 1860.0);
    assert_eq!((&child(2)["late"], &child(0)["late"]), (&json!(true), &Value::Null));

    // The same by the command, in a guest that is no Python.
    let shell = [("memory", "\"64MiB\""), ("timeout", "\"60s\""), ("calls", "[\"*\"]")];
    daemon.push(TaskFolder::copy("shell").named("sh-planner", &shell).path());
    daemon.template("sh-planner");
    let run =
        daemon.execute("sh-planner", &json!("echo 5 | torpor spawn probe --need-by 50 > /tmp/id; read id < /tmp/id; torpor wait $id"));
    assert_eq!(run["result"], 5, "{run:#}");
    let probes = daemon.get("/v1/executions?all=true&task=probe&limit=1000").expect(200);
    let child = probes["executions"].as_array().unwrap().iter().find(|probe| probe["parent"] == run["id"]);
    assert!(child.is_some_and(|child| child["need_by"].is_string()), "{child:?}");
    let refused =
        daemon.result("sh-planner", &json!("torpor spawn probe --need-by @1000 --on-late=refuse < /dev/null 2> /dev/null; echo $?"));
    assert_eq!(refused, 3);
}

fn clients_say_when_they_need_it() {
    let daemon = shared();
    daemon.push_probes();
    assert_eq!(daemon.cli(&["run", "probe", "--input", "7", "--need-by", "5m"]).expect(0).json(), 7);
    let late = daemon.cli(&["run", "probe", "--need-by", "2020-01-01T00:00:00Z", "--on-late", "refuse"]).expect(2);
    late.says(&["can't be done when it is needed", "late"]);
    let run = daemon.post("/v1/tasks/probe/executions?wait=30&need_by=2020-01-01T00:00:00Z", b"1").expect(201);
    assert_eq!((&run["state"], &run["late"]), (&json!("succeeded"), &json!(true)), "{run:#}");
    for wrong in ["soon", "-1", "1e300", "2027-01-01"] {
        daemon.post(&format!("/v1/tasks/probe/executions?need_by={wrong}"), b"1").refused(400, "invalid_request");
    }
    let task = daemon.get("/v1/tasks/probe").expect(200);
    let durations = task["versions"][0]["durations"].as_array().unwrap_or_else(|| panic!("{task:#}"));
    assert!(durations.iter().any(|one| one["what"] == "whole" && one["p90_ms"].as_f64().unwrap() > 0.0), "{durations:?}");
    let load = daemon.cli(&["top"]).expect(0).json();
    assert!(load["host"]["memory_budget_bytes"].as_u64().unwrap() > 0, "{load:#}");
}

/// One VM at a time: who is wanted now goes before who is needed in an hour, and a caller takes what it waits for with it.
fn a_busy_host_puts_off_what_may_wait() {
    let options = Options { arguments: vec!["--max-vms".into(), "1".into()], ..Options::default() };
    let daemon = Daemon::start_with_templates(options);
    daemon.push_probes();
    let busy = daemon.submit("shell", &json!("sleep 4; echo 1"));
    daemon.wait_for(&busy, "running");
    let needed =
        |query: &str| daemon.post(&format!("/v1/tasks/probe/executions{query}"), b"1").expect(201)["id"].as_str().unwrap().to_owned();
    let (put_off, wanted) = (needed("?need_by=3600"), [needed(""), needed("")]);
    let started = |id: &str| seconds(&daemon.wait_for_end(id)["started_at"]);
    let order = [started(&wanted[0]), started(&wanted[1]), started(&put_off)];
    assert!(order.is_sorted(), "{order:?}");
}

fn a_retry_runs_no_call_again() {
    let daemon = shared();
    push(&daemon, "dice", "", "import uuid\n\ndef handler(input, context):\n    return [input, str(uuid.uuid4())]\n");
    let code = "\
import time
import torpor

def handler(input, context):
    first = torpor.call(\"dice\", 1)
    rest = torpor.gather([torpor.spawn(\"dice\", n) for n in range(3)])
    if time.time() < input:
        raise RuntimeError(\"too early\")
    return [first, *rest]
";
    push(&daemon, "gambler", "retries = 20\nbackoff = \"200ms\"\n", code);
    let run = daemon.execute("gambler", &json!(now() + 3.0));
    assert!(run["attempts"].as_u64().unwrap() > 1, "{run:#}");
    assert_eq!(run["result"].as_array().unwrap().len(), 4);
    let thrown = daemon.get("/v1/executions?all=true&task=dice&limit=100").expect(200);
    assert_eq!(thrown["executions"].as_array().unwrap().len(), 4, "each call was made once: {thrown:#}");
    assert!(run["timeline"].as_array().unwrap().iter().any(|entry| entry["event"] == "replaying"), "{run:#}");
    let wait = Duration::from_millis(200);
    let delays = run["timeline"].as_array().unwrap().iter().filter_map(|entry| entry["delay_ms"].as_u64());
    assert!(delays.map(Duration::from_millis).all(|delay| delay >= wait / 2), "{run:#}");
}
