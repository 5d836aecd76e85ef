//! Connections themselves: the socket's life, clients that go away, an orderly end.

use super::*;
use crate::api::serve::{Door, ListenError, listen, serve};
use crate::lock::{LockError, StateLock};
use crate::testing::SmallDisk;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

async fn exchange(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap();
    read.unwrap();
    answer
}

#[tokio::test]
async fn a_socket_is_taken_over_only_from_the_dead() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/torpord.sock");
    let first = listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert!(matches!(listen(&path), Err(ListenError::InUse(_))));
    drop(first);
    let second = listen(&path).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("run")).unwrap().count(), 1);
    // What one left that was killed before it listened, and what is somebody else's.
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let left = |name: &str| folder.path().join("run").join(format!("torpord.sock.{name}"));
    for name in [dead.id().to_string().as_str(), "1", "x"] {
        std::os::unix::net::UnixListener::bind(left(name)).unwrap();
    }
    drop(second);
    let _third = listen(&path).unwrap();
    assert!(!left(&dead.id().to_string()).exists() && left("1").exists() && left("x").exists());
    let file = folder.path().join("file");
    std::fs::write(&file, b"precious").unwrap();
    assert!(matches!(listen(&file), Err(ListenError::NotASocket(_))));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_state_folder_has_one_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let lock = StateLock::take(folder.path()).unwrap();
    match StateLock::take(folder.path()) {
        Err(LockError::Held { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        other => panic!("{other:?}"),
    }
    drop(lock);
    StateLock::take(folder.path()).unwrap();
}

#[tokio::test]
async fn connections_survive_nonsense_and_end_with_the_daemon() {
    let server = Server::start().await;
    server.push("t", "").await;
    let path = server.path().join("s.sock");
    let serving = tokio::spawn(serve(listen(&path).unwrap(), server.router.clone(), server.app.stopping.clone()));
    assert!(exchange(&path, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(exchange(&path, "GET /healthz HTTP/1.0\r\n\r\n").await.ends_with("{\"status\":\"ok\"}"));
    let endless = "POST /v1/tasks HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 1099511627776\r\n\r\n";
    assert!(exchange(&path, endless).await.starts_with("HTTP/1.1 413"));
    let endless = "POST /v1/tasks/t/executions HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n1";
    assert!(exchange(&path, endless).await.contains("input_too_large"));

    // A client that goes away does not take its execution with it.
    let mut gone = UnixStream::connect(&path).await.unwrap();
    let request = "POST /v1/tasks/t/executions?wait=60 HTTP/1.1\r\nhost: t\r\ncontent-length: 11\r\n\r\n{\"ms\": 300}";
    gone.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(gone);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let list = server.ok("GET", "/v1/executions?all=true&state=succeeded", Body::empty()).await;
    assert_eq!(list["executions"].as_array().unwrap().len(), 1);

    // Long answers end when the daemon does.
    let run = server.ok("POST", "/v1/tasks/t/executions", "{\"ms\": 600000}").await;
    let follow = format!("GET /v1/executions/{}/logs?follow=true HTTP/1.1\r\nhost: t\r\n\r\n", run["id"].as_str().unwrap());
    let (followed, waiting) = (path.clone(), path.clone());
    let followed = tokio::spawn(async move { exchange(&followed, &follow).await });
    let wait = format!("GET /v1/executions/{}?wait=600 HTTP/1.1\r\nhost: t\r\n\r\n", run["id"].as_str().unwrap());
    let waited = tokio::spawn(async move { exchange(&waiting, &wait).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.app.stopping.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
    assert!(followed.await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(waited.await.unwrap().contains("\"state\":\"running\""));
}

#[tokio::test]
async fn torpord_is_no_client_of_its_own() {
    let server = Server::start().await;
    let path = server.path().join("s.sock");
    let serving = tokio::spawn(serve(
        Door::Unix(listen(&path).unwrap(), server.app.dispatcher.accounts.clone()),
        server.router.clone(),
        server.app.stopping.clone(),
    ));
    // As an auxiliary service's connection of a guest does, from the process of torpord.
    let mut own = UnixStream::connect(&path).await.unwrap();
    let _ = own.write_all(b"GET /v1/accounts HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    let mut told = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), own.read_to_end(&mut told)).await.unwrap();
    assert_eq!(told, b"");
    // Another process is answered, and so is a head of more than a request needs: with no.
    let client = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
        s.sendall(b'GET /healthz HTTP/1.1\\r\\nhost: t\\r\\nconnection: close\\r\\n\\r\\n')\nprint(s.makefile().read())";
    let output = tokio::process::Command::new("python3").args(["-c", client]).arg(&path).output().await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("HTTP/1.1 200"), "{output:?}");
    server.app.stopping.cancel();
    serving.await.unwrap();
}

#[tokio::test]
async fn a_head_has_a_limit() {
    let server = Server::start().await;
    let path = server.path().join("s.sock");
    let serving = tokio::spawn(serve(listen(&path).unwrap(), server.router.clone(), server.app.stopping.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let _ = stream.write_all(format!("GET /healthz HTTP/1.1\r\nhost: t\r\nx: {}", "y".repeat(80 << 10)).as_bytes()).await;
    let mut told = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut told)).await.unwrap();
    assert!(!told.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&told));
    server.app.stopping.cancel();
    serving.await.unwrap();
}

/// Clients write all of a request before they read.
#[tokio::test]
async fn an_upload_that_does_not_fit_the_disk_is_answered() {
    let disk = SmallDisk::new("32m");
    let server = Server::on(tempfile::tempdir_in(disk.path()).unwrap()).await;
    let path = server.path().join("s.sock");
    let serving = tokio::spawn(serve(listen(&path).unwrap(), server.router.clone(), server.app.stopping.clone()));
    let filled = std::io::copy(&mut std::io::repeat(0), &mut std::fs::File::create(disk.path().join("ballast")).unwrap());
    assert!(filled.is_err());
    let head = format!("POST /v1/tasks HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", 8 << 20);
    let answer = exchange(&path, &(head + &"x".repeat(8 << 20))).await;
    assert!(answer.starts_with("HTTP/1.1 507") && answer.contains("disk_full"), "{answer}");
    server.app.stopping.cancel();
    serving.await.unwrap();
}
