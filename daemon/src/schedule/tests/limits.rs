//! What one account takes of what all share, and what that leaves others.

use super::accounts::{of, submit};
use super::life::with;
use crate::engine::ErrorKind;
use crate::manifest::host::HostPolicy;
use crate::manifest::{Park, Policy};
use crate::schedule::dispatch::SubmitError;
use crate::schedule::estimates::Kind;
use crate::schedule::extras::Extras;
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::machine::State;
use crate::state::record::Version;
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

async fn daemon(folder: &Path, budget_mib: u64, policy: &str, versions: &[&Arc<Version>]) -> Daemon {
    let daemon = Daemon::start_under(folder, budget_mib, Arc::new(HostPolicy::parse(policy.as_bytes()).unwrap())).await;
    for name in ["us", "rivals"] {
        daemon.parts.accounts.put(name.to_owned().try_into().unwrap(), None).await.unwrap();
    }
    for version in versions {
        daemon.put(version).await;
    }
    daemon
}

fn take(daemon: &Daemon, version: &Arc<Version>, input: &Value) -> Result<Arc<Live>, SubmitError> {
    daemon.dispatcher.submit(Arc::clone(version), input.to_string().into_bytes().into())
}

#[tokio::test]
async fn who_has_as_many_executions_as_it_may_keeps_nobody_else_out() {
    let folder = tempfile::tempdir().unwrap();
    let plain = with(Policy { retries: 9, ..Policy::default() });
    let (ours, theirs) = (of("us", "t", &plain), of("rivals", "t", &plain));
    let policy = "[limits]\nexecutions = 3\n[account.us.limits]\nexecutions = 4\n";
    let refused = |daemon: &Daemon| {
        let error = take(daemon, &theirs, &json!({})).unwrap_err();
        assert!(matches!(error, SubmitError::TooMuch { key: "executions", .. }), "{error}");
        assert!(error.to_string().starts_with("account rivals has 3 executions that have not ended"), "{error}");
    };
    {
        let daemon = daemon(folder.path(), 128, policy, &[&ours, &theirs]).await;
        for _ in 0..3 {
            submit(&daemon, &theirs, json!({"ms": 60_000})).await;
        }
        refused(&daemon);
        submit(&daemon, &ours, json!({"ms": 60_000})).await;
        daemon.dispatcher.drain(Duration::ZERO).await;
    }
    let daemon = daemon(folder.path(), 128, policy, &[]).await;
    refused(&daemon);
    for _ in 0..3 {
        submit(&daemon, &ours, json!({"ms": 60_000})).await;
    }
    assert!(matches!(take(&daemon, &ours, &json!({})), Err(SubmitError::TooMuch { .. })), "its own limit is 4");
    let first = daemon.dispatcher.all_live().into_iter().find(|live| live.account == theirs.account).unwrap();
    daemon.dispatcher.cancel(&first.id).await.unwrap().unwrap();
    take(&daemon, &theirs, &json!({})).unwrap().stored().await.unwrap();
    refused(&daemon);
}

#[tokio::test]
async fn inputs_that_wait_have_their_part_of_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let plain = with(Policy { retries: 9, ..Policy::default() });
    let (ours, theirs) = (of("us", "t", &plain), of("rivals", "t", &plain));
    let (policy, large) = ("[limits]\ninputs = \"10KiB\"\n", json!({"ms": 60_000, "fill": "x".repeat(4000)}));
    {
        let daemon = daemon(folder.path(), 128, policy, &[&ours, &theirs]).await;
        submit(&daemon, &theirs, large.clone()).await;
        submit(&daemon, &theirs, large.clone()).await;
        daemon.dispatcher.drain(Duration::ZERO).await;
    }
    let daemon = daemon(folder.path(), 128, policy, &[]).await;
    let error = take(&daemon, &theirs, &large).unwrap_err();
    assert!(matches!(error, SubmitError::TooMuch { key: "inputs", .. }), "{error}");
    submit(&daemon, &ours, large.clone()).await;
    take(&daemon, &theirs, &json!({})).unwrap().stored().await.unwrap();
}

#[tokio::test]
async fn what_is_kept_of_ended_ones_has_its_part_too() {
    let folder = tempfile::tempdir().unwrap();
    let plain = with(Policy::default());
    let (ours, theirs) = (of("us", "t", &plain), of("rivals", "t", &plain));
    let daemon = daemon(folder.path(), 1024, "[limits]\nhistory = \"2KiB\"\n", &[&ours, &theirs]).await;
    let mut ended = Vec::new();
    for version in [&theirs, &theirs, &ours] {
        ended.push(submit(&daemon, version, json!({})).await.ended().await);
    }
    let kept = |execution: &crate::state::record::Execution| {
        let result = execution.result.as_ref().map_or(0, |result| result.get().len());
        1024 + result as u64 + execution.log_bytes()
    };
    let history = daemon.store.history_sizes().await.unwrap();
    assert_eq!(history[&theirs.account], kept(&ended[0]) + kept(&ended[1]));
    daemon.dispatcher.look_at_history().await;
    let error = take(&daemon, &theirs, &json!({})).unwrap_err();
    assert!(matches!(error, SubmitError::History { .. }) && error.to_string().contains("account rivals"), "{error}");
    submit(&daemon, &ours, json!({})).await.ended().await;
    daemon.store.commit(Change::RemoveEnded([ended[0].id.clone()].into())).await.unwrap();
    daemon.dispatcher.look_at_history().await;
    submit(&daemon, &theirs, json!({})).await.ended().await;
}

/// What was accepted goes on where clients are refused, up to four times as many.
#[tokio::test]
async fn a_program_may_start_others_where_clients_may_not() {
    let folder = tempfile::tempdir().unwrap();
    let ours = of("us", "t", &with(Policy::default()));
    let daemon = daemon(folder.path(), 1024, "[limits]\nexecutions = 1\nhistory = \"1B\"\n", &[&ours]).await;
    let spawn = json!({"ask": "spawn", "task": "t"});
    let call = json!({"ask": "call", "task": "t"});
    let parent = submit(&daemon, &ours, json!({"asks": [call, spawn, spawn, spawn, spawn], "payload": {"ms": 2000}})).await;
    assert!(matches!(take(&daemon, &ours, &json!({})), Err(SubmitError::TooMuch { .. })));
    let told = parent.ended().await.result.clone().unwrap();
    let told: Vec<Value> = serde_json::from_str(told.get()).unwrap();
    let refused = |answer: &Value| answer.to_string().contains("too_many") && answer.to_string().contains("[limits]");
    assert_eq!(told.iter().map(refused).collect::<Vec<_>>(), [false, false, false, false, true], "{told:?}");
}

#[tokio::test]
async fn what_cannot_be_parked_ends_where_others_wait_for_its_vm() {
    let folder = tempfile::tempdir().unwrap();
    let parked = with(Policy { park: Park::Always, ..Policy::default() });
    let (ours, theirs) = (of("us", "t", &with(Policy::default())), of("rivals", "t", &parked));
    let daemon = daemon(folder.path(), 128, "[account.rivals.limits]\nparked = \"1B\"\n", &[&ours, &theirs]).await;
    let call = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]});
    let holder = submit(&daemon, &theirs, call).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let view = holder.view();
    assert_eq!(view.state, State::Running, "nobody else wants its VM: {view:?}");
    let waits = submit(&daemon, &ours, json!({})).await;
    assert_eq!(waits.ended().await.state, State::Succeeded);
    let ended = holder.ended().await;
    let error = ended.error.as_ref().unwrap();
    assert_eq!((ended.state, error.kind), (State::Failed, ErrorKind::Host));
    assert!(error.message.contains("could not be parked"), "{}", error.message);
    assert!(ended.timeline.iter().any(|entry| format!("{entry:?}").contains("account rivals may take 1B")), "{ended:?}");
    assert_eq!(daemon.parts.parked.used(), 0);
}

/// Neither the end of the daemon nor what is put off or made ahead is a reason to end one that can't be parked.
#[tokio::test]
async fn what_cannot_be_parked_stays_where_nobody_wants_its_vm_now() {
    let folder = tempfile::tempdir().unwrap();
    let parked = with(Policy { park: Park::Always, retries: 3, ..Policy::default() });
    let ours = of("us", "t", &parked);
    let daemon = daemon(folder.path(), 128, "[limits]\nparked = \"1B\"\n", &[&ours]).await;
    (0..20).for_each(|_| daemon.dispatcher.estimates.note(&ours, Kind::Whole, Duration::from_millis(100)));
    let waits = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]});
    let holder = submit(&daemon, &ours, waits).await;
    let put_off = Extras { need_by: Some(Timestamp::now().later(3_600_000)), ..Extras::default() };
    let put_off = daemon.dispatcher.submit_with(Arc::clone(&ours), b"{}"[..].into(), put_off).unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!((holder.view().state, put_off.view().state), (State::Running, State::Queued));
    daemon.dispatcher.drain(Duration::from_millis(700)).await;
    let left = daemon.store.execution(&holder.id).await.unwrap().unwrap();
    assert_eq!((left.state, left.error), (State::Queued, None), "it is run again by the next daemon");
}

#[tokio::test]
async fn parked_machines_take_no_more_than_half_of_the_quota_where_there_are_others() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), 128).await;
    let [a, b] = ["us", "rivals"].map(|name| name.to_owned().try_into().unwrap());
    let quota = daemon.parts.parked.quota();
    daemon.dispatcher.room_to_park(&a, quota).unwrap();
    daemon.parts.parked.unreserve(&a, quota);
    daemon.parts.accounts.put(b.clone(), None).await.unwrap();
    daemon.dispatcher.room_to_park(&a, quota / 2).unwrap();
    assert!(daemon.dispatcher.room_to_park(&a, 1).is_err());
    daemon.dispatcher.room_to_park(&b, quota / 2).unwrap();
}
