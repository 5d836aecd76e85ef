//! Encryption of a parked machine's file: ChaCha20-Poly1305 over each chunk and over the section block.
//!
//! Nonces are numbers: of a chunk its own, so that chunks can't change places; of the section block one that no chunk has. So a key is good for one file,
//! and whoever makes keys makes a new one each time. A chunk's tag stands in the index, which is in the section block, whose tag stands in the header.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce, Tag};
use std::fmt;
use zeroize::Zeroizing;

/// Bytes of a tag.
pub(super) const TAG: usize = 16;

/// What the key of a file is: random, of this file only, and wiped when it is dropped.
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// From random bytes.
    #[must_use]
    pub fn new(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey")
    }
}

/// Bytes that were not encrypted with this key, or not as this part of the file.
#[derive(Debug)]
pub(super) struct Forged;

/// Encrypts and decrypts the parts of one file.
pub(super) struct Sealer(ChaCha20Poly1305);

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// A chunk, by its number.
    Chunk(u64),
    /// The section block; with it the length of the data.
    Sections(u64),
}

impl Part {
    fn nonce(self) -> Nonce {
        let (kind, number) = match self {
            Self::Chunk(number) => (1u32, number),
            Self::Sections(_) => (2, 0),
        };
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&kind.to_le_bytes());
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        nonce.into()
    }

    const fn bound(self) -> [u8; 8] {
        match self {
            Self::Chunk(_) => [0; 8],
            Self::Sections(data_len) => data_len.to_le_bytes(),
        }
    }
}

impl Sealer {
    pub(super) fn new(key: &SealKey) -> Self {
        Self(ChaCha20Poly1305::new((&*key.0).into()))
    }

    /// Encrypts `plain` into `out`, which is as long. The tag.
    pub(super) fn seal(&self, part: Part, plain: &[u8], out: &mut [u8]) -> Option<[u8; TAG]> {
        let buffer = InOutBuf::new(plain, out).ok()?;
        Some(self.0.encrypt_inout_detached(&part.nonce(), &part.bound(), buffer).ok()?.into())
    }

    /// Decrypts in place.
    pub(super) fn open(&self, part: Part, bytes: &mut [u8], tag: [u8; TAG]) -> Result<(), Forged> {
        let opened = self.0.decrypt_inout_detached(&part.nonce(), &part.bound(), bytes.into(), &Tag::from(tag));
        opened.map_err(|_| Forged)
    }
}
