//! Ten thousand requests that are almost right, as bytes on a socket: each is answered by a success or by a refusal with its reason, none by a fault of the
//! daemon, and none makes it panic.

use super::*;
use crate::api::serve::{listen, serve};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const REQUESTS: usize = 10_000;
/// Requests at once.
const CLIENTS: usize = 8;
/// For any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Numbers that look random and are the same each time.
struct Random(blake3::OutputReader);

impl Random {
    fn new(seed: usize) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn below(&mut self, end: usize) -> usize {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        usize::try_from(u64::from_le_bytes(bytes) % u64::try_from(end.max(1)).unwrap()).unwrap()
    }
}

fn request(method: &str, path: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: torpord\r\nconnection: close\r\n{more}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// One of every route, with names that exist.
async fn corpus(server: &Server) -> Vec<Vec<u8>> {
    server.push("t", "").await;
    let waiting = json!({"asks": [{"ask": "event"}, {"ask": "event_wait", "token": ""}]}).to_string();
    let started = server.ok("POST", "/v1/tasks/t/executions", waiting).await;
    let id = started["id"].as_str().unwrap().to_owned();
    let split = b"[task]\nname = \"s\"\nruntime = \"python\"\nentry = \"main.py:f\"\n[policy]\ncalls = [\"portion:p\"]\nmemory = \"64MiB\"\n\
        [portion.p]\nfolder = \"p\"\nruntime = \"exec\"\nentry = \"run\"\ntrust = \"trusted\"\n[portion.p.policy]\ncallers = [\"portion:main\"]\n";
    let folder = tar(&[("torpor.toml", split), ("main.py", b"def f(i, c): return i\n"), ("p/run", b"#!/bin/sh\n")]);
    let mut all = vec![
        request("POST", "/v1/tasks", "content-type: application/x-tar\r\n", &task("other", "retries = 1")),
        request("POST", "/v1/tasks", "", &folder),
        request("POST", "/v1/tasks/t/executions?wait=0.01", "", br#"{"ms": 1, "print": "x"}"#),
        request(
            "POST",
            "/v1/tasks/t/executions",
            "",
            br#"{"asks": [{"ask": "spawn", "task": "t"}], "payload": {"a": [1, 2.5e3, "\u00e4"]}}"#,
        ),
        request("POST", "/v1/tasks/t/executions?notify=https%3A%2F%2Fhooks.example.com%2Fa&notify_secret=key", "", b"{}"),
        request("POST", "/v1/tasks/t/executions", "idempotency-key: \"a key\"\r\n", b"{}"),
        request("GET", "/v1/executions?all=true&task=t&state=succeeded&limit=5", "", b""),
        request("POST", "/v1/executions/import", "", b"TORPOREX\x01\0\0\0 and no more"),
        request(
            "POST",
            "/v1/schedules",
            "",
            br#"{"task":"t","cron":"0 3 * * 1-5","timezone":"Europe/Berlin","input":{"a":1},"missed":"skip","overlap":"allow"}"#,
        ),
        request("POST", "/v1/schedules/t/pause", "", b""),
        request("POST", "/v1/schedules/t/resume", "", b""),
        request("GET", "/v1/schedules/t", "", b""),
        request("DELETE", "/v1/schedules/t", "", b""),
        request("PUT", "/v1/secrets/key", "", b"a secret"),
        request("DELETE", "/v1/secrets/key", "", b""),
        request("DELETE", "/v1/tasks/other", "", b""),
        request("PUT", "/v1/accounts/us", "", br#"{"weight": 3}"#),
        request("DELETE", "/v1/accounts/us?history=true", "", b""),
        request("PUT", "/v1/uids/4711", "", br#"{"account": "us", "role": "owner"}"#),
        request("DELETE", "/v1/uids/4711", "", b""),
        request("POST", "/v1/tokens", "", br#"{"account": "default", "role": "invoker", "expires_in_s": 60, "note": "x"}"#),
        request("DELETE", "/v1/tokens/0123456789ab", "", b""),
        request("GET", "/v1/tasks", "authorization: Bearer torpor_0123456789ab_0\r\nx-torpor-account: us\r\n", b""),
        request("POST", "/v1/events/ev_0000000000000000000000000000000000000000", "", b"{}"),
    ];
    for path in
        ["tasks", "tasks/t", "tasks/t/policy", "tasks/t/graph", "secrets", "schedules", "executions", "host", "load", "accounts", "tokens"]
    {
        all.push(request("GET", &format!("/v1/{path}"), "", b""));
    }
    for path in ["/metrics", "/healthz", "/openapi.json"] {
        all.push(request("GET", path, "", b""));
    }
    for what in ["", "/logs?from=0", "/events?from=0"] {
        all.push(request("GET", &format!("/v1/executions/{id}{what}"), "", b""));
    }
    for what in ["park", "resume", "export", "cancel"] {
        all.push(request("POST", &format!("/v1/executions/{id}/{what}"), "", b""));
    }
    all
}

fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 16] = [
        b"%00",
        b"%ff",
        b"..",
        b"/",
        b"\r\n",
        b"\r\n\r\n",
        b"\0",
        b"transfer-encoding: chunked\r\n",
        b"999999999999999999999",
        b"-1",
        b"\"",
        b"{\"a\":",
        b"[[[[[[[[",
        b"\xff\xfe",
        b"?wait=nan&limit=0&from=x",
        b"@00000000",
    ];
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).unwrap(),
            2 => bytes.truncate(at),
            3 => drop(bytes.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
            4 => drop(bytes.drain(at..(at + random.below(64)).min(bytes.len()).max(at))),
            5 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            6 => {
                let end = (at + random.below(256)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            // In the head, where the names are.
            _ if !bytes.is_empty() => {
                let at = random.below(bytes.len().min(80));
                bytes[at] = u8::try_from(32 + random.below(95)).unwrap();
            }
            _ => {}
        }
    }
    bytes
}

/// The status; none where the connection was closed without an answer. Who gets none within `patience` says that no more will come: a request that is
/// not whole ends there, one that is being worked on is given up.
fn sent(socket: &Path, bytes: &[u8], patience: Duration) -> Option<u16> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // It may be refused and closed before all of it is written.
    let _ = stream.write_all(bytes);
    let mut head = [0; 16];
    let mut got = 0;
    while got < head.len() {
        match stream.read(&mut head[got..]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && stream.read_timeout().unwrap() != Some(PATIENCE) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let _ = stream.shutdown(std::net::Shutdown::Write);
            }
            Ok(0) | Err(_) => break,
            Ok(more) => got += more,
        }
    }
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_requests_are_answered_or_refused() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let caps = HostPolicy::parse(b"[caps]\nnotify = [\"https://hooks.example.com\"]\n").unwrap();
    let server = Server::under(tempfile::tempdir().unwrap(), Arc::new(caps)).await;
    server.ok("PUT", "/v1/secrets/key", "a secret").await;
    let corpus = Arc::new(corpus(&server).await);
    let socket = server.path().join("torpord.sock");
    let serving = tokio::spawn(serve(listen(&socket).unwrap(), server.router.clone(), server.app.stopping.clone()));
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The hook sees those of other tests too, and of what panics in them with purpose.
        let own = info.location().is_some_and(|at| at.file().contains("tests"));
        if !own && !info.payload_as_str().is_some_and(|text| text.starts_with("as ")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
    for (number, whole) in corpus.iter().enumerate() {
        let status = sent(&socket, whole, PATIENCE).unwrap_or(0);
        assert!((200..500).contains(&status), "request {number} of the corpus: {status}");
    }
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (corpus, socket) = (Arc::clone(&corpus), socket.clone());
            tokio::task::spawn_blocking(move || {
                let mut statuses = [0usize; 6];
                for number in (client..REQUESTS).step_by(CLIENTS) {
                    let bytes = mutated(&corpus, &mut Random::new(number));
                    let status = sent(&socket, &bytes, Duration::from_millis(50)).unwrap_or(0);
                    assert!(status < 500, "request {number}: {status} to {:?}", String::from_utf8_lossy(&bytes));
                    statuses[usize::from(status / 100)] += 1;
                }
                statuses
            })
        })
        .collect();
    let mut statuses = [0usize; 6];
    for client in clients {
        statuses.iter_mut().zip(client.await.unwrap()).for_each(|(sum, more)| *sum += more);
    }
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
    assert_eq!(statuses.iter().sum::<usize>(), REQUESTS);
    assert!(
        statuses[2] > REQUESTS / 20 && statuses[4] > REQUESTS / 5,
        "{statuses:?}: they should reach the handlers and be refused by them"
    );
    // It answers as ever.
    assert_eq!(server.ok("GET", "/healthz", Body::empty()).await["status"], "ok");
    server.app.stopping.cancel();
    serving.await.unwrap();
}
