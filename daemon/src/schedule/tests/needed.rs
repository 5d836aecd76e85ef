//! Results that are needed by a time: what is put off, what is lifted, what is late.

use super::life::{events, with};
use crate::engine::ErrorKind;
use crate::manifest::{Park, Policy};
use crate::schedule::dispatch::SubmitError;
use crate::schedule::estimates::Kind;
use crate::schedule::extras::Extras;
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::Version;
use crate::state::time::Timestamp;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use torpor_protocol::ask::OnLate;

async fn daemon(folder: &Path, budget_mib: u64, policy: Policy) -> (Daemon, Arc<Version>) {
    let daemon = Daemon::start(folder, budget_mib).await;
    let version = with(policy);
    daemon.put(&version).await;
    (daemon, version)
}

fn needed(ms: u64) -> Extras {
    Extras { need_by: Some(Timestamp::now().later(ms)), ..Extras::default() }
}

async fn submit(daemon: &Daemon, version: &Arc<Version>, input: &Value, extras: Extras) -> Arc<Live> {
    let live = daemon.dispatcher.submit_with(Arc::clone(version), input.to_string().into_bytes().into(), extras).unwrap();
    live.stored().await.unwrap();
    live
}

fn began(daemon: &Daemon) -> Vec<String> {
    daemon.runner.began.lock().unwrap().clone()
}

#[tokio::test]
async fn an_idle_host_runs_everything_at_once_and_a_busy_one_puts_off_what_may_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 128, Policy::default()).await;
    let alone = submit(&daemon, &version, &json!({}), needed(3_600_000)).await;
    assert_eq!(alone.ended().await.state, State::Succeeded, "nobody else wants the host");
    let busy = submit(&daemon, &version, &json!({"ms": 1500}), Extras::default()).await;
    let put_off = submit(&daemon, &version, &json!({}), needed(3_600_000)).await;
    let wanted =
        [submit(&daemon, &version, &json!({}), Extras::default()).await, submit(&daemon, &version, &json!({}), Extras::default()).await];
    let ended = put_off.ended().await;
    let order = [&alone, &busy, &wanted[0], &wanted[1], &put_off].map(|live| live.id.to_string());
    assert_eq!(began(&daemon), order);
    assert!(!ended.late && ended.need_by.is_some(), "{ended:?}");
}

#[tokio::test]
async fn what_has_to_begin_goes_before_what_is_only_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 128, Policy::default()).await;
    (0..20).for_each(|_| {
        daemon.dispatcher.estimates.note(&version, Kind::Whole, Duration::from_secs(20));
        daemon.dispatcher.estimates.note(&version, Kind::Run, Duration::from_secs(20));
    });
    let busy = submit(&daemon, &version, &json!({"ms": 1500}), Extras::default()).await;
    let wanted = submit(&daemon, &version, &json!({}), Extras::default()).await;
    // One that is wanted takes 20 s: after it the next would end after 40 s.
    let pressing = submit(&daemon, &version, &json!({}), needed(30_000)).await;
    wanted.ended().await;
    pressing.ended().await;
    assert_eq!(began(&daemon), [&busy, &pressing, &wanted].map(|live| live.id.to_string()));
}

/// One that puts a child off by an hour, and then waits for it: `levels` calls down.
fn chain(levels: usize, child: &Value) -> Value {
    let asks = json!([
        {"ask": "sleep", "ms": 100},
        {"ask": "spawn", "task": "t", "need_by": {"in_ms": 3_600_000}},
        {"ask": "wait", "executions": []},
    ]);
    let last = json!({"asks": asks, "payload": child});
    (0..levels).fold(last, |below, _| json!({"asks": [{"ask": "call", "task": "t"}], "payload": below}))
}

/// Who waits came before the others, so what it waits for goes before them.
#[tokio::test]
async fn who_waits_lifts_what_it_waits_for_through_all_levels() {
    for levels in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let (daemon, version) = daemon(folder.path(), 128, Policy { park: Park::Always, ..Policy::default() }).await;
        (0..20).for_each(|_| daemon.dispatcher.estimates.note(&version, Kind::Whole, Duration::from_millis(100)));
        let first = submit(&daemon, &version, &chain(levels, &json!({})), Extras::default()).await;
        let mut others = Vec::new();
        for _ in 0..6 {
            others.push(submit(&daemon, &version, &json!({"ms": 150}), Extras::default()).await);
        }
        let ended = first.ended().await;
        assert_eq!(ended.state, State::Succeeded, "{ended:?}");
        let last = others.last().unwrap().ended().await;
        assert!(ended.finished_at < last.finished_at, "{levels} levels: it did not wait for all that came after it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waited_before_a_kill_still_lifts_what_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let (killed, version) = daemon(folder.path(), 128, Policy { park: Park::Always, retries: 3, ..Policy::default() }).await;
    let first = submit(&killed, &version, &chain(1, &json!({"ms": 600_000})), Extras::default()).await;
    first.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap();
    for _ in 0..4 {
        submit(&killed, &version, &json!({"ms": 100}), Extras::default()).await;
    }
    // It has come to run before those that were there before it.
    let child = loop {
        let last = killed.dispatcher.all_live().into_iter().max_by_key(|live| live.id.clone()).unwrap();
        if last.parent.is_some() && last.depth == 2 && last.view().state == State::Running {
            break last.id.to_string();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(killed.dispatcher.load().queued > 0, "some of the others wait");
    std::mem::forget(killed);
    let daemon = Daemon::start(folder.path(), 128).await;
    assert_eq!((daemon.recovered.parked, daemon.recovered.retried), (2, 1));
    while began(&daemon).is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(began(&daemon)[0], child, "and not one of those that came before it");
}

#[tokio::test]
async fn what_is_certainly_late_is_refused_or_said() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 1024, Policy::default()).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&version, Kind::Whole, Duration::from_secs(60)));
    let refuse = Extras { on_late: OnLate::Refuse, ..needed(10_000) };
    let error = daemon.dispatcher.submit_with(Arc::clone(&version), b"{}"[..].into(), refuse).unwrap_err();
    assert!(matches!(error, SubmitError::Late { .. }) && error.to_string().contains("has never taken less than"), "{error}");
    let late = submit(&daemon, &version, &json!({}), needed(10_000)).await;
    assert!(late.view().late && events(&late.view())[1] == "late");
    assert!(!late.ended().await.late, "it was faster than any before");
    let possible = Extras { on_late: OnLate::Refuse, ..needed(120_000) };
    daemon.dispatcher.submit_with(Arc::clone(&version), b"{}"[..].into(), possible).unwrap().ended().await;
    let past = submit(
        &daemon,
        &version,
        &json!({"ms": 5}),
        Extras { need_by: Some(Timestamp::now().before(Duration::from_secs(5))), ..Extras::default() },
    )
    .await;
    let ended = past.ended().await;
    assert!(ended.late && daemon.store.execution(&ended.id).await.unwrap().unwrap().late);
}

#[tokio::test]
async fn what_a_new_version_takes_is_not_certain() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, old) = daemon(folder.path(), 1024, Policy::default()).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&old, Kind::Whole, Duration::from_secs(60)));
    let new = Arc::new(Version { version: "b".repeat(64).into(), ..(*old).clone() });
    daemon.put(&new).await;
    let refuse = || Extras { on_late: OnLate::Refuse, ..needed(10_000) };
    assert!(daemon.dispatcher.submit_with(Arc::clone(&old), b"{}"[..].into(), refuse()).is_err());
    let faster = daemon.dispatcher.submit_with(new, b"{}"[..].into(), refuse()).unwrap();
    assert!(!faster.ended().await.late);
}

#[tokio::test]
async fn what_was_never_seen_is_not_put_off() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, seen) = daemon(folder.path(), 128, Policy::default()).await;
    let new = super::accounts::of(seen.account.as_str(), "new", &seen);
    daemon.put(&new).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&seen, Kind::Whole, Duration::from_millis(200)));
    let busy = submit(&daemon, &seen, &json!({"ms": 1000}), Extras::default()).await;
    let put_off = submit(&daemon, &seen, &json!({}), needed(3_600_000)).await;
    let unknown = submit(&daemon, &new, &json!({}), needed(3_600_000)).await;
    let wanted = submit(&daemon, &seen, &json!({}), Extras::default()).await;
    put_off.ended().await;
    assert_eq!(began(&daemon), [&busy, &unknown, &wanted, &put_off].map(|live| live.id.to_string()), "it may take as long as there is");
}

#[tokio::test]
async fn what_becomes_late_in_the_queue_is_marked_there() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 128, Policy::default()).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&version, Kind::Whole, Duration::from_millis(200)));
    let busy = submit(&daemon, &version, &json!({"ms": 3000}), Extras::default()).await;
    let waits = submit(&daemon, &version, &json!({}), needed(1500)).await;
    let mut view = waits.watch();
    let marked = tokio::time::timeout(Duration::from_secs(10), view.wait_for(|execution| execution.late)).await.unwrap().unwrap().clone();
    assert_eq!((marked.state, busy.view().state), (State::Queued, State::Running), "before its time, while it waits");
    assert!(waits.ended().await.late);
}

#[tokio::test]
async fn a_child_is_never_needed_after_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 1024, Policy { deadline_ms: Some(60_000), ..Policy::default() }).await;
    let asks = json!({"asks": [{"ask": "spawn", "task": "t", "need_by": {"in_ms": 3_600_000}}], "payload": {"ms": 2000}});
    let parent = submit(&daemon, &version, &asks, needed(30_000)).await;
    let needed_by = parent.view().need_by;
    parent.ended().await;
    let child = daemon.dispatcher.all_live().into_iter().find(|live| live.parent.is_some()).unwrap();
    assert_eq!(child.view().need_by, needed_by);
    let past = json!({"asks": [{"ask": "spawn", "task": "t", "need_by": {"at_ms": 1000}, "on_late": "refuse"}]});
    let ended = submit(&daemon, &version, &past, Extras::default()).await.ended().await;
    let answers: Value = serde_json::from_str(ended.result.as_ref().unwrap().get()).unwrap();
    assert_eq!((&answers[0]["answer"], &answers[0]["kind"]), (&json!("refused"), &json!("late")));
}

#[tokio::test]
async fn a_sleeper_is_brought_back_before_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 1024, Policy { park: Park::Always, ..Policy::default() }).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&version, Kind::Resume, Duration::from_millis(300)));
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&version, Kind::Whole, Duration::from_millis(300)));
    let live = submit(&daemon, &version, &json!({"asks": [{"ask": "sleep", "ms": 1500}]}), Extras::default()).await;
    let ended = live.ended().await;
    assert_eq!((ended.state, ended.parks), (State::Succeeded, 1));
    let at = |event: &str| ended.timeline[events(&ended).iter().position(|name| name == event).unwrap()].at;
    let slept = at("resumed").seconds_since(at("queued"));
    assert!(slept < 1.5, "resumed after {slept} s");
    assert!(ended.finished_at.unwrap().seconds_since(ended.created_at) >= 1.5, "and not told before its time");
}

#[tokio::test]
async fn durations_outlive_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = daemon(folder.path(), 1024, Policy::default()).await;
    for _ in 0..3 {
        submit(&daemon, &version, &json!({"ms": 30}), Extras::default()).await.ended().await;
    }
    submit(&daemon, &version, &json!({"fail": ErrorKind::Exception, "ms": 5000}), Extras::default()).await;
    daemon.dispatcher.write_durations().await;
    let known = daemon.dispatcher.estimates.of(&version);
    assert!(known.takes >= Duration::from_millis(30) && known.holds >= Duration::from_millis(30), "{known:?}");
    drop(daemon);
    let daemon = Daemon::start(folder.path(), 1024).await;
    assert_eq!(daemon.dispatcher.estimates.of(&version), known);
}
