//! Executions that move: when they do, when they stay, and what is not taken in. What a file holds of a real machine is tested on real ones.

use super::{Peer, Server};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use crate::transfer::container::{Kind, Writer, check};
use crate::transfer::content::{self, Contents};
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::time::Duration;
use tower::ServiceExt;

const WAITS: &str = r#"{"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}, {"ask": "sleep", "ms": 1}]}"#;

impl Server {
    async fn until(&self, id: &str, state: &str) -> Value {
        for _ in 0..1000 {
            let execution = self.ok("GET", &format!("/v1/executions/{id}"), "").await;
            if execution["state"] == state {
                return execution;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{id} is not {state}: {}", self.ok("GET", &format!("/v1/executions/{id}"), "").await);
    }

    async fn submit(&self, input: &str) -> String {
        let execution = self.ok("POST", "/v1/tasks/t/executions", input.to_owned()).await;
        execution["id"].as_str().unwrap().to_owned()
    }

    async fn waiting(&self) -> (String, String) {
        self.push("t", "park = \"always\"").await;
        let id = self.submit(WAITS).await;
        let parked = self.until(&id, "parked").await;
        (id, parked["waiting"][0]["token"].as_str().unwrap().to_owned())
    }

    async fn export(&self, id: &str) -> Body {
        let request = Request::post(format!("/v1/executions/{id}/export")).extension(Peer::Local(0)).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[tokio::test]
async fn what_moves_ends_before_its_file_is_whole() {
    let server = Server::start().await;
    let (id, token) = server.waiting().await;
    let mut body = server.export(&id).await;
    let mut bytes = Vec::new();
    // The file is whole with its last piece, the trailer of 80 bytes, and by then the end is in the database.
    while let Some(frame) = body.frame().await {
        let piece = frame.unwrap().into_data().unwrap();
        if piece.len() == 80 {
            assert!(check(&file(&bytes)).unwrap_err().to_string().contains("cut off"));
            let moved = server.app.store.execution(&ExecutionId::parse(&id).unwrap()).await.unwrap().unwrap();
            assert_eq!(moved.state.name(), "cancelled");
        }
        bytes.extend_from_slice(&piece);
    }
    let ended = server.until(&id, "cancelled").await;
    assert_eq!((&ended["error"]["kind"], &ended["error"]["message"]), (&json!("moved"), &json!("moved to another host, where it goes on")));
    let left = std::fs::read_dir(server.path().join("parked")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(left.filter(|path| path.extension().is_some_and(|end| end == "parked")).count(), 0);
    let kinds: Vec<Kind> = check(&file(&bytes)).unwrap().iter().map(|section| section.kind).collect();
    assert_eq!(kinds, [Kind::Record, Kind::Input, Kind::Event, Kind::Code, Kind::Machine]);
    let contents = Contents::read(&file(&bytes), &AccountName::default()).unwrap();
    assert_eq!((contents.record.id.as_str(), contents.events), (id.as_str(), vec![(token.clone(), None)]));
    assert_eq!((contents.input.as_slice(), contents.record.parked.asks.len()), (WAITS.as_bytes(), 1));

    let why = server.refused("POST", &format!("/v1/events/{token}"), "1", 404, "unknown_event").await;
    assert!(why["message"].as_str().unwrap().contains("moved to another host"), "{why}");
    server.refused("POST", &format!("/v1/executions/{id}/export"), "", 409, "not_movable").await;
    let known = server.refused("POST", "/v1/executions/import", bytes.clone(), 409, "execution_known").await;
    assert!(known["message"].as_str().unwrap().contains("imported once"), "{known}");
    // Elsewhere: what is scripted is no machine.
    let other = Server::start().await;
    let why = other.refused("POST", "/v1/executions/import", bytes.clone(), 400, "invalid_transfer").await;
    assert!(why["message"].as_str().unwrap().contains("the machine in the file"), "{why}");
    assert_eq!(other.ok("GET", "/v1/tasks", "").await["tasks"], json!([]), "nothing is kept of it");
    assert_eq!(other.ok("GET", "/v1/executions?all=true", "").await["executions"], json!([]));
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    other.refused("POST", "/v1/executions/import", damaged, 400, "invalid_transfer").await;
    let why = other.refused("POST", "/v1/executions/import", bytes[..bytes.len() - 80].to_vec(), 400, "invalid_transfer").await;
    assert!(why["message"].as_str().unwrap().contains("cut off"), "{why}");
    let mut foreign = bytes;
    foreign[8] = 9;
    let why = other.refused("POST", "/v1/executions/import", foreign, 400, "invalid_transfer").await;
    assert!(why["message"].as_str().unwrap().contains("format version 9"), "{why}");
    other.refused("POST", "/v1/executions/import", "", 400, "invalid_transfer").await;
    other.refused("POST", "/v1/executions/import", "something else", 400, "invalid_transfer").await;
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_it_parked() {
    let server = Server::start().await;
    let (id, token) = server.waiting().await;
    let body = server.export(&id).await;
    // Meanwhile it does not wake, whatever comes.
    server.ok("POST", &format!("/v1/events/{token}"), "7").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.until(&id, "parked").await["parks"], 1);
    drop(body);
    let ended = server.until(&id, "succeeded").await;
    assert_eq!(ended["result"][1]["payload"], "7", "{ended}");
}

#[tokio::test]
async fn a_signal_that_comes_meanwhile_is_not_lost() {
    let server = Server::start().await;
    let (id, token) = server.waiting().await;
    let body = server.export(&id).await;
    server.ok("POST", &format!("/v1/events/{token}"), "8").await;
    assert!(body.collect().await.is_err(), "a file that lacks the signal is not made whole");
    assert_eq!(server.until(&id, "succeeded").await["result"][1]["payload"], "8");
}

#[tokio::test]
async fn what_is_cancelled_while_it_is_exported_does_not_move() {
    let server = Server::start().await;
    let (id, _) = server.waiting().await;
    let body = server.export(&id).await;
    server.ok("POST", &format!("/v1/executions/{id}/cancel"), "").await;
    let broken = body.collect().await;
    assert!(broken.is_err(), "the answer does not end as if it were whole");
    assert_eq!(server.until(&id, "cancelled").await["error"]["kind"], "cancelled");
}

#[tokio::test]
async fn what_has_to_do_with_others_here_stays() {
    let server = Server::start().await;
    server.push("t", "park = \"always\"\ncalls = [\"t\"]").await;
    let input = json!({"asks": [{"ask": "call", "task": "t"}], "payload": {"asks": [{"ask": "sleep", "ms": 60_000}]}});
    let caller = server.submit(&input.to_string()).await;
    let parked = server.until(&caller, "parked").await;
    let callee = parked["waiting"][0]["executions"][0].as_str().unwrap().to_owned();
    server.until(&callee, "parked").await;
    let path = |id: &str| format!("/v1/executions/{id}/export");
    let why = server.refused("POST", &path(&caller), "", 409, "not_movable").await;
    assert!(why["message"].as_str().unwrap().contains(&callee), "{why}");
    let why = server.refused("POST", &path(&callee), "", 409, "not_movable").await;
    assert!(why["message"].as_str().unwrap().contains(&caller), "{why}");
    let running = server.submit(r#"{"ms": 60000}"#).await;
    server.until(&running, "running").await;
    let why = server.refused("POST", &path(&running), "", 409, "not_movable").await;
    assert!(why["message"].as_str().unwrap().contains("it is running"), "{why}");
    server.refused("POST", &path("ex_00000000000000000000000000"), "", 404, "unknown_execution").await;
    server.refused("POST", &format!("{}?what=1", path(&caller)), "", 400, "invalid_request").await;
}

/// The same file with other JSON in its record and its executions that ended.
fn rewritten(bytes: &[u8], mut change: impl FnMut(Kind, &mut Value)) -> File {
    let from = file(bytes);
    let mut to = Writer::new(Vec::new()).unwrap();
    for section in check(&from).unwrap() {
        let mut body = content::bytes(&from, &section.body).unwrap();
        if matches!(section.kind, Kind::Record | Kind::Ended) {
            let mut value = serde_json::from_slice(&body).unwrap();
            change(section.kind, &mut value);
            body = serde_json::to_vec(&value).unwrap();
        }
        to.section(section.kind, &body).unwrap();
    }
    let (mut whole, trailer) = to.finish().unwrap();
    whole.extend(trailer);
    file(&whole)
}

#[tokio::test]
async fn what_a_file_says_of_others_reaches_no_further_than_its_own() {
    let server = Server::start().await;
    server.push("t", "park = \"always\"\ncalls = [\"t\"]").await;
    let asks = json!([{"ask": "call", "task": "t"}, {"ask": "event"}, {"ask": "event_wait", "token": ""}]);
    let id = server.submit(&json!({"asks": asks, "payload": {"ms": 1}}).to_string()).await;
    let event = async {
        while server.until(&id, "parked").await["waiting"][0]["for"] != "event" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), event).await.unwrap();
    let bytes = server.export(&id).await.collect().await.unwrap().to_bytes();
    let account = AccountName::try_from("b".to_owned()).unwrap();
    let read = |file: File| Contents::read(&file, &account);
    let [child] = read(rewritten(&bytes, |_, _| ())).unwrap().ended.try_into().unwrap();
    assert_eq!((child.parent.as_ref().map(ExecutionId::as_str), child.call_key.is_some(), &child.account), (Some(&*id), true, &account));

    let soon = ExecutionId::first_of(Timestamp::now().after(Duration::from_secs(1800)));
    let far = ExecutionId::first_of(Timestamp::now().after(Duration::from_secs(3700)));
    for kind in [Kind::Record, Kind::Ended] {
        let with = |id: &ExecutionId| {
            rewritten(&bytes, |found, value| {
                if found == kind {
                    value["id"] = json!(id)
                }
            })
        };
        let why = read(with(&far)).unwrap_err().to_string();
        assert!(why.contains("of a time to come"), "{why}");
        if kind == Kind::Ended {
            read(with(&soon)).unwrap();
        }
    }
    // As if another account's execution had called it.
    let other = "ex_01m8jyyyyyyyyyyyyyyyyyyyyy";
    let forged = |awaited: bool| {
        let child = &child;
        rewritten(&bytes, move |kind, value| match kind {
            Kind::Record if awaited => {
                let ask = &mut value["parked"]["asks"][0];
                ask.as_object_mut().unwrap().remove("token");
                ask["for"] = json!("executions");
                ask["ids"] = json!([child.id.as_str()]);
            }
            Kind::Ended => value["parent"] = json!(other),
            _ => {}
        })
    };
    let why = read(forged(false)).unwrap_err().to_string();
    assert!(why.contains("neither started nor waits for"), "{why}");
    let [end] = read(forged(true)).unwrap().ended.try_into().unwrap();
    assert_eq!((end.parent, end.call_key), (None, None));
}
