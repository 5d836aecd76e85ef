//! What is done without a client, and what a client asks for twice: schedules, ends that are told, and idempotency keys, over a torpord that is killed.

use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use torpor_tests::cli::Running;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::services::HttpServer;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![a_schedule_fires_and_its_end_is_told, a_key_gives_one_execution];

const SECRET: &str = "what only the two of them know";

/// As docs/durability.md says it.
const SIGNATURE: &str = "\
import hashlib, hmac, sys
secret, delivery, timestamp = (text.encode() for text in sys.argv[1:])
body = sys.stdin.buffer.read()
print('v1=' + hmac.new(secret, b'%s.%s.%s' % (delivery, timestamp, body), hashlib.sha256).hexdigest())
";

fn header<'a>(request: &'a Value, name: &str) -> &'a str {
    let headers = request["headers"].as_array().unwrap();
    let found = headers.iter().find(|header| header[0] == name);
    found.and_then(|header| header[1].as_str()).unwrap_or_else(|| panic!("no {name}: {request:#}"))
}

/// What a listener that knows the secret finds the signature of this request to have to be.
fn signature(request: &Value) -> String {
    let mut python = Command::new("python3");
    python.args(["-I", "-c", SIGNATURE, SECRET, header(request, "torpor-delivery"), header(request, "torpor-timestamp")]);
    Running::start(python, request["body"].as_str().unwrap().as_bytes()).end().expect(0).stdout.trim().to_owned()
}

/// The command adds it, torpord is killed, the next one runs it, and a server is told of its end.
fn a_schedule_fires_and_its_end_is_told() {
    let (folder, hooks) = (TempDir::new().unwrap(), HttpServer::start(false));
    let policy = folder.path().join("policy.toml");
    let server = format!("http://127.0.0.1:{}", hooks.port);
    fs::write(&policy, format!("[caps]\nnotify = [\"{server}/torpor/*\"]\n")).unwrap();
    let arguments = vec!["--policy".to_owned(), policy.to_str().unwrap().to_owned()];
    let mut daemon = Daemon::start_with_templates(Options { arguments, ..Options::default() });
    daemon.push_probes();
    daemon.cli_with(&["secret", "set", "hook"], SECRET.as_bytes()).expect(0);
    let add = |url: &str| {
        let words = ["schedule", "add", "probe", "--name", "often", "--cron", "* * * * *", "--input", "[7]"];
        daemon.cli(&[&words[..], &["--notify", url, "--notify-secret", "hook"]].concat())
    };
    add(&format!("{server}/elsewhere")).expect(2).says(&["polic"]);
    let url = format!("{server}/torpor/ends");
    let schedule = add(&url).expect(0).json()["id"].as_str().unwrap().to_owned();
    daemon.kill();
    daemon.start_again();

    let request = until("the end of what a schedule runs", Duration::from_secs(100), || hooks.requests().first().cloned());
    daemon.cli(&["schedule", "pause", "often"]).expect(0);
    assert_eq!((&request["method"], &request["path"]), (&json!("POST"), &json!("/torpor/ends")), "{request:#}");
    assert_eq!(header(&request, "torpor-signature"), signature(&request), "{request:#}");
    let told: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
    let execution = &told["execution"];
    assert_eq!((&told["type"], &told["delivery"]), (&json!("execution.ended"), &json!(header(&request, "torpor-delivery"))));
    assert_eq!((&execution["task"], &execution["state"], &execution["result"]), (&json!("probe"), &json!("succeeded"), &json!([7])));
    assert!(told.to_string().contains(&schedule), "{told:#}");

    let id = execution["id"].as_str().unwrap();
    let known = until("what is known of the delivery", Duration::from_secs(20), || {
        let known = daemon.cli(&["inspect", id]).expect(0).json();
        known["notify"].to_string().contains("delivered").then_some(known)
    });
    assert_eq!(known["result"], json!([7]), "{known:#}");
    // Each time is run once, and each end that was answered is told once.
    let all = daemon.cli(&["ps", "--all", "--task", "probe"]).expect(0).json();
    let mut times: Vec<String> = all["executions"].as_array().unwrap().iter().map(|one| one["schedule"].to_string()).collect();
    times.sort();
    times.dedup();
    assert_eq!(times.len(), all["executions"].as_array().unwrap().len(), "{times:?}");
    let requests = hooks.requests();
    assert_eq!(requests.iter().filter(|other| header(other, "torpor-delivery") == header(&request, "torpor-delivery")).count(), 1);
}

/// The same command again, also after torpord was killed, gets the first one's execution; another input under its key gets none.
fn a_key_gives_one_execution() {
    let mut daemon = Daemon::start_with_templates(Options::default());
    daemon.push_probes();
    let order = ["run", "probe", "--input", "{\"order\": 4711}", "--idempotency-key", "order-4711"];
    let result = json!({"order": 4711});
    assert_eq!(daemon.cli(&order).expect(0).json(), result);
    assert_eq!(daemon.cli(&order).expect(0).json(), result);
    daemon.kill();
    daemon.start_again();
    let first = daemon.cli(&[&order[..], &["--async"]].concat()).expect(0).stdout;
    let all = daemon.cli(&["ps", "--all", "--task", "probe"]).expect(0).json();
    let all = all["executions"].as_array().unwrap();
    assert!(all.len() == 1 && first.contains(all[0]["id"].as_str().unwrap()), "{first}: {all:#?}");
    let other = daemon.cli(&["run", "probe", "--input", "{\"order\": 4712}", "--idempotency-key", "order-4711"]).expect(2);
    other.says(&["key", all[0]["id"].as_str().unwrap()]);
    assert_eq!(daemon.cli(&["ps", "--all", "--task", "probe"]).expect(0).json()["executions"].as_array().unwrap().len(), 1);
}
