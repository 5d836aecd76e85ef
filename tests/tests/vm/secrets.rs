//! Secrets: where they are, which is one machine's memory, and everywhere that they must not be, searched bytewise; and parked machines that hold some.

use crate::park::push_waiter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![
    a_secret_is_in_one_memory_and_nowhere_else,
    programs_of_any_kind_get_what_they_declare,
    a_crash_while_parked_with_a_secret,
    a_machine_with_a_secret_moves_only_where_its_key_is,
];

const NAME: &str = "signing-key";
/// Nothing is compressed: what is in a file in plain is found there.
const PLAIN: [&str; 2] = ["--parked-packing", "none"];

fn random() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let threes = bytes.chunks_exact(3).map(|three| (u32::from(three[0]) << 16) | (u32::from(three[1]) << 8) | u32::from(three[2]));
    threes.flat_map(|bits| [18, 12, 6, 0].map(|at| char::from(DIGITS[(bits >> at) as usize & 63]))).collect()
}

/// A value as it is, in hexadecimal digits, and in base64 wherever it begins in what was encoded.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    forms.extend((0..3).map(|skip| base64(&bytes[skip..]).into_bytes()));
    forms
}

fn holds(bytes: &[u8], forms: &[Vec<u8>]) -> bool {
    // Most places are told from all forms by their first two bytes.
    let heads: Vec<[u8; 2]> = forms.iter().map(|form| [form[0], form[1]]).collect();
    bytes
        .windows(2)
        .enumerate()
        .any(|(at, head)| heads.iter().zip(forms).any(|(first, form)| first[..] == *head && bytes[at..].starts_with(form)))
}

/// Files below a folder that hold it.
fn files_with(folder: &Path, forms: &[Vec<u8>], found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, forms, found);
        } else if fs::read(&path).is_ok_and(|bytes| holds(&bytes, forms)) {
            found.push(path.display().to_string());
        }
    }
}

/// Whether a process has it in its memory.
fn memory_holds(pid: Pid, forms: &[Vec<u8>]) -> bool {
    const PIECE: usize = 4 << 20;
    const OVERLAP: usize = 1 << 10;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut buffer = vec![0; PIECE + OVERLAP];
    let (mut read, mut found) = (0, false);
    for line in maps.lines().filter(|line| line.contains(" r") && !line.contains("[v")) {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < to && !found {
            let len = usize::try_from(to - at).unwrap().min(buffer.len());
            if memory.read_exact_at(&mut buffer[..len], at).is_ok() {
                read += len;
                found = holds(&buffer[..len], forms);
            }
            at += PIECE as u64;
        }
    }
    assert!(read > 1 << 20, "the memory of {pid} can't be read");
    found
}

fn api_answers(daemon: &Daemon, ids: &[&str]) -> String {
    let mut paths: Vec<String> =
        ["/v1/tasks", "/v1/tasks/vault", "/v1/executions?all=true", "/v1/secrets", "/v1/host", "/metrics", "/openapi.json"]
            .map(str::to_owned)
            .into();
    for id in ids {
        paths.extend(["", "/logs", "/events"].map(|part| format!("/v1/executions/{id}{part}")));
    }
    let follow = |path: &String| !path.ends_with("/events") || daemon.execution(path.split('/').nth(3).unwrap())["finished_at"].is_string();
    paths.iter().filter(|path| follow(path)).map(|path| daemon.get(path).body).collect()
}

fn start(options: Options) -> Daemon {
    let arguments = [options.arguments, PLAIN.map(str::to_owned).into()].concat();
    Daemon::start_with_templates(Options { arguments, ..options })
}

fn set(daemon: &Daemon, value: &str) {
    let ran = daemon.cli_with(&["secret", "set", NAME], format!("{value}\n").as_bytes()).expect(0);
    assert!(ran.json()["name"] == NAME && !ran.stdout.contains(value) && !ran.stderr.contains(value));
}

fn push_vault(daemon: &Daemon) {
    let folder = TaskFolder::copy("vault");
    let sign = fs::read(torpor_tests::setup::root().join("tests/tasks/vault/sign/main.py")).unwrap();
    let ran = daemon.cli(&["task".as_ref(), "push".as_ref(), folder.file("sign/main.py", sign).path().as_os_str()]).expect(0);
    assert!(ran.stderr.is_empty() || ran.stderr.contains(NAME), "{}", ran.stderr);
    daemon.template("vault");
}

fn stop(daemon: &mut Daemon) {
    daemon.signal(Signal::SIGTERM);
    daemon.wait(Duration::from_secs(60));
}

fn child_of(daemon: &Daemon, id: &str) -> Value {
    until("the other portion", Duration::from_secs(120), || {
        let list = daemon.get("/v1/executions").expect(200);
        let child = list["executions"].as_array().unwrap().iter().find(|execution| execution["parent"] == id).cloned();
        child.filter(|child| child["state"] == "parked" && child["waiting"][0]["for"] == "event")
    })
}

fn reversed(value: &str) -> String {
    value.chars().rev().collect()
}

fn a_secret_is_in_one_memory_and_nowhere_else() {
    let (value, marker) = (random(), random());
    let (secret, marked) = (forms(&value), forms(&marker));
    let mut daemon = start(Options::default());
    push_vault(&daemon);
    let refused = daemon.post("/v1/tasks/vault/executions", b"{}");
    assert_eq!(refused.status, 201, "main declares none: {}", refused.body);
    set(&daemon, &value);
    let id = daemon.submit("vault", &json!({"marker": marker, "sleep": 0.3}));
    let sign = child_of(&daemon, &id);
    let sign_id = sign["id"].as_str().unwrap();
    assert!(sign["parks"].as_u64().unwrap() >= 2, "{sign:#}");
    daemon.wait_for(&id, "parked");

    let nowhere = |daemon: &Daemon, when: &str| {
        let mut found = Vec::new();
        files_with(daemon.folder(), &secret, &mut found);
        assert!(found.is_empty(), "{when}: {found:?}");
        assert!(!holds(api_answers(daemon, &[&id, sign_id]).as_bytes(), &secret), "{when}: an answer of the API has it");
        assert!(!holds(daemon.log().as_bytes(), &secret), "{when}: torpord's log has it");
    };
    nowhere(&daemon, "while both portions are parked");
    let mut found = Vec::new();
    files_with(&daemon.state().join("parked"), &marked, &mut found);
    assert!(found.len() == 1 && found[0].contains(&id), "main has no secret, and its machine is in plain: {found:?}");

    // Another torpord, and first one with another key.
    stop(&mut daemon);
    let other = daemon.folder().join("other.key");
    fs::write(&other, [7; 32]).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    let ran = daemon.command(&daemon.socket()).arg("--secrets-key").arg(&other).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains("master key") && said.contains("other.key"), "{said}");
    daemon.start_again();
    nowhere(&daemon, "after a restart");

    // Both get their machines back, and stand in them.
    for id in [&id, sign_id] {
        let _ = daemon.post(&format!("/v1/executions/{id}/resume"), b"").expect(200);
        daemon.wait_for(id, "running");
    }
    let monitors = daemon.monitors();
    let of = |forms: &[Vec<u8>]| -> Vec<Pid> { monitors.iter().copied().filter(|pid| memory_holds(*pid, forms)).collect() };
    let (secrets, markers) = (of(&secret), of(&marked));
    assert_eq!((secrets.len(), markers.len()), (1, 1), "of {} monitors", monitors.len());
    assert_ne!(secrets, markers, "it is in the machine of the portion that declares it only");

    let _ = daemon.post(&format!("/v1/events/{}", sign["waiting"][0]["token"].as_str().unwrap()), b"").expect(204);
    let ended = daemon.wait_for_end(&id);
    assert_eq!(ended["result"], json!([{"reversed": reversed(&value), "at_import": false}, "not given", marker]), "{ended:#}");
    nowhere(&daemon, "at the end");

    // The search can find it: a task that gets the same bytes as its input has them in its parked machine.
    push_waiter(&daemon, "waiter", &[("memory", "\"128MiB\""), ("timeout", "\"60s\""), ("park", "\"always\"")]);
    let control = daemon.submit("waiter", &json!({"do": [["event"]], "note": value}));
    daemon.wait_for(&control, "parked");
    let mut found = Vec::new();
    files_with(&daemon.state().join("parked"), &secret, &mut found);
    assert!(found.len() == 1 && found[0].contains(&control), "{found:?}");
}

fn programs_of_any_kind_get_what_they_declare() {
    let daemon = start(Options::default());
    let manifest =
        "[task]\nname = \"shellsecret\"\nruntime = \"exec\"\nentry = \"run\"\n[policy]\nmemory = \"64MiB\"\nsecrets = [\"signing-key\"]\n";
    let script = "#!/bin/sh\ncd \"$TORPOR_SECRETS\" || exit 3\nprintf '[\"%s\", \"%s\", \"%s\"]' \"$(ls | tr '\\n' ,)\" \"$(stat -c %a:%u signing-key)\" \"$(rev < signing-key)\"\n";
    let folder = TaskFolder::empty().file("run", script).manifest(manifest);
    fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let push = daemon.cli(&["task".as_ref(), "push".as_ref(), folder.path().as_os_str()]).expect(0);
    assert!(push.stderr.contains("torpor secret set signing-key"), "{}", push.stderr);
    let said = daemon.post("/v1/tasks/shellsecret/executions", b"1").refused(404, "unknown_secret");
    assert!(said.contains("torpor secret set signing-key"), "{said}");

    let value = random();
    set(&daemon, &value);
    let _ = daemon.cli_with(&["secret", "set", "other"], b"x").expect(0);
    let result = daemon.result("shellsecret", &json!(1));
    assert_eq!((&result[0], &result[1]), (&json!("signing-key,"), &json!("400:1000")), "{result}");
    assert!(result[2] == reversed(&value) || result[2] == "", "{result}");
    let list = daemon.cli(&["secret", "ls"]).expect(0).json();
    assert_eq!(list["secrets"].as_array().unwrap().len(), 2);
    let _ = daemon.cli(&["secret", "rm", "other"]).expect(0);
    assert!(daemon.cli(&["secret", "rm", "other"]).expect(2).stderr.contains("unknown_secret"));
}

fn push_alone(daemon: &Daemon) {
    let manifest = "[task]\nname = \"alone\"\nruntime = \"python\"\nentry = \"main.py:alone\"\n[policy]\nmemory = \"128MiB\"\ntimeout = \"60s\"\npark = \"always\"\nsecrets = [\"signing-key\"]\n";
    let program = fs::read(torpor_tests::setup::root().join("tests/tasks/vault/sign/main.py")).unwrap();
    daemon.push(TaskFolder::empty().file("main.py", program).manifest(manifest).path());
    daemon.template("alone");
}

fn a_crash_while_parked_with_a_secret() {
    let value = random();
    let mut daemon = start(Options::default());
    set(&daemon, &value);
    push_alone(&daemon);
    let steps =
        [("park.written", false), ("park.renamed", false), ("park.committed", true), ("resume.ready", true), ("resume.recorded", false)];
    for (step, goes_on) in steps {
        stop(&mut daemon);
        daemon.set_environment(&[("TORPOR_TEST_FAULT", &format!("{step}:abort"))]);
        daemon.start_again();
        let id = daemon.submit("alone", &json!({"sleep": 0.3}));
        daemon.gone(Duration::from_secs(60));
        daemon.set_environment(&[]);
        daemon.start_again();
        let ended = daemon.wait_for_end(&id);
        if goes_on {
            assert_eq!((&ended["state"], &ended["result"]), (&json!("succeeded"), &json!(reversed(&value))), "{step}: {ended:#}");
        } else {
            assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("failed"), &json!("interrupted")), "{step}: {ended:#}");
        }
        let mut found = Vec::new();
        files_with(daemon.folder(), &forms(&value), &mut found);
        assert!(found.is_empty(), "{step}: {found:?}");
    }
    // A machine that is changed on disk is refused, and says so; another's key does not open it.
    let id = daemon.submit("alone", &json!({"sleep": 3}));
    daemon.wait_for(&id, "parked");
    let file = File::options().read(true).write(true).open(daemon.state().join("parked").join(format!("{id}.parked"))).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 5000).unwrap();
    let ended = daemon.wait_for_end(&id);
    assert!(ended["error"]["message"].as_str().is_some_and(|message| message.contains("damaged parked machine")), "{ended:#}");
    // A monitor that is killed while its machine is parked harms nobody.
    let id = daemon.submit("alone", &json!({"sleep": 2}));
    daemon.wait_for(&id, "parked");
    for monitor in daemon.monitors() {
        let _ = kill(monitor, Signal::SIGKILL);
    }
    assert_eq!(daemon.wait_for_end(&id)["result"], reversed(&value));
}

fn a_machine_with_a_secret_moves_only_where_its_key_is() {
    let value = random();
    let source = Daemon::start(Options { own_network: true, ..Options::default() });
    set(&source, &value);
    push_alone(&source);
    let id = source.submit("alone", &json!({"sleep": 5}));
    source.wait_for(&id, "parked");
    let file = source.folder().join("moved");
    let _ = source.cli(&["export", &id, "-o", file.to_str().unwrap()]).expect(0);
    assert!(!holds(&fs::read(&file).unwrap(), &forms(&value)));

    let other = Daemon::start(Options { own_network: true, ..Options::default() });
    let said = other.cli(&["import", file.to_str().unwrap()]).expect(2).stderr;
    assert!(said.contains("wrong_host") && said.contains("master key"), "{said}");
    set(&other, "another");
    let said = other.cli(&["import", file.to_str().unwrap()]).expect(2).stderr;
    assert!(said.contains("wrong_host") && said.contains("was encrypted with master key"), "{said}");
    drop(other);

    let key = source.state().join("secrets.key");
    let arguments = vec!["--secrets-key".to_owned(), key.to_str().unwrap().to_owned()];
    let same = Daemon::start(Options { own_network: true, arguments, ..Options::default() });
    let _ = same.cli(&["import", file.to_str().unwrap()]).expect(0);
    assert_eq!(same.wait_for_end(&id)["result"], reversed(&value));
}
