//! What a hostile guest sends to the daemon: a stream cut anywhere, and one frame in a box of the door.
//!
//! The first byte says how the stream is cut. The same frames must come out however it is, and a message that was taken must be written
//! as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_protocol::agent::{GuestMessage, HostMessage};
use torpor_protocol::frame::{Decoder, Frame};

fuzz_target!(|data: &[u8]| {
    let Some((cut, stream)) = data.split_first() else { return };
    let pieces = frames(stream.chunks(usize::from(*cut).max(1)));
    assert_eq!(pieces, frames(std::iter::once(stream)));
    for frame in pieces.into_iter().chain(Frame::decode_exact(stream)) {
        if let Ok(message) = GuestMessage::from_frame(frame.clone()) {
            let again = message.to_frame().expect("a message that was read can be written");
            assert_eq!(GuestMessage::from_frame(again).expect("and read again"), message);
        }
        if let Ok(message) = HostMessage::from_frame(frame) {
            let again = message.to_frame().expect("a message that was read can be written");
            assert_eq!(HostMessage::from_frame(again).expect("and read again"), message);
        }
    }
});

fn frames<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Frame> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}
