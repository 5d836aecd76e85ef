//! What a policy allows is what monitors need: a daemon runs under strace, its monitors live as monitors do, and each rule of each policy has to be met by a
//! call that was recorded, but for the few that the policy calls rare, which [`super::rare_calls_are_allowed`] makes one by one.

use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{setup, until};

const HALF: &str = "\
import threading, torpor

def handler(input, context):
    thread = threading.Thread(target=torpor.sleep, args=(0.5,))
    thread.start()
    while thread.is_alive():
        sum(range(1000))
    return True
";

/// Lives that need every rule.
fn lives(daemon: &Daemon) {
    // Boot, template of a runtime and of a task, restore.
    daemon.push_probes();
    super::super::park::push_waiter(daemon, "waiter", &[("memory", "\"128MiB\""), ("timeout", "\"120s\""), ("park", "\"always\"")]);
    assert_eq!(daemon.result("probe", &json!("hello")), "hello");
    // Output that the guest sends faster than it is read, and large messages both ways.
    let noisy = "head -c 8000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero | tr '\\0' y >&2";
    drop(daemon.execute("shell", &json!(noisy)));
    let large = json!("z".repeat(5 << 20));
    assert_eq!(daemon.result("probe", &large), large);
    // Parks and resumes, with memory of its own that is mapped from where it was parked.
    let steps = json!([["fill", 8, 7], ["sleep", 1], ["sum"], ["sleep", 1], ["sum"], ["call", "probe", "z".repeat(2 << 20)], ["count"]]);
    let waited = daemon.execute("waiter", &json!({"do": steps}));
    assert_eq!(waited["state"], "succeeded", "{waited:#}");
    assert!(waited["parks"].as_u64().is_some_and(|parks| parks >= 2), "{waited:#}");
    // An answer for a guest that computes meanwhile.
    let folder =
        TaskFolder::empty().manifest("[task]\nname = \"half\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n").file("main.py", HALF);
    daemon.push(folder.path());
    assert_eq!(daemon.result("half", &json!(0)), true);
    // A guest that goes down by itself, so that its monitor ends in order.
    let image = setup::get().images.join("exec.erofs");
    let running = daemon.submit("shell", &json!("while :; do sleep 1; echo still here >&2; done"));
    daemon.wait_for(&running, "running");
    torpor_tests::guest::GuestMemory::of(daemon, "shell").break_agent(&image);
    assert_eq!(daemon.wait_for_end(&running)["error"]["kind"], "guest_crashed");
}

/// `ROLE RULE` of all rules that the policies call rare.
pub(super) fn rare() -> BTreeSet<String> {
    let output = Command::new(setup::hostile()).arg("trace").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().filter(|line| line.contains(" rare ")).map(|line| line.replace(" rare ", " ")).collect()
}

pub(super) fn every_allowed_call_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("t").display().to_string();
    let wrapper = ["strace", "-D", "-ff", "-X", "raw", "-e", "raw=all", "-o", &to].map(str::to_owned).to_vec();
    let daemon = Daemon::start(Options { wrapper, arguments: vec!["--warm".into(), "1".into()], ..Options::default() });
    lives(&daemon);
    drop(daemon);
    let to = folder.path().join("o").display().to_string();
    let mut orderly = Command::new("strace");
    orderly
        .args(["-ff", "-X", "raw", "-e", "raw=all", "-o", &to])
        .arg(setup::hostile())
        .arg("orderly")
        .arg(setup::get().bin.join("torpor-vmm"));
    assert!(orderly.status().unwrap().success());
    let calls = calls(folder.path());
    assert!(calls.len() > 200, "{} kinds of calls: strace recorded no monitor", calls.len());
    let mut check = Command::new(setup::hostile()).arg("trace").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = check.stdin.take().unwrap();
    let text: String = calls.into_iter().flat_map(|line| [line, "\n".into()]).collect();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = check.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    let wrong: Vec<_> = said.lines().filter(|line| !line.contains(" rare ")).collect();
    assert!(wrong.is_empty(), "of what monitors are allowed and what they did:\n{}", wrong.join("\n"));
}

/// `ROLE CALL ARG...` of all calls of monitors after their filters were on.
fn calls(folder: &Path) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap().flatten() {
        let text = until("a readable trace", Duration::from_secs(5), || fs::read(file.path()).ok());
        let text = String::from_utf8_lossy(&text);
        let Some(filter) = text.lines().rposition_of("seccomp(") else { continue };
        let role = if text.contains("execveat(") { "event_loop" } else { "vcpu" };
        for line in text.lines().skip(filter + 1).filter(|line| !line.starts_with(['+', '-', '<', '?'])) {
            let Some((call, rest)) = line.split_once('(') else { continue };
            let arguments = rest.split([')', '<']).next().unwrap_or_default().replace(',', "");
            calls.insert(format!("{role} {call} {arguments}"));
        }
    }
    calls
}

/// The last line that begins so.
trait LastLine {
    fn rposition_of(self, begin: &str) -> Option<usize>;
}

impl<'a, I: Iterator<Item = &'a str>> LastLine for I {
    fn rposition_of(self, begin: &str) -> Option<usize> {
        self.enumerate().filter(|(_, line)| line.starts_with(begin)).map(|(at, _)| at).last()
    }
}
