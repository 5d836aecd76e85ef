//! Normal use, through the command line.

use serde_json::{Value, json};
use torpor_tests::daemon::shared;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![result_alone];

/// `run` prints the result alone.
fn result_alone() {
    let daemon = shared();
    for input in [Value::Null, json!([1, -2.5, "x\u{e9}\n", {"a": null}]), json!("x".repeat(100_000))] {
        assert_eq!(daemon.result("probe", &input), input);
    }
}
