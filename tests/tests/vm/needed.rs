//! Results that are needed by a time, and retries that do not run again what was done.

use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![
    programs_say_when_they_need_it,
    guests_without_python_say_it_too,
    clients_say_when_they_need_it,
    a_busy_host_puts_off_what_may_wait,
    a_caller_lifts_what_it_waits_for,
    a_chain_of_callers_lifts_its_end,
    a_retry_runs_no_call_again,
];

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
}

/// The same by the command, in a guest that is no Python.
fn guests_without_python_say_it_too() {
    let daemon = shared();
    let shell = [("memory", "\"64MiB\""), ("timeout", "\"60s\""), ("calls", "[\"*\"]")];
    daemon.push(TaskFolder::copy("shell").named("sh-planner", &shell).path());
    daemon.template("sh-planner");
    // The moment has more digits than an hour's distance: it is one of 1970 where it is taken for that.
    let moment = (now() + 3600.0).ceil();
    for (said, moment) in [("50", now() + 50.0), (&format!("@{moment}")[..], moment)] {
        let spawn = format!("echo 5 | torpor spawn probe --need-by {said} > /tmp/id; read id < /tmp/id; torpor wait $id");
        let run = daemon.execute("sh-planner", &json!(spawn));
        assert_eq!(run["result"], 5, "{run:#}");
        let child = child_of(&daemon, "probe", &run["id"]);
        // What is needed in a time is needed that long after it was said.
        let later = seconds(&child["need_by"]) - moment;
        let most = if said.starts_with('@') { 0.001 } else { 60.0 };
        assert!((-0.001..=most).contains(&later) && child["late"].is_null(), "{said}: {later} s later: {child:#}");
    }
    let refused =
        daemon.result("sh-planner", &json!("torpor spawn probe --need-by @1000 --on-late=refuse < /dev/null 2> /dev/null; echo $?"));
    assert_eq!(refused, 3);
}

/// What this one has started of this task.
fn child_of(daemon: &Daemon, task: &str, parent: &Value) -> Value {
    let all = daemon.get(&format!("/v1/executions?all=true&task={task}&limit=1000")).expect(200);
    let child = all["executions"].as_array().unwrap().iter().find(|child| child["parent"] == *parent);
    child.unwrap_or_else(|| panic!("{parent} has started no {task}")).clone()
}

fn clients_say_when_they_need_it() {
    let daemon = shared();
    daemon.push_probes();
    assert_eq!(daemon.cli(&["run", "probe", "--input", "7", "--need-by", "5m"]).expect(0).json(), 7);
    assert_eq!(daemon.cli(&["run", "probe", "--input", "8", "--need-by", "90.5"]).expect(0).json(), 8);
    // A moment to come, by each way in which a client says it.
    let moment = chrono::DateTime::<chrono::Utc>::from(SystemTime::now() + Duration::from_secs(3600));
    let moment = moment.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let id = daemon.cli(&["run", "probe", "--async", "--need-by", &moment]).expect(0).stdout;
    let by_command = daemon.wait_for_end(id.trim().trim_matches('"'));
    let by_http = daemon.post(&format!("/v1/tasks/probe/executions?wait=30&need_by={moment}"), b"1").expect(201);
    for run in [by_command, by_http] {
        assert_eq!((&run["state"], &run["late"]), (&json!("succeeded"), &Value::Null), "{run:#}");
        assert_eq!(seconds(&run["need_by"]), seconds(&json!(moment)), "{run:#}");
    }
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

/// One VM at a time. How long a probe takes is known: what is not is never put off.
fn narrow() -> Daemon {
    let daemon = Daemon::start_with_templates(Options { arguments: vec!["--max-vms".into(), "1".into()], ..Options::default() });
    daemon.push_probes();
    assert_eq!(daemon.result("probe", &json!(1)), 1);
    daemon
}

fn started(daemon: &Daemon, id: &str) -> f64 {
    seconds(&daemon.wait_for_end(id)["started_at"])
}

/// Who is wanted now goes before who is needed in an hour.
fn a_busy_host_puts_off_what_may_wait() {
    let daemon = narrow();
    let busy = daemon.submit("shell", &json!("sleep 4; echo 1"));
    daemon.wait_for(&busy, "running");
    let needed =
        |query: &str| daemon.post(&format!("/v1/tasks/probe/executions{query}"), b"1").expect(201)["id"].as_str().unwrap().to_owned();
    let (put_off, wanted) = (needed("?need_by=3600"), [needed(""), needed("")]);
    let order = [started(&daemon, &wanted[0]), started(&daemon, &wanted[1]), started(&daemon, &put_off)];
    assert!(order.is_sorted(), "{order:?}");
}

/// Starts `task` with what is needed in an hour and waits for it.
const CALLER: &str = "\
import torpor

def handler(input, context):
    child = torpor.spawn(input[0], input[1], need_by=3600)
    return [child.id, child.result()]
";

/// A caller that is parked takes what it waits for with it: past what is wanted now and came later, and past what may wait longer than itself.
fn a_caller_lifts_what_it_waits_for() {
    let daemon = narrow();
    push(&daemon, "caller", "park = \"always\"\n", CALLER);
    let busy = daemon.submit("shell", &json!("sleep 3; echo 1"));
    daemon.wait_for(&busy, "running");
    let put_off = daemon.post("/v1/tasks/probe/executions?need_by=1800", b"1").expect(201)["id"].as_str().unwrap().to_owned();
    let caller = daemon.submit("caller", &json!(["probe", 7]));
    let later: Vec<String> = (0..4).map(|_| daemon.submit("shell", &json!("sleep 1; echo 1"))).collect();
    let end = daemon.wait_for_end(&caller);
    assert_eq!(end["result"][1], 7, "{end:#}");
    let child = started(&daemon, end["result"][0].as_str().unwrap());
    // It was submitted after all of them, and may wait for longer than `put_off`.
    let others = [started(&daemon, later.last().unwrap()), started(&daemon, &put_off)];
    assert!(others.iter().all(|other| child < *other), "{child}: {others:?}");
}

/// The same over two levels: neither the parent nor the grandchild is wanted now by itself, but who waits at the top is.
fn a_chain_of_callers_lifts_its_end() {
    let daemon = narrow();
    push(&daemon, "caller", "park = \"always\"\n", CALLER);
    let busy = daemon.submit("shell", &json!("sleep 3; echo 1"));
    daemon.wait_for(&busy, "running");
    let put_off = daemon.post("/v1/tasks/probe/executions?need_by=1800", b"1").expect(201)["id"].as_str().unwrap().to_owned();
    let top = daemon.submit("caller", &json!(["caller", ["probe", 7]]));
    let later: Vec<String> = (0..6).map(|_| daemon.submit("shell", &json!("sleep 1; echo 1"))).collect();
    let end = daemon.wait_for_end(&top);
    assert_eq!(end["result"][1][1], 7, "{end:#}");
    let (parent, grandchild) = (&end["result"][0], &end["result"][1][0]);
    let chain = [parent, grandchild].map(|id| started(&daemon, id.as_str().unwrap()));
    let others = [started(&daemon, later.last().unwrap()), started(&daemon, &put_off)];
    assert!(chain.is_sorted() && others.iter().all(|other| chain[1] < *other), "{chain:?}: {others:?}");
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
