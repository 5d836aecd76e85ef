//! The example `checkout` as its reader would run it: an untrusted main, a portion with a key, a portion with a database; and what main can't do by itself.

use serde_json::{Value, json};
use std::fs;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::services::Postgres;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] = tests![an_order_is_booked_and_signed];

const KEY: &str = "4f1c86d5a0e94d6cb6f0c1f3f8f2b7a1";

fn an_order_is_booked_and_signed() {
    let postgres = Postgres::start();
    assert_eq!(postgres.ask("CREATE USER checkout"), "CREATE ROLE");
    assert_eq!(postgres.ask("CREATE DATABASE shop OWNER checkout"), "CREATE DATABASE");
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, format!("[caps]\naux = [\"tcp:127.0.0.1:{}\"]\n", postgres.port)).unwrap();
    let arguments = vec!["--policy".to_owned(), policy.to_str().unwrap().to_owned()];
    let daemon = Daemon::start_with_templates(Options { arguments, ..Options::default() });

    let checkout = TaskFolder::example("checkout");
    let push = |folder: &TaskFolder| daemon.cli(&["task", "push", folder.path().to_str().unwrap()]);
    push(&checkout).expect(2).says(&["tcp:127.0.0.1:5432", "which this host's policy does not allow"]);
    let manifest = fs::read_to_string(checkout.path().join("torpor.toml")).unwrap();
    let here = format!("connect = \"tcp:127.0.0.1:{}\"\nport = 5432", postgres.port);
    let checkout = checkout.manifest(&manifest.replace("connect = \"tcp:127.0.0.1:5432\"", &here));
    push(&checkout).expect(0);
    daemon.cli_with(&["secret", "set", "signing-key"], KEY.as_bytes()).expect(0);

    let order = json!({"customer": "Anne's", "items": [{"name": "umbrella", "count": 2, "cents": 1250}, {"name": "gloves", "count": 1, "cents": 900}]});
    for number in 1..=2 {
        let execution = daemon.execute("checkout", &order);
        assert_eq!(execution["state"], "succeeded", "{execution:#}");
        assert!(execution["parks"].as_u64().is_some_and(|parks| parks > 0), "it is parked while its portions work: {execution:#}");
        let receipt = execution["result"]["receipt"].as_str().unwrap();
        let read: Value = serde_json::from_str(receipt).unwrap();
        assert_eq!((&read["number"], &read["cents"], &read["customer"]), (&json!(number), &json!(3400), &json!("Anne's")));
        let verify = format!("import hmac,sys; print(hmac.new(b'{KEY}', sys.stdin.buffer.read(), 'sha256').hexdigest())");
        assert_eq!(execution["result"]["signature"], python(&verify, receipt), "the signature is of the receipt, with the key");
    }
    assert_eq!(postgres.ask_in("shop", "SELECT count(*), sum(cents) FROM orders"), "2|6800");

    // What customers reach has neither the key nor the database, whatever its code does.
    let thief = "import socket, torpor\n\
        def handler(input, context):\n    tried = {}\n\
        \x20   for what, attempt in [('key', lambda: torpor.secret('signing-key')), ('db', lambda: socket.create_connection(('db', 5432), 5).close()),\n\
        \x20                         ('address', lambda: socket.create_connection(('127.0.1.1', 5432), 5).close()),\n\
        \x20                         ('forged', lambda: torpor.portion('sign').call('{\"number\": 1, \"customer\": \"x\", \"items\": [], \"cents\": -5}'))]:\n\
        \x20       try:\n            attempt()\n            tried[what] = 'done'\n        except BaseException as error:\n            tried[what] = f'{type(error).__name__}: {error}'\n\
        \x20   return tried\n";
    push(&checkout.file("main.py", thief)).expect(0);
    let tried = daemon.execute("checkout", &Value::Null)["result"].clone();
    for what in ["key", "db", "address"] {
        assert!(tried[what].is_string() && tried[what] != "done", "{what}: {tried:#}");
    }
    assert!(tried["forged"].as_str().unwrap().contains("the sum of the receipt is wrong"), "{tried:#}");
}

/// What a Python program of the host prints, given this input.
fn python(program: &str, input: &str) -> String {
    use std::io::Write;
    let mut command = std::process::Command::new("python3");
    let command = command.args(["-c", program]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().expect("python3");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
}
