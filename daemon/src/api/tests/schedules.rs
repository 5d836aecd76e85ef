//! Schedules over the API.

use super::*;
use serde_json::json;

#[tokio::test]
async fn a_schedule_is_added_listed_paused_and_removed() {
    let server = Server::start().await;
    let hash = server.push("t", "").await["version"].as_str().unwrap()[..12].to_owned();
    let (status, added) =
        server.ask("POST", "/v1/schedules", r#"{"task":"t","cron":"30 2 * * *","timezone":"Europe/Berlin","input":[1.50]}"#).await;
    assert_eq!(status, 201, "{added}");
    assert_eq!(
        (&added["name"], &added["missed"], &added["overlap"], &added["paused"]),
        (&json!("t"), &json!("once"), &json!("skip"), &json!(false))
    );
    assert_eq!(added["next"].as_array().unwrap().len(), 5);
    let id = added["id"].as_str().unwrap();
    assert_eq!(server.app.store.schedule_input(id).await.unwrap(), b"[1.50]", "as it was written");
    let other =
        json!({"name": "other", "task": format!("t@{hash}"), "cron": "@hourly", "missed": "all", "need_by_s": 600, "on_late": "refuse"});
    let other = server.ok("POST", "/v1/schedules", other.to_string()).await;
    assert_eq!((&other["overlap"], &other["need_by_s"], &other["on_late"]), (&json!("allow"), &json!(600), &json!("refuse")));
    let list = server.ok("GET", "/v1/schedules", Body::empty()).await;
    let names: Vec<_> = list["schedules"].as_array().unwrap().iter().map(|schedule| schedule["name"].clone()).collect();
    assert_eq!(names, ["other", "t"]);
    for name in ["t", id] {
        let mut seen = server.ok("GET", &format!("/v1/schedules/{name}"), Body::empty()).await;
        assert_eq!(seen.as_object_mut().unwrap().remove("input"), Some(json!([1.50])));
        assert_eq!(seen, added);
    }
    assert_eq!(server.ok("POST", "/v1/schedules/t/pause", Body::empty()).await["next"], json!([]));
    let Server { folder, .. } = server;
    let server = Server::on(folder).await;
    assert_eq!(server.ok("GET", "/v1/schedules/t", Body::empty()).await["paused"], true);
    assert_eq!(server.ok("POST", "/v1/schedules/t/resume", Body::empty()).await["paused"], false);
    let error = server.refused("DELETE", "/v1/tasks/t", Body::empty(), 409, "task_busy").await;
    assert!(error["message"].as_str().unwrap().contains("other, t"), "{error}");
    for name in [id, "other"] {
        assert_eq!(server.ask("DELETE", &format!("/v1/schedules/{name}"), Body::empty()).await.0, 204);
    }
    assert_eq!(server.ask("DELETE", "/v1/tasks/t", Body::empty()).await.0, 204);
}

#[tokio::test]
async fn what_is_no_schedule_is_refused() {
    let server = Server::start().await;
    server.push("t", "").await;
    server.push("closed", "callers = [\"t\"]").await;
    let post = async |body: &str, status, code| server.refused("POST", "/v1/schedules", body.to_owned(), status, code).await;
    for body in [
        "",
        "[]",
        r#"{"task":"t"}"#,
        r#"{"task":"t","cron":"* * * * * *"}"#,
        r#"{"task":"t","cron":"0 0 30 2 *"}"#,
        r#"{"task":"t","cron":"@daily","timezone":"Nowhere"}"#,
        r#"{"task":"t","cron":"@daily","missed":"sometimes"}"#,
        r#"{"task":"t","cron":"@daily","missed":"all","overlap":"skip"}"#,
        r#"{"task":"t","cron":"@daily","on_late":"refuse"}"#,
        r#"{"task":"t","cron":"@daily","need_by_s":31622401}"#,
        r#"{"task":"t","cron":"@daily","need_by_s":60,"on_late":"wait"}"#,
        r#"{"task":"t","cron":"@daily","colour":1}"#,
        r#"{"task":"t","cron":"@daily","name":"Not a name"}"#,
        r#"{"task":"t","cron":"@daily","input":{]}"#,
    ] {
        post(body, 400, "invalid_request").await;
    }
    post(r#"{"task":"nobody","cron":"@daily"}"#, 404, "unknown_task").await;
    post(r#"{"task":"closed","cron":"@daily"}"#, 403, "not_allowed").await;
    let large = format!(r#"{{"task":"t","cron":"@daily","input":"{}"}}"#, "x".repeat(64 << 10));
    post(&large, 413, "input_too_large").await;
    post(&large.replace('x', "xx"), 413, "input_too_large").await;
    server.ok("POST", "/v1/schedules", r#"{"task":"t","cron":"@daily"}"#).await;
    post(r#"{"task":"t","cron":"@daily"}"#, 409, "schedule_known").await;
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")] {
        server.refused(method, &format!("/v1/schedules/nobody{path}"), Body::empty(), 404, "unknown_schedule").await;
    }
}
