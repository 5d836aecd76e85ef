//! Accounts and callers: who may do what, and that nobody learns of what others have.

use super::*;
use crate::accounts::{Accounts, Role, Unmapped};
use crate::state::store::Store;
use axum::http::HeaderMap;
use serde_json::json;
use std::time::Duration;

/// The least role that may call each operation; none: anybody, without a token too. A route that is not here fails the test that walks them all.
const LEAST: [(&str, &str, Option<Role>); 36] = [
    ("get", "/healthz", None),
    ("get", "/metrics", Some(Role::Admin)),
    ("get", "/v1/accounts", Some(Role::Admin)),
    ("put", "/v1/accounts/{name}", Some(Role::Admin)),
    ("delete", "/v1/accounts/{name}", Some(Role::Admin)),
    ("post", "/v1/events/{token}", Some(Role::Invoker)),
    ("get", "/v1/executions", Some(Role::Invoker)),
    ("post", "/v1/executions/import", Some(Role::Owner)),
    ("get", "/v1/executions/{id}", Some(Role::Invoker)),
    ("post", "/v1/executions/{id}/cancel", Some(Role::Invoker)),
    ("get", "/v1/executions/{id}/events", Some(Role::Invoker)),
    ("post", "/v1/executions/{id}/export", Some(Role::Owner)),
    ("get", "/v1/executions/{id}/logs", Some(Role::Invoker)),
    ("post", "/v1/executions/{id}/park", Some(Role::Owner)),
    ("post", "/v1/executions/{id}/resume", Some(Role::Owner)),
    ("get", "/v1/host", Some(Role::Invoker)),
    ("get", "/v1/load", Some(Role::Invoker)),
    ("get", "/v1/schedules", Some(Role::Invoker)),
    ("post", "/v1/schedules", Some(Role::Owner)),
    ("get", "/v1/schedules/{name}", Some(Role::Invoker)),
    ("delete", "/v1/schedules/{name}", Some(Role::Owner)),
    ("post", "/v1/schedules/{name}/pause", Some(Role::Owner)),
    ("post", "/v1/schedules/{name}/resume", Some(Role::Owner)),
    ("get", "/v1/secrets", Some(Role::Owner)),
    ("put", "/v1/secrets/{name}", Some(Role::Owner)),
    ("delete", "/v1/secrets/{name}", Some(Role::Owner)),
    ("get", "/v1/tasks", Some(Role::Invoker)),
    ("post", "/v1/tasks", Some(Role::Owner)),
    ("get", "/v1/tasks/{name}", Some(Role::Invoker)),
    ("delete", "/v1/tasks/{name}", Some(Role::Owner)),
    ("post", "/v1/tasks/{name}/executions", Some(Role::Invoker)),
    ("get", "/v1/tasks/{name}/graph", Some(Role::Owner)),
    ("get", "/v1/tasks/{name}/policy", Some(Role::Owner)),
    ("post", "/v1/tokens", Some(Role::Admin)),
    ("get", "/v1/tokens", Some(Role::Admin)),
    ("delete", "/v1/tokens/{id}", Some(Role::Admin)),
];
/// Administrators' own: names of users of the host.
const UIDS: [(&str, &str); 2] = [("put", "/v1/uids/{uid}"), ("delete", "/v1/uids/{uid}")];

/// A whole answer.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

/// Moments are never the same twice.
fn timeless(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, timeless(value))).collect(),
        Value::Array(list) => list.into_iter().map(timeless).collect(),
        Value::String(text) if crate::state::time::Timestamp::parse(&text).is_some() => json!("a moment"),
        other => other,
    }
}

impl Server {
    pub(super) async fn token(&self, account: &str, role: Role) -> String {
        let accounts = &self.app.dispatcher.accounts;
        if accounts.account(account).is_err() {
            accounts.put(account.to_owned().try_into().unwrap(), None).await.unwrap();
        }
        accounts.create_token(account, role, None, String::new()).await.unwrap().1.to_string()
    }

    async fn by(&self, token: &str, method: &str, path: &str, body: impl Into<Body>) -> (u16, Value) {
        let bearer = format!("Bearer {token}");
        let (status, body) = self.ask_from(Peer::Remote, method, path, &[("authorization", &bearer)], body).await;
        (status.as_u16(), body)
    }

    /// With each of `names` in it replaced, as are moments.
    async fn answer(&self, token: &str, method: &str, path: &str, body: &str, names: &[&str]) -> Answer {
        let request =
            Request::builder().method(method).uri(path).extension(Peer::Remote).header("authorization", format!("Bearer {token}"));
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = names.iter().fold(String::from_utf8(bytes.to_vec()).unwrap(), |text, name| text.replace(name, "NAME"));
        Answer { status, headers, body: timeless(serde_json::from_str(&text).unwrap_or(Value::String(text))) }
    }

    /// Each documented operation.
    async fn operations(&self) -> Vec<(String, String)> {
        let api = self.ok("GET", "/openapi.json", Body::empty()).await;
        let paths = api["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| item.as_object().unwrap().keys().map(|method| (method.clone(), path.clone()))).collect()
    }
}

fn filled(path: &str, value: &str) -> String {
    let Some((before, rest)) = path.split_once('{') else { return path.to_owned() };
    format!("{before}{value}{}", rest.split_once('}').unwrap().1)
}

#[tokio::test]
async fn every_route_asks_for_a_role() {
    let server = Server::start().await;
    let mut tokens = Vec::new();
    for role in Role::ALL {
        tokens.push((role, server.token("a", role).await));
    }
    let operations = server.operations().await;
    assert!(operations.len() >= LEAST.len() + UIDS.len());
    for (method, path) in operations {
        let given = LEAST.iter().find(|(a, b, _)| *a == method && *b == path).map(|(.., least)| *least);
        let least = given.or_else(|| UIDS.contains(&(&method, &path)).then_some(Some(Role::Admin)));
        let least =
            least.unwrap_or_else(|| panic!("{method} {path}: who may call it? say so in LEAST, and test that it tells nothing of others"));
        let asked = filled(&path, "4711");
        let nobody = server.ask_from(Peer::Remote, &method.to_uppercase(), &asked, &[], Body::empty()).await;
        let unknown =
            server.ask_from(Peer::Remote, &method.to_uppercase(), &asked, &[("authorization", "Bearer torpor_0")], Body::empty()).await;
        let Some(least) = least else {
            assert!(nobody.0.is_success() && unknown.0.is_success(), "{method} {path}: {nobody:?}");
            continue;
        };
        for answer in [nobody, unknown] {
            assert_eq!((answer.0.as_u16(), &answer.1["error"]["code"]), (401, &json!("unauthenticated")), "{method} {path}");
        }
        for (role, token) in &tokens {
            // What an operation of an administrator would do to the tokens of this test is not done.
            if *role == Role::Admin && path.starts_with("/v1/accounts") {
                continue;
            }
            let (status, answer) = server.by(token, &method.to_uppercase(), &asked, Body::empty()).await;
            let refused = (status, answer["error"]["code"].as_str()) == (403, Some("forbidden"));
            assert_eq!(refused, *role < least, "{method} {path} as {role:?}: {status} {answer}");
            assert_ne!(status, 401, "{method} {path} as {role:?}");
        }
    }
}

#[tokio::test]
async fn paths_that_are_not_there_are_not_told_to_nobody() {
    let server = Server::start().await;
    for path in ["/", "/openapi.json", "/v1/nothing", "/v1/tasks/../../metrics"] {
        assert_eq!(server.ask_from(Peer::Remote, "GET", path, &[], Body::empty()).await.0, 401, "{path}");
    }
    let request = Request::get("/v1/tasks").body(Body::empty()).unwrap();
    let response = server.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 401, "a request that nobody said the origin of");
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let token = server.token("a", Role::Owner).await;
    for wrong in [
        format!("Basic {token}"),
        token.clone(),
        format!("Bearer {token}0"),
        format!("Bearer {}", &token[..token.len() - 1]),
        "Bearer".into(),
    ] {
        let (status, _) = server.ask_from(Peer::Local(0), "GET", "/v1/tasks", &[("authorization", &wrong)], Body::empty()).await;
        assert_eq!(status, 401, "{wrong}: whoever brings a token is nobody else, root neither");
    }
    let twice = [("authorization", &*format!("Bearer {token}")), ("authorization", &*format!("Bearer {token}"))];
    assert_eq!(server.ask_from(Peer::Remote, "GET", "/v1/tasks", &twice, Body::empty()).await.0, 401);
    let lower = format!("bearer {token}");
    assert_eq!(server.ask_from(Peer::Remote, "GET", "/v1/tasks", &[("authorization", &lower)], Body::empty()).await.0, 200);
}

/// An account that has one of everything.
struct Theirs {
    owner: String,
    version: String,
    live: String,
    ended: String,
    open: String,
    used: String,
}

const KEYED: &str = "[task]\nname = \"theirs\"\nruntime = \"python\"\nentry = \"main.py:f\"\n[policy]\nsecrets = [\"theirs\"]\n";

fn keyed() -> Vec<u8> {
    tar(&[("torpor.toml", KEYED.as_bytes()), ("main.py", b"def f(i, c): return i\n")])
}

async fn theirs(server: &Server) -> Theirs {
    let owner = server.token("rivals", Role::Owner).await;
    assert_eq!(server.by(&owner, "PUT", "/v1/secrets/theirs", "their value").await.0, 201);
    let (status, pushed) = server.by(&owner, "POST", "/v1/tasks", keyed()).await;
    assert_eq!(status, 201, "{pushed}");
    let submit = async |input: &str| {
        let (status, run) = server.by(&owner, "POST", "/v1/tasks/theirs/executions?wait=0.2", input.to_owned()).await;
        assert_eq!(status, 201, "{run}");
        run
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ended = submit(r#"{"print": "their output", "fail": "exception"}"#).await;
    assert_eq!(ended["state"], "failed");
    let waits = r#"{"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}, {"ask": "event"}, {"ask": "event_wait", "token": ""}]}"#;
    let live = text(&submit(waits).await["id"]);
    let mut tokens = Vec::new();
    while tokens.len() < 2 {
        let (_, run) = server.by(&owner, "GET", &format!("/v1/executions/{live}"), Body::empty()).await;
        let token =
            run["waiting"][0]["token"].as_str().filter(|token| run["state"] == "parked" && !tokens.iter().any(|known| known == token));
        if let Some(token) = token {
            tokens.push(token.to_owned());
            if tokens.len() == 1 {
                assert_eq!(server.by(&owner, "POST", &format!("/v1/events/{token}"), "1").await.0, 204);
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let open = tokens.pop().unwrap();
    Theirs { owner, version: text(&pushed["version"]), live, ended: text(&ended["id"]), open, used: tokens.pop().unwrap() }
}

/// All that an owner sees.
async fn view(server: &Server, token: &str) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["tasks", "executions?all=true&limit=1000", "secrets", "schedules", "host"] {
        all.push(server.by(token, "GET", &format!("/v1/{path}"), Body::empty()).await.1);
    }
    all
}

/// What those see who are not asked for by name: nothing of it in another's answers.
fn holds(value: &Value, theirs: &Theirs) -> bool {
    let text = value.to_string();
    let known = [
        &*theirs.version,
        &theirs.live,
        &theirs.ended,
        &theirs.open,
        &theirs.used,
        "theirs",
        "rota",
        "rivals",
        "their value",
        "their output",
    ];
    known.iter().any(|known| text.contains(known))
}

#[tokio::test]
async fn what_another_has_answers_like_what_nobody_has() {
    let server = Server::start().await;
    let theirs = theirs(&server).await;
    let rota = r#"{"name": "rota", "task": "theirs", "cron": "0 0 1 1 *"}"#;
    assert_eq!(server.by(&theirs.owner, "POST", "/v1/schedules", rota).await.0, 201);
    let before = view(&server, &theirs.owner).await;
    let nobody = ("ex_7zzzzzzzzzzzzzzzzzzzzzzzzz", "ev_00000000000000000000000000000000");
    let other_token = server.token("rivals", Role::Invoker).await;
    let token_id = &other_token["torpor_".len()..][..12];
    let (at, none) = (format!("theirs@{}", &theirs.version[..12]), format!("nobody@{}", &theirs.version[..12]));
    for role in [Role::Invoker, Role::Owner] {
        let own = server.token("us", role).await;
        let mut compared = 0;
        for (method, path) in server.operations().await.into_iter().filter(|(_, path)| path.contains('{')) {
            let pairs: Vec<(&str, &str)> = match path.split('/').nth(2).unwrap() {
                "tasks" => vec![("theirs", "nobody"), (&at, &none)],
                "secrets" => vec![("theirs", "nobody")],
                "schedules" => vec![("rota", "none")],
                "executions" => vec![(&theirs.live, nobody.0), (&theirs.ended, nobody.0)],
                "events" => vec![(&theirs.open, nobody.1), (&theirs.used, nobody.1)],
                "accounts" => vec![("rivals", "none")],
                "tokens" => vec![(token_id, "000000000000")],
                "uids" => vec![("4711", "4712")],
                other => panic!("{other}: what of it does another have?"),
            };
            for (foreign, none) in pairs {
                let body = if method == "put" && path.starts_with("/v1/secrets") { "value" } else { "null" };
                let ask = async |name: &str| {
                    let base = name.split('@').next().unwrap().to_owned();
                    server.answer(&own, &method.to_uppercase(), &filled(&path, name), body, &[name, &base]).await
                };
                let (there, missing) = (ask(foreign).await, ask(none).await);
                assert_eq!(there, missing, "{method} {path} as {role:?}");
                assert!(!holds(&there.body, &theirs), "{method} {path} as {role:?}: {there:?}");
                compared += 1;
            }
        }
        assert!(compared > 30, "{compared}");
        let owner = server.token("us", Role::Owner).await;
        for name in ["theirs", "nobody"] {
            server.by(&owner, "DELETE", &format!("/v1/secrets/{name}"), "").await;
        }
        for path in [
            "tasks",
            "executions",
            "executions?all=true",
            "executions?all=true&task=theirs",
            "executions?state=failed",
            "secrets",
            "schedules",
            "host",
            "load",
        ] {
            let (_, answer) = server.by(&own, "GET", &format!("/v1/{path}"), Body::empty()).await;
            assert!(!holds(&answer, &theirs), "{path}: {answer}");
        }
    }
    assert_eq!(view(&server, &theirs.owner).await, before, "and nothing of theirs has changed");
    let (status, _) = server.by(&theirs.owner, "POST", &format!("/v1/events/{}", theirs.open), "2").await;
    assert_eq!(status, 204, "the event is as it was");
}

#[tokio::test]
async fn the_same_names_keys_and_content_are_each_accounts_own() {
    let server = Server::start().await;
    let theirs = theirs(&server).await;
    let own = server.token("us", Role::Owner).await;
    let (status, pushed) = server.by(&own, "POST", "/v1/tasks", keyed()).await;
    assert_eq!((status, &pushed["version"]), (201, &json!(theirs.version)), "new for this account: {pushed}");
    assert_eq!(pushed["missing_secrets"], json!(["theirs"]), "another's secret of that name is not this account's");
    let (status, refused) = server.by(&own, "POST", "/v1/tasks/theirs/executions", "1").await;
    assert_eq!((status, &refused["error"]["code"]), (404, &json!("unknown_secret")));
    assert_eq!(server.by(&own, "PUT", "/v1/secrets/theirs", "our value").await.0, 201, "new as well");
    let submit = async |token: &str, input: &str| {
        let headers = [("authorization", &*format!("Bearer {token}")), ("idempotency-key", "k")];
        let (status, run) = server.ask_from(Peer::Remote, "POST", "/v1/tasks/theirs/executions?wait=5", &headers, input.to_owned()).await;
        (status.as_u16(), run["id"].as_str().unwrap().to_owned(), run["account"].clone())
    };
    let (ours, other) = (submit(&own, "{}").await, submit(&theirs.owner, "{}").await);
    assert_eq!((ours.0, other.0), (201, 201), "the key is known in neither account");
    assert_eq!((ours.2, other.2), (json!("us"), json!("rivals")));
    assert_eq!(submit(&own, "{}").await.1, ours.1);
    // What one removes is there for the other.
    assert_eq!(server.by(&own, "DELETE", "/v1/tasks/theirs", Body::empty()).await.0, 204);
    assert!(server.app.images.path(&theirs.version).exists(), "the other account's image of the same content");
    assert_eq!(server.by(&own, "DELETE", "/v1/secrets/theirs", Body::empty()).await.0, 204);
    assert_eq!(server.by(&theirs.owner, "POST", "/v1/tasks/theirs/executions?wait=5", "{}").await.0, 201);
    assert_eq!(server.by(&theirs.owner, "POST", &format!("/v1/executions/{}/cancel", theirs.live), "").await.0, 200);
    assert_eq!(server.by(&theirs.owner, "DELETE", "/v1/tasks/theirs", Body::empty()).await.0, 204);
    assert!(!server.app.images.path(&theirs.version).exists(), "nobody's any more");
}

#[tokio::test]
async fn an_invoker_runs_and_sees_no_code() {
    let server = Server::start().await;
    let theirs = theirs(&server).await;
    let invoker = server.token("rivals", Role::Invoker).await;
    let (_, tasks) = server.by(&invoker, "GET", "/v1/tasks", Body::empty()).await;
    let task = &tasks["tasks"][0];
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(task), ["created_at", "latest", "name", "versions"]);
    assert_eq!(keys(&task["versions"][0]), ["created_at", "task", "version"]);
    assert_eq!(server.by(&invoker, "GET", "/v1/tasks/theirs", Body::empty()).await.1, *task);
    assert!(
        keys(&server.by(&theirs.owner, "GET", "/v1/tasks/theirs", Body::empty()).await.1["versions"][0]).contains(&"policy".to_owned())
    );
    let (status, run) = server.by(&invoker, "POST", "/v1/tasks/theirs/executions?wait=5", r#"{"print": "x"}"#).await;
    assert_eq!((status, &run["state"]), (201, &json!("succeeded")));
    let logs = format!("/v1/executions/{}/logs", run["id"].as_str().unwrap());
    assert_eq!(server.by(&invoker, "GET", &logs, Body::empty()).await.1["entries"][0]["text"], "x");
    assert_eq!(server.by(&theirs.owner, "DELETE", "/v1/secrets/theirs", Body::empty()).await.0, 204);
    let (status, refused) = server.by(&invoker, "POST", "/v1/tasks/theirs/executions", "{}").await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(status == 404 && !message.contains("secret \"theirs\"") && message.contains("an owner of the account"), "{message}");
    let (_, execution) = server.by(&theirs.owner, "GET", &format!("/v1/executions/{}", theirs.ended), Body::empty()).await;
    let (_, seen) = server.by(&invoker, "GET", &format!("/v1/executions/{}", theirs.ended), Body::empty()).await;
    assert!(execution["error"]["traceback"].is_string() && seen["error"]["traceback"].is_null(), "{execution} {seen}");
    assert_eq!(execution["error"]["message"], seen["error"]["message"]);
}

#[tokio::test]
async fn an_administrator_acts_in_any_account_and_others_in_their_own() {
    let server = Server::start().await;
    let theirs = theirs(&server).await;
    let as_in = async |peer: Peer, account: &str, path: &str| {
        let (status, answer) = server.ask_from(peer, "GET", path, &[("x-torpor-account", account)], Body::empty()).await;
        (status.as_u16(), answer)
    };
    let root = Peer::Local(0);
    assert_eq!(server.ok("GET", "/v1/tasks", Body::empty()).await["tasks"], json!([]), "its own account is another");
    assert_eq!(as_in(root, "rivals", "/v1/tasks").await.1["tasks"][0]["name"], "theirs");
    assert_eq!(as_in(root, "rivals", &format!("/v1/executions/{}", theirs.live)).await.0, 200);
    let (status, unknown) = as_in(root, "nobody", "/v1/tasks").await;
    assert_eq!((status, &unknown["error"]["code"]), (404, &json!("unknown_account")));
    // Whether an account is there is not told to others.
    server.ok("PUT", "/v1/uids/4711", r#"{"account": "default", "role": "owner"}"#).await;
    let owner = Peer::Local(4711);
    let (there, missing) = (as_in(owner, "rivals", "/v1/tasks").await, as_in(owner, "none", "/v1/tasks").await);
    assert_eq!((there.0, &there.1["error"]["code"], &there), (403, &json!("forbidden"), &missing));
    assert_eq!(as_in(owner, "default", "/v1/tasks").await.0, 200, "its own");
    // The host as a whole is an administrator's.
    let (_, whole) = as_in(root, "rivals", "/v1/host").await;
    assert_eq!((&whole["account"], &whole["role"], whole["kernel"].is_string()), (&json!("rivals"), &json!("admin"), true));
    let (_, host) = as_in(owner, "default", "/v1/host").await;
    let fields: Vec<&String> = host.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["account", "limits", "parked", "parked_bytes", "queued", "role", "running", "version"]);
    assert_eq!((&host["running"], &host["parked"], &host["parked_bytes"]), (&json!(0), &json!(0), &json!(0)));
    assert!(whole["running"].as_u64().unwrap() + whole["parked"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_user_id_is_who_it_was_made() {
    let server = Server::start().await;
    let with = async |peer: Peer| {
        let (status, host) = server.ask_from(peer, "GET", "/v1/host", &[], Body::empty()).await;
        (status.as_u16(), host["account"].as_str().unwrap_or_default().to_owned(), host["role"].as_str().unwrap_or_default().to_owned())
    };
    let is = |account: &str, role: &str| (200, account.to_owned(), role.to_owned());
    assert_eq!(with(Peer::Local(0)).await, is("default", "admin"));
    assert_eq!(with(Peer::Local(4711)).await, is("default", "owner"), "as before there were accounts");
    server.ok("PUT", "/v1/accounts/us", r#"{"weight": 3}"#).await;
    server.ok("PUT", "/v1/uids/4711", r#"{"account": "us", "role": "invoker"}"#).await;
    assert_eq!(with(Peer::Local(4711)).await, is("us", "invoker"));
    server.ok("PUT", "/v1/uids/4711", r#"{"account": "us", "role": "admin"}"#).await;
    assert_eq!(with(Peer::Local(4711)).await, is("us", "admin"));
    let list = server.ok("GET", "/v1/accounts", Body::empty()).await;
    assert_eq!(
        (&list["accounts"][0]["name"], &list["accounts"][1]["name"], &list["accounts"][1]["weight"]),
        (&json!("default"), &json!("us"), &json!(3))
    );
    assert_eq!(list["accounts"][1]["uids"][0]["uid"], 4711);
    server.ok("DELETE", "/v1/uids/4711", Body::empty()).await;
    let refused = (403, String::new(), String::new());
    assert_eq!(with(Peer::Local(4711)).await, refused, "what was taken away leads to no other account");
    server.ok("PUT", "/v1/uids/5000", r#"{"account": "default", "role": "invoker"}"#).await;
    server.ok("DELETE", "/v1/accounts/us", Body::empty()).await;
    assert_eq!(with(Peer::Local(4711)).await, refused);
    server.ok("DELETE", "/v1/uids/5000", Body::empty()).await;
    assert_eq!(with(Peer::Local(4711)).await, is("default", "owner"), "nobody is told apart any more");
    server.ok("PUT", "/v1/accounts/us", "{}").await;
    for (path, body, status, code) in [
        ("/v1/uids/0", r#"{"account": "us", "role": "invoker"}"#, 400, "invalid_request"),
        ("/v1/uids/12", r#"{"account": "none", "role": "invoker"}"#, 404, "unknown_account"),
        ("/v1/uids/12", r#"{"account": "us", "role": "god"}"#, 400, "invalid_request"),
        ("/v1/uids/-1", r#"{"account": "us", "role": "owner"}"#, 400, "invalid_request"),
        ("/v1/uids/4294967296", r#"{"account": "us", "role": "owner"}"#, 400, "invalid_request"),
        ("/v1/accounts/Us", "{}", 400, "invalid_request"),
        ("/v1/accounts/us", r#"{"weight": 0}"#, 400, "invalid_request"),
        ("/v1/accounts/us", r#"{"weight": 1000001}"#, 400, "invalid_request"),
        ("/v1/accounts/us", r#"{"share": 1}"#, 400, "invalid_request"),
    ] {
        server.refused("PUT", path, body, status, code).await;
    }
    server.refused("DELETE", "/v1/uids/4711", "", 404, "unknown_account").await;
}

#[tokio::test]
async fn who_has_no_account_is_refused_where_that_is_set() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), BUDGET_MIB).await;
    let schedules = Arc::new(daemon.schedules().await);
    let Daemon { mut parts, .. } = daemon;
    parts.accounts = Accounts::open(&parts.store, Unmapped::Refuse, 0).await.unwrap();
    let dispatcher = crate::schedule::dispatch::Dispatcher::new(server.app.dispatcher.load().budget, None, parts.clone());
    let router = router(App::new(dispatcher, schedules, parts, server.app.config.clone()));
    for (uid, path, status) in [(0, "/v1/tasks", 200), (4711, "/v1/tasks", 403), (4711, "/nothing", 403), (4711, "/healthz", 200)] {
        let request = Request::get(path).extension(Peer::Local(uid)).body(Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), status, "{uid} {path}");
    }
}

#[tokio::test]
async fn tokens_are_told_once_and_gone_when_removed() {
    let server = Server::start().await;
    server.ok("PUT", "/v1/accounts/us", "").await;
    let made = server.ok("POST", "/v1/tokens", r#"{"account": "us", "role": "owner", "note": "ci", "expires_in_s": 3600}"#).await;
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(token.starts_with(&format!("torpor_{id}_")) && token.len() == 84 && made["expires_at"].is_string());
    assert_eq!(server.by(token, "GET", "/v1/tasks", Body::empty()).await.0, 200);
    let list = server.ok("GET", "/v1/tokens", Body::empty()).await;
    assert_eq!((&list["tokens"][0]["note"], &list["tokens"][0]["expired"]), (&json!("ci"), &json!(false)));
    let secret = &token[20..];
    assert!(!list.to_string().contains(secret));
    for file in std::fs::read_dir(server.path()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{} has it", file.display());
    }
    server.ok("DELETE", &format!("/v1/tokens/{id}"), Body::empty()).await;
    assert_eq!(server.by(token, "GET", "/v1/tasks", Body::empty()).await.0, 401);
    server.refused("DELETE", &format!("/v1/tokens/{id}"), "", 404, "unknown_token").await;
    server.refused("DELETE", "/v1/tokens/x", "", 404, "unknown_token").await;
    let long = format!(r#"{{"account": "us", "role": "owner", "note": "{}"}}"#, "x".repeat(257));
    for body in
        [r#"{"account": "us", "role": "owner", "expires_in_s": 0}"#, r#"{"account": "us", "role": "owner", "note": "a\nb"}"#, &long, "[]"]
    {
        server.refused("POST", "/v1/tokens", body.to_owned(), 400, "invalid_request").await;
    }
}

#[tokio::test]
async fn an_account_goes_when_it_is_empty() {
    let server = Server::start().await;
    let theirs = theirs(&server).await;
    let rota = r#"{"name": "rota", "task": "theirs", "cron": "0 0 1 1 *"}"#;
    assert_eq!(server.by(&theirs.owner, "POST", "/v1/schedules", rota).await.0, 201);
    let busy = server.refused("DELETE", "/v1/accounts/rivals", "", 409, "account_busy").await;
    for what in ["1 tasks", "1 secrets", "1 schedules", "1 executions that have not ended", "1 executions that ended"] {
        assert!(busy["message"].as_str().unwrap().contains(what), "{what}: {busy}");
    }
    server.refused("DELETE", "/v1/accounts/rivals?history=true", "", 409, "account_busy").await;
    assert_eq!(
        server.by(&theirs.owner, "GET", &format!("/v1/executions/{}", theirs.ended), "").await.0,
        200,
        "refused, nothing is removed"
    );
    assert_eq!(server.by(&theirs.owner, "POST", &format!("/v1/executions/{}/cancel", theirs.live), "").await.0, 200);
    assert_eq!(server.by(&theirs.owner, "DELETE", "/v1/schedules/rota", "").await.0, 204);
    assert_eq!(server.by(&theirs.owner, "DELETE", "/v1/tasks/theirs", "").await.0, 204);
    let busy = server.refused("DELETE", "/v1/accounts/rivals?history=true", "", 409, "account_busy").await;
    assert!(busy["message"].as_str().unwrap().ends_with("is not empty: 1 secrets"), "{busy}");
    assert_eq!(server.by(&theirs.owner, "GET", "/v1/executions?all=true", "").await.1["executions"].as_array().unwrap().len(), 2);
    assert_eq!(server.by(&theirs.owner, "DELETE", "/v1/secrets/theirs", "").await.0, 204);
    let busy = server.refused("DELETE", "/v1/accounts/rivals", "", 409, "account_busy").await;
    assert!(busy["message"].as_str().unwrap().contains("2 executions that ended"), "{busy}");
    // A push of somebody else takes its time, and the history does not wait for it.
    let pushing = server.app.tasks.lock().await;
    let gone = async {
        while server.app.store.belongs_to(&"rivals".to_owned().try_into().unwrap()).await.unwrap().ended > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        drop(pushing);
    };
    tokio::join!(server.ok("DELETE", "/v1/accounts/rivals?history=true", ""), gone);
    assert_eq!(server.by(&theirs.owner, "GET", "/v1/tasks", "").await.0, 401, "its tokens are gone with it");
    assert_eq!(server.app.logs.all().unwrap().count(), 0, "and so are its logs");
    server.refused("DELETE", "/v1/accounts/rivals", "", 404, "unknown_account").await;
    server.refused("DELETE", "/v1/accounts/default", "", 409, "account_busy").await;
    let again = server.token("rivals", Role::Owner).await;
    assert_eq!(
        server.by(&again, "GET", "/v1/executions?all=true", "").await.1["executions"],
        json!([]),
        "nothing comes back with the name"
    );
    let store: &Store = &server.app.store;
    assert_eq!(store.known_accounts().await.unwrap().tokens.len(), 1);
}

#[tokio::test]
async fn caps_are_those_of_the_account() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(folder.path(), BUDGET_MIB).await;
    let schedules = Arc::new(daemon.schedules().await);
    let Daemon { mut parts, .. } = daemon;
    let caps = "[account.us.caps]\nmemory = \"64MiB\"\nmax_parallel = 2\n[account.rivals.caps]\ntimeout = \"1s\"\n";
    parts.caps = Arc::new(crate::manifest::host::HostPolicy::parse(caps.as_bytes()).unwrap());
    let dispatcher = crate::schedule::dispatch::Dispatcher::new(server.app.dispatcher.load().budget, None, parts.clone());
    let app = App::new(dispatcher, schedules, parts, server.app.config.clone());
    let server = Server { router: router(Arc::clone(&app)), app, ..server };
    for (account, memory, timeout, parallel) in
        [("us", "64MiB", "30s", json!(2)), ("rivals", "128MiB", "1s", Value::Null), ("default", "128MiB", "30s", Value::Null)]
    {
        let token = server.token(account, Role::Owner).await;
        let (_, pushed) = server.by(&token, "POST", "/v1/tasks", task("t", "memory = \"128MiB\"")).await;
        let policy = &pushed["policy"];
        assert_eq!(
            (&policy["memory"], &policy["timeout"], &policy["max_parallel"]),
            (&json!(memory), &json!(timeout), &parallel),
            "{account}"
        );
        let (_, explained) = server.by(&token, "GET", "/v1/tasks/t/policy", "").await;
        let capped = explained["lines"].to_string().contains("cap of the account");
        assert_eq!(capped, account != "default", "{explained}");
    }
}
