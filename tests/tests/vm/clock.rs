//! The host's clock jumps by a day, forward and back, while executions run, wait, are parked and have deadlines.

use crate::park::push_waiter;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![forward_by_a_day, back_by_a_day];

const DAY: i64 = 86_400;

/// `TORPOR_TEST_CLOCK` stands for the host's clock, which a test can't set without harm to all others.
struct Host {
    daemon: Daemon,
}

impl Host {
    fn new() -> Self {
        let mut daemon = Daemon::start_with_templates(Options {
            arguments: ["--max-vms", "4", "--keep", "100s"].map(str::to_owned).into(),
            ..Options::default()
        });
        let clock = daemon.folder().join("clock");
        fs::write(&clock, "0").unwrap();
        daemon.set_environment(&[("TORPOR_TEST_CLOCK", clock.to_str().unwrap())]);
        daemon.kill();
        daemon.start_again();
        push_waiter(&daemon, "waiter", &[("memory", "\"128MiB\""), ("timeout", "\"2m\""), ("deadline", "\"5m\""), ("park", "\"always\"")]);
        daemon.push(TaskFolder::copy("shell").named("shell", &[("memory", "\"64MiB\""), ("deadline", "\"5m\"")]).path());
        daemon.template("shell");
        Self { daemon }
    }

    fn jump(&self, seconds: i64) {
        let clock = self.daemon.folder().join("clock");
        let new = self.daemon.folder().join("clock.new");
        fs::write(&new, (seconds * 1_000_000).to_string()).unwrap();
        fs::rename(new, clock).unwrap();
    }
}

fn micros(at: &Value) -> i64 {
    chrono::DateTime::parse_from_rfc3339(at.as_str().unwrap()).unwrap().timestamp_micros()
}

/// It went well, and its record has the times that it took.
fn is_sound(execution: &Value, result: &Value) {
    assert_eq!((&execution["state"], &execution["result"]), (&json!("succeeded"), result), "{execution:#}");
    let timeline = execution["timeline"].as_array().unwrap();
    let times: Vec<i64> = timeline.iter().map(|entry| micros(&entry["at"])).collect();
    assert!(times.is_sorted(), "its time went back: {execution:#}");
    let whole = times.last().unwrap() - times[0];
    assert!((0..200_000_000).contains(&whole), "it took {whole} us: {execution:#}");
    assert!(execution["parked_ms"].as_u64().unwrap_or(0) < 200_000, "{execution:#}");
    assert_ne!(execution["late"], true, "{execution:#}");
}

fn jumps(seconds: i64) {
    let mut host = Host::new();
    let daemon = &host.daemon;
    let ended = daemon.execute("shell", &json!("echo 1"));
    let runs = daemon.submit("shell", &json!("sleep 6; echo 2"));
    let sleeps = daemon.submit("waiter", &json!({"do": [["sleep", 6], ["call", "shell", "echo 3"]]}));
    let waits = daemon.submit("waiter", &json!({"do": [["event"], ["call", "shell", "echo 4"]]}));
    let calls = daemon.submit("waiter", &json!({"do": [["call", "waiter", {"do": [["sleep", 6], ["call", "shell", "echo 5"]]}]]}));
    daemon.wait_for(&runs, "running");
    let token = daemon.wait_for(&waits, "parked")["waiting"][0]["token"].as_str().unwrap().to_owned();
    let asleep = daemon.wait_for(&sleeps, "parked");
    daemon.wait_for(&calls, "parked");
    let (until_then, since) = (micros(&asleep["waiting"][0]["until"]), micros(&asleep["waiting"][0]["since"]));
    assert_eq!(until_then - since, 6_000_000);

    host.jump(seconds);
    let daemon = &host.daemon;
    let later = daemon.submit("waiter", &json!({"do": [["sleep", 1], ["call", "shell", "echo 6"]]}));
    assert!(later > calls, "ids are in the order of submission");
    let created = micros(&daemon.execution(&later)["created_at"]);
    assert!((created - micros(&ended["created_at"]) - seconds * 1_000_000).abs() < 300_000_000, "what is new has the new time");
    let _ = daemon.post(&format!("/v1/events/{token}"), b"7").expect(204);
    is_sound(&daemon.wait_for_end(&runs), &json!(2));
    is_sound(&daemon.wait_for_end(&sleeps), &json!([null, 3]));
    is_sound(&daemon.wait_for_end(&waits), &json!([7, 4]));
    is_sound(&daemon.wait_for_end(&calls), &json!([[null, 5]]));
    is_sound(&daemon.wait_for_end(&later), &json!([null, 6]));
    // What is over is kept for its time, which is looked at every second.
    std::thread::sleep(Duration::from_secs(3));
    for id in [ended["id"].as_str().unwrap(), &runs, &sleeps, &waits, &calls, &later] {
        assert_eq!(daemon.execution(id)["state"], "succeeded");
    }

    // A restart between a jump back and the end of a wait: what is left of it is what was.
    let asleep = daemon.submit("waiter", &json!({"do": [["sleep", 4], ["call", "shell", "echo 8"]]}));
    daemon.wait_for(&asleep, "parked");
    host.jump(seconds - DAY);
    host.daemon.kill();
    host.daemon.start_again();
    is_sound(&host.daemon.wait_for_end(&asleep), &json!([null, 8]));
    until("the end of all", Duration::from_secs(30), || {
        host.daemon.get("/v1/executions").expect(200)["executions"].as_array().unwrap().is_empty().then_some(())
    });
}

fn forward_by_a_day() {
    jumps(DAY);
}

fn back_by_a_day() {
    jumps(-DAY);
}
