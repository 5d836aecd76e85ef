//! On a real store and a scripted runner. The clock is an argument.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::manifest::AccountName;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::tests::version;
use std::path::Path;

const DAY: Duration = Duration::from_secs(86_400);

fn retention(daemon: &Daemon) -> Retention {
    let (store, logs, metrics) = (daemon.store.clone(), daemon.logs.clone(), Arc::clone(&daemon.parts.metrics));
    Retention { keep: Keep::For(7 * DAY), store, logs, metrics }
}

async fn submit(daemon: &Daemon, script: &str) -> ExecutionId {
    let live = daemon.dispatcher.submit(daemon.catalog.version(&AccountName::default(), "t").unwrap(), script.as_bytes().into()).unwrap();
    live.stored().await.unwrap();
    live.view().id.clone()
}

/// Runs one that prints a line.
async fn ended(daemon: &Daemon) -> Execution {
    let id = submit(daemon, r#"{"print": "a line\n"}"#).await;
    while daemon.dispatcher.live(&id).is_some() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    daemon.store.execution(&id).await.unwrap().unwrap()
}

async fn start(folder: &Path) -> Daemon {
    let daemon = Daemon::start(folder, 1024).await;
    daemon.put(&version("t", 'a')).await;
    daemon
}

/// Rows of a table, as another reader of the file sees them.
async fn rows(folder: &Path, table: &str) -> i64 {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("torpor.db")).read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query_scalar(&format!("SELECT count(*) FROM {table}")).fetch_one(&pool).await.unwrap()
}

fn log_files(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("logs")).unwrap().count()
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    let text = daemon.parts.metrics.render(&daemon.dispatcher.load(), &Default::default()).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("torpor_{name}_total ")));
    line.unwrap().split(' ').next_back().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_ended_long_enough_ago_is_removed_whole_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let retention = retention(&daemon);
    let first = ended(&daemon).await;
    let runs = submit(&daemon, r#"{"ms": 60000, "print": "a line\n"}"#).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let last = ended(&daemon).await;
    let moment = |execution: &Execution| execution.finished_at.unwrap();

    let before = Timestamp(moment(&first).0 - 1);
    assert_eq!(retention.remove_ended(before).await.unwrap(), 0, "its time has not passed");
    assert_eq!(retention.remove_ended(moment(&first)).await.unwrap(), 1);
    assert!(daemon.store.execution(&first.id).await.unwrap().is_none());
    assert_eq!(daemon.store.execution(&last.id).await.unwrap().unwrap().timeline, last.timeline);
    assert!(!daemon.logs.remove(&first.id).unwrap(), "its log is gone");
    assert_eq!(daemon.logs.read(&last.id, 0, u64::MAX).unwrap().entries.len(), 1);

    let next_year = Timestamp::now().before(Duration::ZERO).0 + i64::try_from(365 * DAY.as_micros()).unwrap();
    assert_eq!(retention.remove_ended(Timestamp(next_year)).await.unwrap(), 1, "what has not ended stays, however old it is");
    assert_eq!(daemon.store.unfinished().await.unwrap()[0].id, runs);
    assert_eq!((rows(folder.path(), "executions").await, log_files(folder.path())), (1, 1));
    assert_eq!(counter(&daemon, "executions_removed"), 2);

    daemon.dispatcher.cancel(&runs).await.unwrap().unwrap();
    assert_eq!(retention.remove_ended(Timestamp(next_year)).await.unwrap(), 1);
    for table in ["executions", "timeline", "inputs"] {
        assert_eq!(rows(folder.path(), table).await, 0, "{table}");
    }
    assert_eq!(log_files(folder.path()), 0);
}

#[tokio::test]
async fn many_are_removed_in_small_commits() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let mut lives = Vec::new();
    for _ in 0..150 {
        lives.push(daemon.dispatcher.submit(daemon.catalog.version(&AccountName::default(), "t").unwrap(), b"{}"[..].into()).unwrap());
    }
    for live in lives {
        live.ended().await;
    }
    let later = Timestamp(Timestamp::now().0 + 1);
    assert_eq!(daemon.store.ended_by(later, (None, None)).await.unwrap().len(), 64, "the first of three commits");
    assert_eq!(retention(&daemon).remove_ended(later).await.unwrap(), 150);
    assert_eq!(rows(folder.path(), "timeline").await, 0);
}

/// The clock was far ahead once, and ids go on from there.
#[tokio::test]
async fn ids_that_are_ahead_of_the_clock_keep_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let now = Timestamp::now();
    let ahead = ExecutionId::first_of(now.after(400 * DAY));
    let execution = Execution::new(ahead.clone(), &version("t", 'a'), now);
    daemon.store.commit(Change::Insert { execution: Arc::new(execution.clone()), input: b"0"[..].into(), key: None }).await.unwrap();
    let cancelled = Execution { state: State::Cancelled, finished_at: Some(now), ..execution.clone() };
    let end = Change::Update { execution: Arc::new(cancelled), stored: execution.state, timeline: execution.timeline.len() };
    daemon.store.commit(end).await.unwrap();
    drop(daemon);
    let daemon = start(folder.path()).await;
    assert!(ended(&daemon).await.id > ahead);
    assert_eq!(retention(&daemon).remove_ended(Timestamp::now()).await.unwrap(), 2);
}

#[tokio::test]
async fn what_is_passed_over_is_not_looked_at_again() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let (first, second, third) = (ended(&daemon).await.id, ended(&daemon).await.id, ended(&daemon).await.id);
    let now = Timestamp::now();
    let between = |after, until| daemon.store.ended_by(now, (after, until));
    assert_eq!(between(Some(&first), None).await.unwrap(), [second.clone(), third.clone()]);
    assert_eq!(between(Some(&first), Some(&third)).await.unwrap(), [second]);
    assert_eq!(between(Some(&third), None).await.unwrap(), []);
}

/// A crash between the two steps of a removal, or while an execution that nobody knows of ran.
#[tokio::test]
async fn logs_of_nobody_are_removed_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let (kept, lost) = (ended(&daemon).await, ended(&daemon).await);
    daemon.store.commit(Change::RemoveEnded([lost.id.clone()].into())).await.unwrap();
    std::fs::write(folder.path().join("logs/notes.txt"), "not ours").unwrap();
    drop(daemon);

    let daemon = Daemon::start(folder.path(), 1024).await;
    let runs = submit(&daemon, r#"{"ms": 60000, "print": "a line\n"}"#).await;
    // On its way into the database, for all that the store knows.
    let unstored = ExecutionId::first_of(Timestamp::now());
    std::fs::write(folder.path().join(format!("logs/{unstored}.jsonl")), "").unwrap();
    while log_files(folder.path()) < 5 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let live = |id: &ExecutionId| *id == unstored || daemon.dispatcher.live(id).is_some();
    assert_eq!(retention(&daemon).remove_orphans(live).await.unwrap(), 1);
    assert!(!daemon.logs.remove(&lost.id).unwrap());
    for id in [&kept.id, &runs, &unstored] {
        assert!(daemon.logs.remove(id).unwrap(), "{id} is not lost");
    }
    assert!(folder.path().join("logs/notes.txt").exists());
    assert_eq!(counter(&daemon, "logs_orphaned"), 1);
}

/// The store takes the ids of what has not ended as it takes all others, and does nothing.
#[tokio::test]
async fn what_has_not_ended_can_not_be_removed() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = start(folder.path()).await;
    let runs = submit(&daemon, r#"{"ms": 60000}"#).await;
    daemon.store.commit(Change::RemoveEnded([runs.clone()].into())).await.unwrap();
    let stored = daemon.store.execution(&runs).await.unwrap().unwrap();
    assert!(!stored.timeline.is_empty());
    assert_eq!(daemon.store.input(&runs).await.unwrap(), br#"{"ms": 60000}"#);
}

/// The clock jumps by days: nothing of before is removed before its time, and all of it once that is over.
#[test]
fn a_clock_that_jumps_removes_nothing_early() {
    let kept = Duration::from_millis(300);
    let mut lag = Lag::new(kept);
    let near = |one: Timestamp, other: Timestamp| (one.0 - other.0).abs() < 5_000_000;
    assert!(near(lag.ended_by(Duration::ZERO), Timestamp::now().before(kept)));
    // Two jumps, while something runs that began before both.
    for days in 1..=2 {
        lag.clock = SteadyClock::left_behind(DAY);
        assert!(near(lag.ended_by(days * DAY), Timestamp::now().before(days * DAY)));
    }
    assert!(near(lag.ended_by(2 * DAY), Timestamp::now().before(2 * DAY)), "it runs still");
    assert!(near(lag.ended_by(Duration::ZERO), Timestamp::now().before(2 * DAY)), "it ended just now");
    lag.seen = Instant::now().checked_sub(kept + 3 * notice(kept)).unwrap();
    assert!(near(lag.ended_by(Duration::ZERO), Timestamp::now().before(kept)), "its time is over");
}
