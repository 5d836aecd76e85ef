//! Submissions that come twice.

use super::*;
use crate::idempotency::{KEPT, Key};
use crate::manifest::DEFAULT_ACCOUNT as ACCOUNT;
use crate::state::time::Timestamp;
use serde_json::json;
use std::time::Duration;

const SLOW: &str = r#"{"ms": 300}"#;

async fn submit(server: &Server, key: &str, query: &str, input: &str) -> (u16, Value) {
    let path = format!("/v1/tasks/t/executions{query}");
    let (status, value) = server.ask_with("POST", &path, &[("Idempotency-Key", key)], input.to_owned()).await;
    (status.as_u16(), value)
}

async fn executions(server: &Server) -> usize {
    server.ok("GET", "/v1/executions?all=true&limit=1000", Body::empty()).await["executions"].as_array().unwrap().len()
}

#[tokio::test]
async fn the_same_key_is_the_same_execution() {
    let server = Server::start().await;
    server.push("t", "").await;
    let (status, first) = submit(&server, "a", "", SLOW).await;
    assert_eq!(status, 201, "{first}");
    // While it runs and when it has ended, plain and in quotes; a wait waits for its end.
    let (status, again) = submit(&server, "\"a\"", "?wait=20", SLOW).await;
    assert_eq!((status, &again["id"], &again["state"]), (200, &first["id"], &json!("succeeded")));
    let (status, ended) = submit(&server, "a", "?wait=20", SLOW).await;
    assert_eq!((status, ended), (200, again));
    assert_eq!(executions(&server).await, 1);
    let (status, other) = submit(&server, "b", "", SLOW).await;
    assert!(status == 201 && other["id"] != first["id"]);
}

#[tokio::test]
async fn another_request_with_the_same_key_is_refused() {
    let server = Server::start().await;
    for task in ["t", "u"] {
        server.push(task, "").await;
    }
    let (_, first) = submit(&server, "a", "", "{}").await;
    for (path, input) in [("/v1/tasks/t/executions", "{ }"), ("/v1/tasks/u/executions", "{}")] {
        let (status, error) = server.ask_with("POST", path, &[("Idempotency-Key", "a")], input).await;
        assert_eq!((status.as_u16(), &error["error"]["code"]), (422, &json!("key_reused")), "{path} {input}");
        assert!(error["error"]["message"].as_str().unwrap().contains(first["id"].as_str().unwrap()));
    }
    let (status, error) = submit(&server, "a", "?need_by=60", "{}").await;
    assert_eq!((status, &error["error"]["code"]), (422, &json!("key_reused")));
    for wrong in ["", "\"", "\"a\" b", &"x".repeat(256)] {
        let (status, error) = submit(&server, wrong, "", "{}").await;
        assert_eq!((status, &error["error"]["code"]), (400, &json!("invalid_request")), "{wrong}");
    }
    let two = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")];
    assert_eq!(server.ask_with("POST", "/v1/tasks/t/executions", &two, "{}").await.0, 400);
    assert_eq!(executions(&server).await, 1);
}

#[tokio::test]
async fn a_key_goes_with_its_execution() {
    let server = Server::start().await;
    server.push("t", "").await;
    let (_, first) = submit(&server, "a", "?wait=20", "{}").await;
    let id = crate::state::id::ExecutionId::parse(first["id"].as_str().unwrap()).unwrap();
    server.app.store.commit(crate::state::writer::Change::RemoveEnded([id].into())).await.unwrap();
    let (status, again) = submit(&server, "a", "?wait=20", "{}").await;
    assert!(status == 201 && again["id"] != first["id"], "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_at_once_are_one_execution() {
    let server = Server::start().await;
    server.push("t", "").await;
    let router = server.router.clone();
    let asked: Vec<_> = (0..64)
        .map(|n| {
            let router = router.clone();
            tokio::spawn(async move {
                let request =
                    Request::post("/v1/tasks/t/executions").extension(Peer::Local(0)).header("idempotency-key", format!("key {}", n % 4));
                let response = router.oneshot(request.body(Body::from(SLOW)).unwrap());
                // Some go away before they are answered, which changes nothing.
                let patience = if n % 8 > 3 { Duration::from_millis(1) } else { Duration::from_secs(60) };
                let response = tokio::time::timeout(patience, response).await.ok()?.unwrap();
                let status = response.status().as_u16();
                let bytes = response.into_body().collect().await.unwrap().to_bytes();
                let body: Value = serde_json::from_slice(&bytes).unwrap();
                Some((n % 4, status, body["id"].as_str().unwrap_or_else(|| panic!("{status} {body}")).to_owned()))
            })
        })
        .collect();
    let mut ids = std::collections::BTreeMap::<usize, std::collections::BTreeSet<String>>::new();
    for asked in asked {
        if let Some((key, status, id)) = asked.await.unwrap() {
            assert!(matches!(status, 200 | 201));
            ids.entry(key).or_default().insert(id);
        }
    }
    assert_eq!(ids.values().map(|ids| ids.len()).collect::<Vec<_>>(), [1; 4]);
    assert_eq!(executions(&server).await, 4);
}

#[tokio::test]
async fn keys_survive_a_restart_and_the_removal_of_their_task() {
    let server = Server::start().await;
    server.push("t", "").await;
    let (_, first) = submit(&server, "a", "?wait=20", "{}").await;
    let Server { folder, .. } = server;
    let server = Server::on(folder).await;
    let (status, again) = submit(&server, "a", "?wait=20", "{}").await;
    assert_eq!((status, &again), (200, &first));
    assert_eq!(server.ask("DELETE", "/v1/tasks/t", Body::empty()).await.0, 204);
    assert_eq!(submit(&server, "a", "", "{}").await, (200, first));
    let (status, error) = submit(&server, "b", "", "{}").await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("unknown_task")));
}

#[tokio::test]
async fn a_key_lasts_a_day_and_its_execution_as_long() {
    let server = Server::start().await;
    server.push("t", "").await;
    let (_, first) = submit(&server, "a", "?wait=20", "{}").await;
    let (keys, store) = (&server.app.keys, &server.app.store);
    let now = Timestamp::now();
    let later = |seconds: i64| Timestamp(now.0 + i64::try_from(KEPT.as_micros()).unwrap() + seconds * 1_000_000);
    let key = Key::parse(b"a").unwrap();
    assert!(store.key(ACCOUNT, &key, later(-60)).await.unwrap().is_some());
    assert!(store.key(ACCOUNT, &key, later(60)).await.unwrap().is_none(), "it is too old, swept or not");
    assert!(store.key("other", &key, now).await.unwrap().is_none());
    assert!(store.ended_by(later(0), (None, None)).await.unwrap().is_empty(), "an execution is kept as long as its key");
    assert_eq!(keys.sweep(store, later(-60).before(KEPT)).await.unwrap(), 0);
    assert_eq!(keys.sweep(store, later(60).before(KEPT)).await.unwrap(), 1);
    assert_eq!(store.ended_by(later(0), (None, None)).await.unwrap().len(), 1);
    let (status, anew) = submit(&server, "a", "?wait=20", "{}").await;
    assert!(status == 201 && anew["id"] != first["id"]);
}
