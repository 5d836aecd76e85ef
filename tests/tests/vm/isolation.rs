//! What a program can see and do: nothing of other executions, nothing of the host, nothing beyond its user's rights; and what becomes of one that breaks
//! the rules of the door.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![executions_share_nothing, unprivileged, rules_of_the_door, clock];

const MANY: usize = 100;

/// Runs the same input many times, eight at a time.
fn many(daemon: &Daemon, input: &Value) -> Vec<Value> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                scope.spawn(move || {
                    let count = MANY / 8 + usize::from(worker < MANY % 8);
                    (0..count).map(|_| daemon.execute("probe", input)).collect::<Vec<_>>()
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

/// 100 executions of one template: none sees what another wrote, none draws another's random numbers.
fn executions_share_nothing() {
    let daemon = shared();
    for execution in many(&daemon, &json!({"do": "state"})) {
        let result = &execution["result"];
        assert_eq!((&result["found"], &result["seen"]), (&json!(false), &json!(1)), "{execution:#}");
    }
    let executions = many(&daemon, &json!({"do": "random"}));
    assert_eq!(executions.len(), MANY);
    for source in ["urandom", "getrandom", "uuid4", "random", "boot_id"] {
        let values: BTreeSet<_> = executions.iter().map(|execution| execution["result"][source].to_string()).collect();
        assert_eq!(values.len(), MANY, "{source} repeats");
    }
}

fn unprivileged() {
    let daemon = shared();
    let who = daemon.result("probe", &json!({"do": "who"}));
    assert_ne!(who["uid"], 0);
    assert!(who["caps"].as_array().unwrap().iter().take(2).all(|caps| caps.as_str().unwrap().trim_start_matches('0').is_empty()), "{who}");
    for (what, outcome) in who["tries"].as_object().unwrap() {
        assert_ne!(outcome, "allowed", "{what}: {who:#}");
    }
    let shell = daemon.result("shell", &json!("id -u"));
    assert_ne!(shell, 0);
    // No network device but the loopback.
    let devices = daemon.result("shell", &json!("ls /sys/class/net | wc -w"));
    assert!(devices.as_u64().unwrap() <= 1, "{devices}");
}

/// The language host's memory belongs to the program in it. Whatever it sends, the daemon drops the guest with a reason.
fn rules_of_the_door() {
    let daemon = shared();
    const LOG: u8 = 68;
    const RESULT: u8 = 69;
    let cases = [
        ("an unknown kind", json!({"kind": 200, "body": "00"})),
        ("a kind of the other side", json!({"kind": 2, "body": "00"})),
        ("a log that names no stream", json!({"kind": LOG, "body": "09aa"})),
        ("a frame longer than the box", json!({"kind": RESULT, "body": "00", "announced": u32::MAX})),
        ("a box longer than it is", json!({"kind": RESULT, "body": "00", "length": 1_u64 << 40})),
        ("an empty box", json!({"kind": RESULT, "body": "00", "length": 0})),
        ("less than announced", json!({"kind": RESULT, "body": "0031", "announced": 200})),
        ("a failure that is not JSON", json!({"kind": 70, "body": "7b"})),
        ("a second start", json!({"kind": 67, "body": "", "then_sleep": 60})),
    ];
    for (what, mut input) in cases {
        input["do"] = json!("door");
        let execution = daemon.execute("probe", &input);
        assert_eq!(execution["error"]["kind"], "guest_protocol", "{what}: {execution:#}");
        assert!(!execution["error"]["message"].as_str().unwrap().is_empty(), "{what}");
    }
    // A result by its own hand is a result, if it is JSON.
    let own = daemon.execute("probe", &json!({"do": "door", "kind": RESULT, "body": "0037"}));
    assert_eq!(own["result"], 7, "{own:#}");
    let wrong = daemon.execute("probe", &json!({"do": "door", "kind": RESULT, "body": "007b"}));
    assert_eq!(wrong["error"]["kind"], "invalid_result", "{wrong:#}");
    assert_eq!(daemon.result("probe", &json!("still well")), "still well");
}

fn clock() {
    let daemon = shared();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let before = now();
    let guest = daemon.result("probe", &json!({"do": "random"}))["clock"].as_f64().unwrap();
    let after = now();
    assert!(before - 0.05 < guest && guest < after + 0.05, "guest {guest}, host {before} to {after}");
}
