//! What a further attempt finds of the calls that earlier ones made.

use super::life::{events, with};
use crate::manifest::{Park, Policy, Replay};
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::{Execution, Version};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn policy() -> Policy {
    Policy { retries: 3, ..Policy::default() }
}

async fn submit(daemon: &Daemon, version: &Arc<Version>, input: &Value) -> Arc<Live> {
    let live = daemon.dispatcher.submit(Arc::clone(version), input.to_string().into_bytes().into()).unwrap();
    live.stored().await.unwrap();
    live
}

async fn run(daemon: &Daemon, version: &Arc<Version>, input: &Value) -> Arc<Execution> {
    submit(daemon, version, input).await.ended().await
}

fn began(daemon: &Daemon) -> usize {
    daemon.runner.began.lock().unwrap().len()
}

async fn nothing_lives(daemon: &Daemon) {
    let gone = async {
        while !daemon.dispatcher.all_live().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

fn result(execution: &Execution) -> Value {
    serde_json::from_str(execution.result.as_ref().unwrap_or_else(|| panic!("{execution:?}")).get()).unwrap()
}

#[tokio::test]
async fn calls_that_were_done_are_not_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = with(policy());
    daemon.put(&version).await;
    let calls = json!([{"ask": "call", "task": "t"}, {"ask": "spawn", "task": "t"}, {"ask": "wait", "executions": [], "results": true}]);
    let ended = run(&daemon, &version, &json!({"asks": calls, "fail": "exception", "works_at": 3, "payload": {"ms": 5}})).await;
    assert_eq!((ended.state, ended.attempts), (State::Succeeded, 3));
    assert_eq!(began(&daemon), 3 + 2, "three attempts, and each call once");
    let answers = result(&ended);
    assert_eq!((&answers[0]["payload"], &answers[2]["payload"]), (&json!("1"), &json!("1")));
    assert_eq!(events(&ended).iter().filter(|event| *event == "replaying").count(), 2);
    nothing_lives(&daemon).await;
}

#[tokio::test]
async fn what_failed_is_run_again_and_what_comes_after_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = with(policy());
    daemon.put(&version).await;
    // Two calls, of which the first fails each time: the second is kept all the same.
    let calls = json!([{"ask": "call", "task": "t@nothing1"}, {"ask": "call", "task": "t"}]);
    let ended = run(&daemon, &version, &json!({"asks": calls, "fail": "exception", "works_at": 2})).await;
    assert_eq!((ended.attempts, began(&daemon)), (2, 2 + 1));
}

#[tokio::test]
async fn with_replay_none_all_is_run_anew() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = with(Policy { replay: Replay::None, ..policy() });
    daemon.put(&version).await;
    let calls = json!([{"ask": "call", "task": "t"}]);
    let ended = run(&daemon, &version, &json!({"asks": calls, "fail": "exception", "works_at": 3})).await;
    assert_eq!((ended.attempts, began(&daemon)), (3, 3 + 3));
}

/// A daemon of its own runtime: when that ends, it is gone as if killed.
fn until_killed<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let value = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_secs(1));
    value
}

#[test]
fn a_restart_in_the_middle_runs_no_call_twice() {
    let folder = tempfile::tempdir().unwrap();
    // Parked it would just go on.
    let version = with(Policy { park: Park::Never, ..policy() });
    // The first call is done, the second goes on, when the daemon is gone.
    let calls = json!([{"ask": "call", "task": "t"}, {"ask": "call", "task": "t"}]);
    let input = json!({"asks": calls, "payload": {"ms": 300}});
    let id = until_killed(async {
        let daemon = Daemon::start(folder.path(), 1024).await;
        daemon.put(&version).await;
        let live = submit(&daemon, &version, &input).await;
        while began(&daemon) < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        live.id.clone()
    });
    until_killed(async {
        let daemon = Daemon::start(folder.path(), 1024).await;
        let ended = daemon.dispatcher.live(&id).unwrap().ended().await;
        assert_eq!(ended.state, State::Succeeded, "{ended:?}");
        let began = daemon.runner.began.lock().unwrap().clone();
        let children = began.iter().filter(|other| **other != *id.as_str()).count();
        assert_eq!((ended.attempts, children), (2, 1), "the first is known, and the second is the one that was going on: {began:?}");
        nothing_lives(&daemon).await;
    });
}

#[tokio::test]
async fn what_no_attempt_wants_any_more_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = with(policy());
    daemon.put(&version).await;
    let spawn = json!([{"ask": "spawn", "task": "t"}]);
    // A newer version of the callee: the second attempt's call is another one, and nobody wants the first.
    let live = submit(&daemon, &version, &json!({"asks": spawn, "fail": "exception", "works_at": 2, "payload": {"ms": 60_000}})).await;
    let ended = live.ended().await;
    assert_eq!((ended.state, ended.attempts), (State::Succeeded, 2));
    assert_eq!(daemon.dispatcher.all_live().len(), 1, "one was spawned, and it is the one of both attempts");
    for child in daemon.dispatcher.all_live() {
        daemon.dispatcher.cancel(&child.id).await.unwrap().unwrap();
    }
}
