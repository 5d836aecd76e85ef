//! What a restart finds after a drain, an impatient drain, and a daemon that was killed.

use super::life::{events, with};
use crate::engine::ErrorKind;
use crate::manifest::{Declared, Park, Policy, Replay, TaskName};
use crate::schedule::dispatch::SubmitError;
use crate::schedule::live::Live;
use crate::schedule::recover::Recovered;
use crate::schedule::scripted::Daemon;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Version};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

async fn submit(daemon: &Daemon, version: &Arc<Version>, script: &str) -> Arc<Live> {
    let live = daemon.dispatcher.submit(Arc::clone(version), script.as_bytes().into()).unwrap();
    live.stored().await.unwrap();
    live
}

async fn restarted(folder: &Path, budget_mib: u64) -> Daemon {
    Daemon::start(folder, budget_mib).await
}

#[tokio::test]
async fn a_drain_lets_what_runs_end_and_keeps_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 128).await;
    let version = with(Policy::default());
    daemon.put(&version).await;
    let running = submit(&daemon, &version, r#"{"ms":100}"#).await;
    let waiting = [submit(&daemon, &version, "{}").await, submit(&daemon, &version, "{}").await];
    daemon.dispatcher.drain(Duration::from_secs(10)).await;
    assert_eq!(running.view().state, State::Succeeded);
    assert!(matches!(daemon.dispatcher.submit(Arc::clone(&version), b"0"[..].into()), Err(SubmitError::Draining)));
    let ids = waiting.map(|live| live.view().id.clone());
    drop(daemon);

    let daemon = restarted(folder.path(), 128).await;
    assert_eq!(daemon.recovered, Recovered { queued: 2, retried: 0, failed: 0, parked: 0 });
    for id in &ids {
        let live = daemon.dispatcher.live(id);
        if let Some(live) = live {
            live.ended().await;
        }
        assert_eq!(daemon.store.execution(id).await.unwrap().unwrap().state, State::Succeeded);
    }
    assert_eq!(*daemon.runner.began.lock().unwrap(), ids.map(|id| id.to_string()));
}

#[tokio::test]
async fn an_impatient_drain_interrupts_as_retries_say() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 256).await;
    let (once, again) = (with(Policy::default()), with(Policy { retries: 1, ..Policy::default() }));
    daemon.put(&again).await;
    let fails = submit(&daemon, &once, r#"{"ms":60000}"#).await;
    let waits = submit(&daemon, &again, r#"{"ms":60000}"#).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    daemon.dispatcher.drain(Duration::from_millis(10)).await;
    let failed = daemon.store.execution(&fails.view().id).await.unwrap().unwrap();
    assert_eq!((failed.state, failed.error.unwrap().kind), (State::Failed, ErrorKind::Interrupted));
    let queued = daemon.store.execution(&waits.view().id).await.unwrap().unwrap();
    assert_eq!((queued.state, queued.attempts), (State::Queued, 1));
    assert_eq!(events(&queued).last().unwrap(), "retrying");
}

/// Leaves the database as a killed daemon does: the runner of `daemon` hangs, and nothing of it is asked to end.
async fn kill(daemon: Daemon) {
    std::mem::forget(daemon);
    tokio::time::sleep(Duration::from_millis(10)).await;
}

#[tokio::test]
async fn after_a_kill_everything_is_accounted_for() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 128 * 4).await;
    let retried = with(Policy { retries: 1, ..Policy::default() });
    daemon.put(&retried).await;
    let once = Arc::new(Version {
        version: "b".repeat(64).into(),
        policy: Policy::default(),
        declared: Declared::default(),
        ..(*retried).clone()
    });
    daemon.put(&once).await;
    let mut running = Vec::new();
    for version in [&retried, &once, &retried, &once] {
        running.push(submit(&daemon, version, r#"{"ms":600000,"print":"before\n"}"#).await.view().id.clone());
    }
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(submit(&daemon, &once, "{}").await.view().id.clone());
    }
    kill(daemon).await;

    // Room for one at a time, so the order shows.
    let daemon = restarted(folder.path(), 128).await;
    assert_eq!(daemon.recovered, Recovered { queued: 10, retried: 2, failed: 2, parked: 0 });
    for (n, id) in running.iter().enumerate() {
        if n % 2 == 1 {
            let failed = daemon.store.execution(id).await.unwrap().unwrap();
            assert_eq!((failed.state, failed.error.unwrap().kind), (State::Failed, ErrorKind::Interrupted));
            continue;
        }
        // The script hangs in its second attempt as well; that it runs again is what is asked here.
        let live = daemon.dispatcher.live(id).unwrap();
        // Its log goes on after what the first attempt printed.
        assert!(live.view().attempts >= 1 && live.log.borrow().kept >= 7);
        daemon.dispatcher.cancel(id).await.unwrap().unwrap();
    }
    for id in &waiting {
        if let Some(live) = daemon.dispatcher.live(id) {
            live.ended().await;
        }
        assert_eq!(daemon.store.execution(id).await.unwrap().unwrap().state, State::Succeeded);
    }
    let began = daemon.runner.began.lock().unwrap().clone();
    let order: Vec<&String> = began.iter().filter(|id| waiting.iter().any(|other| other.as_str() == *id)).collect();
    assert_eq!(order, waiting.iter().map(|id| id.to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_smaller_budget_fails_what_can_not_run_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let large = with(Policy { memory_mib: 1024, ..Policy::default() });
    daemon.put(&large).await;
    let _running = submit(&daemon, &large, r#"{"ms":600000}"#).await;
    let waiting = submit(&daemon, &large, "{}").await.view().id.clone();
    kill(daemon).await;
    let daemon = restarted(folder.path(), 512).await;
    assert_eq!(daemon.recovered, Recovered { queued: 0, retried: 0, failed: 2, parked: 0 });
    let failed = daemon.store.execution(&waiting).await.unwrap().unwrap();
    assert!(failed.error.unwrap().message.contains("512MiB"));
}

/// Callers that are parked while what they called waits in the queue: they go on waiting for it.
#[tokio::test(flavor = "multi_thread")]
async fn parked_callers_find_what_they_called_in_the_queue() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = with(Policy { park: Park::Always, ..Policy::default() });
    let one = Policy { max_parallel: Some(1), ..Policy::default() };
    let one = Arc::new(Version { task: TaskName::try_from("one".to_owned()).unwrap(), ..(*with(one)).clone() });
    for version in [&version, &one] {
        daemon.put(version).await;
    }
    // What they call may have one VM, and that is taken.
    let _blocker = submit(&daemon, &one, r#"{"ms":600000}"#).await;
    let mut callers = Vec::new();
    for _ in 0..40 {
        callers.push(submit(&daemon, &version, r#"{"asks":[{"ask":"call","task":"one"}],"payload":{"ms":1}}"#).await);
    }
    for caller in &callers {
        caller.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap();
    }
    let ids: Vec<_> = callers.iter().map(|live| live.id.clone()).collect();
    kill(daemon).await;
    let daemon = restarted(folder.path(), 1024).await;
    assert_eq!((daemon.recovered.parked, daemon.recovered.queued, daemon.recovered.failed), (40, 40, 1));
    for id in ids {
        let ended = match daemon.dispatcher.live(&id) {
            Some(live) => live.ended().await,
            None => Arc::new(daemon.store.execution(&id).await.unwrap().unwrap()),
        };
        let answers = ended.result.as_ref().unwrap().get();
        assert!(answers.contains(r#""state":"succeeded""#) && !answers.contains("queued"), "{answers}");
    }
}

async fn ended(daemon: &Daemon, id: &ExecutionId) -> Execution {
    if let Some(live) = daemon.dispatcher.live(id) {
        live.ended().await;
    }
    daemon.store.execution(id).await.unwrap().unwrap()
}

/// What an attempt started that was cut off, what an execution started that is failed now, and what one left that ended just before.
#[tokio::test]
async fn what_nobody_waits_for_after_a_kill_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let again = with(Policy { retries: 1, park: Park::Never, replay: Replay::None, ..Policy::default() });
    daemon.put(&again).await;
    let script = r#"{"asks":[{"ask":"spawn","task":"t"},{"ask":"sleep","ms":600000}],"payload":{"ms":600000}}"#;
    let retried = submit(&daemon, &again, script).await;
    let spawned = loop {
        if let Some(child) = daemon.dispatcher.all_live().iter().find(|live| live.parent.as_ref() == Some(&retried.id)) {
            break child.id.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let failed = submit(&daemon, &with(Policy::default()), r#"{"fail":"exit"}"#).await.ended().await;
    let mut left = Execution::new(ExecutionId::first_of(Timestamp::now().later(60_000)), &again, Timestamp::now());
    left.parent = Some(failed.id.clone());
    daemon
        .store
        .commit(Change::Insert { execution: Arc::new(left.clone()), input: b"{\"ms\":600000}"[..].into(), key: None })
        .await
        .unwrap();
    kill(daemon).await;

    let daemon = restarted(folder.path(), 1024).await;
    for id in [&spawned, &left.id] {
        let ended = ended(&daemon, id).await;
        assert_eq!((ended.state, ended.error.unwrap().kind), (State::Cancelled, ErrorKind::Cancelled));
    }
    assert!(!daemon.dispatcher.live(&retried.id).unwrap().view().state.ended());
}
