//! Accounts side by side: nothing that one has serves, holds up or shows itself to another.

use super::life::with;
use crate::manifest::{AccountName, Isolation, Policy};
use crate::schedule::estimates::Kind;
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::Version;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) fn of(account: &str, task: &str, version: &Version) -> Arc<Version> {
    Arc::new(Version { account: account.to_owned().try_into().unwrap(), task: task.to_owned().try_into().unwrap(), ..version.clone() })
}

async fn daemon(folder: &Path) -> Daemon {
    let daemon = Daemon::start(folder, 1024).await;
    for account in ["us", "rivals"] {
        daemon.parts.accounts.put(account.to_owned().try_into().unwrap(), None).await.unwrap();
    }
    daemon
}

fn queue(daemon: &Daemon, version: &Arc<Version>, input: Value) -> Arc<Live> {
    daemon.dispatcher.submit(Arc::clone(version), input.to_string().into_bytes().into()).unwrap()
}

pub(super) async fn submit(daemon: &Daemon, version: &Arc<Version>, input: Value) -> Arc<Live> {
    let live = queue(daemon, version, input);
    live.stored().await.unwrap();
    live
}

#[tokio::test]
async fn limits_vms_and_durations_are_each_accounts_own() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path()).await;
    let one = with(Policy { max_parallel: Some(1), isolation: Isolation::Task, ..Policy::default() });
    let (ours, theirs) = (of("us", "t", &one), of("rivals", "t", &one));
    let mut lives = Vec::new();
    for version in [&ours, &ours, &theirs, &theirs] {
        lives.push(queue(&daemon, version, json!({"ms": 200})));
    }
    let load = daemon.dispatcher.load();
    assert_eq!((load.running, load.queued), (2, 2), "one of each");
    let us: AccountName = "us".to_owned().try_into().unwrap();
    let own = daemon.dispatcher.load_of(&us);
    assert_eq!((own.running, own.queued, own.parked, own.all()), (1, 1, 0, 2));
    for live in &lives {
        assert_eq!(live.ended().await.state, State::Succeeded);
    }
    assert_eq!((daemon.runner.kept.load(Ordering::SeqCst), daemon.runner.reused.load(Ordering::SeqCst)), (2, 2), "each had its own again");
    daemon.dispatcher.unprepare(&ours);
    assert_eq!(daemon.runner.kept.load(Ordering::SeqCst), 1, "the other's stays");
    assert_eq!((daemon.dispatcher.busy(&us, &ours.task), daemon.catalog.of(&us).len()), (0, 0));

    let estimates = &daemon.parts.estimates;
    let (a, b) = (of("us", "x", &one), of("rivals", "x", &one));
    estimates.note(&a, Kind::Whole, Duration::from_secs(9));
    assert!(estimates.expected(&a).is_some() && estimates.expected(&b).is_none());
    estimates.forget_account("rivals");
    assert!(estimates.expected(&a).is_some());
    estimates.forget_account("us");
    assert!(estimates.expected(&a).is_none());
}

#[tokio::test]
async fn a_program_calls_tasks_of_its_account_and_learns_of_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path()).await;
    let plain = with(Policy::default());
    let (ours, theirs) = (of("us", "t", &plain), of("rivals", "t", &plain));
    let secret = of("rivals", "theirs", &plain);
    for version in [&ours, &theirs, &secret] {
        daemon.put(version).await;
    }
    let (ended, live) = (submit(&daemon, &secret, json!({})).await, submit(&daemon, &secret, json!({"ms": 60_000})).await);
    ended.ended().await;
    let call = submit(&daemon, &ours, json!({"asks": [{"ask": "call", "task": "t"}]})).await;
    assert_eq!(call.ended().await.state, State::Succeeded);
    let us = call.account.clone();
    let filter = crate::state::store::Filter { account: us.clone(), limit: 10, ..Default::default() };
    let all = daemon.store.ended(&filter).await.unwrap();
    assert_eq!((all.len(), all.iter().all(|execution| execution.account == us)), (2, true), "the child is its parent's account's: {all:?}");

    let nobody = "ex_7zzzzzzzzzzzzzzzzzzzzzzzzz";
    let answer = async |ask: Value, name: &str| {
        let told = submit(&daemon, &ours, json!({"asks": [ask]})).await.ended().await.result.clone().unwrap();
        told.get().replace(name, "NAME")
    };
    for what in ["call", "spawn"] {
        let ask = |task: &str| json!({"ask": what, "task": task});
        assert_eq!(answer(ask("theirs"), "theirs").await, answer(ask("nobody"), "nobody").await);
        let at = |task: &str| ask(&format!("{task}@{}", &secret.version[..12]));
        assert_eq!(answer(at("theirs"), "theirs").await, answer(at("nobody"), "nobody").await);
    }
    for target in [&ended, &live] {
        let ask = |id: &str| json!({"ask": "wait", "executions": [id], "results": true});
        let (there, missing) = (answer(ask(target.id.as_str()), target.id.as_str()).await, answer(ask(nobody), nobody).await);
        assert!(there.contains("unknown_execution") && there == missing, "{there} {missing}");
    }
    daemon.dispatcher.cancel(&live.id).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_parked_or_waits_is_its_accounts_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (id, ours) = {
        let daemon = daemon(folder.path()).await;
        let parked = with(Policy { park: crate::manifest::Park::Always, ..Policy::default() });
        let (ours, theirs) = (of("us", "t", &parked), of("rivals", "t", &Version { version: "b".repeat(64).into(), ..(*parked).clone() }));
        daemon.put(&ours).await;
        daemon.put(&theirs).await;
        let live = submit(&daemon, &ours, json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]})).await;
        while live.view().state != State::Parked {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon.dispatcher.drain(Duration::from_secs(5)).await;
        (live.id.clone(), ours)
    };
    let daemon = Daemon::start(folder.path(), 1024).await;
    assert_eq!(daemon.recovered.parked, 1);
    let live = daemon.dispatcher.live_of(&ours.account, &id).unwrap();
    assert_eq!((&live.version.account, &live.version.version), (&ours.account, &ours.version), "and not the other's task of that name");
    assert!(daemon.dispatcher.live_of(&AccountName::default(), &id).is_none());
    assert_eq!(daemon.dispatcher.load_of(&ours.account).parked_bytes, live.view().parked.as_ref().unwrap().stored_bytes);
    daemon.dispatcher.cancel(&id).await.unwrap().unwrap();
}

#[tokio::test]
async fn weights_are_the_schedulers_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let us: AccountName = "us".to_owned().try_into().unwrap();
    let plain = with(Policy { memory_mib: 1024, ..Policy::default() });
    let order = async |daemon: &Daemon| {
        let (ours, theirs) = (of("us", "t", &plain), of("rivals", "t", &plain));
        // All wait before the first, of a third account, has ended.
        let first = queue(daemon, &plain, json!({"ms": 500}));
        let mut lives = vec![first];
        for _ in 0..6 {
            lives.push(queue(daemon, &theirs, json!({"ms": 20})));
            lives.push(queue(daemon, &ours, json!({"ms": 20})));
        }
        for live in &lives {
            live.ended().await;
        }
        let began = daemon.runner.began.lock().unwrap().clone();
        let of_us: Vec<&str> = lives.iter().filter(|live| live.account == us).map(|live| live.id.as_str()).collect();
        began.iter().rev().take(12).rev().take(6).filter(|id| of_us.contains(&id.as_str())).count()
    };
    {
        let daemon = daemon(folder.path()).await;
        let (account, _) = daemon.parts.accounts.put(us.clone(), Some(100)).await.unwrap();
        daemon.dispatcher.weigh(&account);
        assert!(order(&daemon).await >= 5, "a hundred times the share");
    }
    let daemon = Daemon::start(folder.path(), 1024).await;
    assert!(order(&daemon).await >= 5, "as the database has it");
    let other = tempfile::tempdir().unwrap();
    let even = order(&self::daemon(other.path()).await).await;
    assert!(even <= 4, "in turn, where both weigh the same: {even}");
}
