//! Programs that wait, parked and brought back: what they remember, what time it is, who else may run.

use serde_json::{Value, json};
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![
    memory_survives_many_parks,
    clocks_go_on_rightly,
    nothing_is_held_while_parked,
    random_numbers_differ,
    threads_block_when_all_of_them_wait,
    any_program_waits,
    failures_are_typed,
    a_wait_for_oneself_is_refused,
    calls_nest_deeply,
    many_children,
    running_time_is_what_counts,
    large_inputs_and_results,
    a_stopping_daemon_parks,
];

/// The task `waiter` under another policy.
pub(crate) fn push_waiter(daemon: &Daemon, name: &str, policy: &[(&str, &str)]) {
    let policy = [policy, &[("calls", "[\"*\"]")]].concat();
    daemon.push(TaskFolder::copy("waiter").named(name, &policy).path());
    daemon.template(name);
}

fn waiter(daemon: &Daemon) {
    push_waiter(daemon, "waiter", &[("memory", "\"128MiB\""), ("timeout", "\"60s\""), ("park", "\"always\"")]);
}

pub(crate) fn names(execution: &Value) -> Vec<&str> {
    execution["timeline"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect()
}

fn entry<'a>(execution: &'a Value, event: &str) -> &'a Value {
    let timeline = execution["timeline"].as_array().unwrap();
    timeline.iter().find(|entry| entry["event"] == event).unwrap_or_else(|| panic!("no {event} in {execution:#}"))
}

fn memory_survives_many_parks() {
    let daemon = shared();
    waiter(&daemon);
    let mut steps = vec![json!(["fill", 8, 7])];
    for _ in 0..12 {
        steps.extend([json!(["count"]), json!(["sleep", 0.3]), json!(["sum"])]);
    }
    let execution = daemon.execute("waiter", &json!({"do": steps}));
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    assert!(execution["parks"].as_u64().is_some_and(|parks| parks >= 3), "{execution:#}");
    for (n, three) in result[1..].chunks(3).enumerate() {
        assert_eq!((&three[0], &three[2]), (&json!(n + 1), &result[0]), "after {n} parks");
    }
    let parked = entry(&execution, "parked");
    assert!(parked["changed_bytes"].as_u64().unwrap() >= 8 << 20, "{parked}");
}

fn seconds(at: &Value) -> f64 {
    let time = chrono::DateTime::parse_from_rfc3339(at.as_str().unwrap()).unwrap();
    #[allow(clippy::cast_precision_loss, reason = "microseconds since 1970 fit")]
    let micros = time.timestamp_micros() as f64;
    micros / 1e6
}

fn clocks_go_on_rightly() {
    let daemon = shared();
    waiter(&daemon);
    let execution = daemon.execute("waiter", &json!({"do": [["clock"], ["sleep", 2], ["clock"], ["say", "x"]]}));
    let (before, after) = (&execution["result"][0], &execution["result"][2]);
    let passed = |clock: &str| after[clock].as_f64().unwrap() - before[clock].as_f64().unwrap();
    assert!(passed("wall") >= 1.99, "{before} {after}");
    assert!(passed("monotonic") < 1.0, "the guest's own time went on while it was parked: {before} {after}");
    // The clock was read after the resume and before what was printed next; a hundredth of a second is what it may be wrong.
    let logs = daemon.get(&format!("/v1/executions/{}/logs", execution["id"].as_str().unwrap())).expect(200);
    let wall = after["wall"].as_f64().unwrap();
    let (resuming, said) = (seconds(&entry(&execution, "resuming")["at"]), seconds(&logs["entries"][0]["at"]));
    assert!(resuming - 0.01 <= wall && wall <= said + 0.01, "{resuming} <= {wall} <= {said}");
}

fn nothing_is_held_while_parked() {
    let daemon = Daemon::start_with_templates(Options { arguments: vec!["--warm".into(), "0".into()], ..Options::default() });
    waiter(&daemon);
    let id = daemon.submit("waiter", &json!({"do": [["event"]]}));
    let parked = daemon.wait_for(&id, "parked");
    until("the end of the monitor", Duration::from_secs(10), || daemon.monitors().is_empty().then_some(()));
    let host = daemon.get("/v1/host").expect(200);
    assert_eq!((&host["memory_used_bytes"], &host["running"], &host["parked"]), (&json!(0), &json!(0), &json!(1)), "{host:#}");
    assert!(host["parked_bytes"].as_u64().unwrap() > 0);
    let token = parked["waiting"][0]["token"].as_str().unwrap();
    let _ = daemon.post(&format!("/v1/events/{token}"), b"{\"a\":[1]}").expect(204);
    assert_eq!(daemon.wait_for_end(&id)["result"], json!([{"a": [1]}]));
    assert_eq!(daemon.get("/v1/host").expect(200)["parked_bytes"], 0);
}

fn random_numbers_differ() {
    let daemon = shared();
    waiter(&daemon);
    let steps = json!({"do": [["sleep", 0.3], ["random"]]});
    let ids: Vec<_> = (0..8).map(|_| daemon.submit("waiter", &steps)).collect();
    let mut seen: Vec<Value> = ids.iter().flat_map(|id| daemon.wait_for_end(id)["result"][1].as_array().unwrap().clone()).collect();
    let all = seen.len();
    seen.sort_by_key(Value::to_string);
    seen.dedup();
    assert_eq!((all, seen.len()), (24, 24));
}

fn threads_block_when_all_of_them_wait() {
    let daemon = shared();
    waiter(&daemon);
    let execution = daemon.execute("waiter", &json!({"do": [["threads", 3, 5.0], ["count"]]}));
    assert_eq!(execution["result"], json!([3, 1]), "{execution:#}");
    assert!(execution["parks"].as_u64().is_some_and(|parks| parks >= 1), "{execution:#}");
    let folder = TaskFolder::empty()
        .manifest("[task]\nname = \"half\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n[policy]\npark = \"always\"\n")
        .file(
            "main.py",
            "import threading, time, torpor\n\
             def handler(input, context):\n\
             \x20   thread = threading.Thread(target=torpor.sleep, args=(0.6,))\n\
             \x20   thread.start()\n\
             \x20   begin = time.monotonic()\n\
             \x20   while thread.is_alive():\n\
             \x20       sum(range(1000))\n\
             \x20   return time.monotonic() - begin\n",
        );
    daemon.push(folder.path());
    let execution = daemon.execute("half", &Value::Null);
    assert!(execution["result"].as_f64().unwrap_or_else(|| panic!("{execution:#}")) > 0.5, "a thread that computes was stopped");
    assert_eq!(execution.get("parks"), None, "{execution:#}");
}

/// The command in a guest's PATH, from a shell.
fn any_program_waits() {
    let daemon = shared();
    waiter(&daemon);
    let policy = [("memory", "\"128MiB\""), ("park", "\"always\""), ("calls", "[\"*\"]")];
    daemon.push(TaskFolder::copy("shell").named("shellwaiter", &policy).path());
    // No quotes and no backslashes: that is all that this task's reader of JSON can do.
    let script = "torpor sleep 0.5 && echo [1,2] | torpor call probe";
    assert_eq!(daemon.execute("shellwaiter", &json!(script))["result"], json!([1, 2]));
    let execution = daemon.execute("shellwaiter", &json!("echo {} | torpor call waiter; echo $?"));
    assert_eq!(execution["result"], json!(1), "{execution:#}");
    let execution = daemon.execute("shellwaiter", &json!("echo 1 | torpor call nobody; echo $?"));
    assert_eq!(execution["result"], json!(3), "{execution:#}");
    let spawn = "a=$(echo 1 | torpor spawn probe); b=$(echo 2 | torpor spawn probe); set -- $(torpor wait $a $b); echo [$1,$2]";
    assert_eq!(daemon.execute("shellwaiter", &json!(spawn))["result"], json!([1, 2]));
    // However busy this host is, a program that waits long enough is seen to wait.
    let id = daemon.submit("shellwaiter", &json!("t=$(torpor event); torpor event wait $t"));
    let parked = daemon.wait_for(&id, "parked");
    let token = parked["waiting"][0]["token"].as_str().unwrap();
    let _ = daemon.post(&format!("/v1/events/{token}"), b"[7]").expect(204);
    assert_eq!(daemon.wait_for_end(&id)["result"], json!([7]));
}

fn failures_are_typed() {
    let daemon = shared();
    waiter(&daemon);
    let steps = json!({"catch": true, "do": [
        ["call", "probe", {"do": "raise", "message": "no such flour"}],
        ["call", "nobody", 1],
        ["call", "waiter", {"do": [["sleep", 60]]}, 0.3],
        ["result_of", "ex_00000000000000000000000000"],
        ["wait_event", "ev_00000000000000000000000000000000"],
        ["event", 0.2],
    ]});
    let execution = daemon.execute("waiter", &steps);
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    let raised: Vec<&str> = result.iter().map(|result| result["raised"].as_str().unwrap_or("nothing")).collect();
    assert_eq!(raised, ["TaskFailed", "UnknownTask", "WaitTimeout", "UnknownExecution", "UnknownEvent", "WaitTimeout"], "{execution:#}");
    assert!(result[0]["message"].as_str().unwrap().contains("no such flour"), "{}", result[0]);
    assert!(result[1]["message"].as_str().unwrap().contains("nobody"), "{}", result[1]);
    // Who called gave up, and nobody else knows of it.
    until("the end of the late callee", Duration::from_secs(20), || {
        let running = daemon.get("/v1/executions?task=waiter").expect(200);
        let all = running["executions"].as_array().unwrap();
        all.iter().all(|other| other["parent"] != execution["id"]).then_some(())
    });
}

fn a_wait_for_oneself_is_refused() {
    let daemon = shared();
    let folder = TaskFolder::empty()
        .manifest("[task]\nname = \"circle\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n[policy]\npark = \"always\"\ncalls = [\"circle\"]\n")
        .file(
            "main.py",
            "import torpor\n\
             def handler(input, context):\n\
             \x20   if input is not None:\n\
             \x20       return torpor.Handle(input).result()\n\
             \x20   return torpor.spawn(\"circle\", context.execution_id).result()\n",
        );
    daemon.push(folder.path());
    let execution = daemon.execute("circle", &Value::Null);
    let message = execution["error"]["message"].as_str().unwrap_or_else(|| panic!("{execution:#}"));
    assert!(message.contains("would never end") && message.matches(execution["id"].as_str().unwrap()).count() >= 1, "{message}");
}

fn calls_nest_deeply() {
    let daemon = shared();
    waiter(&daemon);
    assert_eq!(daemon.result("waiter", &json!({"do": [["nest", 64]]})), json!([64]));
}

fn many_children() {
    let daemon = shared();
    waiter(&daemon);
    let mut steps: Vec<Value> = (0..100).map(|n| json!(["spawn", "probe", n])).collect();
    steps.push(json!(["gather"]));
    let result = daemon.result("waiter", &json!({"do": steps}));
    assert_eq!(result[100], Value::from_iter(0..100));
}

fn running_time_is_what_counts() {
    let daemon = shared();
    push_waiter(&daemon, "hasty", &[("memory", "\"128MiB\""), ("timeout", "\"1500ms\""), ("park", "\"always\"")]);
    assert_eq!(daemon.execute("hasty", &json!({"do": [["sleep", 2.5], ["count"]]}))["result"], json!([null, 1]));
    let late = daemon.execute("hasty", &json!({"do": [["busy", 0.9], ["sleep", 0.3], ["busy", 0.9], ["sleep", 0.1], ["busy", 0.9]]}));
    assert_eq!((&late["state"], &late["parks"]), (&json!("timed_out"), &json!(1)), "{late:#}");
}

fn large_inputs_and_results() {
    let daemon = shared();
    waiter(&daemon);
    let large = "x".repeat(5 << 20);
    let execution = daemon.execute("waiter", &json!({"do": [["call", "probe", large]]}));
    assert_eq!(execution["result"][0].as_str().map(str::len), Some(large.len()), "{:.300}", execution.to_string());
    // More than one message holds: each comes by itself.
    let part = "echo [$(seq -s , 300000)]";
    let mut steps: Vec<Value> = (0..4).map(|_| json!(["spawn", "shell", part])).collect();
    steps.push(json!(["gather"]));
    let execution = daemon.execute("waiter", &json!({"do": steps}));
    // All of them together are more than a result may be: its failure says so, and that they were there.
    assert_eq!(execution["error"]["kind"], "result_too_large", "{:.300}", execution.to_string());
}

fn a_stopping_daemon_parks() {
    let mut daemon = Daemon::start_with_templates(Options::default());
    push_waiter(&daemon, "patient", &[("memory", "\"128MiB\""), ("timeout", "\"60s\""), ("park", "\"auto\"")]);
    let ids: Vec<_> = (0..3).map(|_| daemon.submit("patient", &json!({"do": [["count"], ["event"], ["count"]]}))).collect();
    for id in &ids {
        until("a wait", Duration::from_secs(60), || daemon.execution(id)["waiting"][0]["token"].is_string().then_some(()));
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait(Duration::from_secs(40));
    daemon.start_again();
    for id in &ids {
        let parked = daemon.execution(id);
        assert_eq!(parked["state"], "parked", "{parked:#}");
        let _ = daemon.post(&format!("/v1/events/{}", parked["waiting"][0]["token"].as_str().unwrap()), b"5").expect(204);
        assert_eq!(daemon.wait_for_end(id)["result"], json!([1, 5, 2]));
    }
}
