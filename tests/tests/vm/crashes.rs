//! Guests whose agent or kernel dies under a program: the failure says so and shows the console's last lines, and nobody else notices.

use serde_json::{Value, json};
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::guest::GuestMemory;
use torpor_tests::setup;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![agent_killed, kernel_panic];

/// Runs a program of a task of its own, does `harm` to its guest, and expects it to have crashed with these words on its console; the console. A
/// neighbour that ran meanwhile and an execution afterwards are well.
fn crashes(daemon: &Daemon, task: &str, program: &Value, words: &[&str], harm: impl FnOnce(&GuestMemory)) -> String {
    daemon.push(TaskFolder::copy("shell").named(task, &[("memory", "\"64MiB\""), ("timeout", "\"4m\"")]).path());
    daemon.template(task);
    let id = daemon.submit(task, program);
    daemon.wait_for(&id, "running");
    let neighbour = daemon.submit("probe", &json!({"do": "tick", "count": 8, "seconds": 0.5}));
    daemon.wait_for(&neighbour, "running");
    harm(&GuestMemory::of(daemon, task));

    let ended = daemon.wait_for_end(&id);
    assert_eq!((&ended["state"], &ended["error"]["kind"]), (&json!("failed"), &json!("guest_crashed")), "{ended:#}");
    assert_eq!(ended["error"]["message"], "the guest's kernel panicked", "{ended:#}");
    let console = ended["error"]["console"].as_str().unwrap_or_default().to_owned();
    for word in ["Kernel panic - not syncing: "].iter().chain(words) {
        assert!(console.contains(word), "no {word:?} on the console:\n{console}");
    }
    let ran = daemon.cli(&["inspect", &id]).expect(0);
    assert_eq!(ran.json()["error"]["console"], console);

    let ended = daemon.wait_for_end(&neighbour);
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    assert_eq!(daemon.result(task, &json!("echo 5")), 5, "the template is whole");
    assert_eq!(daemon.get("/healthz").expect(200)["status"], "ok");
    console
}

/// PID 1 runs into invalid instructions as soon as the program says something.
fn agent_killed() {
    let image = setup::get().images.join("exec.erofs");
    let program = json!("while :; do sleep 1; echo still here >&2; done");
    crashes(&shared(), "agent-killed", &program, &["Attempted to kill init!"], |guest| guest.break_agent(&image));
}

/// A fault of the kernel in its timer interrupt, which comes while the program computes.
fn kernel_panic() {
    let program = json!("while :; do :; done");
    let words = ["NULL pointer dereference", "Fatal exception in interrupt"];
    crashes(&shared(), "kernel-panic", &program, &words, |guest| guest.break_kernel("update_process_times"));
}
