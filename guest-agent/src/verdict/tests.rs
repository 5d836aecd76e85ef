#![allow(clippy::unwrap_used)]
use super::*;

#[test]
fn standard_output_is_one_json_value_or_nothing() {
    assert_eq!(result(b""), Ok(None));
    assert_eq!(result(b" \n"), Ok(None));
    assert_eq!(result(b"{\"a\": [1, 2]}\n"), Ok(Some(0..13)));
    assert_eq!(result(b"\n  \"x\" \n"), Ok(Some(3..6)));
    for bad in [&b"hello\n"[..], b"1 2", b"{\"a\":", b"\"\xff\"", b"nul", b"[NaN]"] {
        assert_eq!(result(bad).unwrap_err().kind, FailureKind::InvalidResult, "{bad:?}");
    }
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = "[".repeat(1 << 20) + &"]".repeat(1 << 20);
    let _ = result(deep.as_bytes());
}

#[test]
fn the_way_it_ended_is_told() {
    let exit = ended(Ended::Exit(3), false, "the program");
    assert_eq!((exit.kind, exit.exit_code, exit.message.as_str()), (FailureKind::Exit, Some(3), "the program ended with exit status 3"));
    let signal = ended(Ended::Signal(11), false, "the program");
    assert_eq!((signal.kind, signal.signal), (FailureKind::Signal, Some(11)));
    assert!(signal.message.contains("SIGSEGV"), "{}", signal.message);
    assert_eq!(
        (Ended::from_raw(3 << 8), Ended::from_raw(11), Ended::from_raw(0x86)),
        (Ended::Exit(3), Ended::Signal(11), Ended::Signal(6))
    );
    assert_eq!(ended(Ended::Signal(34), false, "it").message, "it ended with signal 34");
    assert_eq!(ended(Ended::Signal(9), true, "the program").kind, FailureKind::OutOfMemory);
}

#[test]
fn texts_are_cut_between_characters() {
    assert_eq!(cut("aä".repeat(3), 5), "aäa");
    assert_eq!(failure(FailureKind::Load, "x".repeat(1 << 20)).message.len(), MAX_FAILURE_TEXT);
}
