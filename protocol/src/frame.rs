//! The envelope of every message between guest and daemon: `u32 body length, u8 kind, 3 zero bytes, body`, little-endian.
//!
//! The same bytes travel over vsock (a stream of frames) and through the door (one frame in a box), so neither side's messages
//! depend on the transport.

use crate::limits::MAX_FRAME_BODY;

/// Bytes before the body.
pub const HEADER_LEN: usize = 8;

/// A whole frame: what it is, and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Message kind, see [`crate::agent`].
    pub kind: u8,
    /// At most [`MAX_FRAME_BODY`] bytes.
    pub body: Vec<u8>,
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The header announces more than is allowed.
    #[error("frame of {len} bytes announced, at most {MAX_FRAME_BODY} allowed")]
    TooLong {
        /// Announced body length.
        len: usize,
    },
    /// The reserved bytes of the header are not zero.
    #[error("reserved header bytes are not zero")]
    Reserved,
    /// A box held less or more than one frame.
    #[error("box of {have} bytes holds a frame of {want}")]
    Length {
        /// Bytes given.
        have: usize,
        /// Bytes that the header announces, itself included; [`HEADER_LEN`] where not even that is there.
        want: usize,
    },
}

fn header(bytes: &[u8; HEADER_LEN]) -> Result<(usize, u8), FrameError> {
    let [a, b, c, d, kind, r0, r1, r2] = *bytes;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MAX_FRAME_BODY {
        return Err(FrameError::TooLong { len });
    }
    if [r0, r1, r2] != [0; 3] {
        return Err(FrameError::Reserved);
    }
    Ok((len, kind))
}

impl Frame {
    /// The frame as bytes. Fails only for a body over [`MAX_FRAME_BODY`].
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let len = self.body.len();
        let short = u32::try_from(len).map_err(|_| FrameError::TooLong { len })?;
        if len > MAX_FRAME_BODY {
            return Err(FrameError::TooLong { len });
        }
        let mut out = Vec::with_capacity(HEADER_LEN + len);
        out.extend_from_slice(&short.to_le_bytes());
        out.extend_from_slice(&[self.kind, 0, 0, 0]);
        out.extend_from_slice(&self.body);
        Ok(out)
    }

    /// Exactly one frame, as a box of the door holds it.
    pub fn decode_exact(bytes: &[u8]) -> Result<Self, FrameError> {
        let (head, body) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(FrameError::Length { have: bytes.len(), want: HEADER_LEN })?;
        let (len, kind) = header(head)?;
        if body.len() != len {
            return Err(FrameError::Length { have: bytes.len(), want: HEADER_LEN + len });
        }
        Ok(Self { kind, body: body.to_vec() })
    }
}

/// Cuts a byte stream into frames. Holds at most one unfinished frame and what one `push` brought.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    at: usize,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// What was pushed and is no whole frame yet.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// The next whole frame; `None` until more bytes come. After an error the stream can't be used any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let rest = &self.buffer[self.at..];
        let Some((head, body)) = rest.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (len, kind) = header(head)?;
        let Some(body) = body.get(..len) else { return Ok(None) };
        let frame = Frame { kind, body: body.to_vec() };
        self.at += HEADER_LEN + len;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..8), cut in 1usize..50) {
            let frames: Vec<Frame> = bodies.into_iter().map(|(kind, body)| Frame { kind, body }).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode().unwrap()).collect();
            let (mut decoder, mut got) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
        }

        #[test]
        fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut decoder = Decoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame() {}
            let _ = Frame::decode_exact(&bytes);
        }
    }

    #[test]
    fn lengths_are_checked_before_use() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        assert_eq!(Frame::decode_exact(&bytes), Err(FrameError::TooLong { len: u32::MAX as usize }));
        assert_eq!(Frame::decode_exact(&[1, 0, 0, 0, 9, 0, 0, 0]), Err(FrameError::Length { have: 8, want: 9 }));
        assert_eq!(Frame::decode_exact(&[0, 0, 0, 0, 9, 0, 1, 0]), Err(FrameError::Reserved));
    }
}
