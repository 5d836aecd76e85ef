//! Executions that wait: for others, for moments, for events; parked, woken, restarted and abandoned.

use super::life::{events, with};
use crate::engine::ErrorKind;
use crate::manifest::{AccountName, Isolation, Park, Policy, Replay};
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::store::Filter;
use crate::state::writer::Change;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const ALWAYS: Policy = Policy { park: Park::Always, ..DEFAULT };
const DEFAULT: Policy = Policy {
    memory_mib: 128,
    vcpus_permille: 1000,
    timeout_ms: 30_000,
    deadline_ms: None,
    park: Park::Auto,
    retries: 0,
    backoff_ms: 0,
    backoff_max_ms: 300_000,
    log_cap: 1 << 20,
    max_parallel: None,
    isolation: Isolation::Execution,
    priority: 0,
    replay: Replay::Results,
};

async fn daemon(folder: &std::path::Path, budget_mib: u64, policy: Policy) -> Daemon {
    let daemon = Daemon::start(folder, budget_mib).await;
    daemon.put(&with(policy)).await;
    daemon
}

async fn submit(daemon: &Daemon, input: &Value) -> Arc<Live> {
    let version = daemon.catalog.version(&AccountName::default(), "t").unwrap();
    let live = daemon.dispatcher.submit(version, input.to_string().into_bytes().into()).unwrap();
    live.stored().await.unwrap();
    live
}

async fn run(daemon: &Daemon, input: &Value) -> Arc<Execution> {
    submit(daemon, input).await.ended().await
}

fn result(execution: &Arc<Execution>) -> Value {
    let result = execution.result.as_ref().unwrap_or_else(|| panic!("no result: {execution:?}"));
    serde_json::from_str(result.get()).unwrap()
}

async fn until(live: &Live, state: State) -> Arc<Execution> {
    let mut view = live.watch();
    let reached =
        tokio::time::timeout(Duration::from_secs(10), view.wait_for(|execution| execution.state == state || execution.state.ended()));
    let reached = Arc::clone(&reached.await.unwrap().unwrap());
    assert_eq!(reached.state, state, "{reached:?}");
    reached
}

async fn signal(daemon: &Daemon, token: &str, data: &str) -> bool {
    let (owner, _) = daemon.store.event(token).await.unwrap().unwrap();
    let stored = daemon.store.commit(Change::Signal { token: token.into(), data: data.as_bytes().into() }).await;
    daemon.dispatcher.signalled(&owner, token);
    stored.is_ok()
}

fn token(execution: &Arc<Execution>) -> String {
    execution.waiting[0].token.clone().unwrap()
}

#[tokio::test]
async fn a_program_that_sleeps_is_parked_and_woken() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let live = submit(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 150}, {"ask": "sleep", "ms": 100}]})).await;
    let parked = until(&live, State::Parked).await;
    assert_eq!((parked.waiting.len(), daemon.dispatcher.load().running), (1, 0), "what is parked holds nothing");
    let ended = live.ended().await;
    assert_eq!(result(&ended)[0]["answer"], "slept");
    assert_eq!((ended.parks, ended.parked_since, ended.waiting.len()), (2, None, 0));
    assert!((100..5000).contains(&ended.parked_ms), "{}", ended.parked_ms);
    let seen = events(&ended);
    assert_eq!(seen[..7], ["queued", "starting", "restored", "running", "parked", "resuming", "resumed"]);
    assert_eq!(daemon.store.execution(&ended.id).await.unwrap().unwrap().parks, 2);
    assert_eq!(daemon.parts.parked.used(), 0, "its file is removed");
}

#[tokio::test]
async fn results_and_failures_reach_the_caller() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let ended = run(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"ms": 50}})).await;
    let answer = &result(&ended)[0];
    assert_eq!((&answer["executions"][0]["state"], &answer["payload"]), (&json!("succeeded"), &json!("1")));
    let ended = run(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"fail": "exit"}})).await;
    let callee = &result(&ended)[0]["executions"][0];
    assert_eq!(
        (&callee["state"], &callee["error"]["kind"], &callee["error"]["message"]),
        (&json!("failed"), &json!("exit"), &json!("scripted"))
    );
    let ended = run(&daemon, &json!({"asks": [{"ask": "call", "task": "nobody"}, {"ask": "spawn", "task": "t@12345678"}]})).await;
    assert_eq!((&result(&ended)[0]["kind"], &result(&ended)[1]["kind"]), (&json!("unknown_task"), &json!("unknown_task")));
}

#[tokio::test]
async fn all_or_any_of_several() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, DEFAULT).await;
    let spawn = json!({"ask": "spawn", "task": "t"});
    let all = json!({"ask": "wait", "executions": [], "results": true});
    let ended = run(&daemon, &json!({"asks": [spawn, spawn, spawn, all], "payload": {"ms": 30}})).await;
    let answers = result(&ended);
    assert_eq!(answers[3]["payload"], "111");
    assert_eq!(answers[3]["executions"][1]["execution"], answers[1]["execution"], "in the order of the ask");
    let late = json!({"ask": "wait", "executions": [], "any": true, "timeout_ms": 30});
    let ended = run(&daemon, &json!({"asks": [spawn, late], "payload": {"ms": 2000}})).await;
    assert_eq!((&result(&ended)[1]["timed_out"], &result(&ended)[1]["executions"][0]["state"]), (&json!(true), &json!("running")));
    let look = json!({"ask": "wait", "executions": ["ex_00000000000000000000000000"], "timeout_ms": 0});
    assert_eq!(result(&run(&daemon, &json!({"asks": [look]})).await)[0]["kind"], "unknown_execution");
}

#[tokio::test]
async fn a_call_that_is_late_is_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let ended = run(&daemon, &json!({"asks": [{"ask": "call", "task": "t", "timeout_ms": 60}], "payload": {"ms": 60_000}})).await;
    let answer = &result(&ended)[0];
    assert_eq!(answer["timed_out"], true);
    let child = ExecutionId::parse(answer["executions"][0]["execution"].as_str().unwrap()).unwrap();
    if let Some(child) = daemon.dispatcher.live(&child) {
        assert_eq!(child.ended().await.state, State::Cancelled);
    }
    let child = daemon.store.execution(&child).await.unwrap().unwrap();
    assert_eq!((child.state, child.parent), (State::Cancelled, Some(ended.id.clone())));
}

#[tokio::test]
async fn a_cancelled_caller_takes_what_only_it_waits_for_along() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let parent = submit(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"ms": 60_000}})).await;
    let parked = until(&parent, State::Parked).await;
    let child = daemon.dispatcher.live(&parked.waiting[0].executions[0]).unwrap();
    let wait = json!({"ask": "wait", "executions": [parked.waiting[0].executions[0]]});
    let other = submit(&daemon, &json!({"asks": [wait]})).await;
    until(&other, State::Parked).await;
    daemon.dispatcher.cancel(&parent.id).await.unwrap().unwrap();
    assert_eq!(parent.ended().await.state, State::Cancelled);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!child.view().state.ended(), "another waits for it");
    daemon.dispatcher.cancel(&other.id).await.unwrap().unwrap();
    assert!(!child.view().state.ended(), "it was not its child");
    assert_eq!(daemon.parts.parked.used(), 0);

    let parent = submit(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"ms": 60_000}})).await;
    let child = daemon.dispatcher.live(&until(&parent, State::Parked).await.waiting[0].executions[0]).unwrap();
    daemon.dispatcher.cancel(&parent.id).await.unwrap().unwrap();
    let child = child.ended().await;
    assert!(child.state == State::Cancelled && child.error.as_ref().unwrap().message.contains("started it"), "{child:?}");
}

#[tokio::test]
async fn events_are_signalled_once_whenever_that_is() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let script = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]});
    let live = submit(&daemon, &script).await;
    let token = token(&until(&live, State::Parked).await);
    assert!(signal(&daemon, &token, "[7]").await);
    let ended = live.ended().await;
    assert_eq!((&result(&ended)[1]["answer"], &result(&ended)[1]["payload"]), (&json!("signalled"), &json!("[7]")));
    assert!(!signal(&daemon, &token, "[8]").await, "a second signal");

    let early = json!({"asks": [{"ask": "event"}, {"ask": "sleep", "ms": 100}, {"ask": "event_wait", "token": ""}]});
    let live = submit(&daemon, &early).await;
    until(&live, State::Parked).await;
    let before = result_token(&daemon, &live.id).await;
    assert!(signal(&daemon, &before, "null").await);
    assert_eq!(result(&live.ended().await)[2]["answer"], "signalled");

    let late = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": "", "timeout_ms": 30}]});
    assert_eq!(result(&run(&daemon, &late).await)[1]["answer"], "timed_out");
    let foreign = json!({"asks": [{"ask": "event_wait", "token": token}]});
    assert_eq!(result(&run(&daemon, &foreign).await)[0]["kind"], "unknown_event", "another's event is nobody's");
}

/// The token of an event that nobody waits for yet.
async fn result_token(daemon: &Daemon, id: &ExecutionId) -> String {
    use sqlx::Row;
    let path = daemon.state_dir().join("torpor.db");
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let row = sqlx::query("SELECT token FROM events WHERE execution = $1").bind(id.as_str().to_owned()).fetch_one(&mut db).await.unwrap();
    row.get("token")
}

#[tokio::test]
async fn what_is_parked_survives_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let script = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}, {"ask": "sleep", "ms": 1}]});
    let caller = json!({"asks": [{"ask": "call", "task": "t"}], "payload": script});
    let (ids, token) = {
        let daemon = daemon(folder.path(), 1024, ALWAYS).await;
        let (one, two) = (submit(&daemon, &script).await, submit(&daemon, &caller).await);
        let token = token(&until(&one, State::Parked).await);
        let child = until(&two, State::Parked).await.waiting[0].executions[0].clone();
        until(&daemon.dispatcher.live(&child).unwrap(), State::Parked).await;
        ([one.id.clone(), two.id.clone(), child], token)
    };
    let daemon = Daemon::start(folder.path(), 1024).await;
    assert_eq!((daemon.recovered.parked, daemon.recovered.failed), (3, 0));
    let child = daemon.dispatcher.live(&ids[2]).unwrap();
    assert_eq!(child.view().waiting.len(), 1, "what it waits for is known");
    let own = token_of(&child);
    let (one, two) = (daemon.dispatcher.live(&ids[0]).unwrap(), daemon.dispatcher.live(&ids[1]).unwrap());
    assert!(signal(&daemon, &own, "1").await && signal(&daemon, &token, "2").await);
    assert_eq!(result(&one.ended().await)[1]["payload"], "2");
    let ended = two.ended().await;
    assert_eq!(result(&ended)[0]["executions"][0]["state"], "succeeded");
    assert!(result(&ended)[0]["payload"].as_str().unwrap().contains("signalled"));
    assert!(daemon.runner.began.lock().unwrap().is_empty(), "none began anew");
}

fn token_of(live: &Live) -> String {
    token(&live.view())
}

/// A result that came while the daemon was away, or was stored and told to nobody, wakes its caller at the next start.
#[tokio::test]
async fn a_result_that_nobody_was_told_of_wakes_its_caller_later() {
    let folder = tempfile::tempdir().unwrap();
    let (parent, child) = {
        let daemon = daemon(folder.path(), 1024, ALWAYS).await;
        let parent = submit(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"ms": 60_000}})).await;
        let child = until(&parent, State::Parked).await.waiting[0].executions[0].clone();
        (parent.id.clone(), child)
    };
    let daemon = Daemon::start(folder.path(), 1024).await;
    // The child ran, so it failed with the daemon; its caller is told.
    assert_eq!((daemon.recovered.parked, daemon.recovered.failed), (1, 1));
    let ended = match daemon.dispatcher.live(&parent) {
        Some(live) => live.ended().await,
        None => Arc::new(daemon.store.execution(&parent).await.unwrap().unwrap()),
    };
    let callee = &result(&ended)[0]["executions"][0];
    assert_eq!((&callee["execution"], &callee["error"]["kind"]), (&json!(child), &json!("interrupted")));
}

#[tokio::test]
async fn a_deadline_counts_parked_time() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, Policy { deadline_ms: Some(1000), ..ALWAYS }).await;
    let ended = run(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 60_000}]})).await;
    assert_eq!((ended.state, ended.error.as_ref().unwrap().kind), (State::TimedOut, ErrorKind::Deadline));
    assert_eq!(ended.error.as_ref().unwrap().limit.as_deref(), Some("1s"));
}

#[tokio::test]
async fn what_can_not_be_parked_or_brought_back_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let ended = run(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 80}], "unparkable": true})).await;
    assert_eq!((ended.parks, result(&ended)[0]["answer"].as_str()), (0, Some("slept")));
    assert!(events(&ended).contains(&"not_parked".to_owned()), "{:?}", events(&ended));
    let ended = run(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 30}], "unresumable": 2})).await;
    assert_eq!(events(&ended).iter().filter(|event| *event == "not_resumed").count(), 2, "{:?}", events(&ended));
    assert_eq!(result(&ended)[0]["answer"], "slept");
    let ended = run(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 30}], "unresumable": 1000})).await;
    assert_eq!((ended.state, ended.error.as_ref().unwrap().kind), (State::Failed, ErrorKind::Host));
    assert_eq!(daemon.parts.parked.used(), 0);
}

#[tokio::test]
async fn what_is_cancelled_on_its_way_back_leaves_no_machine() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, ALWAYS).await;
    let live = submit(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 50}], "stuck": true})).await;
    until(&live, State::Resuming).await;
    daemon.dispatcher.cancel(&live.id).await.unwrap().unwrap();
    assert_eq!(live.ended().await.state, State::Cancelled);
    assert_eq!(daemon.parts.parked.used(), 0);
    assert!(daemon.parts.parked.file(&format!("{}.parked", live.id)).is_err());
}

/// With room for one VM at a time, callers must give theirs up for what they call.
#[tokio::test]
async fn nested_calls_need_one_vm_only() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 128, DEFAULT).await;
    let nested =
        |levels: usize| (0..levels).fold(json!({"ms": 1}), |below, _| json!({"asks": [{"ask": "call", "task": "t"}], "payload": below}));
    let ended = run(&daemon, &nested(64)).await;
    assert_eq!(result(&ended)[0]["executions"][0]["state"], "succeeded");
    assert_eq!(daemon.runner.peak.load(Ordering::SeqCst), 128);
    run(&daemon, &json!({"asks": [{"ask": "call", "task": "t"}], "same": true})).await;
    let filter = Filter { limit: 1000, ..Filter::default() };
    let ids: Vec<_> = daemon.store.ended(&filter).await.unwrap().into_iter().map(|ended| ended.id).collect();
    let mut ends = Vec::new();
    for id in &ids {
        ends.push(Arc::new(daemon.store.end(id).await.unwrap().unwrap()));
    }
    let refused = ends.iter().filter(|end| result(end).to_string().contains("too_deep"));
    assert_eq!(refused.map(|end| end.depth).max(), Some(128));
}

#[tokio::test]
async fn a_thousand_children_of_one_parent() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, DEFAULT).await;
    let mut asks = vec![json!({"ask": "spawn", "task": "t"}); 1000];
    asks.push(json!({"ask": "wait", "executions": [], "results": true}));
    let ended = run(&daemon, &json!({"asks": asks, "payload": {}})).await;
    assert_eq!(result(&ended)[1000]["payload"], "1".repeat(1000));
}

#[tokio::test]
async fn who_is_never_parked_keeps_its_vm() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, Policy { park: Park::Never, ..DEFAULT }).await;
    let ended = run(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 60}, {"ask": "call", "task": "t"}], "payload": {"ms": 60}})).await;
    assert_eq!((ended.parks, ended.state), (0, State::Succeeded));
}

#[tokio::test]
async fn a_daemon_that_stops_parks_who_waits() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 1024, DEFAULT).await;
    let live = submit(&daemon, &json!({"asks": [{"ask": "sleep", "ms": 3_600_000}]})).await;
    until(&live, State::Parked).await;
    let short = submit(&daemon, &json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]})).await;
    until(&short, State::Running).await;
    daemon.dispatcher.drain(Duration::from_secs(5)).await;
    assert_eq!((live.view().state, short.view().state), (State::Parked, State::Parked));
}

/// Many at once, all kinds of waits, little memory: each ends once and rightly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_waits() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = daemon(folder.path(), 512, DEFAULT).await;
    let mut all = Vec::new();
    for n in 0..150u64 {
        let (sleep, spawn) = (json!({"ask": "sleep", "ms": n % 37}), json!({"ask": "spawn", "task": "t"}));
        let (call, wait) =
            (json!({"ask": "call", "task": "t"}), json!({"ask": "wait", "executions": [], "results": true, "any": n % 2 == 0}));
        let payload = if n % 3 == 0 { json!({"asks": [{"ask": "sleep", "ms": n % 11}]}) } else { json!({"ms": n % 23}) };
        all.push(submit(&daemon, &json!({"asks": [sleep, spawn, call, spawn, wait, sleep], "payload": payload})).await);
    }
    for live in &all {
        let ended = tokio::time::timeout(Duration::from_secs(60), live.ended()).await;
        let ended = ended.unwrap_or_else(|_| panic!("stuck: {:?}, {:?}", live.view(), daemon.dispatcher));
        let answers = result(&ended);
        assert_eq!(answers.as_array().unwrap().len(), 6);
        assert_eq!(answers[2]["executions"][0]["state"], "succeeded");
    }
    while daemon.dispatcher.load().running + daemon.dispatcher.load().parked > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(daemon.parts.parked.used(), 0);
    assert!(daemon.runner.parks.load(Ordering::SeqCst) > 10, "nobody was parked");
}
