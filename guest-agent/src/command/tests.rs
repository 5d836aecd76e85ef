#![allow(clippy::unwrap_used)]
use super::*;

fn of(line: &str) -> Result<Command, End> {
    parse(&line.split_ascii_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>())
}

#[test]
fn commands_become_requests() {
    for (line, wanted) in [
        ("call add --timeout 1.5", r#"{"call":"add","input":[1],"timeout":1.5}"#),
        ("call --timeout=2 add@ab", r#"{"call":"add@ab","input":[1],"timeout":2}"#),
        ("spawn add", r#"{"spawn":"add","input":[1]}"#),
        ("spawn add --need-by 30 --on-late=refuse", r#"{"spawn":"add","input":[1],"need_by":30,"on_late":"refuse"}"#),
        ("spawn --need-by=@1764000000.5 add", r#"{"spawn":"add","input":[1],"need_by_at":1764000000.5}"#),
        ("wait a b", r#"{"wait":["a","b"],"any":false,"results":true}"#),
        ("wait --any a b --timeout 0", r#"{"wait":["a","b"],"any":true,"results":false,"timeout":0}"#),
        ("done a", r#"{"wait":["a"],"results":false,"timeout":0}"#),
        ("sleep 0.25", r#"{"sleep":0.25}"#),
        ("event", r#"{"event":"new"}"#),
        ("event wait T", r#"{"event":"T"}"#),
        ("call -- --any", r#"{"call":"--any","input":[1]}"#),
    ] {
        let made = request(&of(line).unwrap(), "[1]");
        assert_eq!(made, wanted, "{line}");
        crate::request::parse(made.as_bytes()).unwrap();
    }
    assert_eq!(of("call --help").unwrap(), Command::Help);
}

#[test]
fn wrong_usage_is_said() {
    for line in [
        "",
        "call",
        "call a b",
        "call a --timeout",
        "call a --timeout soon",
        "call a --any",
        "call a --wrong",
        "spawn a --timeout 1",
        "spawn a --need-by",
        "spawn a --need-by @",
        "spawn a --on-late never",
        "call a --need-by 3",
        "event --on-late run",
        "wait",
        "done",
        "sleep",
        "sleep inf",
        "event wait",
        "event what T",
        "event new more",
        "dance",
    ] {
        assert_eq!(of(line).unwrap_err().status, 2, "{line}");
    }
}

#[test]
fn answers_become_exit_statuses() {
    for (line, status, says) in [
        (r#"{"error":{"kind":"timeout","message":"late"}}"#, 124, "late"),
        (
            r#"{"error":{"kind":"task_failed","message":"no","execution":"e","state":"failed","failure":{"kind":"exit","message":"no"}}}"#,
            1,
            "e: exit: no",
        ),
        (r#"{"error":{"kind":"cycle","message":"a -> a"}}"#, 3, "cycle: a -> a"),
        ("what", 3, "not one"),
    ] {
        let wrong = parsed(line.as_bytes()).err().unwrap();
        assert_eq!(wrong.status, status);
        assert!(wrong.message.contains(says), "{}", wrong.message);
    }
    assert_eq!(okay(&parsed(br#"{"ok":{"a":1},"execution":"e","resumed":true}"#).unwrap()), r#"{"a":1}"#);
    assert_eq!(okay(&parsed(br#"{"ok":null}"#).unwrap()), "null");
}
