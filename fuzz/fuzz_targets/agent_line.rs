//! What a program writes to the agent's socket in its guest: refused on one line of JSON, or an ask that the host takes as it is, with an input that is JSON
//! and stays the same on one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use torpor_protocol::agent::GuestMessage;
use torpor_protocol::ask::{AGENT_SEQ, Ask, What};

/// The agent is a program, and nothing to link with.
#[allow(dead_code)]
#[path = "../../guest-agent/src/request.rs"]
mod request;

fuzz_target!(|data: &[u8]| {
    let (what, input) = match request::parse(data) {
        Ok(asked) => asked,
        Err(wrong) => {
            let line = request::refused(&wrong);
            let said: Value = serde_json::from_slice(&line).expect("a refusal is JSON");
            assert!(said["error"]["kind"].is_string() && said["error"]["message"].is_string() && !line.contains(&b'\n'));
            return;
        }
    };
    if matches!(what, What::Call { .. } | What::Spawn { .. }) {
        let line: Vec<u8> = request::one_line(input).collect();
        assert!(!line.contains(&b'\n') && !line.contains(&b'\r'));
        // What is nested deeper than serde reads is handed on all the same.
        if let Ok(value) = serde_json::from_slice::<Value>(input) {
            assert_eq!(serde_json::from_slice::<Value>(&line).expect("it was JSON before"), value);
        }
    }
    let message = GuestMessage::Ask { ask: Ask { seq: AGENT_SEQ, standing: false, what }, payload: input.to_vec() };
    let frame = message.to_frame().expect("what was taken can be sent");
    assert_eq!(GuestMessage::from_frame(frame).expect("and is taken by the host"), message);
});
