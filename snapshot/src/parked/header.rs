//! The header page of a parked machine's file.

use super::seal::TAG;
use super::{MAX_SECTIONS_LEN, ParkedError};
use crate::memory::{MAX_MEMORY, PAGE};
use crate::{SnapshotError, io};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// First bytes of each parked machine's file.
pub const MAGIC: &[u8; 8] = b"TORPPARK";
/// Version of this layout and of what the sections hold. Count it up with each change of either.
pub const VERSION: u32 = 1;
/// Version of the same where all but the header is encrypted.
pub const SEALED_VERSION: u32 = 2;
/// Bytes of the header; the data begins behind it.
pub const HEADER: usize = PAGE;
const DATA_LEN: usize = 16;
const SECTIONS_LEN: usize = 24;
const SECTIONS_HASH: usize = 32;
const SECTIONS_TAG: usize = 64;
const HASH: usize = HEADER - 32;

/// What the header page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the data, which begin at [`HEADER`].
    pub(super) data_len: u64,
    /// Bytes of the section block, which follows the data.
    pub(super) sections_len: u64,
    /// The section block's.
    pub(super) sections_hash: [u8; 32],
    /// Where the file is encrypted: the section block's tag.
    pub(super) sealed: Option<[u8; TAG]>,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut page = [0; HEADER];
        page[..8].copy_from_slice(MAGIC);
        let version = if self.sealed.is_some() { SEALED_VERSION } else { VERSION };
        page[8..12].copy_from_slice(&version.to_le_bytes());
        page[DATA_LEN..DATA_LEN + 8].copy_from_slice(&self.data_len.to_le_bytes());
        page[SECTIONS_LEN..SECTIONS_LEN + 8].copy_from_slice(&self.sections_len.to_le_bytes());
        page[SECTIONS_HASH..SECTIONS_HASH + 32].copy_from_slice(&self.sections_hash);
        page[SECTIONS_TAG..SECTIONS_TAG + TAG].copy_from_slice(&self.sealed.unwrap_or_default());
        let hash = blake3::hash(&page[..HASH]);
        page[HASH..].copy_from_slice(hash.as_bytes());
        page
    }

    pub(super) fn parse(page: &[u8; HEADER]) -> Result<Self, ParkedError> {
        if page.iter().all(|byte| *byte == 0) {
            return Err(ParkedError::Unfinished);
        }
        if !page.starts_with(MAGIC) {
            return Err(ParkedError::Magic);
        }
        let found = u32::from_le_bytes(field(page, 8));
        if found != VERSION && found != SEALED_VERSION {
            return Err(ParkedError::Version { found, expected: VERSION });
        }
        if blake3::hash(&page[..HASH]) != field::<32>(page, HASH) {
            return Err(ParkedError::HeaderHash);
        }
        let header = Self {
            data_len: u64::from_le_bytes(field(page, DATA_LEN)),
            sections_len: u64::from_le_bytes(field(page, SECTIONS_LEN)),
            sections_hash: field(page, SECTIONS_HASH),
            sealed: (found == SEALED_VERSION).then(|| field(page, SECTIONS_TAG)),
        };
        if header.data_len > MAX_MEMORY || header.sections_len > MAX_SECTIONS_LEN {
            return Err(ParkedError::Index("the header records more than a machine can have"));
        }
        Ok(header)
    }

    /// Reads it, and sees that the file has all that it records.
    pub(super) fn read(file: &File) -> Result<Self, SnapshotError> {
        let found = file.metadata().map_err(io("reading the size of the parked machine's file"))?.len();
        if found < HEADER as u64 {
            return Err(ParkedError::Cut { found, expected: HEADER as u64 }.into());
        }
        let mut page = [0; HEADER];
        file.read_exact_at(&mut page, 0).map_err(io("reading the header of the parked machine"))?;
        let header = Self::parse(&page)?;
        let expected = header.file_len();
        if found < expected { Err(ParkedError::Cut { found, expected }.into()) } else { Ok(header) }
    }

    pub(super) const fn sections_offset(&self) -> u64 {
        HEADER as u64 + self.data_len
    }

    pub(super) const fn file_len(&self) -> u64 {
        self.sections_offset() + self.sections_len
    }
}

fn field<const N: usize>(page: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&page[at..at + N]);
    out
}
