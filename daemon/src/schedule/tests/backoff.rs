//! The wait between two attempts: what it holds, what ends it, and what a restart makes of it.

use super::crash;
use super::life::{events, with};
use crate::engine::ErrorKind;
use crate::manifest::Policy;
use crate::schedule::live::Live;
use crate::schedule::recover::Recovered;
use crate::schedule::scripted::Daemon;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, Version};
use crate::state::time::Timestamp;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const HOUR_MS: u64 = 3_600_000;
const FAILS_ONCE: &str = r#"{"fail":"exception","works_at":2}"#;

fn policy(backoff_ms: u64) -> Policy {
    Policy { retries: 3, backoff_ms, backoff_max_ms: backoff_ms, ..Policy::default() }
}

async fn start(folder: &Path, policy: Policy) -> (Daemon, Arc<Version>) {
    let daemon = Daemon::start(folder, 128).await;
    let version = with(policy);
    daemon.put(&version).await;
    (daemon, version)
}

async fn submit(daemon: &Daemon, version: &Arc<Version>, script: &str) -> Arc<Live> {
    let live = daemon.dispatcher.submit(Arc::clone(version), script.as_bytes().into()).unwrap();
    live.stored().await.unwrap();
    live
}

/// Until its first attempt has failed, durably, and it has given up its VM.
async fn waits(daemon: &Daemon, live: &Live) -> Arc<Execution> {
    while daemon.dispatcher.delayed.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    live.view()
}

async fn ended(daemon: &Daemon, id: &ExecutionId) -> Execution {
    while daemon.dispatcher.live(id).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemon.store.execution(id).await.unwrap().unwrap()
}

/// The wait that is told.
fn delay(execution: &Execution) -> u64 {
    let told = execution.timeline.iter().find_map(|entry| match entry.what {
        Happening::Retrying { delay_ms, .. } => Some(delay_ms),
        _ => None,
    });
    told.unwrap()
}

#[tokio::test]
async fn who_waits_holds_no_place_and_says_until_when() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path(), policy(HOUR_MS)).await;
    let live = submit(&daemon, &version, FAILS_ONCE).await;
    let view = waits(&daemon, &live).await;
    assert_eq!((view.state, view.attempts), (State::Queued, 1));
    let stored = daemon.store.execution(&live.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&stored).unwrap(), serde_json::to_string(&*view).unwrap(), "it is durable");
    let failed = view.timeline.last().unwrap();
    assert_eq!(view.not_before, Some(failed.at.later(delay(&view))));
    assert!((HOUR_MS / 2..=HOUR_MS).contains(&delay(&view)));
    let load = daemon.dispatcher.load();
    assert_eq!((load.queued, load.running, load.used), (1, 0, 0));
    // There is room for one.
    assert_eq!(submit(&daemon, &version, "{}").await.ended().await.state, State::Succeeded);
    assert_eq!(live.view().state, State::Queued);
    // A drain does not wait for it.
    daemon.dispatcher.drain(Duration::from_secs(3600)).await;
    assert_eq!(daemon.store.execution(&live.id).await.unwrap().unwrap().state, State::Queued);
}

#[tokio::test]
async fn the_next_attempt_follows() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path(), policy(40)).await;
    let ended = submit(&daemon, &version, r#"{"fail":"exception","works_at":3,"print":"x"}"#).await.ended().await;
    assert_eq!((ended.state, ended.attempts, ended.not_before), (State::Succeeded, 3, None));
    let again = ["retrying", "starting", "restored", "running"];
    assert_eq!(events(&ended)[4..], [&again[..], &again[..], &["finished"]].concat());
    assert!(matches!(ended.timeline.last().unwrap().what, Happening::Finished { log_bytes: 3, .. }), "logs go on over attempts");
    let ended = submit(&daemon, &version, r#"{"fail":"exception"}"#).await.ended().await;
    assert_eq!((ended.state, ended.attempts), (State::Failed, 4));
    assert_eq!((daemon.dispatcher.load().used, daemon.dispatcher.delayed.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test]
async fn who_waits_can_be_cancelled_and_misses_its_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path(), policy(HOUR_MS)).await;
    let live = submit(&daemon, &version, FAILS_ONCE).await;
    waits(&daemon, &live).await;
    let cancelled = daemon.dispatcher.cancel(&live.id).await.unwrap().unwrap();
    assert_eq!((cancelled.state, cancelled.not_before), (State::Cancelled, None));
    assert_eq!(events(&cancelled)[4..], ["retrying", "cancelled", "finished"]);
    assert!(daemon.dispatcher.live(&live.id).is_none());

    let short = with(Policy { deadline_ms: Some(50), ..policy(HOUR_MS) });
    let live = submit(&daemon, &short, FAILS_ONCE).await;
    let late = live.ended().await;
    assert_eq!((late.state, late.error.as_ref().unwrap().kind), (State::TimedOut, ErrorKind::Deadline));
}

#[tokio::test]
async fn what_has_not_started_misses_its_deadline_too() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path(), policy(0)).await;
    let first = submit(&daemon, &version, r#"{"ms":60000}"#).await;
    let short = with(Policy { deadline_ms: Some(20), ..Policy::default() });
    let late = submit(&daemon, &short, "{}").await.ended().await;
    assert_eq!((late.state, late.error.as_ref().unwrap().kind), (State::TimedOut, ErrorKind::Deadline));
    daemon.dispatcher.cancel(&first.id).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_crosses_the_end_of_the_wait_leaves_one_end() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path(), policy(3)).await;
    // Who comes out of its wait finds the place taken now and then.
    for round in 0..60 {
        let other = submit(&daemon, &version, r#"{"ms":5}"#).await;
        let live = submit(&daemon, &version, r#"{"fail":"exception"}"#).await;
        other.ended().await;
        tokio::time::sleep(Duration::from_micros(round * 150)).await;
        let cancelled = daemon.dispatcher.cancel(&live.id).await;
        let end = ended(&daemon, &live.id).await;
        assert!(matches!(end.state, State::Cancelled | State::Failed), "{cancelled:?}");
        assert_eq!(events(&end).iter().filter(|event| *event == "finished").count(), 1);
    }
    while daemon.dispatcher.load().used > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((daemon.dispatcher.load().queued, daemon.dispatcher.all_live().len()), (0, 0));
}

/// As it is after a kill, with the moment of the next attempt moved in the database: what a clock that was set back or forward is to the next start.
async fn restarted(folder: &Path, policy: Policy, not_before: impl Fn(Timestamp) -> Timestamp) -> (Daemon, ExecutionId, Timestamp) {
    let (daemon, version) = start(folder, policy).await;
    let live = submit(&daemon, &version, FAILS_ONCE).await;
    let until = not_before(waits(&daemon, &live).await.not_before.unwrap());
    let id = live.id.clone();
    live.stop(crate::schedule::live::Cause::Daemon);
    std::mem::forget(daemon);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("torpor.db"));
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect_with(&options).await.unwrap();
    sqlx::query("UPDATE executions SET not_before = ? WHERE id = ?").bind(until.0).bind(id.as_str()).execute(&mut db).await.unwrap();
    (Daemon::start(folder, 128).await, id, until)
}

#[tokio::test]
async fn a_wait_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, id, until) = restarted(folder.path(), policy(HOUR_MS), |until| until).await;
    assert_eq!(daemon.recovered, Recovered { queued: 1, ..Recovered::default() });
    let live = daemon.dispatcher.live(&id).unwrap();
    assert_eq!((live.view().state, live.view().not_before), (State::Queued, Some(until)));
    assert!(daemon.runner.began.lock().unwrap().is_empty());
    assert_eq!(waits(&daemon, &live).await.attempts, 1);
    daemon.dispatcher.cancel(&id).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_wait_is_no_longer_than_it_was_whatever_the_clock_does() {
    let year = 365 * 86_400_000_000;
    // The script counts from one in each daemon, so it fails once more.
    for moved in [year, -year] {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, id, _) = restarted(folder.path(), policy(50), |until| Timestamp(until.0 + moved)).await;
        let end = ended(&daemon, &id).await;
        assert_eq!((end.state, end.attempts), (State::Succeeded, 3), "{moved}");
    }
}

/// The process that dies.
#[tokio::test]
async fn until_it_dies() {
    let Some(folder) = crash::folder() else { return };
    let (daemon, version) = start(&folder, policy(20)).await;
    submit(&daemon, &version, FAILS_ONCE).await.ended().await;
}

#[tokio::test]
async fn a_crash_at_each_step_loses_nothing() {
    for step in ["retry.decided", "retry.committed", "retry.due"] {
        let folder = tempfile::tempdir().unwrap();
        crash::dies("schedule::tests::backoff::until_it_dies", folder.path(), step);
        let daemon = Daemon::start(folder.path(), 128).await;
        let waited = step != "retry.decided";
        let expected = Recovered { queued: usize::from(waited), retried: usize::from(!waited), ..Recovered::default() };
        assert_eq!(daemon.recovered, expected, "{step}");
        let id = daemon.store.last_id().await.unwrap().unwrap();
        let end = ended(&daemon, &id).await;
        assert_eq!((end.state, end.attempts), (State::Succeeded, 3), "{step}");
        let kinds: Vec<ErrorKind> = end
            .timeline
            .iter()
            .filter_map(|entry| match entry.what {
                Happening::Retrying { kind, .. } => Some(kind),
                _ => None,
            })
            .collect();
        let first = if waited { ErrorKind::Exception } else { ErrorKind::Interrupted };
        assert_eq!(kinds, [first, ErrorKind::Exception], "{step}: why it ran again");
    }
}
