//! Rules of policies that the scheduler enforces: how many at once, VMs that are used again, who calls whom, and for how long.

use super::life::with;
use crate::manifest::flow::{self, By};
use crate::manifest::{Callee, Caller, Declared, Isolation, Park, Policy, PortionName, Rights, Said, Trust};
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::Version;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn named(name: &str) -> PortionName {
    PortionName::try_from(name.to_owned()).unwrap()
}

fn said<T>(value: T) -> Option<Said<T>> {
    Some(Said { value, line: 1 })
}

/// A version whose main may call `sign`, and whose `sign` lets main in.
fn signing() -> Arc<Version> {
    let main = (*with(Policy { park: Park::Always, deadline_ms: Some(60_000), ..Policy::default() })).clone();
    let rights = |rights: Rights| Arc::new(rights);
    let sign = Version {
        portion: named("sign"),
        code: "5".repeat(64).into(),
        declared: Declared::default(),
        policy: Policy::default(),
        rights: rights(Rights { trust: Trust::Trusted, callers: said(vec![Caller::Portion(named("main"))]), ..Rights::default() }),
        portions: Vec::new(),
        ..main.clone()
    };
    let other = Version { portion: named("other"), code: "6".repeat(64).into(), rights: rights(Rights::default()), ..sign.clone() };
    let calls = vec![Callee::Portion(named("sign")), Callee::Portion(named("other"))];
    Arc::new(Version {
        rights: rights(Rights { calls: said(calls), ..Rights::default() }),
        portions: vec![Arc::new(other), Arc::new(sign)],
        ..main
    })
}

#[tokio::test]
async fn at_most_so_many_of_a_task_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 128 * 8).await;
    let version = with(Policy { max_parallel: Some(2), ..Policy::default() });
    let lives: Vec<_> = (0..8).map(|_| daemon.dispatcher.submit(Arc::clone(&version), b"{\"ms\":20}"[..].into()).unwrap()).collect();
    let load = daemon.dispatcher.load();
    assert_eq!((load.running, load.queued), (2, 6));
    assert!(!daemon.dispatcher.pressed(), "there is memory for others");
    for live in &lives {
        assert_eq!(live.ended().await.state, State::Succeeded);
    }
    assert_eq!(daemon.runner.peak.load(Ordering::SeqCst), 256);
}

#[tokio::test]
async fn a_vm_is_used_again_until_its_memory_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 256).await;
    let kept = || daemon.runner.kept.load(Ordering::SeqCst);
    let version = with(Policy { isolation: Isolation::Task, ..Policy::default() });
    for before in 0..3 {
        let live = daemon.dispatcher.submit(Arc::clone(&version), b"{}"[..].into()).unwrap();
        assert_eq!(live.ended().await.state, State::Succeeded);
        // The VM is kept before the end is told.
        assert_eq!((kept(), daemon.runner.reused.load(Ordering::SeqCst)), (1, before));
        let load = daemon.dispatcher.load();
        assert_eq!((load.running, load.used), (0, 128 << 20), "it holds its memory, and is no execution");
    }
    let failed = daemon.dispatcher.submit(Arc::clone(&version), br#"{"fail":"exception"}"#[..].into()).unwrap();
    assert_eq!(failed.ended().await.state, State::Failed);
    assert_eq!(kept(), 0, "a VM whose program failed is not used again");

    let live = daemon.dispatcher.submit(Arc::clone(&version), b"{}"[..].into()).unwrap();
    live.ended().await;
    assert_eq!(kept(), 1);
    let all = with(Policy { memory_mib: 256, ..Policy::default() });
    let live = daemon.dispatcher.submit(all, b"{}"[..].into()).unwrap();
    assert_eq!(live.ended().await.state, State::Succeeded);
    assert_eq!((kept(), daemon.dispatcher.load().used), (0, 0));

    let live = daemon.dispatcher.submit(Arc::clone(&version), b"{}"[..].into()).unwrap();
    live.ended().await;
    daemon.dispatcher.unprepare(&version);
    assert_eq!((kept(), daemon.dispatcher.load().used), (0, 0), "its task is gone");
    let live = daemon.dispatcher.submit(version, b"{}"[..].into()).unwrap();
    live.ended().await;
    daemon.dispatcher.drain(Duration::from_secs(5)).await;
    assert_eq!((kept(), daemon.dispatcher.load().used), (0, 0));
}

#[tokio::test]
async fn a_portion_is_called_by_whom_it_lets_in() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = signing();
    daemon.put(&version).await;
    let call = |task: &str| json!({"asks": [{"ask": "call", "task": task}], "payload": {"ms": 1}}).to_string();
    let run = async |task: &str| {
        let live = daemon.dispatcher.submit(Arc::clone(&version), call(task).into_bytes().into()).unwrap();
        let result = live.ended().await.result.clone().unwrap();
        serde_json::from_str::<serde_json::Value>(result.get()).unwrap()[0].clone()
    };
    let answer = run("portion:sign").await;
    assert_eq!(answer["executions"][0]["state"], "succeeded", "{answer}");
    let called = answer["executions"][0]["execution"].as_str().unwrap().parse().map(|id: String| id).unwrap();
    let called = daemon.store.execution(&crate::state::id::ExecutionId::parse(&called).unwrap()).await.unwrap().unwrap();
    assert_eq!(called.portion.as_str(), "sign");
    let parent = daemon.store.execution(called.parent.as_ref().unwrap()).await.unwrap().unwrap();
    assert_eq!(called.due, parent.due, "who is called has no more time than who calls");
    assert!(called.due.is_some());

    for (task, kind, part) in [
        ("portion:other", "", ""),
        ("portion:gone", "unknown_task", "no portion"),
        ("portion:main", "not_allowed", "add \"t\" to its `calls`"),
        ("t", "not_allowed", "add \"t\" to its `calls`"),
    ] {
        let answer = run(task).await;
        let refused = (answer["kind"].as_str().unwrap_or(""), answer["message"].as_str().unwrap_or(""));
        assert!(refused.0 == kind && refused.1.contains(part), "{task}: {answer}");
    }
    let sign = version.portion(&named("sign")).unwrap();
    assert!(flow::allowed(By::Client, sign.end()).is_err(), "only main is called from outside");
    assert!(flow::allowed(By::Client, version.end()).is_ok());
}

#[tokio::test]
async fn results_are_for_those_who_might_have_asked() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let version = signing();
    daemon.put(&version).await;
    let stranger = Arc::new(Version { version: "e".repeat(64).into(), rights: Arc::default(), portions: Vec::new(), ..(*version).clone() });
    daemon.put(&stranger).await;
    let secret = daemon.dispatcher.submit(Arc::clone(&version), b"{}"[..].into()).unwrap();
    secret.ended().await;
    let ask = json!({"asks": [{"ask": "wait", "executions": [secret.id.as_str()], "results": true}]}).to_string();
    let live = daemon.dispatcher.submit(stranger, ask.into_bytes().into()).unwrap();
    let told = live.ended().await.result.clone().unwrap();
    assert!(told.get().contains("unknown_execution"), "{told}");
}

#[tokio::test]
async fn what_the_newest_version_closes_is_closed_in_older_ones() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 1024).await;
    let task = |name: &str| crate::manifest::TaskName::try_from(name.to_owned()).unwrap();
    let old = Arc::new(Version { version: "a".repeat(64).into(), ..(*with(Policy::default())).clone() });
    let callers = Rights { callers: said(vec![Caller::Task(task("shop"))]), ..Rights::default() };
    let new = Arc::new(Version { version: "b".repeat(64).into(), rights: Arc::new(callers), ..(*old).clone() });
    let calls = Rights { calls: said(vec![Callee::Task(task("t"))]), ..Rights::default() };
    let evil = Arc::new(Version { task: task("evil"), version: "c".repeat(64).into(), rights: Arc::new(calls), ..(*old).clone() });
    daemon.put(&old).await;
    daemon.put(&evil).await;
    let ask = json!({"asks": [{"ask": "call", "task": format!("t@{}", "a".repeat(8))}], "payload": {"ms": 1}}).to_string();
    for (pushed, part) in [(false, "succeeded"), (true, "not_allowed")] {
        if pushed {
            daemon.put(&new).await;
        }
        let live = daemon.dispatcher.submit(Arc::clone(&evil), ask.clone().into_bytes().into()).unwrap();
        let told = live.ended().await.result.clone().unwrap();
        assert!(told.get().contains(part), "{told}");
    }
}
