//! Programs in C that look into what user mode of a guest is given: vector registers that belong to one process after every switch and signal,
//! whatever the host can do for guest kernel mode, and for code that no library has prepared; and a kernel that user mode can't harm.

use serde_json::{Value, json};
use std::process::Command;
use torpor_tests::daemon::shared;
use torpor_tests::guest::kernel_symbol;
use torpor_tests::setup::root;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![registers_stay_with_their_process, user_mode_against_its_kernel];

/// A task named `name` that is the program `tests/tasks/NAME.c`.
fn compiled(name: &str) -> TaskFolder {
    let folder = TaskFolder::copy("shell").named(name, &[("memory", "\"64MiB\""), ("timeout", "\"5m\"")]);
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static", "-Wall", "-o"]).arg(folder.path().join("run")).arg(root().join(format!("tests/tasks/{name}.c")));
    assert!(gcc.status().expect("gcc can be started").success(), "{name}.c does not compile");
    folder
}

fn registers_stay_with_their_process() {
    let folder = compiled("vector");
    let daemon = shared();
    daemon.push(folder.path());
    let found = daemon.result("vector", &json!(null));
    assert_eq!(found["wrong"], 0, "{found}");
    let host = Command::new(folder.path().join("run")).output().expect("it runs on the host as well");
    let host: Value = serde_json::from_slice(&host.stdout).expect("JSON");
    assert_eq!(found["bytes"], host["bytes"], "the guest has not the vector registers that the host has");
}

/// Hostile instructions, addresses, selectors and signal frames end as they should, and the kernel goes on.
fn user_mode_against_its_kernel() {
    let code = ["swapgs_restore_regs_and_return_to_usermode", "asm_exc_page_fault", "ring3_stubs", "ring3_gate", "ring3_exit_to_user"];
    let mut addresses = vec![kernel_symbol("entry_SYSCALL_64")];
    addresses.extend(code.map(kernel_symbol));
    let folder = compiled("hostile");
    let daemon = shared();
    daemon.push(folder.path());
    let found = daemon.result("hostile", &json!(addresses));
    assert_eq!(found["wrong"], json!([]), "{found:#}");
    assert!(found["attacks"].as_u64().is_some_and(|attacks| attacks > 500), "{found:#}");
}
