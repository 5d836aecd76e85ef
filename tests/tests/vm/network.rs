//! Callers from elsewhere and callers of other users: over TLS with a token, and on the socket as who the kernel says they are. Each sees what is its
//! account's.

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use torpor_tests::cli::{Ran, Running};
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::services::{free_port, self_signed};
use torpor_tests::setup;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![over_the_network_with_a_token, another_user_on_the_socket];

/// Users that have no name on any host.
const MAPPED: &str = "2147480001";
const UNMAPPED: &str = "2147480002";

/// A token of the account `shop`, in a file.
fn token(daemon: &Daemon, folder: &Path, role: &str) -> PathBuf {
    let file = folder.join(role);
    fs::write(&file, daemon.cli(&["--account", "shop", "token", "create", "--role", role]).expect(0).stdout).unwrap();
    file
}

/// `torpor` on another host: it knows nothing of the socket.
struct Away {
    host: String,
    ca: PathBuf,
}

impl Away {
    fn torpor(&self, token: &Path, arguments: &[&str]) -> Ran {
        let mut command = Command::new(setup::get().bin.join("torpor"));
        command.arg("--host").arg(&self.host).arg("--ca").arg(&self.ca).arg("--token-file").arg(token).args(arguments);
        Running::start(command, b"").end()
    }
}

/// A daemon with a task and an execution of the account `default`, and an account `shop`; that execution.
fn with_a_shop(arguments: Vec<String>) -> (Daemon, String) {
    let daemon = Daemon::start_with_templates(Options { arguments, ..Options::default() });
    daemon.push_probes();
    let secret = daemon.submit("probe", &json!("of default"));
    daemon.wait_for_end(&secret);
    daemon.cli(&["account", "add", "shop"]).expect(0);
    (daemon, secret)
}

/// Whoever this is sees one execution, with this result, and nothing of the account `default`.
fn sees_its_own(torpor: impl Fn(&[&str]) -> Ran, others: &str) {
    let all = torpor(&["ps", "--all"]).expect(0).json();
    let all = all["executions"].as_array().unwrap();
    assert!(all.len() == 1 && all[0]["task"] == "till" && all[0]["id"] != others, "{all:#?}");
    assert_eq!(torpor(&["inspect", all[0]["id"].as_str().unwrap()]).expect(0).json()["result"], 7);
    let tasks = torpor(&["task", "ls"]).expect(0).json();
    let names: Vec<&Value> = tasks["tasks"].as_array().unwrap().iter().map(|task| &task["name"]).collect();
    assert_eq!(names, [&json!("till")]);
    let nobody = torpor(&["inspect", "ex_01aaaaaaaaaaaaaaaaaaaaaaaa"]).expect(2);
    for command in ["inspect", "logs", "cancel"] {
        let refused = torpor(&[command, others]).expect(2);
        assert!(!refused.stderr.contains("default") && refused.stdout.is_empty(), "{}", refused.stderr);
    }
    // What others have is not known, as what nobody has.
    let refused = torpor(&["inspect", others]).expect(2);
    assert_eq!(refused.stderr.replace(others, "ID"), nobody.stderr.replace("ex_01aaaaaaaaaaaaaaaaaaaaaaaa", "ID"));
    torpor(&["run", "probe"]).expect(2).says(&["probe"]);
    torpor(&["--account", "default", "ps"]).expect(2);
    torpor(&["account", "ls"]).expect(2);
}

fn till() -> TaskFolder {
    TaskFolder::copy("probe").named("till", &[("memory", "\"128MiB\""), ("timeout", "\"60s\"")])
}

fn over_the_network_with_a_token() {
    let folder = TempDir::new().unwrap();
    let (certificate, key) = self_signed(folder.path());
    let address = format!("127.0.0.1:{}", free_port());
    let (certificate_path, key) = (certificate.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned());
    let arguments = ["--listen", &address, "--tls-cert", &certificate_path, "--tls-key", &key].map(str::to_owned);
    let (daemon, others) = with_a_shop(arguments.into());
    let (owner, invoker) = (token(&daemon, folder.path(), "owner"), token(&daemon, folder.path(), "invoker"));
    let away = Away { host: format!("https://localhost:{}", address.rsplit_once(':').unwrap().1), ca: certificate };

    let code = till();
    let push = ["task", "push", code.path().to_str().unwrap()];
    away.torpor(&invoker, &push).expect(2).says(&["owner"]);
    away.torpor(&owner, &push).expect(0);
    assert_eq!(away.torpor(&invoker, &["run", "till", "--input", "7"]).expect(0).json(), 7);
    sees_its_own(|arguments| away.torpor(&owner, arguments), &others);
    sees_its_own(|arguments| away.torpor(&invoker, arguments), &others);

    // Not whom it is taken for: nothing is sent.
    let elsewhere = TempDir::new().unwrap();
    let wrong = Away { host: away.host.clone(), ca: self_signed(elsewhere.path()).0 };
    wrong.torpor(&owner, &["ps"]).expect(3).says(&[&format!("no torpord at {}", away.host), "certificate", "--ca"]);
    let wrong = Away { host: away.host.replace("localhost", "127.0.0.1"), ca: away.ca.clone() };
    wrong.torpor(&owner, &["ps"]).expect(3).says(&["no torpord at", "certificate"]);
    let wrong = Away { host: away.host.replace("https", "http"), ca: away.ca.clone() };
    wrong.torpor(&owner, &["ps"]).expect(2).says(&["https://"]);

    // Not who it says it is, and no longer.
    let false_token = folder.path().join("false");
    let text = fs::read_to_string(&owner).unwrap();
    let last = if text.trim_end().ends_with('a') { 'b' } else { 'a' };
    fs::write(&false_token, format!("{}{last}\n", &text.trim_end()[..text.trim_end().len() - 1])).unwrap();
    away.torpor(&false_token, &["run", "till"]).expect(2).says(&["token"]);
    let tokens = daemon.cli(&["token", "ls"]).expect(0).json();
    let one = tokens["tokens"].as_array().unwrap().iter().find(|token| token["role"] == "invoker").unwrap();
    daemon.cli(&["token", "rm", one["id"].as_str().unwrap()]).expect(0);
    away.torpor(&invoker, &["ps"]).expect(2).says(&["token"]);
    away.torpor(&owner, &["ps"]).expect(0);
}

fn as_user(daemon: &Daemon, uid: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", uid, "--regid", uid, "--clear-groups", "--"]).arg(setup::get().bin.join("torpor"));
    command.args(arguments).env("TORPOR_SOCKET", daemon.socket()).current_dir("/");
    Running::start(command, b"").end()
}

fn another_user_on_the_socket() {
    let (daemon, others) = with_a_shop(Vec::new());
    // Everybody may open the socket, as members of the group `torpor` may.
    for (path, mode) in [(daemon.folder().to_owned(), 0o711), (daemon.socket(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let code = till();
    daemon.cli(&["--account", "shop", "task", "push", code.path().to_str().unwrap()]).expect(0);
    daemon.cli(&["account", "allow", "shop", "--uid", MAPPED, "--role", "invoker"]).expect(0);
    assert_eq!(as_user(&daemon, MAPPED, &["run", "till", "--input", "7"]).expect(0).json(), 7);
    sees_its_own(|arguments| as_user(&daemon, MAPPED, arguments), &others);
    as_user(&daemon, MAPPED, &["task", "rm", "till"]).expect(2).says(&["owner"]);
    // Since one user is mapped, who is not is nobody, and so is who no longer is.
    as_user(&daemon, UNMAPPED, &["ps"]).expect(2).says(&[UNMAPPED, "has no account"]);
    daemon.cli(&["account", "deny", "--uid", MAPPED]).expect(0);
    as_user(&daemon, MAPPED, &["ps"]).expect(2).says(&[MAPPED, "has no account"]);
    // Root sees its own account's, unless it names another.
    let own = daemon.cli(&["ps", "--all"]).expect(0).json();
    assert_eq!(own["executions"].as_array().unwrap().len(), 1, "{own:#}");
    let shop = daemon.cli(&["--account", "shop", "ps", "--all"]).expect(0).json();
    assert!(shop["executions"].as_array().is_some_and(|all| all.len() == 1 && all[0]["task"] == "till"), "{shop:#}");
}
