//! What must be refused before anything runs: manifests, code, names and inputs. Nothing of it is stored.

use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::http;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] =
    tests![manifests, entries, folders, hostile_archives, code_too_large, unknown_names, inputs, malformed_requests,];

const TASK: &str = "[task]\nname = \"bad\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n";

fn nothing_stored(daemon: &Daemon) {
    let tasks = daemon.get("/v1/tasks").expect(200);
    let names: Vec<_> = tasks["tasks"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap()).collect();
    assert!(!names.contains(&"bad"), "{names:?}");
}

/// Each with the line that the message has to name.
fn manifests() {
    let daemon = shared();
    let cases: Vec<(String, u64, &str)> = vec![
        ("[task\n".into(), 1, ""),
        ("[task]\nname = \"bad\"\nruntime = \n".into(), 3, ""),
        (format!("{TASK}colour = \"red\"\n"), 5, "colour"),
        (format!("{TASK}[polciy]\nmemory = \"128MiB\"\n"), 5, "polciy"),
        (format!("{TASK}[policy]\nmemroy = \"128MiB\"\n"), 6, "memroy"),
        (format!("{TASK}[policy]\nmemory = \"32MiB\"\n"), 6, "64MiB"),
        (format!("{TASK}[policy]\nmemory = \"4096MiB\"\n"), 6, "2048MiB"),
        (format!("{TASK}[policy]\nmemory = 128\n"), 6, ""),
        (format!("{TASK}[policy]\nmemory = \"lots\"\n"), 6, "lots"),
        (format!("{TASK}[policy]\n\ntimeout = \"10ms\"\n"), 7, "100ms"),
        (format!("{TASK}[policy]\ntimeout = \"25h\"\n"), 6, "24h"),
        (format!("{TASK}[policy]\nretries = 101\n"), 6, "10"),
        (format!("{TASK}[policy]\nlog_cap = \"1KiB\"\n"), 6, "4KiB"),
        (TASK.replace("python", "cobol"), 3, "cobol"),
        (TASK.replace("bad", "Bad Name"), 2, "Bad Name"),
        (TASK.replace("main.py:handler", "main.py"), 4, ""),
        (TASK.replace("main.py:handler", "../main.py:handler"), 4, ""),
    ];
    for (manifest, line, word) in cases {
        let folder = TaskFolder::copy("probe").manifest(&manifest);
        let ran = daemon.cli(&["task", "push", folder.path().to_str().unwrap()]).expect(2);
        ran.says(&[&format!("torpor.toml:{line}"), "invalid_manifest", word]);
    }
    // Without the one line that is missing there is no line to name.
    for (key, without) in [("name", 2), ("runtime", 3), ("entry", 4)] {
        let manifest: Vec<_> = TASK.lines().enumerate().filter(|(at, _)| at + 1 != without).map(|(_, line)| line).collect();
        let folder = TaskFolder::copy("probe").manifest(&manifest.join("\n"));
        daemon.cli(&["task", "push", folder.path().to_str().unwrap()]).expect(2).says(&["torpor.toml", key]);
    }
    nothing_stored(&daemon);
}

fn entries() {
    let daemon = shared();
    let push = |folder: &TaskFolder| daemon.cli(&["task", "push", folder.path().to_str().unwrap()]).expect(2);
    push(&TaskFolder::empty().manifest(TASK)).says(&["main.py", "invalid_code"]);
    let shell = TASK.replace("python", "exec").replace("main.py:handler", "bin/run");
    push(&TaskFolder::empty().manifest(&shell)).says(&["bin/run", "invalid_code"]);
    let not_executable = TaskFolder::empty().manifest(&shell).file("bin/run", "#!/bin/sh\necho 1\n");
    push(&not_executable).says(&["bin/run", "executable"]);
    nothing_stored(&daemon);

    // What only the interpreter can know fails when the code is loaded, with the reason.
    let load = |name: &str, code: &str| {
        let folder = TaskFolder::copy("probe").named(name, &[("memory", "\"128MiB\"")]).file("main.py", code);
        daemon.push(folder.path());
        daemon.fails(name, &Value::Null, "load")
    };
    let failed = load("no-handler", "def other(input, context):\n    return 1\n");
    assert!(failed["error"]["message"].as_str().unwrap().contains("handler"), "{failed:#}");
    let failed = load("no-syntax", "def handler(input, context)\n    return 1\n");
    assert!(failed["error"].to_string().contains("SyntaxError"), "{failed:#}");
    let failed = load("no-module", "import flour\n\ndef handler(input, context):\n    return 1\n");
    assert!(failed["error"].to_string().contains("flour"), "{failed:#}");
}

fn folders() {
    let daemon = shared();
    let push = |path: &std::path::Path| daemon.cli(&["task", "push", path.to_str().unwrap()]).expect(2);
    push(TaskFolder::empty().path()).says(&["has no torpor.toml"]);
    push(&TaskFolder::empty().path().join("none")).says(&["No such file"]);
    let outside = TaskFolder::copy("probe").manifest(TASK);
    symlink("/etc/passwd", outside.path().join("data")).unwrap();
    push(outside.path()).says(&["outside the task's folder", "/etc/passwd"]);
    let fifo = TaskFolder::copy("probe").manifest(TASK);
    nix::unistd::mkfifo(&fifo.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    push(fifo.path()).says(&["neither a file"]);
    nothing_stored(&daemon);
    // A link inside is fine, and so is a folder with everything in it.
    let fine = TaskFolder::copy("probe").named("links", &[]).file("lib/data.txt", "7");
    symlink("lib/data.txt", fine.path().join("data.txt")).unwrap();
    let fine = fine.file("main.py", "def handler(input, context):\n    return int(open('data.txt').read())\n");
    std::fs::set_permissions(fine.path().join("main.py"), std::fs::Permissions::from_mode(0o755)).unwrap();
    daemon.push(fine.path());
    assert_eq!(daemon.result("links", &Value::Null), 7);
}

fn archive(add: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [("torpor.toml", TASK), ("main.py", "def handler(input, context):\n    return 1\n")] {
        file(&mut builder, name, content.as_bytes());
    }
    add(&mut builder);
    builder.into_inner().unwrap()
}

/// Writes a name as it is: the crate would refuse the bad ones.
fn file(builder: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = named(name, tar::EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

fn named(name: &str, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_size(0);
    header
}

fn link(builder: &mut tar::Builder<Vec<u8>>, name: &str, target: &str, kind: tar::EntryType) {
    let mut header = named(name, kind);
    header.set_link_name_literal(target).unwrap();
    header.set_cksum();
    builder.append(&header, &[][..]).unwrap();
}

/// Archives that the command line would never make.
fn hostile_archives() {
    let daemon = shared();
    let push = |body: &[u8]| daemon.post("/v1/tasks", body).refused(400, "invalid_code");
    push(&archive(|tar| file(tar, "../evil", b"x")));
    push(&archive(|tar| file(tar, "/etc/evil", b"x")));
    push(&archive(|tar| file(tar, "a/../../evil", b"x")));
    push(&archive(|tar| link(tar, "out", "/etc/passwd", tar::EntryType::Symlink)));
    push(&archive(|tar| link(tar, "out", "../../etc/passwd", tar::EntryType::Symlink)));
    push(&archive(|tar| link(tar, "hard", "/etc/passwd", tar::EntryType::Link)));
    push(&archive(|tar| link(tar, "device", "", tar::EntryType::Char)));
    push(&archive(|tar| link(tar, "fifo", "", tar::EntryType::Fifo)));
    // Through a link that is there already.
    push(&archive(|tar| {
        link(tar, "etc", "/etc", tar::EntryType::Symlink);
        file(tar, "etc/evil", b"x");
    }));
    push(&archive(|tar| file(tar, "main.py", b"twice")));
    push(&archive(|_| {})[..700]);
    push(b"this is no archive");
    daemon.post("/v1/tasks", b"").refused(400, "invalid_code");
    nothing_stored(&daemon);
    assert!(!std::path::Path::new("/etc/evil").exists());
}

fn code_too_large() {
    let daemon = shared();
    let folder = TaskFolder::copy("probe").manifest(TASK);
    std::fs::File::create(folder.path().join("big")).unwrap().set_len(65 << 20).unwrap();
    daemon.cli(&["task", "push", folder.path().to_str().unwrap()]).expect(2).says(&["64.0 MiB"]);
    let body = archive(|tar| file(tar, "big", &vec![0; 64 << 20]));
    daemon.post("/v1/tasks", &body).refused(413, "code_too_large");
    let endless = "POST /v1/tasks HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 1099511627776\r\n\r\n";
    http::raw(&daemon.socket(), endless.as_bytes(), b"").refused(413, "code_too_large");
    nothing_stored(&daemon);
}

fn unknown_names() {
    let daemon = shared();
    daemon.cli(&["run", "nobody"]).expect(2).says(&["nobody", "unknown_task", "torpor task ls"]);
    daemon.cli(&["run", "probe@deadbeef"]).expect(2).says(&["deadbeef", "unknown_version"]);
    daemon.get("/v1/tasks/nobody").refused(404, "unknown_task");
    daemon.get("/v1/executions/ex_00000000000000000000000000").refused(404, "unknown_execution");
    for id in ["x", "ex_", "ex_%2e%2e%2f", "ex_0000000000000000000000000Z"] {
        let answer = daemon.get(&format!("/v1/executions/{id}"));
        assert!(matches!(answer.status, 400 | 404), "{id}: {} {}", answer.status, answer.body);
    }
    daemon.post("/v1/executions/ex_00000000000000000000000000/cancel", b"").refused(404, "unknown_execution");
    daemon.get("/v1/executions/ex_00000000000000000000000000/logs").refused(404, "unknown_execution");
}

fn inputs() {
    let daemon = shared();
    let before = daemon.get("/v1/executions?all=true&task=probe&limit=1").expect(200);
    for bad in ["", "{", "nul", "[1,]", "1 2", "\u{feff}1", "{\"a\":\"\u{1}\"}", "NaN"] {
        daemon.cli_with(&["run", "probe", "--input", "-"], bad.as_bytes()).expect(2).says(&["invalid_input"]);
    }
    daemon.post("/v1/tasks/probe/executions", b"\"\xff\xfe\"").refused(400, "invalid_input");
    let large = vec![b' '; (6 << 20) + 1];
    daemon.cli_with(&["run", "probe", "--input", "-"], &large).expect(2).says(&["6.0 MiB"]);
    daemon.post("/v1/tasks/probe/executions", &large).refused(413, "input_too_large");
    let head = "POST /v1/tasks/probe/executions HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 99999999999\r\n\r\n";
    http::raw(&daemon.socket(), head.as_bytes(), b"1").refused(413, "input_too_large");
    let after = daemon.get("/v1/executions?all=true&task=probe&state=queued").expect(200);
    assert_eq!(after["executions"], json!([]), "nothing that was refused is queued");
    assert!(before["executions"].is_array());
    // As large as allowed.
    let (head, tail) = ("{\"do\":\"length\",\"text\":\"", "\"}");
    let text = "z".repeat((6 << 20) - head.len() - tail.len());
    let ran = daemon.cli_with(&["run", "probe", "--input", "-"], format!("{head}{text}{tail}").as_bytes()).expect(0);
    assert_eq!(ran.json(), text.len());
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let execution = daemon.post("/v1/tasks/probe/executions?wait=60", deep.as_bytes());
    assert!(matches!(execution.status, 201 | 400), "{} {}", execution.status, execution.body);
    if execution.status == 201 {
        assert_eq!(execution.expect(201)["error"]["kind"], "exception", "Python's own limit");
    }
}

fn malformed_requests() {
    let daemon = shared();
    let status = |head: &str| http::raw(&daemon.socket(), head.as_bytes(), b"").status;
    assert_eq!(status("GET /nothing HTTP/1.0\r\n\r\n"), 404);
    assert_eq!(status("PUT /v1/tasks HTTP/1.0\r\n\r\n"), 405);
    assert_eq!(status("nonsense\r\n\r\n"), 400);
    daemon.get("/v1/executions?limit=many").refused(400, "invalid_request");
    daemon.get("/v1/executions?state=asleep").refused(400, "invalid_request");
    daemon.get("/v1/executions/ex_00000000000000000000000000?wait=soon").refused(400, "invalid_request");
    let long = format!("GET /{} HTTP/1.0\r\n\r\n", "x".repeat(1 << 20));
    assert!(matches!(status(&long), 0 | 400 | 404 | 414 | 431));
    assert_eq!(daemon.get("/healthz").expect(200)["status"], "ok");
}
