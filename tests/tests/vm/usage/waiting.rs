//! Executions that wait, as people see and steer them.

use super::novel;
use nix::pty::openpty;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::setup::root;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::until;

/// Two tasks, a timer and a signal: parked for each, and none of it is seen in the result.
pub(super) fn order_example() {
    let daemon = shared();
    for name in ["wordcount", "checksum", "order"] {
        daemon.push(&root().join("examples").join(name));
        daemon.template(name);
    }
    let id = daemon.submit("order", &json!(novel()));
    let waits = |execution: &Value| execution["state"] == "parked" && execution["waiting"][0]["for"] == "event";
    let parked = until("the wait for its payment", Duration::from_secs(60), || Some(daemon.execution(&id)).filter(waits));
    let children = daemon.get("/v1/executions?all=true&limit=1000").expect(200);
    let children = children["executions"].as_array().unwrap().iter().filter(|child| child["parent"] == json!(id)).count();
    assert_eq!((children, &parked["parks"]), (2, &json!(3)), "{parked:#}");
    daemon.cli(&["signal", parked["waiting"][0]["token"].as_str().unwrap(), "--data", "\"Captain Wentworth\""]).expect(0);
    let ended = daemon.wait_for_end(&id);
    let expected = fs::read_to_string(root().join("examples/data/order.expected.json")).unwrap();
    assert_eq!(ended["result"], serde_json::from_str::<Value>(&expected).unwrap(), "{ended:#}");
    assert!(ended["parked_ms"].as_u64().unwrap() >= 1500, "{ended:#}");
}

/// What `torpor` prints on a terminal.
fn on_terminal(daemon: &Daemon, arguments: &[&str]) -> String {
    let pty = openpty(None, None).unwrap();
    let mut command = daemon.torpor();
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::from(pty.slave));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut shown = Vec::new();
    // A terminal whose other end is closed gives an error.
    let _ = File::from(pty.master).read_to_end(&mut shown);
    let shown = String::from_utf8(shown).unwrap().replace('\r', "");
    assert!(child.wait().unwrap().success(), "{shown}");
    shown
}

/// A waiter that has come to its event: its id and the token, which it has printed.
fn at_its_event(daemon: &Daemon, task: &str, steps: &Value, state: &str) -> (String, String) {
    let id = daemon.submit(task, &json!({"do": steps}));
    let waits = |execution: &Value| execution["state"] == state && execution["waiting"][0]["for"] == "event";
    let execution = until("a wait for an event", Duration::from_secs(60), || Some(daemon.execution(&id)).filter(waits));
    let token = execution["waiting"][0]["token"].as_str().unwrap().to_owned();
    let log = daemon.cli(&["logs", &id]).expect(0).stdout;
    let printed =
        log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| line["token"].as_str().map(str::to_owned));
    assert_eq!(printed, Some(token.clone()), "{log}");
    (id, token)
}

fn waiter(daemon: &Daemon) {
    daemon.push(TaskFolder::copy("waiter").path());
    daemon.template("waiter");
}

pub(super) fn waits_are_seen() {
    let daemon = shared();
    waiter(&daemon);
    let (id, token) = at_its_event(&daemon, "waiter", &json!([["count"], ["event"], ["count"], ["call", "probe", 5]]), "parked");
    let list = daemon.cli(&["ps", "--task", "waiter"]).expect(0).json();
    let listed = list["executions"].as_array().unwrap().iter().find(|execution| execution["id"] == json!(id)).unwrap().clone();
    assert_eq!((&listed["waiting"][0]["token"], &listed["parks"]), (&json!(token), &json!(1)), "{listed:#}");
    assert!(listed["parked_since"].is_string(), "{listed:#}");
    let table = on_terminal(&daemon, &["ps", "--task", "waiter"]);
    let row = table.lines().find(|line| line.starts_with(&id)).unwrap();
    assert!(table.lines().next().unwrap().ends_with("WAITS FOR") && row.contains(&format!("event {token}, parked ")), "{table}");
    let shown = on_terminal(&daemon, &["inspect", &id]);
    for line in ["state      parked\n", "parked     once, ", "RAM saved  128 MiB x ", &format!("waits for  event {token}\n")] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    assert!(on_terminal(&daemon, &["doctor"]).contains(" parked ("));

    daemon.cli(&["signal", &token, "--data", "[1]"]).expect(0);
    let ended = daemon.wait_for_end(&id);
    assert_eq!(ended["result"], json!([1, [1], 2, 5]), "{ended:#}");
    let shown = on_terminal(&daemon, &["inspect", &id]);
    let line = |event: &str| {
        shown.lines().find(|line| line.split_whitespace().nth(2) == Some(event)).unwrap_or_else(|| panic!("{event}: {shown}"))
    };
    assert!(line("parked").contains(&format!("for event {token}; ")) && line("parked").contains(" on disk, in "), "{shown}");
    assert!(line("resuming").ends_with(" without a machine") && line("resumed").ends_with(" monitor"), "{shown}");
    assert!(line("finished").contains("succeeded") && !shown.contains("waits for"), "{shown}");
    let children = daemon.get("/v1/executions?all=true&task=probe&limit=1000").expect(200);
    let child = children["executions"].as_array().unwrap().iter().find(|child| child["parent"] == json!(id)).unwrap();
    let shown = on_terminal(&daemon, &["inspect", child["id"].as_str().unwrap()]);
    assert!(shown.contains(&format!("parent     {id}\n")), "{shown}");
}

pub(super) fn signals() {
    let daemon = shared();
    waiter(&daemon);
    let (id, first) = at_its_event(&daemon, "waiter", &json!([["event"], ["event"], ["event"]]), "parked");
    daemon.cli(&["signal", &first, "--data", "[1,"]).expect(2).says(&["invalid_input", "not JSON"]);
    daemon.cli(&["signal", &first, "--data", "@/no/such/file"]).expect(2).says(&["/no/such/file"]);
    let file = TaskFolder::empty().file("data.json", "{\"from\": \"a file\"}").file("large.json", json!("x".repeat(1 << 20)).to_string());
    let argument = |name: &str| format!("@{}", file.path().join(name).display());
    daemon.cli(&["signal", &first, "--data", &argument("large.json")]).expect(2).says(&["large.json", "1.0 MiB"]);
    assert_eq!(daemon.execution(&id)["state"], "parked", "nothing of this was a signal");
    assert_eq!(daemon.cli(&["signal", &first, "--data", &argument("data.json")]).expect(0).json(), json!({"signalled": first}));
    daemon.cli(&["signal", &first]).expect(2).says(&["event_used", "once"]);
    let next = |before: &str| {
        until("the next event", Duration::from_secs(60), || {
            let token = daemon.execution(&id)["waiting"][0]["token"].as_str()?.to_owned();
            (token != before).then_some(token)
        })
    };
    let second = next(&first);
    daemon.cli_with(&["signal", &second, "--data", "-"], b"[\"from\", \"a pipe\"]").expect(0);
    daemon.cli(&["signal", &next(&second)]).expect(0);
    assert_eq!(daemon.wait_for_end(&id)["result"], json!([{"from": "a file"}, ["from", "a pipe"], null]));
    daemon.cli(&["signal", "ev_none"]).expect(2).says(&["unknown_event", "torpor ps"]);
    daemon.cli(&["signal", "../tasks"]).expect(2);
}

pub(super) fn parked_and_resumed_by_hand() {
    let daemon = shared();
    daemon.push(TaskFolder::copy("waiter").named("kept-waiter", &[("park", "\"never\""), ("calls", "[\"*\"]")]).path());
    daemon.template("kept-waiter");
    let (id, token) = at_its_event(&daemon, "kept-waiter", &json!([["fill", 2, 7], ["event"], ["sum"]]), "running");
    // A machine that was just brought back runs for a moment before it stands and waits again.
    let park = |id: &str| {
        until("its park", Duration::from_secs(20), || {
            let ran = daemon.cli(&["park", id]);
            if ran.code != 0 {
                ran.says(&["not_parked", "it runs"]);
                return None;
            }
            Some(ran.json())
        })
    };
    for parks in 1..=2 {
        let parked = park(&id);
        assert_eq!((&parked["state"], &parked["parks"]), (&json!("parked"), &json!(parks)), "{parked:#}");
        daemon.cli(&["resume", &id]).expect(0);
        daemon.wait_for(&id, "running");
    }
    daemon.cli(&["resume", &id]).expect(2).says(&["not_parked", "it is not parked"]);
    park(&id);
    assert_eq!(on_terminal(&daemon, &["park", &id]), format!("{id}  parked\n"), "it is already");
    daemon.cli(&["signal", &token]).expect(0);
    let ended = daemon.wait_for_end(&id);
    let results = ended["result"].as_array().unwrap();
    assert_eq!((results[0].clone(), &results[1]), (results[2].clone(), &Value::Null), "its memory is as it was: {ended:#}");
    daemon.cli(&["park", &id]).expect(2).says(&["not_parked", "succeeded"]);
    let busy = daemon.submit("probe", &json!({"do": "sleep", "seconds": 30}));
    daemon.wait_for(&busy, "running");
    daemon.cli(&["park", &busy]).expect(2).says(&["not_parked", "it runs"]);
    daemon.cli(&["cancel", &busy]).expect(0);
    for command in ["park", "resume", "events"] {
        daemon.cli(&[command, "ex_00000000000000000000000000"]).expect(2).says(&["unknown_execution"]);
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

pub(super) fn events_are_followed() {
    let daemon = shared();
    waiter(&daemon);
    let (id, token) = at_its_event(&daemon, "waiter", &json!([["event"]]), "parked");
    let following = daemon.cli_start(&["events", &id], b"");
    daemon.cli(&["signal", &token]).expect(0);
    let told = lines(&following.end().expect(0).stdout);
    let told: Vec<_> = told.into_iter().map(|line| line["entry"].clone()).collect();
    let ended = daemon.execution(&id);
    assert_eq!(json!(told), ended["timeline"], "each entry once, in order, to the end");
    let rest = lines(&daemon.cli(&["events", &id, "--from", "3"]).expect(0).stdout);
    assert_eq!((rest.len(), &rest[0]["entry"]), (told.len() - 3, &told[3]));
    let shown = on_terminal(&daemon, &["events", &id]);
    assert_eq!(shown.lines().count(), told.len(), "{shown}");
    assert!(shown.lines().any(|line| line.contains(&format!("parked      for event {token}; "))), "{shown}");
}

/// A follower is none the worse for a daemon that is killed.
pub(super) fn events_over_a_restart() {
    let mut daemon = Daemon::start_with_templates(Options::default());
    waiter(&daemon);
    let (id, token) = at_its_event(&daemon, "waiter", &json!([["event"]]), "parked");
    let following = daemon.cli_start(&["events", &id], b"");
    std::thread::sleep(Duration::from_millis(500));
    daemon.kill();
    daemon.start_again();
    assert_eq!(daemon.execution(&id)["state"], "parked");
    daemon.cli(&["signal", &token, "--data", "7"]).expect(0);
    let ended = daemon.wait_for_end(&id);
    assert_eq!(ended["result"], json!([7]), "{ended:#}");
    let told: Vec<_> = lines(&following.end().expect(0).stdout).into_iter().map(|line| line["entry"].clone()).collect();
    assert_eq!(json!(told), ended["timeline"], "each entry once, in order, to the end");
}
