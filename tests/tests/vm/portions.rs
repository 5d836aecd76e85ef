//! A task of several portions: each in a VM of its own, with its own code and rights, and called only by those that both policies name.

use serde_json::{Value, json};
use torpor_tests::daemon::{Daemon, shared};
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] =
    tests![each_portion_has_its_own_code, calls_are_those_that_both_ends_allow, a_kept_vm_remembers, policies_are_explained];

fn push(daemon: &Daemon) {
    daemon.push(TaskFolder::copy("split").path());
}

fn result(daemon: &Daemon, input: &Value) -> Value {
    let execution = daemon.execute("split", input);
    assert_eq!(execution["state"], "succeeded", "{execution:#}");
    execution["result"].clone()
}

fn each_portion_has_its_own_code() {
    let daemon = shared();
    push(&daemon);
    assert_eq!(result(&daemon, &json!({"do": "look"})), json!({"files": ["main.py"], "portion": "main"}));
    let execution = daemon.execute("split", &json!({"do": "call", "portion": "sign", "input": [1, "two"]}));
    assert!(execution["parks"].as_u64().is_some_and(|parks| parks > 0), "it is parked while its portion works: {execution:#}");
    let signed = &execution["result"];
    assert_eq!((&signed["files"], &signed["portion"], &signed["task"]), (&json!(["main.py"]), &json!("sign"), &json!("split")));
    assert_eq!(signed["input"], json!([1, "two"]));
    assert!(signed["memory"].as_u64().is_some_and(|kib| kib < 64 << 10), "the memory of its own policy: {signed}");
    assert!(signed["tried"].as_str().unwrap().contains("add \"split\" to its `calls`"), "{signed}");
    let shell = result(&daemon, &json!({"do": "call", "portion": "shell", "input": 7}));
    assert_eq!(shell, json!({"portion": "shell", "files": "run", "input": 7}));

    let children = daemon.get("/v1/executions?all=true&task=split&limit=20").json();
    let portions: Vec<&str> = children["executions"].as_array().unwrap().iter().filter_map(|one| one["portion"].as_str()).collect();
    assert!(portions.contains(&"sign") && portions.contains(&"shell"), "{portions:?}");
}

fn calls_are_those_that_both_ends_allow() {
    let daemon = shared();
    push(&daemon);
    let only = "[task]\nname = \"guarded\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n[policy]\ncallers = [\"nobody\"]\n";
    daemon.push(TaskFolder::copy("split").manifest(only).path());
    let names = ["portion:gone", "portion:main", "guarded", "wordless"];
    let tried = result(&daemon, &json!({"do": "refused", "names": names}));
    for (name, part) in [
        ("portion:gone", "UnknownTask: task \"split\" has no portion \"gone\""),
        ("guarded", "NotAllowed: the policy of task \"split\" does not let it call task \"guarded\""),
        ("wordless", "UnknownTask"),
        ("portion:main", "called"),
    ] {
        assert!(tried[name].as_str().unwrap().starts_with(part), "{name}: {tried:#}");
    }
    daemon.cli(&["run", "guarded"]).expect(2).says(&["does not let a client of the API call it"]);

    let untrusted = TaskFolder::copy("split");
    let text = std::fs::read_to_string(untrusted.path().join("torpor.toml")).unwrap();
    let untrusted = untrusted.manifest(&text.replace("callers = [\"portion:main\"]\n", ""));
    let push = ["task", "push", untrusted.path().to_str().unwrap()];
    daemon.cli(&push).expect(2).says(&["torpor.toml:7: ", "its manifest must name the caller"]);
}

fn a_kept_vm_remembers() {
    let daemon = shared();
    push(&daemon);
    daemon.template("split");
    let twice = result(&daemon, &json!({"do": "twice", "portion": "kept"}));
    let calls: Vec<u64> = twice.as_array().unwrap().iter().map(|one| one["calls"].as_u64().unwrap()).collect();
    assert_eq!(calls[1], calls[0] + 1, "{twice}");
    assert_ne!(twice[0]["random"], twice[1]["random"]);
    assert_ne!(twice[0]["execution"], twice[1]["execution"]);
    let second = daemon.execution(twice[1]["execution"].as_str().unwrap());
    let restored = second["timeline"].as_array().unwrap().iter().find(|entry| entry["event"] == "restored").unwrap();
    assert_eq!(restored["monitor"], "kept", "{second:#}");
}

fn policies_are_explained() {
    let daemon = shared();
    push(&daemon);
    let explained = daemon.cli(&["policy", "explain", "split", "--portion", "sign"]);
    let lines = explained.expect(0).json();
    let find = |key: &str| lines["lines"].as_array().unwrap().iter().find(|line| line["key"] == key).unwrap().clone();
    assert_eq!((&find("memory")["value"], &find("memory")["source"]), (&json!("64MiB"), &json!("torpor.toml:18")));
    assert_eq!((&find("timeout")["value"], &find("timeout")["source"]), (&json!("30s"), &json!("default")));
    assert_eq!(find("callers")["value"], "portion:main");
    let dot = daemon.cli(&["task", "graph", "split", "--dot"]);
    assert!(dot.expect(0).stdout.contains("\"portion:main\" -> \"portion:sign\";"));
    daemon.cli(&["policy", "explain", "split", "--portion", "gone"]).expect(2).says(&["no portion \"gone\""]);
}
