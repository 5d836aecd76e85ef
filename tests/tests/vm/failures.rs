//! Programs that fail: each in its own way, each reported as what it is, and the host none the worse.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::process::resident;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Over, Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![
    exceptions,
    exits,
    signals,
    results,
    endless_loops,
    memory_hog,
    fork_bomb,
    floods_of_output,
    output_of_all_kinds,
    output_up_to_the_end,
    logs_while_it_runs,
    cancelled_in_every_state,
    retries,
];

/// Runs and expects this kind; the error.
fn error(daemon: &Daemon, task: &str, input: &Value, kind: &str) -> Value {
    daemon.fails(task, input, kind)["error"].clone()
}

fn exceptions() {
    let daemon = shared();
    let error = error(&daemon, "probe", &json!({"do": "raise", "message": "\u{1f33e} & <\"flour\">"}), "exception");
    assert_eq!(error["exception"], "ValueError");
    assert!(error["message"].as_str().unwrap().contains("\u{1f33e} & <\"flour\">"), "{error}");
    assert!(error["traceback"].as_str().unwrap().contains("do_raise"), "{error}");
    // However long the message is, it is cut and not refused.
    let long = json!({"do": "raise", "message": "x".repeat(1 << 20)});
    let error = daemon.fails("probe", &long, "exception")["error"].clone();
    assert!(error.to_string().len() < 256 << 10);
}

fn exits() {
    let daemon = shared();
    for how in ["exit", "quit"] {
        let error = error(&daemon, "probe", &json!({"do": how, "code": 3}), "exit");
        assert_eq!(error["exit_code"], 3, "{how}: {error}");
    }
    let error = error(&daemon, "shell", &json!("echo half a result; echo why >&2; exit 7"), "exit");
    assert_eq!(error["exit_code"], 7, "{error}");
    let ran = daemon.run("shell", &json!("echo the reason >&2; exit 9")).expect(1);
    ran.says(&["exit", "9"]);
}

fn signals() {
    let daemon = shared();
    for (task, input, signal) in [
        ("probe", json!({"do": "signal", "signal": 9}), 9),
        ("probe", json!({"do": "segfault"}), 11),
        ("shell", json!("kill -SEGV $$"), 11),
        ("shell", json!("kill -TERM $$"), 15),
    ] {
        let error = error(&daemon, task, &input, "signal");
        assert_eq!(error["signal"], signal, "{error}");
    }
}

fn results() {
    let daemon = shared();
    for input in [json!({"do": "unserializable"}), json!({"do": "nan"})] {
        error(&daemon, "probe", &input, "invalid_result");
    }
    assert_eq!(daemon.result("shell", &json!("true")), Value::Null, "no output is null");
    for line in ["echo not json", "printf [1,]", "printf 1; printf ' 2'"] {
        error(&daemon, "shell", &json!(line), "invalid_result");
    }
    error(&daemon, "probe", &json!({"do": "big", "bytes": (6 << 20) + 1}), "result_too_large");
    let exact = daemon.result("probe", &json!({"do": "big", "bytes": (6 << 20) - 2}));
    assert_eq!(exact.as_str().unwrap().len(), (6 << 20) - 2);
    let too_much = json!("head -c 7340032 /dev/zero");
    error(&daemon, "shell", &too_much, "result_too_large");
}

/// A copy of `probe` or `shell` with another name and policy.
fn variant(daemon: &Daemon, of: &str, name: &str, policy: &[(&str, &str)]) {
    daemon.push(TaskFolder::copy(of).named(name, policy).path());
    daemon.template(name);
}

fn endless_loops() {
    let daemon = shared();
    variant(&daemon, "probe", "short-python", &[("memory", "\"128MiB\""), ("timeout", "\"1s\"")]);
    variant(&daemon, "shell", "short-exec", &[("memory", "\"64MiB\""), ("timeout", "\"1500ms\"")]);
    for (task, input, limit) in [
        ("short-python", json!({"do": "loop"}), "1s"),
        ("short-python", json!({"do": "sleep", "seconds": 600}), "1s"),
        ("short-exec", json!("while :; do :; done"), "1500ms"),
    ] {
        let execution = daemon.fails(task, &input, "timeout");
        assert_eq!(execution["state"], "timed_out");
        assert!(execution["error"].to_string().contains(limit), "{execution:#}");
    }
    let ran = daemon.run("short-python", &json!({"do": "loop"})).expect(1);
    ran.says(&["timed out", "timeout", "1s"]);
}

/// Both at the same time as a neighbour. They need their time: each page that they touch is a fault that the guest's kernel has to take.
fn memory_hog() {
    let daemon = shared();
    variant(&daemon, "probe", "hungry-python", &[("memory", "\"128MiB\""), ("timeout", "\"10m\"")]);
    variant(&daemon, "shell", "hungry-exec", &[("memory", "\"64MiB\""), ("timeout", "\"10m\"")]);
    let hogs = [
        ("128MiB", daemon.submit("hungry-python", &json!({"do": "hog"}))),
        ("64MiB", daemon.submit("hungry-exec", &json!("x=0123456789abcdef; while :; do x=$x$x$x; done"))),
    ];
    let neighbour = daemon.submit("probe", &json!({"do": "sleep", "seconds": 3}));
    assert_eq!(daemon.wait_for_end(&neighbour)["state"], "succeeded");
    for (limit, id) in hogs {
        let ended = until("the end of a hog", Duration::from_secs(600), || {
            let execution = daemon.get(&format!("/v1/executions/{id}?wait=30")).expect(200);
            execution["finished_at"].is_string().then_some(execution)
        });
        assert_eq!(ended["error"]["kind"], "out_of_memory", "{ended:#}");
        assert!(ended["error"].to_string().contains(limit), "the policy's limit is not named: {ended:#}");
    }
}

/// What it does inside is its own business; it ends with its VM at the latest when its time is over, and others run meanwhile.
fn fork_bomb() {
    let daemon = shared();
    variant(&daemon, "probe", "bomb", &[("memory", "\"128MiB\""), ("timeout", "\"4s\"")]);
    let bomb = daemon.submit("bomb", &json!({"do": "fork_bomb"}));
    daemon.wait_for(&bomb, "running");
    assert_eq!(daemon.result("probe", &json!(7)), 7);
    let ended = daemon.wait_for_end(&bomb);
    let kind = ended["error"]["kind"].as_str().unwrap();
    assert!(["timeout", "out_of_memory", "signal", "exit"].contains(&kind), "{ended:#}");
    assert_eq!(daemon.result("probe", &json!(8)), 8);
}

/// 1 GiB from Python, whose output leaves through the door, and some MiB through the kernel's pipes: kept to the cap, and the daemon does not grow.
fn floods_of_output() {
    let daemon = shared();
    variant(&daemon, "probe", "flood", &[("memory", "\"128MiB\""), ("timeout", "\"100s\""), ("log_cap", "\"64KiB\"")]);
    let before = resident(daemon.pid());
    let id = daemon.submit("flood", &json!({"do": "print", "bytes": 1 << 30}));
    let mut peak = before;
    let start = Instant::now();
    let ended = loop {
        let execution = daemon.get(&format!("/v1/executions/{id}?wait=1")).expect(200);
        peak = peak.max(resident(daemon.pid()));
        if execution["finished_at"].is_string() {
            break execution;
        }
        assert!(start.elapsed() < Duration::from_secs(140));
    };
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert!(peak < before + (64 << 20), "torpord grew from {before} to {peak} bytes");
    let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
    let kept: usize = logs["entries"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap().len()).sum();
    assert!((32 << 10..=80 << 10).contains(&kept), "{kept} bytes kept");
    assert_eq!(logs["truncated"], true);
    let ran = daemon.cli(&["logs", &id]).expect(0);
    ran.says(&["log_cap"]);

    let execution = daemon.execute("shell", &json!("yes flour | head -c 4194304 >&2; echo 1"));
    assert_eq!(execution["state"], "succeeded", "{execution:#}");
    let logs = daemon.get(&format!("/v1/executions/{}/logs", execution["id"].as_str().unwrap())).expect(200);
    let kept: usize = logs["entries"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap().len()).sum();
    assert!(((1 << 20) - (128 << 10)..=(1 << 20) + (128 << 10)).contains(&kept), "{kept} bytes kept");
}

fn output_of_all_kinds() {
    let daemon = shared();
    let execution = daemon.execute("probe", &json!({"do": "speak"}));
    let id = execution["id"].as_str().unwrap();
    let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
    let of = |stream: &str| {
        let entries = logs["entries"].as_array().unwrap().iter().filter(|entry| entry["stream"] == stream);
        entries.map(|entry| entry["text"].as_str().unwrap()).collect::<String>()
    };
    for line in ["on stdout\n", "raw on stdout\n", "from a child\n"] {
        assert!(of("stdout").contains(line), "{line:?} is not in {logs:#}");
    }
    for line in ["on stderr\n", "a warning"] {
        assert!(of("stderr").contains(line), "{line:?} is not in {logs:#}");
    }
    assert_eq!(logs["truncated"], false);
    let text = daemon.cli(&["logs", id]).expect(0).stdout;
    assert!(text.contains("raw on stdout\n") && text.contains("on stderr\n"), "{text}");
    let shell = daemon.execute("shell", &json!("echo a line >&2; echo 1"));
    assert_eq!(daemon.cli(&["logs", shell["id"].as_str().unwrap()]).expect(0).stdout, "a line\n");
}

/// What a program writes after the last of its children has ended, and just before its own end, is there whole; on a host that is short of processors too.
fn output_up_to_the_end() {
    let daemon = shared();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let _over = Over(&over);
        outputs_are_whole(&daemon);
    });
}

fn outputs_are_whole(daemon: &Daemon) {
    let program = json!("for i in 1 2 3 4 5 6; do x=$(true); done; echo last >&2; echo 1");
    for _ in 0..15 {
        let ids: Vec<_> = (0..12).map(|_| daemon.submit("shell", &program)).collect();
        for id in ids {
            let ended = daemon.wait_for_end(&id);
            assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(1)), "{ended:#}");
            let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
            assert_eq!(logs["entries"][0]["text"], "last\n", "{logs:#}");
        }
    }
}

fn logs_while_it_runs() {
    let daemon = shared();
    let id = daemon.submit("probe", &json!({"do": "tick", "count": 6, "seconds": 0.5}));
    let followed = daemon.cli_start(&["logs", "-f", &id], b"");
    until("the first tick", Duration::from_secs(60), || {
        let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
        logs["entries"].as_array().is_some_and(|entries| !entries.is_empty()).then_some(())
    });
    assert!(!daemon.execution(&id)["finished_at"].is_string(), "logs come while the program runs");
    let ticks: String = (0..6).map(|number| format!("tick {number}\n")).collect();
    assert_eq!(followed.end().expect(0).stdout, ticks);
    assert_eq!(daemon.cli(&["logs", "-f", &id]).expect(0).stdout, ticks, "following one that has ended gives all of it");
}

fn cancelled_in_every_state() {
    let daemon = shared();
    let running = daemon.submit("probe", &json!({"do": "loop"}));
    daemon.wait_for(&running, "running");
    daemon.cli(&["cancel", &running]).expect(0);
    let ended = daemon.wait_for_end(&running);
    assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("cancelled"), &json!("cancelled")), "{ended:#}");
    daemon.cli(&["cancel", &running]).expect(2).says(&["not_cancellable"]);
    // At once after its submission: queued or starting.
    let early = daemon.submit("probe", &json!({"do": "loop"}));
    daemon.cli(&["cancel", &early]).expect(0);
    assert_eq!(daemon.wait_for_end(&early)["state"], "cancelled");
    let done = daemon.execute("probe", &json!(1));
    daemon.post(&format!("/v1/executions/{}/cancel", done["id"].as_str().unwrap()), b"").refused(409, "not_cancellable");
    // Whoever waits for it is told.
    variant(&daemon, "shell", "waited-for", &[("memory", "\"64MiB\""), ("timeout", "\"150s\"")]);
    let waiting = daemon.cli_start(&["run", "waited-for", "--input", "\"sleep 140\""], b"");
    let id = until("the execution", Duration::from_secs(30), || {
        let list = daemon.get("/v1/executions?task=waited-for").expect(200);
        list["executions"].as_array()?.first().map(|execution| execution["id"].as_str().unwrap().to_owned())
    });
    daemon.cli(&["cancel", &id]).expect(0);
    waiting.end().expect(1).says(&["cancelled"]);
}

/// What `retries` is for, and what it is not for: the same code loads no better, and time that is used up stays used up.
fn retries() {
    let daemon = shared();
    variant(&daemon, "shell", "retried", &[("memory", "\"64MiB\""), ("retries", "2"), ("timeout", "\"5m\"")]);
    variant(&daemon, "shell", "retried-in-vain", &[("memory", "\"64MiB\""), ("retries", "2"), ("timeout", "\"2s\"")]);
    let execution = daemon.fails("retried", &json!("echo again >&2; exit 1"), "exit");
    assert_eq!(execution["attempts"], 3, "{execution:#}");
    let log = daemon.cli(&["logs", execution["id"].as_str().unwrap()]).expect(0).stdout;
    assert_eq!(log, "again\n".repeat(3));
    assert_eq!(daemon.fails("retried-in-vain", &json!("while :; do :; done"), "timeout")["attempts"], 1);
}
