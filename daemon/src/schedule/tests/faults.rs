//! Faults of torpord itself, and inputs that can't be read: nobody holds a place for ever, and no execution is left without an owner.

use super::crash;
use super::life::with;
use crate::engine::{ErrorKind, ExecutionError};
use crate::manifest::{Park, Policy};
use crate::schedule::live::Live;
use crate::schedule::parked::{self, Woken};
use crate::schedule::scripted::Daemon;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Version};
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const WAITS: &str = r#"{"asks":[{"ask":"sleep","ms":20}]}"#;
const FAILS: &str = r#"{"fail":"exit"}"#;

/// With one place.
async fn start(folder: &Path) -> (Daemon, Arc<Version>) {
    let daemon = Daemon::start(folder, 128).await;
    let version = with(Policy { park: Park::Always, retries: 1, backoff_ms: 500, ..Policy::default() });
    daemon.put(&version).await;
    (daemon, version)
}

fn submit(daemon: &Daemon, version: &Arc<Version>, script: &str) -> Arc<Live> {
    daemon.dispatcher.submit(Arc::clone(version), script.as_bytes().into()).unwrap()
}

async fn ended(live: &Live) -> Arc<Execution> {
    let ended = tokio::time::timeout(Duration::from_secs(20), live.ended()).await;
    ended.unwrap_or_else(|_| panic!("it is left without an owner: {:?}", live.view()))
}

async fn left_nothing(daemon: &Daemon) {
    assert_eq!(daemon.parts.parked.used(), 0);
    let since = std::time::Instant::now();
    while daemon.dispatcher.load().used > 0 || !daemon.dispatcher.all_live().is_empty() {
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", daemon.dispatcher.load());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The process with a fault.
#[tokio::test]
async fn with_a_fault_at_a_step() {
    let Some(folder) = crash::folder() else { return };
    let (daemon, version) = start(&folder).await;
    let retries = folder.ends_with("retry");
    let end = ended(&submit(&daemon, &version, if retries { FAILS } else { WAITS })).await;
    let error = end.error.as_ref().unwrap();
    assert_eq!((end.state, error.kind), (State::Failed, ErrorKind::Host));
    assert!(error.message.contains("fault in torpord"), "{error}");
    let stored = daemon.store.execution(&end.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&stored).unwrap(), serde_json::to_string(&*end).unwrap());
    left_nothing(&daemon).await;
    assert_eq!(ended(&submit(&daemon, &version, "{}")).await.state, State::Succeeded);
    left_nothing(&daemon).await;
}

#[tokio::test]
async fn a_fault_in_the_task_of_an_execution_ends_it_and_frees_its_place() {
    let steps = [
        ("park.decided", "wait"),
        ("park.committed", "wait"),
        ("park.ended", "wait"),
        ("resume.ready", "wait"),
        ("resume.admitted", "wait"),
        ("resume.running", "wait"),
        ("retry.decided", "retry"),
        ("retry.due", "retry"),
    ];
    for (step, kind) in steps {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join(kind);
        std::fs::create_dir(&folder).unwrap();
        crash::survives("schedule::tests::faults::with_a_fault_at_a_step", &folder, step);
    }
}

#[tokio::test]
async fn a_fault_in_the_making_of_a_template_frees_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path()).await;
    daemon.runner.unpreparable.store(true, Ordering::SeqCst);
    daemon.dispatcher.prepare(Arc::clone(&version));
    assert_eq!(ended(&submit(&daemon, &version, "{}")).await.state, State::Succeeded);
    assert_eq!(daemon.runner.prepared.load(Ordering::SeqCst), 1);
    left_nothing(&daemon).await;
}

#[tokio::test]
async fn one_that_can_not_be_parked_again_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path()).await;
    let live = submit(&daemon, &version, r#"{"asks":[{"ask":"sleep","ms":600000}]}"#);
    let view = live.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap().clone();
    // It was never brought back, so that this does not fit.
    let error = ExecutionError::new(ErrorKind::Host, "scripted");
    let Err(Woken::End(ending)) = parked::again(&daemon.dispatcher, &live, view.parked.as_ref().unwrap(), error, 0).await else {
        panic!("it has no end")
    };
    assert_eq!((ending.state, ending.error.unwrap().kind), (State::Failed, ErrorKind::Host));
    daemon.dispatcher.cancel(&live.id).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_machine_whose_file_can_not_be_opened_now_is_brought_back_later() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path()).await;
    let live = submit(&daemon, &version, r#"{"asks":[{"ask":"sleep","ms":100}]}"#);
    let view = live.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap().clone();
    let file = folder.path().join("parked").join(&view.parked.as_ref().unwrap().file);
    // What root can't open either.
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(live.view().state, State::Parked);
    std::fs::rename(&aside, &file).unwrap();
    let end = ended(&live).await;
    assert_eq!(end.state, State::Succeeded, "{:?}", end.error);
    left_nothing(&daemon).await;
}

#[tokio::test]
async fn a_machine_whose_file_is_gone_fails_at_once_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path()).await;
    let live = submit(&daemon, &version, r#"{"asks":[{"ask":"sleep","ms":100}]}"#);
    let view = live.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap().clone();
    std::fs::remove_file(folder.path().join("parked").join(&view.parked.as_ref().unwrap().file)).unwrap();
    let end = ended(&live).await;
    assert_eq!((end.state, end.attempts), (State::Failed, 1));
    assert!(end.error.as_ref().unwrap().message.contains("is gone"), "{:?}", end.error);
    left_nothing(&daemon).await;
}

async fn move_inputs(folder: &Path, (from, to): (&str, &str), id: &ExecutionId) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("torpor.db"));
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("CREATE TABLE IF NOT EXISTS lost AS SELECT * FROM inputs WHERE 0").execute(&mut db).await.unwrap();
    sqlx::query(&format!("INSERT INTO {to} SELECT * FROM {from} WHERE execution = ?")).bind(id.as_str()).execute(&mut db).await.unwrap();
    sqlx::query(&format!("DELETE FROM {from} WHERE execution = ?")).bind(id.as_str()).execute(&mut db).await.unwrap();
}

#[tokio::test]
async fn an_input_that_can_not_be_read_is_a_failure_as_others_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, version) = start(folder.path()).await;
    let first = submit(&daemon, &version, r#"{"ms":60000}"#);
    let waits = submit(&daemon, &version, r#"{"ms":1}"#);
    waits.stored().await.unwrap();
    move_inputs(folder.path(), ("inputs", "lost"), &waits.id).await;
    daemon.dispatcher.cancel(&first.id).await.unwrap().unwrap();
    waits.watch().wait_for(|execution| execution.not_before.is_some()).await.unwrap();
    move_inputs(folder.path(), ("lost", "inputs"), &waits.id).await;
    let end = ended(&waits).await;
    assert_eq!((end.state, end.attempts), (State::Succeeded, 2));
    left_nothing(&daemon).await;
}
