//! What may go wrong with parks and resumes: a crash of torpord or a monitor at every step, a full or failing disk, damaged files.

use crate::park::{names, push_waiter};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] =
    tests![a_crash_at_every_step, a_monitor_killed_at_every_step, errors_at_every_step, damaged_machines, a_full_disk_and_a_quota];

/// All steps of parking and resuming, and whether an execution that was at one when torpord died goes on afterwards.
const STEPS: [(&str, bool); 11] = [
    ("park.decided", false),
    ("park.file", false),
    ("park.written", false),
    ("park.renamed", false),
    ("park.committed", true),
    ("park.ended", true),
    ("resume.ready", true),
    ("resume.admitted", true),
    ("resume.recorded", false),
    ("resume.running", false),
    ("resume.freed", false),
];

const POLICY: [(&str, &str); 3] = [("memory", "\"128MiB\""), ("timeout", "\"60s\""), ("park", "\"always\"")];

fn daemon() -> Daemon {
    let daemon = Daemon::start_with_templates(Options::default());
    push_waiter(&daemon, "waiter", &POLICY);
    daemon
}

fn again_with(daemon: &mut Daemon, fault: &str) {
    daemon.signal(Signal::SIGTERM);
    daemon.wait(Duration::from_secs(60));
    daemon.set_environment(&[("TORPOR_TEST_FAULT", fault)]);
    daemon.start_again();
}

fn steps() -> Value {
    json!({"do": [["fill", 1], ["count"], ["say", "before"], ["sleep", 0.4], ["say", "after"], ["count"], ["sum"]]})
}

/// What a whole run gives; how often its program was after its wait.
fn is_whole(daemon: &Daemon, ended: &Value) {
    let result = ended["result"].as_array().unwrap_or_else(|| panic!("{ended:#}\n{}", daemon.log()));
    assert_eq!((&result[1], &result[5], &result[0]), (&json!(1), &json!(2), &result[6]), "{ended:#}");
    assert_eq!(said(daemon, ended, "after"), 1);
}

fn said(daemon: &Daemon, ended: &Value, what: &str) -> usize {
    let logs = daemon.get(&format!("/v1/executions/{}/logs", ended["id"].as_str().unwrap())).expect(200);
    let entries = logs["entries"].as_array().unwrap();
    entries.iter().map(|entry| entry["text"].as_str().unwrap().lines().filter(|line| *line == what).count()).sum()
}

fn nothing_is_left(daemon: &Daemon) {
    let parked = fs::read_dir(daemon.state().join("parked")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = parked.filter(|name| !name.starts_with(".free")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(daemon.get("/v1/host").expect(200)["parked_bytes"], 0);
}

fn a_crash_at_every_step() {
    let mut daemon = daemon();
    for (step, goes_on) in STEPS {
        again_with(&mut daemon, &format!("{step}:abort"));
        let id = daemon.submit("waiter", &steps());
        daemon.gone(Duration::from_secs(60));
        daemon.set_environment(&[]);
        daemon.start_again();
        let ended = daemon.wait_for_end(&id);
        if goes_on {
            assert_eq!(ended["state"], "succeeded", "{step}: {ended:#}");
            is_whole(&daemon, &ended);
        } else {
            assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("failed"), &json!("interrupted")), "{step}: {ended:#}");
            assert!(said(&daemon, &ended, "after") <= 1, "{step}: it ran twice");
        }
        nothing_is_left(&daemon);
    }
}

fn a_monitor_killed_at_every_step() {
    let mut daemon = daemon();
    for (step, _) in STEPS {
        let hold = daemon.folder().join("hold");
        again_with(&mut daemon, &format!("{step}:hold={}", hold.display()));
        let id = daemon.submit("waiter", &steps());
        until(step, Duration::from_secs(60), || hold.exists().then_some(()));
        for monitor in daemon.monitors() {
            let _ = kill(monitor, Signal::SIGKILL);
        }
        fs::remove_file(&hold).unwrap();
        let ended = daemon.wait_for_end(&id);
        match ended["state"].as_str() {
            Some("succeeded") => is_whole(&daemon, &ended),
            Some("failed") => {
                assert!(["host", "guest_crashed"].contains(&ended["error"]["kind"].as_str().unwrap()), "{step}: {ended:#}");
                assert!(said(&daemon, &ended, "after") <= 1, "{step}: it ran twice");
            }
            other => panic!("{step}: {other:?}: {ended:#}"),
        }
        let parked_before = ["park.committed", "park.ended", "resume.ready"].contains(&step);
        assert!(!parked_before || ended["state"] == "succeeded", "{step}: what is parked needs no monitor: {ended:#}");
        until("what is left", Duration::from_secs(20), || (daemon.get("/v1/host").expect(200)["parked_bytes"] == 0).then_some(()));
        nothing_is_left(&daemon);
    }
}

fn errors_at_every_step() {
    let mut daemon = daemon();
    for fault in ["park.decided:ENOSPC", "park.file:EMFILE", "park.written:EIO", "park.renamed:ENOSPC"] {
        again_with(&mut daemon, fault);
        let ended = daemon.execute("waiter", &steps());
        is_whole(&daemon, &ended);
        assert!(names(&ended).contains(&"not_parked"), "{fault}: {ended:#}");
        assert!(!names(&ended).contains(&"parked"), "{fault}: {ended:#}");
        nothing_is_left(&daemon);
    }
}

struct Waits {
    id: String,
    token: String,
    file: PathBuf,
}

fn parked(daemon: &Daemon) -> Waits {
    let id = daemon.submit("waiter", &json!({"do": [["fill", 1], ["event"], ["sum"]]}));
    let token = daemon.wait_for(&id, "parked")["waiting"][0]["token"].as_str().unwrap().to_owned();
    let file = daemon.state().join("parked").join(format!("{id}.parked"));
    Waits { id, token, file }
}

fn wake(daemon: &Daemon, waits: &Waits) -> Value {
    let _ = daemon.post(&format!("/v1/events/{}", waits.token), b"1").expect(204);
    daemon.wait_for_end(&waits.id)
}

fn flip(waits: &Waits, position: &dyn Fn(u64) -> u64) {
    let file = File::options().read(true).write(true).open(&waits.file).unwrap();
    let at = position(file.metadata().unwrap().len());
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn damaged_machines() {
    let daemon = daemon();
    let other = parked(&daemon);
    let positions: [(&str, &dyn Fn(u64) -> u64); 5] = [
        ("the magic number", &|_| 0),
        ("the version", &|_| 8),
        ("the lengths", &|_| 17),
        ("the first pages", &|_| 4096 + 100),
        ("pages in the middle", &|len| len / 2),
    ];
    for (what, position) in positions {
        let waits = parked(&daemon);
        flip(&waits, position);
        let ended = wake(&daemon, &waits);
        let message = ended["error"]["message"].as_str().unwrap_or_else(|| panic!("{what} changed unnoticed: {ended:#}"));
        assert!(ended["state"] == "failed" && ended["error"]["kind"] == "host" && message.contains("parked machine"), "{what}: {ended:#}");
    }
    // Two sound ones that change places.
    let (one, two) = (parked(&daemon), parked(&daemon));
    let aside = one.file.with_extension("aside");
    for (from, to) in [(&one.file, &aside), (&two.file, &one.file), (&aside, &two.file)] {
        fs::rename(from, to).unwrap();
    }
    for waits in [one, two] {
        let ended = wake(&daemon, &waits);
        assert!(ended["error"]["message"].as_str().is_some_and(|message| message.contains("exchanged")), "{ended:#}");
    }
    let cut = parked(&daemon);
    let file = File::options().write(true).open(&cut.file).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    assert!(wake(&daemon, &cut)["error"]["message"].as_str().unwrap().contains("cut off"));
    let gone = parked(&daemon);
    fs::remove_file(&gone.file).unwrap();
    assert!(wake(&daemon, &gone)["error"]["message"].as_str().unwrap().contains("gone"));
    let foreign = parked(&daemon);
    fs::write(&foreign.file, b"something else").unwrap();
    assert_eq!(wake(&daemon, &foreign)["state"], "failed");
    // Nobody else was harmed, and its machine is sound.
    assert_eq!(wake(&daemon, &other)["state"], "succeeded");
}

/// A file system of its own for the machines, until it is dropped.
struct Small(PathBuf);

impl Small {
    fn new(daemon: &Daemon, size: &str) -> Self {
        let at = daemon.state().join("parked");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at).status().unwrap();
        assert!(mounted.success(), "mounting a tmpfs needs root");
        Self(at)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn a_full_disk_and_a_quota() {
    let mut daemon = daemon();
    let small = Small::new(&daemon, "256k");
    let ended = daemon.execute("waiter", &steps());
    is_whole(&daemon, &ended);
    let refused = ended["timeline"].as_array().unwrap().iter().find(|entry| entry["event"] == "not_parked").unwrap().clone();
    assert!(refused["reason"].as_str().unwrap().contains("No space left"), "{refused}");
    drop(small);
    daemon.signal(Signal::SIGTERM);
    daemon.wait(Duration::from_secs(60));
    daemon.set_environment(&[("TORPOR_PARKED_QUOTA", "300KiB")]);
    daemon.start_again();
    let ended = daemon.execute("waiter", &steps());
    is_whole(&daemon, &ended);
    let refused = ended["timeline"].as_array().unwrap().iter().find(|entry| entry["event"] == "not_parked").unwrap().clone();
    assert!(refused["reason"].as_str().unwrap().contains("--parked-quota"), "{refused}");
}
