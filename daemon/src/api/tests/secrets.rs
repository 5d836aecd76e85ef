//! Secrets over the API: set, listed, removed, never told; and tasks that declare them.

use super::*;
use crate::manifest::AccountName;
use serde_json::json;

const VALUE: &str = "s3cr3t-\u{e9}-0c1d2e3f\n";

#[tokio::test]
async fn a_secret_is_set_listed_and_removed_and_its_value_never_told() {
    let server = Server::start().await;
    assert_eq!(server.ok("GET", "/v1/secrets", Body::empty()).await, json!({"secrets": []}));
    let (status, first) = server.ask("PUT", "/v1/secrets/api-key", "other").await;
    assert_eq!((status.as_u16(), &first["name"]), (201, &json!("api-key")));
    let (status, again) = server.ask("PUT", "/v1/secrets/api-key", VALUE).await;
    assert_eq!((status.as_u16(), &again["created_at"]), (200, &first["created_at"]));
    let name = crate::manifest::SecretName::try_from("api-key".to_owned()).unwrap();
    assert_eq!(*server.app.dispatcher.secrets.get(&AccountName::default(), &name).unwrap(), VALUE, "byte for byte");
    let list = server.ok("GET", "/v1/secrets", Body::empty()).await;
    assert_eq!(list, json!({"secrets": [again]}));
    let Server { folder, .. } = server;
    let server = Server::on(folder).await;
    assert_eq!(server.ok("GET", "/v1/secrets", Body::empty()).await, list);
    assert_eq!(server.ask("DELETE", "/v1/secrets/api-key", Body::empty()).await.0, 204);
    server.refused("DELETE", "/v1/secrets/api-key", Body::empty(), 404, "unknown_secret").await;
}

#[tokio::test]
async fn what_is_no_secret_is_refused_and_not_repeated() {
    let server = Server::start().await;
    server.refused("PUT", "/v1/secrets/API_KEY", "x", 400, "invalid_request").await;
    server.refused("PUT", "/v1/secrets/a", "", 400, "invalid_secret").await;
    server.refused("PUT", "/v1/secrets/a", "x".repeat((16 << 10) + 1), 413, "invalid_secret").await;
    let error = server.refused("PUT", "/v1/secrets/a", vec![b'q', b'q', 0xff], 400, "invalid_secret").await;
    assert!(!error["message"].as_str().unwrap().contains("qq"), "{error}");
    server.ok("PUT", "/v1/secrets/a", "x".repeat(16 << 10)).await;
    assert_eq!(server.ok("GET", "/v1/secrets", Body::empty()).await["secrets"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_task_without_its_secrets_is_taken_and_not_run() {
    let server = Server::start().await;
    let pushed = server.push("t", "secrets = [\"api-key\", \"other\"]").await;
    assert_eq!(pushed["missing_secrets"], json!(["api-key", "other"]));
    server.ok("PUT", "/v1/secrets/other", "x").await;
    let error = server.refused("POST", "/v1/tasks/t/executions", "{}", 404, "unknown_secret").await;
    assert!(error["message"].as_str().unwrap().contains("torpor secret set api-key"), "{error}");
    server.ok("PUT", "/v1/secrets/api-key", "x").await;
    assert!(server.ok("GET", "/v1/tasks/t", Body::empty()).await["versions"][0].get("missing_secrets").is_none());
    assert_eq!(server.ok("POST", "/v1/tasks/t/executions?wait=5", "{}").await["state"], "succeeded");
}
