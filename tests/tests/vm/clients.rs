//! Clients that go away in the middle: of what they send, and of what they are told. torpord keeps nothing for them, and executions do not notice.

use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::process::resident;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![gone_in_the_middle];

/// Clients of a kind at once.
const CLIENTS: usize = 40;
const ROUNDS: usize = 10;

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

/// A request, and the first bytes of its answer where there are some before its end.
fn open(daemon: &Daemon, request: &str, body: &[u8], answers: bool) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    // Where many bodies are on their way, some are not read yet.
    let _ = stream.write_all(body);
    if answers {
        let mut first = [0; 64];
        assert!(stream.read(&mut first).unwrap() > 0 && first.starts_with(b"HTTP/1.1 200"), "{request}");
    }
    stream
}

fn gone_in_the_middle() {
    let daemon = Daemon::start_with_templates(Options { arguments: ["--max-vms", "3"].map(str::to_owned).into(), ..Options::default() });
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    let runs = daemon.submit("shell", &json!("i=0; while [ $i -lt 100 ]; do echo line $i >&2; sleep 1; i=$((i + 1)); done; echo 1"));
    daemon.wait_for(&runs, "running");
    assert_eq!(daemon.result("shell", &json!("echo 2")), 2);
    let (fds, tasks) = (descriptors(daemon.pid()), threads(daemon.pid()));
    // All of them together are less than one account may have on its way: what is more is not read, and whoever sends it would wait.
    let half = vec![b' '; 512 << 10];
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let get = |path: &str| format!("GET /v1/executions/{runs}{path} HTTP/1.1\r\nhost: t\r\n\r\n");
            clients.push(open(&daemon, &get("/events"), b"", true));
            clients.push(open(&daemon, &get("/logs?follow=true"), b"", true));
            clients.push(open(&daemon, &get("?wait=300"), b"", false));
        }
        // One is submitted by who goes away before its end: it is durable, and runs.
        let gone = format!("\"echo {round}\"");
        let post = |query: &str, length: usize| {
            format!("POST /v1/tasks/shell/executions{query} HTTP/1.1\r\nhost: t\r\ncontent-length: {length}\r\n\r\n")
        };
        clients.push(open(&daemon, &post("?wait=300", gone.len()), gone.as_bytes(), false));
        until("its submission", Duration::from_secs(30), || {
            let all = daemon.get("/v1/executions?all=true").expect(200);
            (all["executions"].as_array().unwrap().len() == 3 + 2 * round).then_some(())
        });
        for _ in 0..CLIENTS {
            clients.push(open(&daemon, &post("", 1 << 20), &half, false));
        }
        assert!(descriptors(daemon.pid()) > fds + 3 * CLIENTS);
        drop(clients);
        until("their descriptors", Duration::from_secs(30), || (descriptors(daemon.pid()) <= fds + 4).then_some(()));
        // There is room for large inputs again, all of it.
        let large = serde_json::Value::String("#".repeat(5 << 20));
        let large = daemon.post("/v1/tasks/shell/executions", large.to_string().as_bytes()).expect(201);
        let _ = daemon.post(&format!("/v1/executions/{}/cancel", large["id"].as_str().unwrap()), b"");
        memory.push(resident(daemon.pid()));
        let all = daemon.get("/v1/executions?all=true").expect(200)["executions"].as_array().unwrap().len();
        assert_eq!(all, 4 + 2 * round, "halves of inputs are no executions");
    }
    // Threads that read files end some seconds after their last work.
    until("their threads", Duration::from_secs(60), || (threads(daemon.pid()) <= tasks + 2).then_some(()));
    // What the allocator keeps differs from round to round; what is kept for clients would be added in each.
    let early = memory[..ROUNDS / 2].iter().max().unwrap();
    assert!(memory[ROUNDS - 1] < early + (32 << 20), "memory grows with each round: {memory:?}");
    let all = daemon.get("/v1/executions?all=true&task=shell").expect(200)["executions"].as_array().unwrap().clone();
    let ended = all.iter().filter(|execution| execution["state"] == "succeeded").count();
    assert!(ended > ROUNDS, "{all:#?}");
    assert_eq!(daemon.execution(&runs)["state"], "running");
    daemon.cli(&["cancel", &runs]).expect(0);
    let lines = daemon.cli(&["logs", &runs]).expect(0).stdout;
    assert!(lines.starts_with("line 0\nline 1\n"), "{lines}");
}
