//! What a monitor that was taken over sends to the daemon, and what anybody sends to a monitor.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_protocol::monitor::{Command, Event, body_len, decode, encode};

fuzz_target!(|data: &[u8]| {
    if let Ok(command) = decode::<Command>(data) {
        assert_eq!(decode::<Command>(body(&encode(&command).expect("it was short enough before"))).expect("written by us"), command);
    }
    if let Ok(event) = decode::<Event>(data) {
        assert_eq!(decode::<Event>(body(&encode(&event).expect("it was short enough before"))).expect("written by us"), event);
    }
});

fn body(message: &[u8]) -> &[u8] {
    let (prefix, body) = message.split_first_chunk().expect("a length comes first");
    assert_eq!(body_len(*prefix).expect("written by us"), body.len());
    body
}
