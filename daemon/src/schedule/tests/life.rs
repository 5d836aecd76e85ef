//! Executions that end in every way, are retried, cancelled, or find no room.

use crate::engine::ErrorKind;
use crate::manifest::{Declared, Policy};
use crate::schedule::dispatch::SubmitError;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::tests::version;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn with(policy: Policy) -> Arc<Version> {
    Arc::new(Version { policy, declared: Declared::of(&policy), ..(*version("t", 'a')).clone() })
}

async fn run(daemon: &Daemon, policy: Policy, script: &str) -> Arc<Execution> {
    let live = daemon.dispatcher.submit(with(policy), script.as_bytes().into()).unwrap();
    live.stored().await.unwrap();
    let ended = live.ended().await;
    // What was told is what is stored.
    let stored = daemon.store.execution(&ended.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&stored).unwrap(), serde_json::to_string(&*ended).unwrap());
    ended
}

pub(super) fn events(execution: &Execution) -> Vec<String> {
    let name = |what: &Happening| serde_json::to_value(what).unwrap()["event"].as_str().unwrap().to_owned();
    execution.timeline.iter().map(|entry| name(&entry.what)).collect()
}

#[tokio::test]
async fn an_execution_ends_with_its_result() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let ended = run(&daemon, Policy::default(), "{}").await;
    assert_eq!((ended.state, ended.attempts), (State::Succeeded, 1));
    assert_eq!(ended.result.as_ref().unwrap().get(), "1");
    assert_eq!(events(&ended), ["queued", "starting", "restored", "running", "finished"]);
    assert!(ended.created_at <= ended.started_at.unwrap() && ended.started_at <= ended.finished_at);
    assert!(daemon.dispatcher.all_live().is_empty());
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let timed_out = run(&daemon, Policy { timeout_ms: 1500, ..Policy::default() }, r#"{"time_out":true}"#).await;
    assert_eq!(timed_out.state, State::TimedOut);
    let error = timed_out.error.as_ref().unwrap();
    assert_eq!((error.kind, error.limit.as_deref()), (ErrorKind::Timeout, Some("1500ms")));
    let failed = run(&daemon, Policy::default(), r#"{"fail":"guest_crashed"}"#).await;
    assert_eq!((failed.state, failed.error.as_ref().unwrap().kind), (State::Failed, ErrorKind::GuestCrashed));
    let crashed = run(&daemon, Policy::default(), r#"{"panic":true}"#).await;
    assert_eq!((crashed.state, crashed.error.as_ref().unwrap().kind), (State::Failed, ErrorKind::Host));
    let lied = run(&daemon, Policy::default(), r#"{"lie":true}"#).await;
    assert_eq!((lied.state, lied.error.as_ref().unwrap().kind), (State::Failed, ErrorKind::Host));
    assert!(lied.result.is_none());
    assert_eq!(daemon.dispatcher.load().used, 0);
}

#[tokio::test]
async fn failures_are_retried_as_often_as_the_policy_says() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let twice = Policy { retries: 2, backoff_ms: 0, ..Policy::default() };
    let ended = run(&daemon, twice, r#"{"fail":"exception","works_at":3}"#).await;
    assert_eq!((ended.state, ended.attempts, ended.result.as_ref().unwrap().get()), (State::Succeeded, 3, "3"));
    let retry = ["retrying", "starting", "restored", "running"];
    assert_eq!(events(&ended)[4..8], retry);
    let ended = run(&daemon, twice, r#"{"fail":"exception","print":"x"}"#).await;
    assert_eq!((ended.state, ended.attempts), (State::Failed, 3));
    assert!(matches!(ended.timeline.last().unwrap().what, Happening::Finished { log_bytes: 3, .. }), "logs go on over attempts");
    for script in [r#"{"fail":"load"}"#, r#"{"time_out":true}"#] {
        assert_eq!(run(&daemon, twice, script).await.attempts, 1, "{script}");
    }
}

#[tokio::test]
async fn a_log_is_capped_and_what_was_dropped_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let ended = run(&daemon, Policy { log_cap: 100_000, ..Policy::default() }, r#"{"chunks":64}"#).await;
    let total = 64 * (64 << 10);
    let last = &ended.timeline.last().unwrap().what;
    assert_eq!(*last, Happening::Finished { state: State::Succeeded, log_bytes: 100_000, log_dropped_bytes: total - 100_000 });
}

#[tokio::test]
async fn the_budget_holds_and_the_order_too() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 300).await;
    let lives: Vec<_> = (0..20).map(|_| daemon.dispatcher.submit(with(Policy::default()), b"{\"ms\":5}"[..].into()).unwrap()).collect();
    assert_eq!((daemon.dispatcher.load().running, daemon.dispatcher.load().queued), (2, 18));
    for live in &lives {
        assert_eq!(live.ended().await.state, State::Succeeded);
    }
    assert!(daemon.runner.peak.load(Ordering::SeqCst) <= 300);
    // Two at a time, so two neighbours may change places between their threads; nothing may move further.
    let began = daemon.runner.began.lock().unwrap().clone();
    for (position, id) in began.iter().enumerate() {
        let place = lives.iter().position(|live| live.view().id.as_str() == id).unwrap();
        assert!(place.abs_diff(position) <= 1, "{id} was number {place} and began as number {position}");
    }
}

#[tokio::test]
async fn what_could_never_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 300).await;
    let large = with(Policy { memory_mib: 301, ..Policy::default() });
    let error = daemon.dispatcher.submit(large, b"0"[..].into()).unwrap_err();
    assert!(matches!(error, SubmitError::OverCapacity { .. }) && error.to_string().contains("300MiB"), "{error}");
}

#[tokio::test]
async fn a_cancel_ends_what_waits_and_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 128).await;
    let submit =
        |script: &str| daemon.dispatcher.submit(with(Policy { retries: 3, ..Policy::default() }), script.as_bytes().into()).unwrap();
    let (running, waiting, last) = (submit(r#"{"ms":60000}"#), submit("{}"), submit("{}"));
    let cancelled = daemon.dispatcher.cancel(&waiting.view().id).await.unwrap().unwrap();
    assert_eq!(cancelled.state, State::Cancelled);
    assert_eq!(events(&cancelled), ["queued", "cancelled", "finished"]);
    assert_eq!(cancelled.error.as_ref().unwrap().kind, ErrorKind::Cancelled);

    let cancelled = daemon.dispatcher.cancel(&running.view().id).await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.attempts), (State::Cancelled, 1));
    assert_eq!(last.ended().await.state, State::Succeeded);
    assert!(daemon.dispatcher.cancel(&running.view().id).await.is_none(), "it is not live any more");
    let waited = waiting.view().id.to_string();
    assert!(!daemon.runner.began.lock().unwrap().contains(&waited));
}

#[tokio::test]
async fn cancels_and_ends_that_cross_leave_one_end() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    for ms in 0..30 {
        let live = daemon.dispatcher.submit(with(Policy::default()), format!("{{\"ms\":{}}}", ms % 4).into_bytes().into()).unwrap();
        tokio::time::sleep(Duration::from_millis(ms % 5)).await;
        let id = live.view().id.clone();
        let (_, ended) = tokio::join!(daemon.dispatcher.cancel(&id), live.ended());
        let stored = daemon.store.execution(&id).await.unwrap().unwrap();
        assert_eq!(stored.state, ended.state);
        assert!(matches!(ended.state, State::Succeeded | State::Cancelled));
        assert_eq!(events(&stored).iter().filter(|event| *event == "finished").count(), 1);
    }
    assert_eq!(daemon.dispatcher.load().used, 0);
}
