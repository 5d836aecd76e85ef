//! Where ends are told, as callers give it.

use super::*;
use crate::accounts::Role;
use serde_json::json;

const URL: &str = "https://hooks.example.com/torpor/1?x=y";
const QUERY: &str = "notify=https%3A%2F%2Fhooks.example.com%2Ftorpor%2F1%3Fx%3Dy";

#[tokio::test]
async fn nothing_is_called_that_the_host_does_not_allow() {
    let server = Server::start().await;
    server.push("t", "").await;
    let error = server.refused("POST", &format!("/v1/tasks/t/executions?{QUERY}"), "{}", 403, "not_allowed").await;
    assert!(error["message"].as_str().unwrap().contains("`notify` in [caps]"), "{error}");
    let schedule = json!({"task": "t", "cron": "@daily", "notify": URL}).to_string();
    server.refused("POST", "/v1/schedules", schedule, 403, "not_allowed").await;
    for query in
        ["notify=", "notify=tcp:1.2.3.4:5", "notify=https://a/..", "notify_secret=a", "notify=https%3A%2F%2Fu%3Ap%40hooks.example.com%2F"]
    {
        server.refused("POST", &format!("/v1/tasks/t/executions?{query}"), "{}", 400, "invalid_request").await;
    }
    assert_eq!(server.ok("GET", "/v1/executions?all=true", Body::empty()).await["executions"], json!([]));
}

#[tokio::test]
async fn where_an_end_is_told_is_kept_and_shown() {
    let caps = Arc::new(HostPolicy::parse(b"[caps]\nnotify = [\"https://hooks.example.com/torpor/*\"]\n").unwrap());
    let server = Server::under(tempfile::tempdir().unwrap(), Arc::clone(&caps)).await;
    server.push("t", "").await;
    let submit = format!("/v1/tasks/t/executions?{QUERY}");
    server.refused("POST", &submit.replace("torpor", "other"), "{}", 403, "not_allowed").await;
    server.refused("POST", &format!("{submit}&notify_secret=hook"), "{}", 404, "unknown_secret").await;
    server.ok("PUT", "/v1/secrets/hook", "k3y").await;
    let run = server.ok("POST", &format!("{submit}&notify_secret=hook"), r#"{"ms": 60000}"#).await;
    let notify = &run["notify"];
    assert_eq!(
        (&notify["url"], &notify["secret"], &notify["state"], &notify["attempts"]),
        (&json!(URL), &json!("hook"), &json!("waiting"), &json!(0))
    );
    assert!(notify["id"].as_str().unwrap().starts_with("dl_"));
    let id = run["id"].as_str().unwrap();
    let added = server
        .ok("POST", "/v1/schedules", json!({"task": "t", "cron": "@daily", "notify": URL, "notify_secret": "hook"}).to_string())
        .await;
    assert_eq!(added["notify"], json!({"url": URL, "secret": "hook"}));
    server.ok("POST", &format!("/v1/executions/{id}/cancel"), Body::empty()).await;
    let ended = server.ok("GET", &format!("/v1/executions/{id}"), Body::empty()).await;
    assert_eq!((&ended["notify"]["state"], &ended["notify"]["next_at"]), (&json!("pending"), &ended["finished_at"]));
    let Server { folder, .. } = server;
    // An administrator who takes it back.
    let server = Server::on(folder).await;
    assert_eq!(server.ok("GET", &format!("/v1/executions/{id}"), Body::empty()).await, ended);
    assert_eq!(server.ok("GET", "/v1/schedules/t", Body::empty()).await["notify"], added["notify"]);
    server.refused("POST", &submit, "{}", 403, "not_allowed").await;
    // The list has it as well, and is asked for what is not told; figures count that.
    let list = async |query: &str| server.ok("GET", &format!("/v1/executions?{query}"), Body::empty()).await["executions"].clone();
    assert_eq!(list("all=true").await[0]["notify"], ended["notify"]);
    assert_eq!((list("notify=pending").await[0]["id"].clone(), list("notify=failed").await), (json!(id), json!([])));
    server.refused("GET", "/v1/executions?notify=told", "", 400, "invalid_request").await;
    let pending = async || server.ok("GET", "/metrics", Body::empty()).await.as_str().unwrap().contains("\ntorpor_webhooks_pending 1\n");
    assert!(pending().await);
}

#[tokio::test]
async fn an_invoker_sees_and_uses_no_secret() {
    let caps = Arc::new(HostPolicy::parse(b"[caps]\nnotify = [\"https://hooks.example.com/torpor/*\"]\n").unwrap());
    let server = Server::under(tempfile::tempdir().unwrap(), caps).await;
    server.push("t", "").await;
    server.ok("PUT", "/v1/secrets/hook", "k3y").await;
    let token = server.token("default", Role::Invoker).await;
    let bearer = format!("Bearer {token}");
    let by = async |method: &str, path: &str, body: &str| {
        let (status, answer) = server.ask_from(Peer::Remote, method, path, &[("authorization", &bearer)], body.to_owned()).await;
        (status.as_u16(), answer)
    };
    let submit = format!("/v1/tasks/t/executions?wait=5&{QUERY}");
    for name in ["hook", "none"] {
        let (status, refused) = by("POST", &format!("{submit}&notify_secret={name}"), "{}").await;
        assert_eq!((status, &refused["error"]["code"]), (403, &json!("forbidden")), "{name}: {refused}");
    }
    assert_eq!(by("POST", &submit, "{}").await.0, 201, "it may have its own told, unsigned");
    let run = server.ok("POST", &format!("{submit}&notify_secret=hook"), "{}").await;
    server.ok("POST", "/v1/schedules", json!({"task": "t", "cron": "@daily", "notify": URL, "notify_secret": "hook"}).to_string()).await;
    let path = format!("/v1/executions/{}", run["id"].as_str().unwrap());
    let seen = [
        by("GET", &path, "").await.1,
        by("GET", "/v1/schedules", "").await.1["schedules"][0].clone(),
        by("GET", "/v1/schedules/t", "").await.1,
    ];
    for seen in seen {
        assert_eq!((&seen["notify"]["url"], seen["notify"].get("secret")), (&json!("https://hooks.example.com/torpor/1"), None), "{seen}");
    }
    assert_eq!(server.ok("GET", &path, Body::empty()).await["notify"]["secret"], "hook");
}
