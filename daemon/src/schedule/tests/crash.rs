//! A daemon with a scripted runner that dies at a certain step, as a process of its own.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FOLDER: &str = "TORPOR_TEST_DYING_FOLDER";

/// The state folder, in the process that is to die.
pub(crate) fn folder() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

/// Runs a test of this program on a folder, until it dies at the step.
pub(crate) fn dies(test: &str, folder: &Path, step: &str) {
    let output = run(test, folder, &format!("{step}:abort"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(nix::libc::SIGABRT), "{step}: it did not get there: {said}");
}

/// Runs a test of this program on a folder, in which a task has a panic at the step and nothing else does.
pub(crate) fn survives(test: &str, folder: &Path, step: &str) {
    let output = run(test, folder, &format!("{step}:panic"));
    assert!(output.status.success(), "{step}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

fn run(test: &str, folder: &Path, fault: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(FOLDER, folder).env("TORPOR_TEST_FAULT", fault);
    child.output().unwrap()
}
