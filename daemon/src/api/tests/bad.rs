//! What is refused, with which status and code; nothing of it is stored.

use super::*;
use crate::testing::SmallDisk;
use proptest::prelude::*;
use serde_json::json;

async fn nothing_stored(server: &Server) {
    assert_eq!(server.ok("GET", "/v1/tasks", Body::empty()).await, json!({"tasks": []}));
    assert_eq!(server.ok("GET", "/v1/executions?all=true", Body::empty()).await, json!({"executions": []}));
    assert_eq!(std::fs::read_dir(server.path().join("code")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(server.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn bad_manifests_and_code() {
    let server = Server::start().await;
    let push = async |files: &[(&str, &[u8])], code| server.refused("POST", "/v1/tasks", tar(files), 400, code).await;
    let error = push(&[("main.py", b"")], "invalid_manifest").await;
    assert_eq!((&error["file"], error.get("line")), (&json!("torpor.toml"), None));
    let error = push(&[("torpor.toml", b"[task]\nname = \"t\"\nruntim = 1\n")], "invalid_manifest").await;
    assert_eq!((&error["file"], &error["line"]), (&json!("torpor.toml"), &json!(3)));
    let manifest: &[u8] = b"[task]\nname = \"t\"\nruntime = \"python\"\nentry = \"main.py:f\"\n";
    let error = push(&[("torpor.toml", manifest)], "invalid_code").await;
    assert_eq!((&error["file"], &error["line"]), (&json!("torpor.toml"), &json!(4)));
    server.refused("POST", "/v1/tasks", Body::empty(), 400, "invalid_code").await;
    server.refused("POST", "/v1/tasks", "no tar", 400, "invalid_code").await;
    let big = vec![0; (64 << 20) + 1];
    server.refused("POST", "/v1/tasks", tar(&[("torpor.toml", manifest), ("big", &big)]), 413, "code_too_large").await;
    server.refused("POST", "/v1/tasks", vec![0; 97 << 20], 413, "code_too_large").await;
    nothing_stored(&server).await;
}

#[tokio::test]
async fn unknown_things() {
    let server = Server::start().await;
    let version = server.push("t", "").await["version"].as_str().unwrap().to_owned();
    for name in ["nobody", "T", "t%2F", "%00"] {
        server.refused("GET", &format!("/v1/tasks/{name}"), Body::empty(), 404, "unknown_task").await;
        server.refused("POST", &format!("/v1/tasks/{name}/executions"), "0", 404, "unknown_task").await;
        server.refused("DELETE", &format!("/v1/tasks/{name}"), Body::empty(), 404, "unknown_task").await;
    }
    let upper = version[..8].to_uppercase();
    let other = if version.starts_with('0') { "1".repeat(8) } else { "0".repeat(8) };
    for hash in ["", &version[..7], "xyzxyzxyz", &other, &format!("{version}0")] {
        server.refused("POST", &format!("/v1/tasks/t@{hash}/executions"), "0", 404, "unknown_version").await;
    }
    if upper.bytes().any(|b| b.is_ascii_uppercase()) {
        server.refused("POST", &format!("/v1/tasks/t@{upper}/executions"), "0", 404, "unknown_version").await;
    }
    for id in ["ex_00000000000000000000000000", "x", "ex_%2e%2e%2f"] {
        server.refused("GET", &format!("/v1/executions/{id}"), Body::empty(), 404, "unknown_execution").await;
        server.refused("GET", &format!("/v1/executions/{id}/logs?follow=true"), Body::empty(), 404, "unknown_execution").await;
        server.refused("POST", &format!("/v1/executions/{id}/cancel"), Body::empty(), 404, "unknown_execution").await;
    }
    server.refused("GET", "/v2/tasks", Body::empty(), 404, "invalid_request").await;
    server.refused("PUT", "/v1/tasks", Body::empty(), 405, "invalid_request").await;
}

#[tokio::test]
async fn bad_inputs_and_parameters() {
    let server = Server::start().await;
    server.push("t", "").await;
    let path = "/v1/tasks/t/executions";
    for input in ["", " ", "{", "nul", "[1,]", "1 2", "\u{feff}1", "NaN", "'a'"] {
        server.refused("POST", path, input, 400, "invalid_input").await;
    }
    server.refused("POST", path, &b"\"\xff\""[..], 400, "invalid_input").await;
    server.refused("POST", path, vec![b' '; (6 << 20) + 1], 413, "input_too_large").await;
    for query in ["wait=-1", "wait=x", "wait=86401", "wait=NaN", "wait=inf", "until=3"] {
        server.refused("POST", &format!("{path}?{query}"), "0", 400, "invalid_request").await;
    }
    for query in ["limit=0", "limit=1001", "limit=x", "state=asleep", "all=maybe", "colour=red"] {
        server.refused("GET", &format!("/v1/executions?{query}"), Body::empty(), 400, "invalid_request").await;
    }
    let list = server.ok("GET", "/v1/executions?all=true", Body::empty()).await;
    assert_eq!(list, json!({"executions": []}));
    // The largest that is allowed.
    let mut largest = vec![b' '; 6 << 20];
    largest[0] = b'1';
    let run = server.ok("POST", &format!("{path}?wait=10"), largest).await;
    assert_eq!(run["state"], "succeeded");
}

#[tokio::test]
async fn what_can_never_fit_is_refused_when_pushed_and_when_run() {
    let server = Server::start().await;
    let fits = format!("memory = \"{BUDGET_MIB}MiB\"");
    server.push("fits", &fits).await;
    let before = std::fs::read_dir(server.path().join("code")).unwrap().count();
    let error = server.refused("POST", "/v1/tasks", task("large", "memory = \"1000MiB\""), 422, "over_capacity").await;
    for word in ["\"large\"", "charged 1000MiB", "budget is 512MiB", "by 488MiB", "--memory-budget"] {
        assert!(error["message"].as_str().unwrap().contains(word), "{word}: {error}");
    }
    server.refused("GET", "/v1/tasks/large", Body::empty(), 404, "unknown_task").await;
    assert_eq!(std::fs::read_dir(server.path().join("code")).unwrap().count(), before, "nothing of it is kept");
    // A new version that does not fit leaves the old one the newest.
    server.refused("POST", "/v1/tasks", task("fits", "memory = \"513MiB\""), 422, "over_capacity").await;
    server.ok("POST", "/v1/tasks/fits/executions?wait=10", "{}").await;

    // What was pushed under a larger budget is known, and can't run.
    let mut version = (*crate::state::tests::version("old", 'a')).clone();
    version.policy.memory_mib = 1024;
    server.app.catalog.put(Arc::new(version));
    server.refused("POST", "/v1/tasks/old/executions", "0", 422, "over_capacity").await;
}

#[tokio::test]
async fn what_is_busy_ended_or_too_large_says_so() {
    let server = Server::start().await;
    server.push("t", "").await;
    let run = server.ok("POST", "/v1/tasks/t/executions", r#"{"ms": 60000}"#).await;
    server.refused("DELETE", "/v1/tasks/t", Body::empty(), 409, "task_busy").await;
    let cancel = format!("/v1/executions/{}/cancel", run["id"].as_str().unwrap());
    server.ok("POST", &cancel, Body::empty()).await;
    server.refused("POST", &cancel, Body::empty(), 409, "not_cancellable").await;
    assert_eq!(server.ask("DELETE", "/v1/tasks/t", Body::empty()).await.0, 204);
}

#[tokio::test]
async fn a_full_disk_refuses_and_goes_on_reading() {
    let disk = SmallDisk::new("32m");
    let server = Server::on(tempfile::tempdir_in(disk.path()).unwrap()).await;
    server.push("t", "").await;
    let slow = server.ok("POST", "/v1/tasks/t/executions", r#"{"ms": 1500}"#).await;
    let ballast = server.path().join("ballast");
    let filled = std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(&ballast).unwrap());
    assert!(filled.is_err());

    let body = tar(&[("torpor.toml", b"[task]\nname = \"u\"\nruntime = \"python\"\nentry = \"m.py:f\"\n"), ("m.py", &[0; 100_000])]);
    server.refused("POST", "/v1/tasks", body.clone(), 507, "disk_full").await;
    let large = format!("\"{}\"", "x".repeat(4 << 20));
    server.refused("POST", "/v1/tasks/t/executions", large.clone(), 507, "disk_full").await;
    server.ok("GET", "/v1/tasks", Body::empty()).await;
    server.refused("GET", "/v1/tasks/u", Body::empty(), 404, "unknown_task").await;
    // What was accepted before ends, on the room kept for it.
    let ended = server.ok("GET", &format!("/v1/executions/{}?wait=20", slow["id"].as_str().unwrap()), Body::empty()).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");

    std::fs::remove_file(&ballast).unwrap();
    server.ok("POST", "/v1/tasks", body).await;
    let list = server.ok("GET", "/v1/executions?all=true", Body::empty()).await;
    assert_eq!(list["executions"].as_array().unwrap().len(), 1, "what was refused is not there");
    let since = std::time::Instant::now();
    while !server.ask("POST", "/v1/tasks/t/executions?wait=10", "{}").await.0.is_success() {
        assert!(since.elapsed() < std::time::Duration::from_secs(30), "there is room again, and nothing is accepted");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// No request is a fault of the daemon.
    #[test]
    fn any_request_is_answered(
        method in "GET|POST|PUT|DELETE|HEAD|PATCH",
        head in "/v1/(tasks|executions|host)|/metrics|/healthz|",
        tail in "(/[a-z0-9_@.%-]{0,40}){0,3}",
        query in "(\\?(wait|all|limit|from|state|follow)=[a-z0-9.-]{0,8})?",
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let Ok(uri) = format!("/{}{tail}{query}", head.trim_start_matches('/')).parse::<axum::http::Uri>() else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let status = runtime.block_on(async {
            let server = Server::start().await;
            server.ask(&method, &uri.to_string(), body).await.0
        });
        prop_assert!(!status.is_server_error(), "{method} {uri}: {status}");
    }
}

/// A body without a length of which nothing or a little comes, and no end.
fn endless(begin: &'static [u8]) -> Body {
    use futures_util::StreamExt;
    let begin = futures_util::stream::iter([Ok::<_, std::io::Error>(axum::body::Bytes::from_static(begin))]);
    Body::from_stream(begin.chain(futures_util::stream::pending()))
}

#[tokio::test]
async fn who_sends_slowly_holds_up_nobody() {
    let server = Arc::new(Server::start().await);
    server.push("t", "").await;
    let slow: Vec<_> = (0..64)
        .map(|n| {
            let server = Arc::clone(&server);
            let path = if n % 2 == 0 { "/v1/tasks/t/executions" } else { "/v1/tasks" };
            tokio::spawn(async move { server.ask("POST", path, endless(b"[")).await })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let quick = async {
        server.ok("POST", "/v1/tasks/t/executions", "1").await;
        server.push("other", "").await;
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), quick).await.unwrap();
    assert!(slow.iter().all(|slow| !slow.is_finished()), "they are still being received");
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}
