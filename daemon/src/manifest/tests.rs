//! What a manifest may say, and the line that each refusal names.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::host::HostPolicy;
use super::limits::Limits;
use super::*;
use proptest::prelude::*;

fn manifest(task: &str, policy: &str) -> String {
    format!("[task]\n{task}\n[policy]\n{policy}\n")
}

const PYTHON: &str = "name = \"wordcount\"\nruntime = \"python\"\nentry = \"main.py:handler\"";

fn refused(text: &str) -> (usize, String) {
    let error = Manifest::parse(text.as_bytes()).unwrap_err();
    (error.line, error.message)
}

#[test]
fn a_whole_manifest() {
    let text = manifest(
        PYTHON,
        "memory = \"256MiB\"\ntimeout = \"1500ms\"\nretries = 0x2\nbackoff = \"250ms\"\nbackoff_max = \"1m\"\nlog_cap = \"64KiB\"\npark = \"always\"\ndeadline = \"2h\"\nvcpus = 0.25\nmax_parallel = 3\nisolation = \"task\"\npriority = -3\nreplay = \"none\"",
    );
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.name.as_str(), "wordcount");
    let main = &manifest.portions[0];
    assert_eq!(main.entry, Entry::Python { file: "main.py".into(), function: "handler".into() });
    assert_eq!((main.entry_line, main.entry.to_string().as_str()), (4, "main.py:handler"));
    let policy = host::HostPolicy::default().resolve(&AccountName::default(), &main.declared).policy;
    let expected = Policy {
        memory_mib: 256,
        vcpus_permille: 250,
        timeout_ms: 1500,
        deadline_ms: Some(7_200_000),
        park: Park::Always,
        retries: 2,
        backoff_ms: 250,
        backoff_max_ms: 60_000,
        log_cap: 64 << 10,
        max_parallel: Some(3),
        isolation: Isolation::Task,
        priority: -3,
        replay: Replay::None,
    };
    assert_eq!(policy, expected);
}

#[test]
fn a_policy_may_be_left_out() {
    let text = "[task]\nname = \"t\"\nruntime = \"exec\"\nentry = \"./bin/run\"\n";
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(host::HostPolicy::default().resolve(&AccountName::default(), &manifest.portions[0].declared).policy, Policy::default());
    assert_eq!(manifest.portions[0].entry, Entry::Exec { file: "bin/run".into() });
}

#[test]
fn each_refusal_names_its_line() {
    let cases: Vec<(String, usize, &str)> = vec![
        (String::new(), 1, "no [task]"),
        ("[task\n".into(), 1, "not TOML"),
        ("[task]\nname = \"a\"\nname = \"b\"\n".into(), 3, "not TOML"),
        ("[policy]\n".into(), 1, "no [task]"),
        ("task = 3\n".into(), 1, "not a table"),
        ("\n\n[task]\nname = \"t\"\n".into(), 3, "no runtime"),
        ("[task]\nname = 7\n".into(), 2, "text in quotes"),
        ("[task]\nname = \"Wrong\"\n".into(), 2, "a-z"),
        (format!("[task]\nname = \"{}\"\n", "a".repeat(64)), 2, "1 to 63"),
        (format!("[task]\n{PYTHON}\ncolour = 1\n"), 5, "unknown key \"colour\" in [task]"),
        (format!("[task]\n{PYTHON}\n[polisy]\n"), 5, "unknown key \"polisy\""),
        (manifest(PYTHON, "memroy = \"1MiB\""), 6, "known: memory"),
        (manifest(PYTHON, "memory = \"63MiB\""), 6, "out of range"),
        (manifest(PYTHON, "memory = \"2049MiB\""), 6, "out of range"),
        (manifest(PYTHON, "memory = \"65537KiB\""), 6, "whole MiB"),
        (manifest(PYTHON, "memory = \"128MB\""), 6, "not a size"),
        (manifest(PYTHON, "memory = 128"), 6, "text in quotes, not integer"),
        (manifest(PYTHON, "memory = \"99999999999999999999GiB\""), 6, "not a size"),
        (manifest(PYTHON, "\ntimeout = \"99ms\""), 7, "out of range"),
        (manifest(PYTHON, "timeout = \"25h\""), 6, "out of range"),
        (manifest(PYTHON, "timeout = \"1.5s\""), 6, "not a duration"),
        (manifest(PYTHON, "timeout = \"-1s\""), 6, "not a duration"),
        (manifest(PYTHON, "retries = 101"), 6, "0 to 100"),
        (manifest(PYTHON, "backoff = \"25h\""), 6, "out of range"),
        (manifest(PYTHON, "backoff = \"soon\""), 6, "backoff \"soon\" is not a duration"),
        (manifest(PYTHON, "backoff = \"2s\"\nbackoff_max = \"1s\""), 7, "shorter than backoff"),
        (manifest(PYTHON, "retries = -1"), 6, "0 to 100"),
        (manifest(PYTHON, "retries = \"1\""), 6, "0 to 100"),
        (manifest(PYTHON, "log_cap = \"1KiB\""), 6, "out of range"),
        (manifest(PYTHON, "park = \"sometimes\""), 6, "\"never\""),
        (manifest(PYTHON, "deadline = \"500ms\""), 6, "out of range"),
        (manifest(PYTHON, "deadline = \"soon\""), 6, "is not a duration"),
        (manifest(PYTHON, "vcpus = 2"), 6, "0.05 to 1"),
        (manifest(PYTHON, "vcpus = nan"), 6, "0.05 to 1"),
        (manifest(PYTHON, "max_parallel = 0"), 6, "1 to 100000"),
        (manifest(PYTHON, "isolation = \"none\""), 6, "neither \"execution\""),
        (manifest(PYTHON, "priority = 11"), 6, "-10 to 10"),
        (manifest(PYTHON, "priority = 0.5"), 6, "-10 to 10"),
        (manifest(PYTHON, "replay = \"all\""), 6, "neither \"results\""),
        (manifest(PYTHON, "calls = \"x\""), 6, "list of texts"),
        (manifest(PYTHON, "calls = [\"a\", \"a\"]"), 6, "twice"),
        (manifest(PYTHON, "calls = [\"Upper\"]"), 6, "neither a task's name"),
        (manifest(PYTHON, "calls = [\"portion:sign\"]"), 6, "it would be [portion.sign]"),
        (manifest(PYTHON, "secrets = [\"A\"]"), 6, "a-z"),
        (manifest(PYTHON, "callers = [\"portion:gone\"]"), 6, "which is not there"),
        ("[task]\nname = \"t\"\nruntime = \"perl\"\nentry = \"x\"\n".into(), 3, "known: python, exec"),
    ];
    for (text, line, part) in cases {
        let (at, message) = refused(&text);
        assert!(message.contains(part), "{text:?}: {message}");
        assert_eq!(at, line, "{text:?}: {message}");
    }
    assert_eq!(Manifest::parse(b"[task]\nname = \"\xff\"").unwrap_err().line, 2);
    assert!(Manifest::parse(&vec![b'\n'; MAX_BYTES + 1]).is_err());
}

#[test]
fn entries_stay_in_the_folder() {
    for entry in [
        "main.py",
        ":f",
        "main.py:",
        ".py:f",
        "d/.py:f",
        "/main.py:f",
        "../main.py:f",
        "a//b.py:f",
        "main.py:1f",
        "main.py:f:g",
        "main.txt:f",
    ] {
        let (line, _) = refused(&format!("[task]\nname = \"t\"\nruntime = \"python\"\nentry = {entry:?}\n"));
        assert_eq!(line, 4, "{entry}");
    }
    for entry in ["", ".", "..", "/bin/sh", "a/../../b", "a/./b", "a\\b"] {
        assert!(Entry::parse(Runtime::Exec, entry).is_err(), "{entry}");
    }
    assert!(Entry::parse(Runtime::Python, "src/app.py:_run2").is_ok());
}

#[test]
fn units_read_what_they_write() {
    for bytes in [0, 1, 1023, 1024, 1 << 20, 3 << 20, (1 << 30) + 1] {
        assert_eq!(units::bytes(&format_bytes(bytes)), Some(bytes));
    }
    for millis in [0, 1, 999, 1000, 60_000, 90_000, 86_400_000] {
        assert_eq!(units::millis(&format_millis(millis)), Some(millis));
    }
    assert_eq!((format_bytes(128 << 20).as_str(), format_millis(30_000).as_str()), ("128MiB", "30s"));
    assert_eq!((units::millis("7d"), units::millis("1dd")), (Some(604_800_000), None));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Manifest::parse(&bytes);
    }

    #[test]
    fn near_misses_are_refused_or_taken(key in "[a-z_]{1,8}", value in "[ -~]{0,12}", cut in 0usize..120) {
        let text = manifest(PYTHON, &format!("{key} = {value:?}"));
        let cut = text.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(text.len());
        if let Err(error) = Manifest::parse(&text.as_bytes()[..cut]) {
            prop_assert!(error.line >= 1 && error.line <= 1 + text.lines().count());
        }
    }
}

const CHECKOUT: &str = r#"
[task]
name = "checkout"
runtime = "python"
entry = "main.py:handler"
[policy]
calls = ["portion:sign", "audit"]
[portion.sign]
folder = "sign"
runtime = "python"
entry = "main.py:sign"
trust = "trusted"
[portion.sign.policy]
callers = ["portion:main"]
secrets = ["signing-key"]
[portion.sign.aux.ledger]
connect = "tcp:127.0.0.1:5432"
on_park = "hold"
[portion.sign.aux.pay]
http = "https://api.example.com"
methods = ["POST"]
paths = ["/v1/charges/*"]
headers = { Authorization = "Bearer {secret:pay-token}" }
"#;

#[test]
fn portions_have_their_own() {
    let manifest = Manifest::parse(CHECKOUT.as_bytes()).unwrap();
    let [main, sign] = &manifest.portions[..] else { panic!("two portions") };
    assert!(main.name.is_main() && main.rights.trust == Trust::Untrusted && main.rights.aux.is_empty());
    assert_eq!((sign.name.as_str(), sign.rights.trust), ("sign", Trust::Trusted));
    assert_eq!(sign.rights.secrets().iter().map(SecretName::as_str).collect::<Vec<_>>(), ["signing-key"]);
    assert_eq!(sign.rights.all_secrets().map(SecretName::as_str).collect::<Vec<_>>(), ["signing-key", "pay-token"]);
    let shown: Vec<String> = sign.rights.aux.iter().map(|aux| format!("{} {} {:?}", aux.name, aux.target, aux.port)).collect();
    assert_eq!(shown, ["ledger tcp:127.0.0.1:5432 Some(5432)", "pay https://api.example.com Some(80)"]);
    let kept = serde_json::to_string(&sign.rights).unwrap();
    assert_eq!(serde_json::from_str::<Rights>(&kept).unwrap(), sign.rights);
}

#[test]
fn what_portions_may_not_say() {
    let cases = [
        ("callers = [\"portion:main\"]", "", "portion \"sign\" of task \"checkout\" does not let task \"checkout\" call it"),
        ("callers = [\"portion:main\"]", "callers = [\"client\"]", "does not let"),
        ("folder = \"sign\"\n", "", "[portion.sign] has no folder"),
        ("trust = \"trusted\"\n", "", "[portion.sign] has no trust"),
        ("trust = \"trusted\"", "trust = \"root\"", "none of \"untrusted\""),
        ("[portion.sign]", "[portion.main]", "what [task] and [policy] describe"),
        ("folder = \"sign\"", "folder = \"../sign\"", "not a path in the task's folder"),
        ("connect = \"tcp:127.0.0.1:5432\"", "connect = \"tcp:127.0.0.1\"", "neither \"tcp:HOST:PORT\""),
        ("connect = \"tcp:127.0.0.1:5432\"", "connect = \"unix:/a/../b\"", "neither \"tcp:HOST:PORT\""),
        ("connect = \"tcp:127.0.0.1:5432\"", "port = 1", "either connect or http"),
        ("on_park = \"hold\"", "paths = [\"/\"]", "given by http"),
        ("paths = [\"/v1/charges/*\"]\n", "", "names the allowed methods and paths"),
        ("\"/v1/charges/*\"", "\"/v1/*/x\"", "is no path"),
        ("\"/v1/charges/*\"", "\"/v1/../x\"", "is no path"),
        ("\"POST\"", "\"CONNECT\"", "is none of GET"),
        ("Authorization =", "Host =", "can't be added"),
        ("{secret:pay-token}", "{secret:pay-token", "has no }"),
        ("Bearer ", "Bearer\\r\\nX: ", "printable ASCII"),
    ];
    for (from, to, part) in cases {
        let text = CHECKOUT.replacen(from, to, 1);
        assert_ne!(text, CHECKOUT, "{from}");
        let (_, message) = refused(&text);
        assert!(message.contains(part), "{from} -> {to}: {message}");
    }
    let twice = format!("{CHECKOUT}\n[portion.b]\nfolder = \"sign/b\"\nruntime = \"exec\"\nentry = \"x\"\ntrust = \"limited\"\n");
    assert!(refused(&twice).1.contains("hold the same files"));
}

#[test]
fn limits_of_an_account_stand_in_place_of_those_of_all() {
    let text = "[limits]\nexecutions = 10\ninputs = \"1MiB\"\n[account.a.limits]\nexecutions = 20\nparked = \"2GiB\"\nhistory = \"3GiB\"\n[account.b.caps]\nretries = 1\n";
    let policy = HostPolicy::parse(text.as_bytes()).unwrap();
    let of = |name: &str| policy.limits(&AccountName::try_from(name.to_owned()).unwrap());
    assert_eq!(of("a"), Limits { executions: 20, inputs: 1 << 20, parked: Some(2 << 30), history: Some(3 << 30) });
    assert_eq!(of("b"), Limits { executions: 10, inputs: 1 << 20, parked: None, history: None });
    assert_eq!(
        HostPolicy::default().limits(&AccountName::default()),
        Limits { executions: 100_000, inputs: 4 << 30, parked: None, history: None }
    );
    for (text, line, wrong) in [
        ("[limits]\nexecutions = 0\n", 2, "from 1 to"),
        ("\n[account.a.limits]\nparked = \"much\"\n", 3, "parked \"much\" is not a size"),
        ("[limits]\nvms = 3\n", 2, "unknown key \"vms\" in [limits]"),
    ] {
        let error = HostPolicy::parse(text.as_bytes()).unwrap_err();
        assert!(error.line == line && error.message.contains(wrong), "{}: {}", error.line, error.message);
    }
}

#[test]
fn caps_narrow_and_say_so() {
    let caps = "[caps]\nmemory = \"256MiB\"\ntimeout = \"10s\"\naux = [\"tcp:127.0.0.1:*\", \"https://api.example.com\"]\n\
                [account.default.caps]\nmemory = \"128MiB\"\nmax_parallel = 5\n";
    let host = host::HostPolicy::parse(caps.as_bytes()).unwrap();
    let manifest = Manifest::parse(manifest(PYTHON, "memory = \"512MiB\"\nretries = 1").as_bytes()).unwrap();
    let resolved = host.resolve(&AccountName::default(), &manifest.portions[0].declared);
    let lines: Vec<String> = resolved.lines().iter().map(|(key, value, source)| format!("{key} {value} {source}")).collect();
    let expected = [
        "memory 128MiB cap of the account, narrower than torpor.toml:6",
        "vcpus 1 default",
        "timeout 10s cap of the host",
        "deadline none default",
        "park auto default",
        "retries 1 torpor.toml:7",
        "backoff 1s default",
        "backoff_max 5m default",
        "log_cap 1MiB default",
        "max_parallel 5 cap of the account",
        "isolation execution default",
        "priority 0 default",
        "replay results default",
    ];
    assert_eq!(lines, expected);
    let sign = &Manifest::parse(CHECKOUT.as_bytes()).unwrap().portions[1];
    assert!(host.denied(&AccountName::default(), &sign.rights.aux).is_none());
    assert_eq!(host::HostPolicy::default().denied(&AccountName::default(), &sign.rights.aux).map(|aux| aux.name.as_str()), Some("ledger"));
    assert!(host::HostPolicy::parse(b"[caps]\naux = [\"*:80\"]\n").is_err());
    assert_eq!(host::HostPolicy::parse(b"[caps]\n\nmemory = 3\n").unwrap_err().line, 3);
}
