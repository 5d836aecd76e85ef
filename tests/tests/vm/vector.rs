//! Vector registers belong to one process: what a guest's processes hold in them is theirs after every switch and signal, whatever the host
//! can do for guest kernel mode, and for code that no library has prepared.

use serde_json::json;
use std::process::Command;
use torpor_tests::daemon::shared;
use torpor_tests::setup::root;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![registers_stay_with_their_process];

fn registers_stay_with_their_process() {
    let folder = TaskFolder::copy("shell").named("vector", &[("memory", "\"64MiB\""), ("timeout", "\"5m\"")]);
    let program = folder.path().join("run");
    let compiled =
        Command::new("gcc").args(["-O2", "-static", "-Wall", "-o"]).arg(&program).arg(root().join("tests/tasks/vector.c")).status();
    assert!(compiled.expect("gcc can be started").success(), "vector.c does not compile");
    let daemon = shared();
    daemon.push(folder.path());
    let found = daemon.result("vector", &json!(null));
    assert_eq!(found["wrong"], 0, "{found}");
    let host = Command::new(&program).output().expect("it runs on the host as well");
    let host: serde_json::Value = serde_json::from_slice(&host.stdout).expect("JSON");
    assert_eq!(found["bytes"], host["bytes"], "the guest has not the vector registers that the host has");
}
