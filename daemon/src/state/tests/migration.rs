//! Databases of older versions, with what was in them.

use super::*;
use crate::manifest::AccountName;
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};
use std::borrow::Cow;

/// A database as the version with this newest migration made it, and what these statements put there.
async fn older(path: &Path, newest: i64, statements: &str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).foreign_keys(true);
    let mut db = SqliteConnection::connect_with(&options).await.unwrap();
    let all = sqlx::migrate!("./migrations");
    let migrations = all.migrations.iter().filter(|migration| migration.version <= newest).cloned().collect();
    Migrator { migrations: Cow::Owned(migrations), ..Migrator::DEFAULT }.run_direct(&mut db).await.unwrap();
    sqlx::raw_sql(statements).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}

const BEFORE_ACCOUNTS: &str = r#"
INSERT INTO tasks (name, latest, created_at) VALUES ('t', 'VV', 5), ('u', 'WW', 6);
INSERT INTO versions (task, version, created_at) VALUES ('t', 'OO', 4), ('t', 'VV', 5), ('u', 'WW', 6);
INSERT INTO portions (task, version, portion, runtime, entry, code, code_bytes, declared, rights) VALUES
    ('t', 'OO', 'main', 'python', 'main.py:f', 'OO', 10, '{}', '{}'),
    ('t', 'VV', 'main', 'python', 'main.py:f', 'CC', 10, '{}', '{}'),
    ('t', 'VV', 'sign', 'exec', 'run', 'SS', 11, '{}', '{"trust":"trusted"}'),
    ('u', 'WW', 'main', 'exec', 'run', 'WW', 12, '{}', '{}');
INSERT INTO executions (id, task, version, state, attempts, created_at, finished_at, result) VALUES
    ('ex_01m8jq1zsp0pwjq91hm9nsxz1p', 't', 'VV', 'succeeded', 1, 7, 8, '42'),
    ('ex_01m8jq1zsmhy7c7c608x4trs7f', 'gone', 'XX', 'failed', 1, 7, 8, NULL);
INSERT INTO executions (id, task, version, state, attempts, created_at, parent, depth) VALUES
    ('ex_01m8jyyyyyyyyyyyyyyyyyyyyy', 't', 'VV', 'queued', 0, 9, 'ex_01m8jq1zsp0pwjq91hm9nsxz1p', 1);
INSERT INTO inputs (execution, body) VALUES ('ex_01m8jyyyyyyyyyyyyyyyyyyyyy', '1');
INSERT INTO timeline (execution, seq, at, event) VALUES ('ex_01m8jyyyyyyyyyyyyyyyyyyyyy', 0, 9, '{"event":"queued"}');
INSERT INTO events (token, execution, created_at) VALUES ('ev_1', 'ex_01m8jyyyyyyyyyyyyyyyyyyyyy', 9);
INSERT INTO signals (token, data, at) VALUES ('ev_1', '1', 9);
INSERT INTO secrets (account, name, master, nonce, sealed, created_at, changed_at) VALUES ('default', 's', 'm', x'01', x'02', 1, 2);
"#;

#[tokio::test]
async fn what_was_there_before_accounts_belongs_to_the_default_one() {
    let folder = tempfile::tempdir().unwrap();
    older(&folder.path().join("torpor.db"), 4, BEFORE_ACCOUNTS).await;
    let store = open(folder.path()).await;
    let default = AccountName::default();
    let tasks = store.tasks().await.unwrap();
    let all: Vec<_> = tasks.iter().map(|task| (&task.account, task.name.as_str(), &*task.latest, task.versions.len())).collect();
    assert_eq!(all, [(&default, "t", "VV", 2), (&default, "u", "WW", 1)]);
    let newest = tasks[0].versions.iter().find(|version| *version.version == *"VV").unwrap();
    assert_eq!((newest.portions.len(), &newest.account, &newest.portions[0].account, &*newest.code), (1, &default, &default, "CC"));
    let filter = Filter { limit: 10, ..Filter::default() };
    assert_eq!(store.ended(&filter).await.unwrap().len(), 2, "history outlives its task");
    assert!(store.ended(&Filter { account: AccountName::try_from("us".to_owned()).unwrap(), ..filter }).await.unwrap().is_empty());
    assert_eq!(store.history_sizes().await.unwrap(), [(default.clone(), 2 * 1024 + 2)].into(), "what was kept before it was counted");
    let waiting = store.unfinished().await.unwrap();
    assert_eq!((waiting.len(), &waiting[0].account, waiting[0].timeline.len(), waiting[0].depth), (1, &default, 1, 1));
    assert_eq!(store.input(&waiting[0].id).await.unwrap(), b"1");
    assert!(store.event_of(&default, "ev_1").await.unwrap().unwrap().1.is_some());
    let secrets = store.secrets().await.unwrap();
    assert_eq!((secrets[0].account.as_str(), secrets[0].name.as_str(), secrets[0].changed_at), ("default", "s", Timestamp(2)));
    let known = store.known_accounts().await.unwrap();
    assert_eq!((known.accounts.len(), known.accounts[&default].weight, known.uids.len(), known.tokens.len()), (1, 1, 0, 0));
    // The references hold: a task goes with all that is below it, and the other account's of the same name stays.
    let us = AccountName::try_from("us".to_owned()).unwrap();
    let ours = Arc::new(Version { account: us.clone(), ..(*version("t", 'a')).clone() });
    let put = Change::PutVersion(Arc::clone(&ours));
    assert!(matches!(store.commit(put).await, Err(StoreError::Constraint)), "there is no such account");
    let account = crate::accounts::Account { name: us, weight: 1, created_at: Timestamp(1) };
    store.commit(Change::PutAccount(account)).await.unwrap();
    store.commit(Change::PutVersion(ours)).await.unwrap();
    store.commit(Change::RemoveTask(default, tasks[0].name.clone())).await.unwrap();
    let left: Vec<_> = store.tasks().await.unwrap().into_iter().map(|task| (task.account.to_string(), task.name.to_string())).collect();
    assert_eq!(left, [("default".to_owned(), "u".to_owned()), ("us".to_owned(), "t".to_owned())]);
}
