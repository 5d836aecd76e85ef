//! Parked executions that move to another host: two daemons that share nothing, each in a network namespace of its own; a file is all that passes between them.

use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, setup, tests, until};

pub(crate) const TESTS: &[Test] = tests![
    goes_on_elsewhere,
    a_timer_passes_on_the_way,
    comes_back,
    bad_files_leave_nothing,
    another_root_disk_is_named,
    a_host_that_changed_says_so,
];

/// As others have it, so that its template is made once.
const POLICY: &[(&str, &str)] = &[("memory", "\"128MiB\""), ("timeout", "\"60s\""), ("park", "\"always\""), ("calls", "[\"*\"]")];

fn host(options: Options) -> Daemon {
    Daemon::start(Options { own_network: true, ..options })
}

fn push_waiter(daemon: &Daemon) {
    daemon.push(TaskFolder::copy("waiter").named("waiter", POLICY).path());
    daemon.template("waiter");
}

/// A host with the task `waiter`.
fn source() -> Arc<Daemon> {
    let daemon = shared();
    push_waiter(&daemon);
    daemon
}

fn parked(daemon: &Daemon, steps: &Value) -> String {
    let id = daemon.submit("waiter", &json!({"do": steps}));
    daemon.wait_for(&id, "parked");
    id
}

fn export(daemon: &Daemon, id: &str, file: &Path, template: bool) -> Value {
    let mut words = vec!["export", id, "-o", file.to_str().unwrap()];
    words.extend((!template).then_some("--without-template"));
    let ran = daemon.cli(&words).expect(0);
    let moved = daemon.execution(id);
    assert_eq!((&moved["state"], &moved["error"]["kind"]), (&json!("cancelled"), &json!("moved")), "{moved:#}");
    ran.json()
}

fn import(daemon: &Daemon, file: &Path) -> Value {
    daemon.cli(&["import", file.to_str().unwrap()]).expect(0).json()
}

fn log(daemon: &Daemon, id: &str) -> String {
    let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
    logs["entries"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap()).collect()
}

/// Names of all that a host keeps of executions and tasks.
fn kept(daemon: &Daemon) -> Vec<PathBuf> {
    let folders = ["parked", "templates", "code", "logs"].map(|name| daemon.state().join(name));
    let all = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
    let named = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
    let mut all: Vec<_> = all.map(|entry| entry.unwrap().path()).filter(named).collect();
    all.sort();
    all
}

fn wall() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Events, children that ended, memory, log and clock go on; the template goes with the first and is there for the second.
fn goes_on_elsewhere() {
    let here = Daemon::start_with_templates(Options { own_network: true, ..Options::default() });
    here.push(TaskFolder::copy("probe").path());
    push_waiter(&here);
    let (there, folder) = (host(Options::default()), TempDir::new().unwrap());
    let network = |pid: &dyn std::fmt::Display| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let networks = [network(&"self"), network(&here.pid()), network(&there.pid())];
    assert!(networks[0] != networks[1] && networks[0] != networks[2] && networks[1] != networks[2], "{networks:?}");
    let steps = json!([
        ["say", "before"],
        ["fill", 4, 3],
        ["count"],
        ["spawn", "probe", 5],
        ["wait", 0],
        ["new_event"],
        ["new_event"],
        ["wait_event", 0],
        ["say", "after"],
        ["clock"],
        ["count"],
        ["sum"],
        ["result", 0],
        ["wait_event", 1],
        ["sleep", 0.2],
        ["count"]
    ]);
    let tokens = |execution: &Value| execution["waiting"][0]["token"].as_str().unwrap_or_default().to_owned();
    let waits = |daemon: &Daemon, id: &str| {
        let token = |execution: &Value| (execution["waiting"][0]["for"] == "event").then(|| tokens(execution));
        until("it waits for its event", Duration::from_secs(60), || token(&daemon.wait_for(id, "parked")))
    };
    let both = [(); 2].map(|()| here.submit("waiter", &json!({"do": steps})));
    let first_tokens = both.clone().map(|id| waits(&here, &id));
    let files = ["with", "without"].map(|name| folder.path().join(name));
    let large = export(&here, &both[0], &files[0], true);
    let small = export(&here, &both[1], &files[1], false);
    assert!(small["bytes"].as_u64().unwrap() < large["bytes"].as_u64().unwrap(), "{small} {large}");
    assert_eq!(large["bytes"].as_u64().unwrap(), fs::metadata(&files[0]).unwrap().len());
    eprintln!("with its template {} bytes, without {}", large["bytes"], small["bytes"]);
    here.cli(&["signal", &first_tokens[0]]).expect(2).says(&["moved to another host"]);
    drop(here);

    let refused = there.cli(&["import", files[1].to_str().unwrap()]).expect(2);
    refused.says(&["neither here nor in the file", "without --without-template"]);
    assert!(kept(&there).is_empty(), "{:?}", kept(&there));
    for (number, file) in files.iter().enumerate() {
        let id = &both[number];
        let imported = import(&there, file);
        assert_eq!((imported["id"].as_str(), imported["state"].as_str()), (Some(id.as_str()), Some("parked")));
        assert_eq!(imported["timeline"].as_array().unwrap().last().unwrap()["event"], json!("imported"), "{imported:#}");
        there.cli(&["import", file.to_str().unwrap()]).expect(2).says(&["known here already"]);
    }
    assert_eq!(there.state().join("templates").read_dir().unwrap().count(), 1, "one template, under the hash of its content");
    let mut there = there;
    for (id, token) in both.iter().zip(&first_tokens) {
        let before = wall();
        there.cli(&["signal", token, "--data", "\"moved\""]).expect(0);
        let second = until("the second event", Duration::from_secs(60), || {
            let token = tokens(&there.execution(id));
            (!token.is_empty() && token != *token_of(&first_tokens, id, &both)).then_some(token)
        });
        let after = wall();
        there.wait_for(id, "parked");
        if *id == both[0] {
            // What was parked anew here is a difference to the template that came along, and outlives a restart.
            there.kill();
            there.start_again();
        }
        there.cli(&["signal", &second, "--data", "{\"n\": 2}"]).expect(0);
        let ended = there.wait_for_end(id);
        assert_eq!(ended["state"], "succeeded", "{ended:#}");
        let result = ended["result"].as_array().unwrap();
        assert_eq!((&result[2], &result[10], &result[15]), (&json!(1), &json!(2), &json!(3)), "{ended:#}");
        assert_eq!(
            (&result[7], &result[11], &result[12], &result[13]),
            (&json!("moved"), &result[1], &json!(5), &json!({"n": 2})),
            "{ended:#}"
        );
        let clock = result[9]["wall"].as_f64().unwrap();
        assert!(before - 0.01 <= clock && clock <= after + 0.01, "{before} <= {clock} <= {after}");
        let log = log(&there, id);
        assert!(log.find("before") < log.find("after") && log.contains("before"), "{log}");
    }
    assert_eq!(there.get("/v1/tasks/waiter").expect(200)["versions"].as_array().unwrap().len(), 1);
    let ran = there.run("waiter", &json!({"do": [["count"]]})).expect(0);
    assert_eq!(ran.json(), json!([1]), "its task is there as if it had been pushed");
}

fn token_of<'a>(tokens: &'a [String; 2], id: &str, both: &[String; 2]) -> &'a String {
    &tokens[both.iter().position(|other| other == id).unwrap()]
}

fn a_timer_passes_on_the_way() {
    let (here, there, folder) = (source(), host(Options::default()), TempDir::new().unwrap());
    let began = Instant::now();
    let id = parked(&here, &json!([["clock"], ["sleep", 6], ["clock"]]));
    let file = folder.path().join("moved");
    export(&here, &id, &file, true);
    std::thread::sleep(Duration::from_secs(7).saturating_sub(began.elapsed()));
    import(&there, &file);
    let ended = there.wait_for_end(&id);
    let (before, after) = (&ended["result"][0], &ended["result"][2]);
    let passed = |clock: &str| after[clock].as_f64().unwrap() - before[clock].as_f64().unwrap();
    assert!(passed("wall") >= 6.0, "{ended:#}");
    assert!((after["wall"].as_f64().unwrap() - wall()).abs() < 10.0 && passed("monotonic") < 2.0, "{ended:#}");
}

/// There and back: each host takes it in each time that it comes, and an older file never.
fn comes_back() {
    let (here, there, folder) = (source(), host(Options::default()), TempDir::new().unwrap());
    let id = parked(&here, &json!([["say", "first"], ["count"], ["event"], ["say", "second"], ["count"]]));
    let files = ["out", "back", "out again", "back again"].map(|name| folder.path().join(name));
    export(&here, &id, &files[0], true);
    here.cli(&["import", files[0].to_str().unwrap()]).expect(2).says(&["known here already"]);
    import(&there, &files[0]);
    export(&there, &id, &files[1], false);
    import(&here, &files[1]);
    export(&here, &id, &files[2], false);
    for old in &files[..2] {
        here.cli(&["import", old.to_str().unwrap()]).expect(2).says(&["known here already"]);
    }
    import(&there, &files[2]);
    export(&there, &id, &files[3], true);
    let imported = import(&here, &files[3]);
    let token = imported["waiting"][0]["token"].as_str().unwrap();
    there.cli(&["signal", token]).expect(2).says(&["moved to another host"]);
    here.cli(&["signal", token, "--data", "4"]).expect(0);
    let ended = here.wait_for_end(&id);
    assert_eq!(ended["result"], json!([null, 1, 4, null, 2]), "{ended:#}");
    assert_eq!(log(&here, &id).matches("first").count(), 1);
    assert!(log(&here, &id).contains("second"));
}

fn bad_files_leave_nothing() {
    let (here, there, folder) = (source(), host(Options::default()), TempDir::new().unwrap());
    let id = parked(&here, &json!([["event"]]));
    let path = format!("/v1/executions/{id}/export");
    // A client that goes away in the middle.
    let mut client = UnixStream::connect(here.socket()).unwrap();
    client.write_all(format!("POST {path} HTTP/1.0\r\nhost: torpord\r\n\r\n").as_bytes()).unwrap();
    let mut some = vec![0; 100_000];
    client.read_exact(&mut some).unwrap();
    assert!(some.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&some[..100]));
    drop(client);
    assert_eq!(here.execution(&id)["state"], "parked");

    let file = folder.path().join("moved");
    export(&here, &id, &file, true);
    let whole = fs::read(&file).unwrap();
    let refused = |name: &str, bytes: &[u8], words: &[&str]| {
        let bad = folder.path().join(name);
        fs::write(&bad, bytes).unwrap();
        there.cli(&["import", bad.to_str().unwrap()]).expect(2).says(words);
        assert!(kept(&there).is_empty(), "{name}: {:?}", kept(&there));
        assert_eq!(there.get("/v1/executions?all=true").expect(200)["executions"], json!([]));
        assert_eq!(there.get("/v1/tasks").expect(200)["tasks"], json!([]));
    };
    refused("without its trailer", &whole[..whole.len() - 80], &["cut off"]);
    refused("cut in the middle", &whole[..whole.len() / 2], &["cut off"]);
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for part in 1..8 {
        refused("damaged", &flipped(whole.len() / 8 * part), &["damaged file"]);
    }
    let mut foreign = whole.clone();
    foreign[8] = 2;
    refused("foreign", &foreign, &["format version 2", "reads version 1"]);
    refused("something else", b"\x7fELF and so on", &["not an exported execution"]);

    // Nor does one that finds no room.
    let narrow = host(Options { arguments: vec!["--parked-quota".into(), "64KiB".into()], ..Options::default() });
    narrow.cli(&["import", file.to_str().unwrap()]).expect(2).says(&["--parked-quota"]);
    assert!(kept(&narrow).is_empty(), "{:?}", kept(&narrow));
    let small = host(Options { arguments: vec!["--memory-budget".into(), "100MiB".into()], ..Options::default() });
    small.cli(&["import", file.to_str().unwrap()]).expect(2).says(&["memory budget is 100MiB"]);
    assert!(kept(&small).is_empty(), "{:?}", kept(&small));
}

/// Images of which Python's is as good as the usual one, but another.
fn other_images(folder: &Path) -> PathBuf {
    let images = folder.join("images");
    fs::create_dir(&images).unwrap();
    for name in ["python.erofs", "exec.erofs"] {
        fs::copy(setup::get().images.join(name), images.join(name)).unwrap();
    }
    let mut disk = File::options().append(true).open(images.join("python.erofs")).unwrap();
    disk.write_all(&[0; 4096]).unwrap();
    images
}

fn another_root_disk_is_named() {
    let (here, folder) = (source(), TempDir::new().unwrap());
    let id = parked(&here, &json!([["event"]]));
    let file = folder.path().join("moved");
    export(&here, &id, &file, true);
    let other = host(Options { images: Some(other_images(folder.path())), ..Options::default() });
    other
        .cli(&["import", file.to_str().unwrap()])
        .expect(2)
        .says(&["it can't go on on this host", "root disk: the machine was parked with"]);
    assert!(kept(&other).is_empty(), "{:?}", kept(&other));
}

/// What was parked before images were replaced does not run on others.
fn a_host_that_changed_says_so() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let before = Daemon::start_with_templates(Options { state: Some(state.clone()), ..Options::default() });
    push_waiter(&before);
    let id = parked(&before, &json!([["event"]]));
    let token = before.execution(&id)["waiting"][0]["token"].as_str().unwrap().to_owned();
    drop(before);
    let after = Daemon::start(Options { state: Some(state), images: Some(other_images(folder.path())), ..Options::default() });
    assert_eq!(after.execution(&id)["state"], "parked", "it may be that the old images come back");
    after.cli(&["signal", &token]).expect(0);
    let ended = after.wait_for_end(&id);
    assert_eq!(ended["error"]["kind"], "host", "{ended:#}");
    assert!(ended["error"]["message"].as_str().unwrap().contains("root disk: the machine was parked with"), "{ended:#}");
}
