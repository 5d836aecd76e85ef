//! What a client that behaves gets.

use super::*;
use serde_json::json;
use std::sync::atomic::Ordering;
use std::time::Duration;

#[tokio::test]
async fn a_push_makes_a_version_once() {
    let server = Server::start().await;
    let (status, first) = server.ask("POST", "/v1/tasks", task("t", "memory = \"256MiB\"")).await;
    assert_eq!(status, 201);
    let policy = json!({
        "memory": "256MiB", "vcpus": 1.0, "timeout": "30s", "park": "auto", "isolation": "execution", "retries": 0, "backoff": "1s", "backoff_max": "5m", "priority": 0, "replay": "results",
        "log_cap": "1MiB"
    });
    assert_eq!(first["policy"], policy);
    assert_eq!(first["version"].as_str().unwrap().len(), 64);
    let (status, second) = server.ask("POST", "/v1/tasks", task("t", "timeout = \"90s\"")).await;
    assert_eq!((status.as_u16(), second["policy"]["timeout"].as_str()), (201, Some("90s")));
    let (status, again) = server.ask("POST", "/v1/tasks", task("t", "memory = \"256MiB\"")).await;
    assert_eq!((status.as_u16(), &again["created_at"]), (200, &first["created_at"]));

    // What was pushed last is what runs, also if it is an old version.
    let task = server.ok("GET", "/v1/tasks/t", Body::empty()).await;
    assert_eq!((&task["latest"], task["versions"].as_array().unwrap().len()), (&first["version"], 2));
    let list = server.ok("GET", "/v1/tasks", Body::empty()).await;
    assert_eq!(list["tasks"][0], task);
    let run = server.ok("POST", "/v1/tasks/t/executions?wait=5", "{}").await;
    assert_eq!(run["version"], first["version"]);
    let hash = &second["version"].as_str().unwrap()[..8];
    let run = server.ok("POST", &format!("/v1/tasks/t@{hash}/executions?wait=5"), "{}").await;
    assert_eq!(run["version"], second["version"]);
    assert_eq!(server.runner.prepared.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn tasks_are_there_after_a_restart_and_gone_after_a_removal() {
    let server = Server::start().await;
    let version = server.push("t", "").await["version"].as_str().unwrap().to_owned();
    let image = server.path().join(format!("code/{version}.erofs"));
    let before = server.ok("GET", "/v1/tasks/t", Body::empty()).await;
    let Server { folder, .. } = server;
    let server = Server::on(folder).await;
    assert_eq!(server.ok("GET", "/v1/tasks/t", Body::empty()).await, before);
    let run = server.ok("POST", "/v1/tasks/t/executions?wait=5", "{}").await;
    assert!(image.exists());
    assert_eq!(server.ask("DELETE", "/v1/tasks/t", Body::empty()).await.0, 204);
    assert!(!image.exists());
    assert_eq!(server.runner.forgotten.load(Ordering::SeqCst), 1);
    server.refused("GET", "/v1/tasks/t", Body::empty(), 404, "unknown_task").await;
    // History stays.
    let id = run["id"].as_str().unwrap();
    assert_eq!(server.ok("GET", &format!("/v1/executions/{id}"), Body::empty()).await["state"], "succeeded");
    assert_eq!(server.push("t", "").await["version"], version.as_str());
}

#[tokio::test]
async fn a_wait_ends_with_the_execution_or_the_time() {
    let server = Server::start().await;
    server.push("t", "").await;
    let slow = server.ok("POST", "/v1/tasks/t/executions?wait=0.05", r#"{"ms": 400}"#).await;
    assert!(slow.get("finished_at").is_none(), "{slow}");
    let id = slow["id"].as_str().unwrap();
    let ended = server.ok("GET", &format!("/v1/executions/{id}?wait=20"), Body::empty()).await;
    assert_eq!((&ended["state"], &ended["result"], &ended["attempts"]), (&json!("succeeded"), &json!(1), &json!(1)));
    let events: Vec<_> = ended["timeline"].as_array().unwrap().iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["queued", "starting", "restored", "running", "finished"]);
    assert_eq!(ended["timeline"][2]["monitor"], "warm");
    for at in ["created_at", "started_at", "finished_at"] {
        let text = ended[at].as_str().unwrap();
        assert!(text.len() == 27 && text.ends_with('Z'), "{text}");
    }
    assert_eq!(server.ok("GET", &format!("/v1/executions/{id}?wait=20"), Body::empty()).await, ended);
}

#[tokio::test]
async fn lists_are_newest_first_and_filtered() {
    let server = Server::start().await;
    server.push("t", "").await;
    server.push("u", "").await;
    let mut ids = Vec::new();
    for (task, script) in [("t", "{}"), ("u", r#"{"fail": "exit"}"#), ("t", r#"{"ms": 60000}"#)] {
        let run = server.ok("POST", &format!("/v1/tasks/{task}/executions?wait=0.2"), script).await;
        ids.insert(0, run["id"].as_str().unwrap().to_owned());
    }
    let list = async |query: &str| {
        let list = server.ok("GET", &format!("/v1/executions{query}"), Body::empty()).await;
        let list = list["executions"].as_array().unwrap().clone();
        assert!(list.iter().all(|execution| execution.get("result").is_none()));
        list.iter().map(|execution| execution["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ids[..1]);
    assert_eq!(list("?all=true").await, ids);
    assert_eq!(list("?all=true&limit=2").await, ids[..2]);
    assert_eq!(list("?all=true&task=t").await, [ids[0].clone(), ids[2].clone()]);
    assert_eq!(list("?state=failed").await, ids[1..2]);
    assert_eq!(list("?state=running").await, ids[..1]);
    assert_eq!(list("?state=queued").await, [""; 0]);
    assert_eq!(list("?all=true&task=nobody").await, [""; 0]);
    let cancelled = server.ok("POST", &format!("/v1/executions/{}/cancel", ids[0]), Body::empty()).await;
    assert_eq!((&cancelled["state"], &cancelled["error"]["kind"]), (&json!("cancelled"), &json!("cancelled")));
}

#[tokio::test]
async fn logs_are_read_followed_and_taken_up_again() {
    let server = Server::start().await;
    server.push("t", "log_cap = \"128KiB\"").await;
    let run = server.ok("POST", "/v1/tasks/t/executions", r#"{"ms": 300, "print": "first\n", "chunks": 4}"#).await;
    let logs = format!("/v1/executions/{}/logs", run["id"].as_str().unwrap());
    // While it runs, to its end.
    let stream = server.ok("GET", &format!("{logs}?follow=true"), Body::empty()).await;
    let stream = stream.as_str().unwrap();
    assert!(stream.contains("event: log\n") && stream.contains("first\\n"), "{}", &stream[..300]);
    assert!(stream.ends_with("event: end\ndata: {\"truncated\":true}\n\n"));
    let ids: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 3);

    let all = server.ok("GET", &logs, Body::empty()).await;
    assert_eq!((all["entries"].as_array().unwrap().len(), &all["truncated"]), (3, &json!(true)));
    assert_eq!((&all["entries"][0]["stream"], &all["entries"][0]["text"]), (&json!("stdout"), &json!("first\n")));
    assert_eq!(all["next"].to_string(), ids[2]);
    let rest = server.ok("GET", &format!("{logs}?from={}", ids[0]), Body::empty()).await;
    assert_eq!(rest["entries"].as_array().unwrap()[..], all["entries"].as_array().unwrap()[1..]);
    let rest = server.ok("GET", &format!("{logs}?follow=true&from={}", ids[1]), Body::empty()).await;
    assert_eq!(rest.as_str().unwrap().matches("event: log").count(), 1);
    let none = server.ok("GET", &format!("{logs}?from={}", ids[2]), Body::empty()).await;
    assert_eq!((&none["entries"], none["next"].to_string().as_str()), (&json!([]), ids[2]));
}

#[tokio::test]
async fn a_large_log_comes_whole() {
    let server = Server::start().await;
    server.push("t", "log_cap = \"8MiB\"").await;
    let run = server.ok("POST", "/v1/tasks/t/executions?wait=20", r#"{"chunks": 100}"#).await;
    let all = server.ok("GET", &format!("/v1/executions/{}/logs", run["id"].as_str().unwrap()), Body::empty()).await;
    let text: usize = all["entries"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap().len()).sum();
    assert_eq!((text, &all["truncated"]), (100 << 16, &json!(false)));
}

#[tokio::test]
async fn the_daemon_describes_itself() {
    let server = Server::start().await;
    server.push("t", "").await;
    server.ok("POST", "/v1/tasks/t/executions?wait=5", r#"{"fail": "exit"}"#).await;
    assert_eq!(server.ok("GET", "/healthz", Body::empty()).await, json!({"status": "ok"}));
    let metrics = server.ok("GET", "/metrics", Body::empty()).await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "torpor_executions_submitted_total 1",
        "torpor_executions_ended_total{state=\"failed\",kind=\"exit\"} 1",
        "torpor_memory_budget_bytes 536870912",
        "# TYPE torpor_commit_seconds histogram",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(metrics.ends_with("# EOF\n") && metrics.matches("# EOF").count() == 1);
    let host = server.ok("GET", "/v1/host", Body::empty()).await;
    assert_eq!((&host["memory_budget_bytes"], &host["limits"]["input_bytes"]), (&json!(512 << 20), &json!(6 << 20)));
    assert_eq!(host["state_dir"], server.path().to_str().unwrap());
    let api = server.ok("GET", "/openapi.json", Body::empty()).await;
    let paths: Vec<&String> = api["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths.len(), 30, "{paths:?}");
    assert!(api["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap().contains(&json!("disk_full")));
    assert!(api["components"]["schemas"]["ErrorKind"]["enum"].as_array().unwrap().contains(&json!("guest_crashed")));
}

#[tokio::test]
async fn a_draining_daemon_answers_but_takes_nothing() {
    let server = Server::start().await;
    server.push("t", "").await;
    let run = server.ok("POST", "/v1/tasks/t/executions", r#"{"ms": 300}"#).await;
    let (dispatcher, id) = (Arc::clone(&server.app.dispatcher), run["id"].as_str().unwrap());
    let draining = tokio::spawn(async move { dispatcher.drain(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.refused("POST", "/v1/tasks/t/executions", "{}", 503, "draining").await;
    server.refused("POST", "/v1/tasks", task("u", ""), 503, "draining").await;
    assert_eq!(server.ok("GET", "/healthz", Body::empty()).await, json!({"status": "draining"}));
    let ended = server.ok("GET", &format!("/v1/executions/{id}?wait=10"), Body::empty()).await;
    assert_eq!(ended["state"], "succeeded");
    draining.await.unwrap();
}
