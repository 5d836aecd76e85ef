//! Auxiliary services: programs that talk to a real database and a real HTTP server, to nothing else, and while they are parked.

use crate::park::names;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::services::{Echo, HttpServer, Postgres, free_port};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![
    a_database,
    connections_and_parks,
    held_over_a_restart,
    http_requests,
    https_requests,
    nothing_else_is_reachable,
    limits,
    any_program_talks,
];

/// A daemon that allows these services.
fn daemon(allowed: &[String], environment: &[(&str, String)]) -> (Daemon, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, format!("[caps]\naux = {}\n", json!(allowed))).unwrap();
    let arguments = vec!["--policy".to_owned(), policy.to_str().unwrap().to_owned()];
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    (Daemon::start_with_templates(Options { arguments, environment, ..Options::default() }), folder)
}

fn manifest(runtime: (&str, &str), park: &str, aux: &str) -> String {
    let (runtime, entry) = runtime;
    format!(
        "[task]\nname = \"outside\"\nruntime = \"{runtime}\"\nentry = \"{entry}\"\n\n[policy]\nmemory = \"128MiB\"\ntimeout = \"100s\"\npark = \"{park}\"\n\n{aux}"
    )
}

fn push(daemon: &Daemon, park: &str, aux: &str) {
    daemon.push(TaskFolder::copy("outside").manifest(&manifest(("python", "main.py:handler"), park, aux)).path());
    daemon.template("outside");
}

fn log(daemon: &Daemon, execution: &Value) -> String {
    let logs = daemon.get(&format!("/v1/executions/{}/logs", execution["id"].as_str().unwrap())).expect(200);
    logs["entries"].as_array().unwrap().iter().map(|entry| entry["text"].as_str().unwrap()).collect()
}

fn run(daemon: &Daemon, steps: &Value) -> Value {
    daemon.execute("outside", &json!({"do": steps}))
}

fn raised<'a>(result: &'a Value, what: &str) -> &'a str {
    assert!(
        result["raised"].as_str().is_some_and(|raised| what.split('|').any(|name| name == raised)),
        "{result} where {what} was to come"
    );
    result["message"].as_str().unwrap()
}

fn a_database() {
    let postgres = Postgres::start();
    let (tcp, unix) = (format!("tcp:127.0.0.1:{}", postgres.port), format!("unix:{}", postgres.socket().display()));
    let (daemon, _policy) = daemon(&[tcp.clone(), unix.clone()], &[]);
    push(
        &daemon,
        "auto",
        &format!("[aux.ledger]\nconnect = \"{tcp}\"\nport = 5432\n\n[aux.books]\nconnect = \"{unix}\"\nconnections = 1\n"),
    );
    let execution = run(
        &daemon,
        &json!([
            ["sql", "ledger", "CREATE TABLE entries (id int PRIMARY KEY, amount numeric)"],
            ["sql", "ledger", "BEGIN"],
            ["sql", "ledger", "INSERT INTO entries SELECT n, n * 1.5 FROM generate_series(1, 1000) n"],
            ["sql", "ledger", "SELECT count(*), sum(amount) FROM entries"],
            ["sql", "/run/aux/books", "SELECT count(*) FROM entries"],
            ["sql", "ledger", "COMMIT"],
            ["sql", "/run/aux/books", "SELECT count(*) FROM entries"],
            ["sql", "ledger", "SELECT repeat('x', 300000)"],
            ["sql", "ledger", "SELECT 1/0"],
            ["trips", "ledger", 20],
        ]),
    );
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    assert_eq!(result[3], json!([["1000", "750750.0"]]));
    assert_eq!(result[4], json!([["0"]]), "another connection sees nothing before the commit");
    assert_eq!(result[6], json!([["1000"]]));
    assert_eq!(result[7][0][0].as_str().unwrap().len(), 300_000);
    assert!(raised(&result[8], "ValueError").contains("division by zero"));
    assert_eq!(postgres.ask("SELECT count(*) FROM entries"), "1000");
    let mut trips: Vec<f64> = result[9].as_array().unwrap().iter().map(|ms| ms.as_f64().unwrap()).collect();
    trips.sort_by(f64::total_cmp);
    println!("round trip of SELECT 1: {:.1} ms, median of {}", trips[trips.len() / 2], trips.len());
    assert!(!log(&daemon, &execution).contains("torpor:"), "{}", log(&daemon, &execution));
    until("the database's connections end with the execution", Duration::from_secs(10), || {
        (postgres.ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == "1").then_some(())
    });
    let metrics = daemon.get("/metrics").body;
    assert!(metrics.contains("torpor_aux_connections_total 2"), "{metrics}");
}

/// One service each of `hold`, `close` and `refuse`, all the same database.
fn three(tcp: &str) -> String {
    ["hold", "close", "refuse"].map(|what| format!("[aux.{what}]\nconnect = \"{tcp}\"\nport = 5432\non_park = \"{what}\"\n")).join("\n")
}

fn connections_and_parks() {
    let (postgres, echo) = (Postgres::start(), Echo::start());
    let (tcp, echoes) = (format!("tcp:127.0.0.1:{}", postgres.port), format!("tcp:127.0.0.1:{}", echo.port));
    let (daemon, _policy) = daemon(&[tcp.clone(), echoes.clone()], &[]);
    push(&daemon, "always", &format!("{}\n[aux.echo]\nconnect = \"{echoes}\"\nport = 7\non_park = \"hold\"\n", three(&tcp)));

    // A transaction goes on over two parks.
    let execution = run(
        &daemon,
        &json!([
            ["sql", "hold", "CREATE TABLE held (id int)"],
            ["sql", "hold", "BEGIN"],
            ["sql", "hold", "INSERT INTO held VALUES (1)"],
            ["sleep", 5],
            ["sql", "hold", "INSERT INTO held VALUES (2)"],
            ["sleep", 5],
            ["sql", "hold", "SELECT count(*) FROM held"],
            ["sql", "hold", "COMMIT"],
        ]),
    );
    assert_eq!(execution["parks"], 2, "{execution:#}");
    assert_eq!(execution["result"][6], json!([["2"]]), "{execution:#}");
    assert_eq!(postgres.ask("SELECT count(*) FROM held"), "2");

    // One that is closed is seen to be, and what was not committed is gone. Another can be opened.
    let execution = run(
        &daemon,
        &json!([
            ["sql", "close", "BEGIN"],
            ["sql", "close", "INSERT INTO held VALUES (3)"],
            ["sleep", 5],
            ["sql", "close", "COMMIT"],
            ["hang_up", "close"],
            ["sql", "close", "SELECT count(*) FROM held"],
        ]),
    );
    assert_eq!(execution["parks"], 1, "{execution:#}");
    raised(&execution["result"][3], "ConnectionResetError|ConnectionError|BrokenPipeError");
    assert_eq!(execution["result"][5], json!([["2"]]), "{execution:#}");
    let said = log(&daemon, &execution);
    assert!(said.contains("torpor: aux close: closed: the execution was parked (on_park = \"close\")"), "{said}");

    // One that may not be parked is not, and says why; it is when the connection is closed.
    let id = daemon.submit("outside", &json!({"do": [["sql", "refuse", "SELECT 1"], ["sleep", 8], ["hang_up", "refuse"], ["sleep", 6]]}));
    until("it waits", Duration::from_secs(60), || {
        (daemon.execution(&id)["waiting"].as_array().is_some_and(|all| !all.is_empty())).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    daemon.cli(&["park", &id]).says(&["refuse", "open connection"]);
    assert_eq!(daemon.execution(&id)["state"], "running");
    let execution = daemon.wait_for_end(&id);
    assert_eq!((&execution["state"], &execution["parks"]), (&json!("succeeded"), &json!(1)), "{execution:#}");
    assert_eq!(names(&execution).iter().filter(|name| **name == "not_parked").count(), 0, "{execution:#}");

    // What comes while it is parked brings it back: a thread waits for it.
    let id = daemon.submit("outside", &json!({"do": [["open", "echo", 7], ["listen", 0], ["sleep", 25], ["heard"]]}));
    daemon.wait_for(&id, "parked");
    let before = echo.connections();
    echo.tell("hello");
    until("it is brought back", Duration::from_secs(20), || names(&daemon.execution(&id)).contains(&"resumed").then_some(()));
    let execution = daemon.wait_for_end(&id);
    assert_eq!((&execution["result"][3], echo.connections()), (&json!("hello"), before), "{execution:#}");
    assert!(execution["parks"].as_u64().unwrap() >= 2, "it is parked again: {execution:#}");
}

fn held_over_a_restart() {
    let postgres = Postgres::start();
    let tcp = format!("tcp:127.0.0.1:{}", postgres.port);
    let (mut daemon, _policy) = daemon(std::slice::from_ref(&tcp), &[]);
    push(&daemon, "always", &three(&tcp));
    let steps =
        json!([["sql", "hold", "SELECT 1"], ["sleep", 20], ["sql", "hold", "SELECT 2"], ["hang_up", "hold"], ["sql", "hold", "SELECT 3"]]);
    let id = daemon.submit("outside", &json!({"do": steps}));
    daemon.wait_for(&id, "parked");
    daemon.signal(Signal::SIGKILL);
    daemon.kill();
    daemon.start_again();
    let execution = daemon.wait_for_end(&id);
    raised(&execution["result"][2], "ConnectionResetError|ConnectionError|BrokenPipeError");
    assert_eq!(execution["result"][4], json!([["3"]]), "{execution:#}");
    let said = log(&daemon, &execution);
    assert!(said.contains("torpor: aux hold: closed: it was held while the execution was parked, and torpord was started anew"), "{said}");
}

fn pay(address: &str, more: &str) -> String {
    format!("[aux.pay]\nhttp = \"{address}\"\nmethods = [\"GET\", \"POST\", \"HEAD\"]\npaths = [\"/v1/charges\", \"/v1/items/*\"]\n{more}")
}

const TOKEN: &str = "tok-5f0c1c1e9b7d4a8e";

fn http_requests() {
    let server = HttpServer::start(false);
    let address = format!("http://127.0.0.1:{}", server.port);
    let (daemon, _policy) = daemon(std::slice::from_ref(&address), &[]);
    daemon.cli_with(&["secret", "set", "pay-token"], TOKEN.as_bytes()).expect(0);
    push(&daemon, "auto", &pay(&address, "headers = { Authorization = \"Bearer {secret:pay-token}\", X-From = \"torpor\" }\n"));
    let big = "y".repeat(200_000);
    let execution = run(
        &daemon,
        &json!([
            ["http", "pay", "GET", "/v1/charges?limit=3"],
            ["http", "pay", "POST", "/v1/items/7", {"Authorization": "mine", "X_From": "mine", "Host": "evil"}, big],
            ["http", "pay", "DELETE", "/v1/charges"],
            ["http", "pay", "GET", "/v1/refunds"],
            ["http", "pay", "GET", "/v1/items/%2e%2e/refunds"],
            ["http", "pay", "GET", "/v1/items/..%2Frefunds"],
            ["http", "pay", "HEAD", "/v1/items/1"],
            ["raw", "pay", "GET http://evil/v1/charges HTTP/1.1\r\nHost: evil\r\n\r\n"],
            ["raw", "pay", "CONNECT evil:443 HTTP/1.1\r\nHost: evil\r\n\r\n"],
            ["raw", "pay", "GET /v1/charges HTTP/1.1\r\nHost: pay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"],
            ["raw", "pay", "POST /v1/items/2 HTTP/1.1\r\nHost: pay\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
            ["raw", "pay", "POST /v1/items/3 HTTP/1.1\r\nHost: pay\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n"],
            ["environment"],
        ]),
    );
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    let body = |index: usize| serde_json::from_str::<Value>(result[index][1].as_str().unwrap()).unwrap();
    assert_eq!((&result[0][0], &body(0)["path"]), (&json!(200), &json!("/v1/charges?limit=3")), "{result:?}");
    assert_eq!((&result[1][0], &body(1)["body"]), (&json!(200), &json!(big)));
    for (index, refused) in result.iter().enumerate().take(6).skip(2) {
        let error = &body(index)["error"];
        assert_eq!((&refused[0], &error["kind"], &error["policy"]["aux"]), (&json!(403), &json!("not_allowed"), &json!("pay")), "{index}");
    }
    assert_eq!(result[6][0], 200);
    for refused in &result[7..10] {
        assert!(refused.as_str().unwrap().starts_with("HTTP/1.1 403 "), "{refused}");
    }
    assert!(result[10].as_str().unwrap().contains("\"body\": \"abc\""), "{}", result[10]);
    assert!(!execution.to_string().contains(TOKEN), "the guest saw the secret");
    let said = log(&daemon, &execution);
    assert!(said.contains("torpor: aux pay: DELETE /v1/charges: 403, method DELETE is not in `methods`"), "{said}");
    assert!(!said.contains(TOKEN) && !daemon.log().contains(TOKEN));

    let requests = server.requests();
    for request in &requests {
        let headers = request["headers"].as_array().unwrap();
        let values = |name: &str| headers.iter().filter(|header| header[0] == name).map(|header| &header[1]).collect::<Vec<_>>();
        assert_eq!(values("authorization"), [&json!(format!("Bearer {TOKEN}"))], "{request}");
        assert_eq!((values("x-from"), values("x_from")), (vec![&json!("torpor")], vec![]), "{request}");
        assert_eq!(values("host"), [&json!(format!("127.0.0.1:{}", server.port))], "{request}");
        assert!(
            matches!(
                request["path"].as_str().unwrap(),
                "/v1/charges?limit=3" | "/v1/items/7" | "/v1/items/1" | "/v1/items/2" | "/v1/items/3"
            ),
            "{request}"
        );
    }
    assert!((4..=5).contains(&requests.len()), "{requests:#?}");

    // What is sent just before the end arrives.
    let steps = json!([["open", "pay", 80], ["send", 0, "GET /v1/items/last HTTP/1.1\r\nHost: pay\r\n\r\n"]]);
    assert_eq!(run(&daemon, &steps)["state"], "succeeded");
    until("the last request", Duration::from_secs(10), || {
        server.requests().iter().any(|request| request["path"] == "/v1/items/last").then_some(())
    });
    let requests = server.requests();

    // A secret that is gone is said to be.
    daemon.cli(&["secret", "rm", "pay-token"]).expect(0);
    let answer =
        daemon.post("/v1/tasks/outside/executions?wait=100", json!({"do": [["http", "pay", "GET", "/v1/charges"]]}).to_string().as_bytes());
    let told = answer.body;
    assert!(told.contains("pay-token"), "{told}");
    assert_eq!(server.requests().len(), requests.len(), "nothing is sent without it");
}

fn https_requests() {
    let (trusted, other) = (HttpServer::start(true), HttpServer::start(true));
    let [good, bad] = [&trusted, &other].map(|server| format!("https://localhost:{}", server.port));
    let (daemon, _policy) = daemon(&[good.clone(), bad.clone()], &[("SSL_CERT_FILE", trusted.certificate().display().to_string())]);
    push(&daemon, "auto", &format!("{}\n{}", pay(&good, ""), pay(&bad, "").replace("aux.pay", "aux.other")));
    let execution = run(&daemon, &json!([["http", "pay", "GET", "/v1/charges"], ["http", "other", "GET", "/v1/charges"]]));
    assert_eq!((&execution["result"][0][0], &execution["result"][1][0]), (&json!(200), &json!(502)), "{execution:#}");
    assert!(execution["result"][1][1].as_str().unwrap().contains("certificate"), "{execution:#}");
    assert_eq!((trusted.requests().len(), other.requests().len()), (1, 0));
}

fn nothing_else_is_reachable() {
    let (postgres, echo) = (Postgres::start(), Echo::start());
    let allowed = format!("tcp:127.0.0.1:{}", postgres.port);
    let (daemon, _policy) = daemon(std::slice::from_ref(&allowed), &[]);
    push(&daemon, "auto", &format!("[aux.ledger]\nconnect = \"{allowed}\"\nport = 5432\n"));
    let execution = run(
        &daemon,
        &json!([
            ["resolve", "ledger"],
            ["dial", "ledger", 5432],
            ["resolve", "other"],
            ["resolve", "example.com"],
            ["dial", "127.0.0.1", echo.port],
            ["dial", "127.0.0.1", 5432],
            ["dial", "ledger", 5433],
            ["dial", "10.0.0.1", 80],
            ["sql", "/run/aux/other", "SELECT 1"],
        ]),
    );
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    assert_eq!((&result[0], &result[1]), (&json!("127.0.1.1"), &json!("connected")));
    for (index, what) in [
        "gaierror",
        "gaierror",
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "ConnectionRefusedError",
        "OSError",
        "FileNotFoundError",
    ]
    .into_iter()
    .enumerate()
    {
        raised(&result[index + 2], what);
    }
    assert_eq!(echo.connections(), 0);
    // What the administrator does not allow can't be pushed.
    let aux = format!("[aux.echo]\nconnect = \"tcp:127.0.0.1:{}\"\n", echo.port);
    let folder = TaskFolder::copy("outside").manifest(&manifest(("python", "main.py:handler"), "auto", &aux));
    let refused = daemon.cli(&["task", "push", folder.path().to_str().unwrap()]);
    assert_ne!(refused.code, 0);
    refused.says(&["echo"]);
}

fn limits() {
    let echo = Echo::start();
    let (to, nobody) = (format!("tcp:127.0.0.1:{}", echo.port), format!("tcp:127.0.0.1:{}", free_port()));
    let (daemon, _policy) = daemon(&[to.clone(), nobody.clone()], &[]);
    push(
        &daemon,
        "auto",
        &format!(
            "[aux.few]\nconnect = \"{to}\"\nport = 7\nconnections = 2\n\n[aux.short]\nconnect = \"{to}\"\nport = 7\nbytes = \"100KiB\"\n\n\
             [aux.nobody]\nconnect = \"{nobody}\"\nport = 7\n\n[aux.wide]\nconnect = \"{to}\"\nport = 7\n"
        ),
    );
    let execution = run(
        &daemon,
        &json!([
            ["open", "few", 7],
            ["open", "few", 7],
            ["refused", "few", 7],
            ["echo", 0, "a"],
            ["echo", 1, "b"],
            ["close", 0],
            ["sleep", 0.5],
            ["open", "few", 7],
            ["echo", 2, "c"],
            ["open", "short", 7],
            ["echo", 3, "d".repeat(40_000)],
            ["echo", 3, "e".repeat(40_000)],
            ["refused", "nobody", 7],
            ["open", "wide", 7],
            ["bulk", 4, 2 << 20],
        ]),
    );
    let result = execution["result"].as_array().unwrap_or_else(|| panic!("{execution:#}"));
    let said = log(&daemon, &execution);
    assert_eq!([&result[3], &result[4], &result[8]], [&json!("a"), &json!("b"), &json!("c")], "{result:?}\n{said}");
    raised(&result[2], "ConnectionResetError");
    assert!(
        said.contains("torpor: aux few: refused: 2 connections of this execution are open, which is all that `connections` allows"),
        "{said}"
    );
    assert_eq!(result[10].as_str().unwrap().len(), 40_000);
    raised(&result[11], "ConnectionResetError|BrokenPipeError");
    assert!(said.contains("torpor: aux short: closed: this execution has exchanged the 100KiB that `bytes` allows"), "{said}");
    raised(&result[12], "ConnectionResetError");
    assert!(said.contains(&format!("torpor: aux nobody: refused: can't connect to {nobody}: ")), "{said}");
    assert_eq!(result[14][1], true, "{result:?}");
    println!("2 MiB there and back: {:.2} s", result[14][0].as_f64().unwrap());
}

/// Runtime exec, with what its image has: busybox.
fn any_program_talks() {
    let (server, echo) = (HttpServer::start(false), Echo::start());
    let (address, to) = (format!("http://127.0.0.1:{}", server.port), format!("tcp:127.0.0.1:{}", echo.port));
    let (daemon, _policy) = daemon(&[address.clone(), to.clone()], &[]);
    daemon.cli_with(&["secret", "set", "pay-token"], TOKEN.as_bytes()).expect(0);
    let aux = format!(
        "{}\n[aux.echo]\nconnect = \"{to}\"\nport = 7\non_park = \"hold\"\n",
        pay(&address, "headers = { X-Key = \"{secret:pay-token}\" }\n")
    );
    daemon.push(TaskFolder::copy("shell").manifest(&manifest(("exec", "run"), "always", &aux)).path());
    daemon.template("outside");
    assert_eq!(daemon.result("outside", &json!("wget -q -O - http://pay/v1/items/1"))["path"], "/v1/items/1");
    assert_eq!(daemon.result("outside", &json!("echo 42 | nc echo 7")), 42);
    assert_eq!(daemon.result("outside", &json!("wget -q -O - http://pay/v2 2>/dev/null || echo 1")), 1);
    assert_eq!(server.requests().len(), 1);
    // It is parked in the middle.
    let execution = daemon.execute("outside", &json!("(echo 4; torpor sleep 6 >/dev/null; echo 2) | nc echo 7 | tr -d [:space:]"));
    assert_eq!((&execution["result"], &execution["parks"]), (&json!(42), &json!(1)), "{execution:#}\n{}", log(&daemon, &execution));
}
