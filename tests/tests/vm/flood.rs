//! One account floods the host over its API; another wants one execution.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::http;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![thousands_of_one_account_do_not_hold_up_another];

const FLOOD: usize = 2000;

/// An account with the task `shell`, as the one who has its token sees it.
struct Account<'a> {
    daemon: &'a Daemon,
    header: String,
}

impl<'a> Account<'a> {
    fn new(daemon: &'a Daemon, name: &str) -> Self {
        daemon.cli(&["account", "add", name]).expect(0);
        let folder = TaskFolder::copy("shell");
        daemon.cli(&["--account", name, "task", "push", folder.path().to_str().unwrap()]).expect(0);
        assert_eq!(daemon.cli(&["--account", name, "run", "shell", "--input", "\"echo 1\""]).expect(0).json(), 1);
        let token = daemon.cli(&["--account", name, "token", "create", "--role", "invoker"]).expect(0).stdout;
        Self { daemon, header: format!("Authorization: Bearer {}\r\n", token.trim()) }
    }

    fn ask(&self, method: &str, path: &str, body: &str, status: u16) -> Value {
        http::try_request_with(&self.daemon.socket(), method, path, &self.header, body.as_bytes()).expect("an answer").expect(status)
    }

    fn submit(&self, line: &str) -> String {
        let execution = self.ask("POST", "/v1/tasks/shell/executions", &json!(line).to_string(), 201);
        execution["id"].as_str().unwrap().to_owned()
    }

    fn state(&self, id: &str) -> Value {
        self.ask("GET", &format!("/v1/executions/{id}"), "", 200)
    }

    fn end(&self, id: &str) -> Value {
        until(&format!("the end of {id}"), Duration::from_secs(100), || {
            Some(self.ask("GET", &format!("/v1/executions/{id}?wait=20"), "", 200)).filter(|one| one["finished_at"].is_string())
        })
    }

    /// Ids and moments of the first starts, of all that were started.
    fn starts(&self) -> BTreeSet<(String, String)> {
        let of = |state: &str| self.ask("GET", &format!("/v1/executions?all=true&limit=1000&state={state}"), "", 200);
        let lists = ["starting", "running", "succeeded", "cancelled"].map(of);
        let all = lists.iter().flat_map(|list| list["executions"].as_array().unwrap());
        all.filter_map(|one| Some((starting(one)?, one["id"].as_str().unwrap().to_owned()))).collect()
    }
}

/// When it was given its place.
fn starting(execution: &Value) -> Option<String> {
    let entry = execution["timeline"].as_array().unwrap().iter().find(|entry| entry["event"] == "starting")?;
    Some(entry["at"].as_str().unwrap().to_owned())
}

/// The one has the next place that is free, and so has the next one that comes while the others' are run.
fn thousands_of_one_account_do_not_hold_up_another() {
    let daemon = Daemon::start(Options { arguments: ["--max-vms", "1"].map(str::to_owned).into(), ..Options::default() });
    let (many, few) = (Account::new(&daemon, "many"), Account::new(&daemon, "few"));
    let blocker = many.submit("sleep 100");
    daemon_runs(&many, &blocker);
    for _ in 0..FLOOD {
        many.submit("sleep 0.3; echo 1");
    }
    let before = many.starts();
    let first = few.submit("sleep 0.3; echo 2");
    many.ask("POST", &format!("/v1/executions/{blocker}/cancel"), "", 200);
    between(&many, &before, &few.end(&first), 0);

    // Now those of the flood are run, one after the other.
    until("the flood", Duration::from_secs(60), || (many.starts().len() >= before.len() + 3).then_some(()));
    let second = few.submit("sleep 0.3; echo 2");
    let before = many.starts();
    between(&many, &before, &few.end(&second), 1);
    let waiting = daemon.get("/v1/load").expect(200);
    let load = waiting["accounts"].as_array().unwrap().iter().find(|account| account["account"] == "many" || account["name"] == "many");
    assert!(load.is_some_and(|load| load["queued"].as_u64().unwrap() > FLOOD as u64 / 2), "the flood was over: {load:?}");
}

fn daemon_runs(account: &Account<'_>, id: &str) {
    until("what holds the only place", Duration::from_secs(30), || (account.state(id)["state"] == "running").then_some(()));
}

/// At most so many of the flood were started before this one, but for those that had been.
fn between(many: &Account<'_>, before: &BTreeSet<(String, String)>, execution: &Value, most: usize) {
    assert_eq!(execution["result"], 2, "{execution:#}");
    let own = starting(execution).expect("it was started");
    let others: Vec<_> = many.starts().into_iter().filter(|start| !before.contains(start) && start.0 < own).collect();
    assert!(others.len() <= most, "{others:?} were started before {execution:#}");
}
