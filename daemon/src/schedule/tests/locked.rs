//! A database that takes no changes for a while: another process has locked it, or its disk is full.

use super::life::with;
use crate::manifest::{AccountName, Park, Policy};
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::store::StoreError;
use crate::testing::SmallDisk;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(100);

async fn daemon(folder: &Path) -> Daemon {
    let daemon = Daemon::start(folder, 1024).await;
    daemon.put(&with(Policy { park: Park::Always, ..Policy::default() })).await;
    daemon
}

fn offer(daemon: &Daemon, input: &Value) -> Arc<Live> {
    let version = daemon.catalog.version(&AccountName::default(), "t").unwrap();
    daemon.dispatcher.submit(version, input.to_string().into_bytes().into()).unwrap()
}

async fn submit(daemon: &Daemon, input: &Value) -> Arc<Live> {
    let live = offer(daemon, input);
    live.stored().await.unwrap();
    live
}

/// One that parks again and again.
fn parks() -> Value {
    json!({"asks": vec![json!({"ask": "sleep", "ms": 50}); 30]})
}

async fn is_whole(daemon: &Daemon, live: &Live, answers: Option<usize>) {
    let ended = tokio::time::timeout(Duration::from_secs(60), live.ended()).await.unwrap();
    assert_eq!((ended.state, ended.attempts), (State::Succeeded, 1), "{ended:?}");
    let stored = daemon.store.execution(&live.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&stored).unwrap(), serde_json::to_string(&*ended).unwrap(), "what is told is what is stored");
    let result: Value = serde_json::from_str(ended.result.as_ref().unwrap().get()).unwrap();
    assert_eq!(result.as_array().map(Vec::len), answers);
}

#[tokio::test]
async fn another_process_that_writes_for_long_delays_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path()).await;
    let short = submit(&daemon, &json!({"ms": 300})).await;
    let parked = submit(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 500}]})).await;
    let busy = submit(&daemon, &parks()).await;
    parked.watch().wait_for(|execution| execution.state == State::Parked).await.unwrap();
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", folder.path().join("torpor.db").display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = offer(&daemon, &json!({}));
    assert!(matches!(&*refused.stored().await.unwrap_err(), StoreError::Busy));
    tokio::time::sleep(15 * MOMENT).await;
    for live in [&short, &parked, &busy] {
        assert!(!live.view().state.ended(), "nobody is told of an end that is not durable");
    }
    assert!(daemon.store.execution(&refused.id).await.unwrap().is_none());
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    is_whole(&daemon, &short, None).await;
    is_whole(&daemon, &parked, Some(1)).await;
    is_whole(&daemon, &busy, Some(30)).await;
    is_whole(&daemon, &*submit(&daemon, &json!({})).await, None).await;
    while daemon.dispatcher.live(&refused.id).is_some() {
        tokio::time::sleep(MOMENT).await;
    }
    assert!(daemon.dispatcher.all_live().is_empty() && daemon.dispatcher.load().running == 0);
}

#[tokio::test]
async fn what_was_not_accepted_does_nothing_outside() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path()).await;
    let mut other = SqliteConnection::connect(&format!("sqlite://{}", folder.path().join("torpor.db").display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = offer(&daemon, &json!({"asks": [{"ask": "spawn", "task": "t"}, {"ask": "sleep", "ms": 10}]}));
    refused.stored().await.unwrap_err();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    while !daemon.dispatcher.all_live().is_empty() {
        tokio::time::sleep(MOMENT).await;
    }
    assert_eq!(
        *daemon.runner.began.lock().unwrap(),
        [refused.id.to_string()],
        "it began while its insertion was on its way, and started nobody"
    );
    let filter = crate::state::store::Filter { limit: 10, ..Default::default() };
    assert!(daemon.store.ended(&filter).await.unwrap().is_empty());
}

/// What was accepted ends in what is kept free for that; nothing new is accepted until there is room.
#[tokio::test]
async fn a_full_disk_refuses_submissions_and_takes_ends() {
    let disk = SmallDisk::new("48m");
    let daemon = daemon(disk.path()).await;
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(submit(&daemon, &json!({"ms": 1000})).await);
    }
    let parks = submit(&daemon, &parks()).await;
    let ballast = disk.path().join("ballast");
    let filled = std::io::copy(&mut std::io::repeat(7), &mut std::fs::File::create(&ballast).unwrap());
    assert!(filled.is_err(), "the disk is full now");
    // Small ones may find room in the database; a large one does not.
    let large = offer(&daemon, &json!("x".repeat(2 << 20)));
    assert!(matches!(&*large.stored().await.unwrap_err(), StoreError::DiskFull));
    for live in &running {
        is_whole(&daemon, live, None).await;
    }
    is_whole(&daemon, &parks, Some(30)).await;
    assert!(daemon.store.execution(&large.id).await.unwrap().is_none());
    std::fs::remove_file(&ballast).unwrap();
    let room = async {
        while daemon.store.check_room().is_err() {
            tokio::time::sleep(MOMENT).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), room).await.unwrap();
    is_whole(&daemon, &*submit(&daemon, &json!({})).await, None).await;
}
