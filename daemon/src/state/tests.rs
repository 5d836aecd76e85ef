//! The state machine, ids, and a store that survives being killed and a full disk.
#![allow(clippy::unwrap_used, clippy::panic)]

mod busy;
mod crash;
mod full;
mod migration;

use super::id::{ExecutionId, IdSource};
use super::machine::{State, Step};
use super::record::{Execution, Happening, Monitor, Version};
use super::store::{Filter, Store, StoreError};
use super::time::Timestamp;
use super::waiting::CallKey;
use super::writer::Change;
use crate::engine::{ErrorKind, ExecutionError};
use crate::idempotency::{Key, NewKey};
use crate::manifest::{AccountName, Callee, Declared, Entry, Policy, PortionName, Rights, Said, TaskName};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn version(name: &str, hash: char) -> Arc<Version> {
    Arc::new(Version {
        account: AccountName::default(),
        task: TaskName::try_from(name.to_owned()).unwrap(),
        version: hash.to_string().repeat(64).into(),
        portion: PortionName::main(),
        code: hash.to_string().repeat(64).into(),
        entry: Entry::Python { file: "main.py".into(), function: "f".into() },
        declared: Declared::default(),
        policy: Policy::default(),
        rights: Arc::new(Rights { calls: Some(Said { value: vec![Callee::Any], line: 1 }), ..Rights::default() }),
        code_bytes: 10,
        created_at: Timestamp(1_000_000),
        portions: Vec::new(),
    })
}

/// Changes the database behind the daemon's back.
pub(crate) async fn change(folder: &Path, sql: &str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("torpor.db"));
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    assert!(sqlx::query(sql).execute(&pool).await.unwrap().rows_affected() > 0, "{sql}");
}

async fn open(folder: &Path) -> Store {
    Store::open(&folder.join("torpor.db"), |_, _| ()).await.unwrap()
}

fn fresh(ids: &mut IdSource, version: &Version) -> Execution {
    let mut random = [0; 10];
    getrandom::fill(&mut random).unwrap();
    let now = Timestamp::now();
    Execution::new(ids.next(now, random), version, now)
}

async fn insert(store: &Store, execution: &Execution, input: &[u8]) -> Result<(), StoreError> {
    store.commit(Change::Insert { execution: Arc::new(execution.clone()), input: input.into(), key: None }).await
}

fn key(execution: &Execution, key: &str) -> NewKey {
    NewKey { account: "default".into(), key: Key::parse(key.as_bytes()).unwrap(), request: "hash".into(), at: execution.created_at }
}

async fn insert_keyed(store: &Store, execution: &Execution, input: &[u8], key: NewKey) -> Result<(), StoreError> {
    store.commit(Change::Insert { execution: Arc::new(execution.clone()), input: input.into(), key: Some(key) }).await
}

async fn update(store: &Store, before: &Execution, after: &Execution) -> Result<(), StoreError> {
    let change = Change::Update { execution: Arc::new(after.clone()), stored: before.state, timeline: before.timeline.len() };
    store.commit(change).await
}

#[test]
fn ends_are_final_and_every_other_state_can_end() {
    const STEPS: [Step; 10] =
        [Step::Start, Step::Run, Step::Park, Step::Wake, Step::Resume, Step::Retry, Step::Succeed, Step::Fail, Step::TimeOut, Step::Cancel];
    for state in State::ALL {
        let reachable = STEPS.iter().filter_map(|step| state.next(*step).ok()).collect::<Vec<_>>();
        if state.ended() {
            assert!(reachable.is_empty(), "{state:?}");
        } else {
            assert!(reachable.contains(&State::Failed) && reachable.contains(&State::Cancelled), "{state:?}");
        }
        assert_eq!(State::from_name(state.name()), Some(state));
        assert_eq!(serde_json::to_string(&state).unwrap(), format!("{:?}", state.name()));
    }
    assert_eq!(State::Queued.next(Step::Run).unwrap_err().to_string(), "an execution that is queued can't Run");
    assert!(State::Starting.next(Step::Succeed).is_err());
}

#[test]
fn ids_sort_by_age_whatever_the_clock_does() {
    let mut ids = IdSource::default();
    let times = [5_000_000, 5_000_000, 5_000_001, 4_000_000, 9_000_000, 0, -5];
    let made: Vec<ExecutionId> = times.iter().map(|at| ids.next(Timestamp(*at), [255; 10])).collect();
    assert!(made.is_sorted() && made.windows(2).all(|pair| pair[0] != pair[1]));
    let mut later = IdSource::after(made.last());
    assert!(later.next(Timestamp(1), [0; 10]) > *made.last().unwrap());
    for id in &made {
        assert_eq!(ExecutionId::parse(id.as_str()).as_ref(), Some(id));
        assert_eq!(id.as_str().len(), 29);
    }
    for wrong in [
        "",
        "ex_",
        "ex_8zzzzzzzzzzzzzzzzzzzzzzzzz",
        "ex_01m83dndt313mznh5d8mdfh73",
        "ex_01m83dndt313mznh5d8mdfh73Y",
        "01m83dndt313mznh5d8mdfh73y",
    ] {
        assert_eq!(ExecutionId::parse(wrong), None, "{wrong}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_id_or_not(text in "(ex_)?[0-9a-z]{0,30}") {
        if let Some(id) = ExecutionId::parse(&text) {
            prop_assert_eq!(id.as_str(), text);
        }
    }
}

#[test]
fn times_are_rfc_3339_with_microseconds() {
    let at = Timestamp(1_700_000_000_123_456);
    assert_eq!(serde_json::to_string(&at).unwrap(), "\"2023-11-14T22:13:20.123456Z\"");
    assert_eq!(serde_json::from_str::<Timestamp>("\"2023-11-14T22:13:20.123456Z\"").unwrap(), at);
    assert!(Timestamp(5).seconds_since(Timestamp(10)).abs() < f64::EPSILON);
}

#[tokio::test]
async fn an_execution_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut ids) = (open(folder.path()).await, IdSource::default());
    let queued = fresh(&mut ids, &version("t", 'a'));
    insert(&store, &queued, b"[1]").await.unwrap();
    assert_eq!(store.input(&queued.id).await.unwrap(), b"[1]");
    assert_eq!(store.last_id().await.unwrap().as_ref(), Some(&queued.id));
    assert_eq!(store.unfinished().await.unwrap().len(), 1);

    let mut done = queued.clone();
    for what in [
        Happening::Starting { attempt: 1 },
        Happening::Template { ms: 3 },
        Happening::Restored { micros: 4, monitor: Monitor::Warm },
        Happening::Running { micros: 5 },
        Happening::Finished { state: State::Succeeded, log_bytes: 0, log_dropped_bytes: 0 },
    ] {
        done.apply(Timestamp::now(), what).unwrap();
    }
    done.result = Some(serde_json::value::RawValue::from_string("{\"a\": 1.50}".into()).unwrap().into());
    update(&store, &queued, &done).await.unwrap();
    drop(store);

    let store = open(folder.path()).await;
    let back = store.execution(&queued.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&done).unwrap());
    assert!(store.input(&queued.id).await.is_err(), "inputs are not kept after the end");
    assert!(store.unfinished().await.unwrap().is_empty());
    assert_eq!(store.ended(&Filter { limit: 10, ..Filter::default() }).await.unwrap().len(), 1);
    let none = Filter { limit: 10, state: Some(State::Failed), ..Filter::default() };
    assert!(store.ended(&none).await.unwrap().is_empty());
}

#[tokio::test]
async fn calls_of_a_parent_are_those_of_its_account() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut ids) = (open(folder.path()).await, IdSource::default());
    let own = version("t", 'a');
    let foreign = Version { account: AccountName::try_from("b".to_owned()).unwrap(), ..Version::clone(&own) };
    let parent = fresh(&mut ids, &own);
    insert(&store, &parent, b"1").await.unwrap();
    let call = CallKey::after(None, &own, b"1");
    let mut children = Vec::new();
    // The foreign one is the later, which would count.
    for version in [&*own, &foreign] {
        let queued = Execution { parent: Some(parent.id.clone()), call_key: Some(call.clone()), ..fresh(&mut ids, version) };
        insert(&store, &queued, b"1").await.unwrap();
        let mut done = queued.clone();
        for what in [
            Happening::Starting { attempt: 1 },
            Happening::Restored { micros: 4, monitor: Monitor::Warm },
            Happening::Running { micros: 5 },
            Happening::Finished { state: State::Succeeded, log_bytes: 0, log_dropped_bytes: 0 },
        ] {
            done.apply(Timestamp::now(), what).unwrap();
        }
        update(&store, &queued, &done).await.unwrap();
        children.push(done.id);
    }
    for (account, child) in [(&own.account, &children[0]), (&foreign.account, &children[1])] {
        assert_eq!(store.done_calls(account, &parent.id).await.unwrap(), [(call.clone(), child.clone())].into());
        assert_eq!(store.ended_below(account, &parent.id).await.unwrap(), std::slice::from_ref(child));
    }
}

#[tokio::test]
async fn errors_are_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut ids) = (open(folder.path()).await, IdSource::default());
    let queued = fresh(&mut ids, &version("t", 'a'));
    insert(&store, &queued, b"0").await.unwrap();
    let mut failed = queued.clone();
    failed.apply(Timestamp::now(), Happening::Finished { state: State::Failed, log_bytes: 0, log_dropped_bytes: 0 }).unwrap();
    let mut error = ExecutionError::new(ErrorKind::Signal, "no");
    error.signal = Some(9);
    failed.error = Some(error.clone());
    update(&store, &queued, &failed).await.unwrap();
    assert_eq!(store.execution(&queued.id).await.unwrap().unwrap().error, Some(error));
}

#[tokio::test]
async fn a_change_that_does_not_fit_is_refused_and_harms_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut ids) = (open(folder.path()).await, IdSource::default());
    let all: Vec<Execution> = (0..20).map(|_| fresh(&mut ids, &version("t", 'a'))).collect();
    let inserts = all.iter().map(|execution| insert(&store, execution, b"0"));
    assert!(futures_util::future::join_all(inserts).await.iter().all(Result::is_ok));
    assert!(insert(&store, &all[0], b"0").await.is_err(), "the same id twice");

    // All at once, so that they share transactions; every third expects what is not there.
    let changes = all.iter().enumerate().map(|(n, execution)| {
        let mut after = execution.clone();
        after.apply(Timestamp::now(), Happening::Starting { attempt: 1 }).unwrap();
        let stored = if n % 3 == 0 { State::Running } else { State::Queued };
        store.commit(Change::Update { execution: Arc::new(after), stored, timeline: 1 })
    });
    for (n, result) in futures_util::future::join_all(changes).await.into_iter().enumerate() {
        assert_eq!(matches!(result, Err(StoreError::Conflict { .. })), n % 3 == 0, "{n}: {result:?}");
        let state = store.execution(&all[n].id).await.unwrap().unwrap().state;
        assert_eq!(state, if n % 3 == 0 { State::Queued } else { State::Starting });
    }
}

#[tokio::test]
async fn a_key_has_one_execution_whatever_the_scheduler_thinks() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut ids) = (open(folder.path()).await, IdSource::default());
    let [first, second, third] = [0; 3].map(|_| fresh(&mut ids, &version("t", 'a')));
    insert_keyed(&store, &first, b"0", key(&first, "k")).await.unwrap();
    let (again, other) = tokio::join!(
        insert_keyed(&store, &second, b"0", key(&second, "k")),
        insert_keyed(&store, &third, b"0", NewKey { account: "other".into(), ..key(&third, "k") })
    );
    assert!(matches!(again, Err(StoreError::Conflict { .. })), "{again:?}");
    other.unwrap();
    assert!(store.execution(&second.id).await.unwrap().is_none(), "all of it or nothing");
    let known = store.key("default", &Key::parse(b"k").unwrap(), Timestamp::now()).await.unwrap().unwrap();
    assert_eq!((known.execution, known.request.as_str()), (first.id, "hash"));
}

#[tokio::test]
async fn tasks_and_versions() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let (a, b, other) = (version("t", 'a'), version("t", 'b'), version("u", 'c'));
    for version in [&a, &b, &other, &a] {
        store.commit(Change::PutVersion(Arc::clone(version))).await.unwrap();
    }
    let tasks = store.tasks().await.unwrap();
    assert_eq!(tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["t", "u"]);
    assert_eq!((tasks[0].latest.as_str(), tasks[0].versions.len()), (&*a.version, 2));
    assert_eq!(tasks[0].versions[0], *a);
    store.commit(Change::RemoveTask(a.account.clone(), a.task.clone())).await.unwrap();
    assert_eq!(store.tasks().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).await);
    let path = folder.path().join("torpor.db");
    let mut db = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'new', 1, x'00', 0)")
        .execute(&mut db)
        .await
        .unwrap();
    let error = Store::open(&path, |_, _| ()).await.unwrap_err();
    assert!(error.to_string().contains("newer torpord"), "{error}");
}
