//! What a manifest may say, and the line that each refusal names.
#![allow(clippy::unwrap_used)]

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
        "memory = \"256MiB\"\ntimeout = \"1500ms\"\nretries = 0x2\nlog_cap = \"64KiB\"\npark = \"always\"\ndeadline = \"2h\"",
    );
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.name.as_str(), "wordcount");
    assert_eq!(manifest.entry, Entry::Python { file: "main.py".into(), function: "handler".into() });
    assert_eq!((manifest.entry_line, manifest.entry.to_string().as_str()), (4, "main.py:handler"));
    assert_eq!(
        manifest.policy,
        Policy { memory_mib: 256, timeout_ms: 1500, deadline_ms: Some(7_200_000), park: Park::Always, retries: 2, log_cap: 64 << 10 }
    );
}

#[test]
fn a_policy_may_be_left_out() {
    let text = "[task]\nname = \"t\"\nruntime = \"exec\"\nentry = \"./bin/run\"\n";
    let manifest = Manifest::parse(text.as_bytes()).unwrap();
    assert_eq!(manifest.policy, Policy::default());
    assert_eq!(manifest.entry, Entry::Exec { file: "bin/run".into() });
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
        (manifest(PYTHON, "retries = 11"), 6, "0 to 10"),
        (manifest(PYTHON, "retries = -1"), 6, "0 to 10"),
        (manifest(PYTHON, "retries = \"1\""), 6, "0 to 10"),
        (manifest(PYTHON, "log_cap = \"1KiB\""), 6, "out of range"),
        (manifest(PYTHON, "park = \"sometimes\""), 6, "\"never\""),
        (manifest(PYTHON, "deadline = \"500ms\""), 6, "out of range"),
        (manifest(PYTHON, "deadline = \"soon\""), 6, "is not a duration"),
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
