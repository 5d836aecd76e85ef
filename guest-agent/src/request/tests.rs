#![allow(clippy::unwrap_used)]
use super::*;
use serde_json::{Value, json as value};

fn refused_with(line: &str) -> String {
    parse(line.as_bytes()).unwrap_err().message
}

#[test]
fn requests_become_asks() {
    let waits = |any, results, timeout_ms| What::Wait { executions: vec!["a".into()], any, results, timeout_ms };
    for (line, what, input) in [
        (r#"{"call":"t","input":{"a": 1.0},"timeout":5}"#, What::Call { task: "t".into(), timeout_ms: Some(5000) }, r#"{"a": 1.0}"#),
        (r#"{"call":"\u0074"}"#, What::Call { task: "t".into(), timeout_ms: None }, "null"),
        (r#"{"spawn":"t","input":1e400}"#, What::Spawn { task: "t".into(), need_by: None, on_late: OnLate::Run }, "1e400"),
        (
            r#"{"spawn":"t","need_by":1.5,"on_late":"refuse"}"#,
            What::Spawn { task: "t".into(), need_by: Some(NeedBy::InMs(1500)), on_late: OnLate::Refuse },
            "null",
        ),
        (
            r#"{"spawn":"t","need_by_at":1764000000.25}"#,
            What::Spawn { task: "t".into(), need_by: Some(NeedBy::AtMs(1_764_000_000_250)), on_late: OnLate::Run },
            "null",
        ),
        (r#"{"wait":["a"]}"#, waits(false, true, None), ""),
        (r#"{"wait":["a"],"any":true,"results":false,"timeout":0.0001}"#, waits(true, false, Some(1)), ""),
        (r#"{"sleep":2.5}"#, What::Sleep { ms: 2500 }, ""),
        (r#"{"event":"new"}"#, What::Event {}, ""),
        (r#" {"event":"T","timeout":null} "#, What::EventWait { token: "T".into(), timeout_ms: None }, ""),
    ] {
        let (got, with) = parse(line.as_bytes()).unwrap();
        assert_eq!((got, std::str::from_utf8(with).unwrap()), (what, input), "{line}");
    }
}

#[test]
fn nonsense_is_refused() {
    for line in [
        "",
        "[]",
        "{}",
        "call",
        r#"{"call":"t","spawn":"t"}"#,
        r#"{"call":1}"#,
        r#"{"call":"t","what":1}"#,
        r#"{"call":"t","timeout":-1}"#,
        r#"{"call":"t","any":true}"#,
        r#"{"spawn":"t","timeout":1}"#,
        r#"{"spawn":"t","need_by":-1}"#,
        r#"{"spawn":"t","need_by":1,"need_by_at":1}"#,
        r#"{"spawn":"t","need_by_at":1e300}"#,
        r#"{"spawn":"t","on_late":"skip"}"#,
        r#"{"call":"t","need_by":1}"#,
        r#"{"wait":["a"],"on_late":"run"}"#,
        r#"{"sleep":1e300}"#,
        r#"{"sleep":1,"timeout":1}"#,
        r#"{"wait":"a"}"#,
        r#"{"wait":[]}"#,
        r#"{"wait":["a"],"input":1}"#,
        r#"{"event":"new","timeout":1}"#,
        r#"{"call":"t","input":}"#,
    ] {
        assert!(parse(line.as_bytes()).is_err(), "{line}");
    }
    assert!(parse(b"{\"call\":\"\xff\"}").is_err());
    assert!(refused_with(&format!(r#"{{"spawn":"t","input":"{}"}}"#, "x".repeat(MAX_INPUT))).contains("at most"));
    let many = parse(value!({ "wait": vec!["a"; MAX_TARGETS + 1] }).to_string().as_bytes()).unwrap_err();
    assert_eq!(many.kind, Refusal::TooMany);
}

fn said(call: bool, reply: &Reply, payload: &[u8], resumed: bool) -> Value {
    match answer(call, reply, payload, resumed) {
        Said::Line(line) => {
            assert!(!line.contains(&b'\n'));
            serde_json::from_slice(&line).unwrap()
        }
        Said::Again(execution) => value!({ "again": execution }),
    }
}

fn entry(state: &str, result: Option<usize>) -> Waited {
    Waited { execution: "e\"1".into(), state: state.into(), result, error: None, more: false }
}

fn callee() -> CalleeError {
    CalleeError { kind: "exit".into(), message: "no".into(), exception: None, traceback: None, exit_code: Some(3), signal: None }
}

#[test]
fn answers_become_lines() {
    let one = |waited: Waited, timed_out| Reply::Waited { executions: vec![waited], timed_out };
    assert_eq!(said(false, &Reply::Spawned { execution: "e".into() }, b"", false), value!({"ok": "e"}));
    assert_eq!(said(false, &Reply::Slept, b"", true), value!({"ok": null, "resumed": true}));
    assert_eq!(said(false, &Reply::Event { token: "T".into() }, b"", false), value!({"ok": "T"}));
    assert_eq!(said(false, &Reply::Signalled { len: 8 }, b"{\n\r\n\"a\":\n1}", false), value!({"ok": {"a": 1}}));
    assert_eq!(said(false, &Reply::TimedOut, b"", false)["error"]["kind"], "timeout");
    let cycle = Reply::Refused { kind: Refusal::Cycle, message: "a -> \"a\"".into() };
    assert_eq!(said(true, &cycle, b"", true), value!({"error": {"kind": "cycle", "message": "a -> \"a\""}, "resumed": true}));
    assert_eq!(said(true, &one(entry("succeeded", Some(3)), false), b"[1]", false), value!({"ok": [1], "execution": "e\"1"}));
    let failed = Waited { error: Some(callee()), ..entry("failed", None) };
    assert_eq!(
        said(true, &one(failed.clone(), false), b"", false)["error"],
        value!({"kind": "task_failed", "message": "no", "execution": "e\"1", "state": "failed", "failure": {"kind": "exit", "message": "no", "exit_code": 3}})
    );
    assert_eq!(said(true, &one(entry("cancelled", None), true), b"", false)["error"]["kind"], "timeout");
    assert_eq!(said(true, &one(entry("cancelled", None), false), b"", false)["error"]["state"], "cancelled");
    let more = Waited { more: true, ..entry("succeeded", None) };
    assert_eq!(said(true, &one(more.clone(), false), b"", false), value!({"again": "e\"1"}));
    assert_eq!(said(true, &Reply::Waited { executions: vec![], timed_out: false }, b"", false)["error"]["kind"], "host");
    let all = Reply::Waited {
        executions: vec![entry("succeeded", Some(1)), failed, more, entry("running", None), entry("succeeded", Some(2))],
        timed_out: true,
    };
    let line = said(false, &all, b"7{}", false);
    assert_eq!(line["timed_out"], true);
    assert_eq!((&line["ok"][0]["result"], &line["ok"][4]["result"]), (&value!(7), &value!({})));
    assert_eq!((&line["ok"][1]["error"]["exit_code"], &line["ok"][2]["more"]), (&value!(3), &value!(true)));
}
