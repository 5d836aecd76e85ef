//! torpord is killed, again and again, at moments that nobody chose, and started again at once.

use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::random::Random;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![started_at_once];

/// Nothing is waited for between the kill and the start: neither state folder nor socket is taken for one that is in use.
fn started_at_once() {
    let mut random = Random::new("TORPOR_TEST_SEED");
    let mut daemon = Daemon::start_with_templates(Options::default());
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    for _ in 0..20 {
        daemon.spawn_again();
        if random.below(2) == 0 {
            daemon.answers(Duration::from_secs(10));
        }
        std::thread::sleep(Duration::from_millis(random.below(120)));
    }
    daemon.spawn_again();
    daemon.answers(Duration::from_secs(10));
    assert_eq!(daemon.result("shell", &serde_json::json!("echo 1")), 1);
}
