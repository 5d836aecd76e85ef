//! Which pages a parked machine changed, and the chunks that hold them.
//!
//! The changed pages that are not zero, in order, are one stream; a chunk is [`CHUNK_PAGES`] pages of it, the last one what is left. So a chunk
//! may hold pages of many runs, and how many chunks there are follows from the runs.

use super::ParkedError;
use crate::memory::{MAX_MEMORY, PAGE};
use serde::{Deserialize, Serialize};

/// Most pages of a chunk.
pub(super) const CHUNK_PAGES: u64 = 16;
/// Most bytes of a chunk.
pub const CHUNK: usize = PAGE * 16;

/// Pages that lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Number of the first: its guest physical address by 4096.
    pub first: u64,
    /// How many.
    pub pages: u64,
}

impl Run {
    /// Its bytes in guest memory: where they begin, and how many there are.
    #[must_use]
    pub const fn extent(self) -> (u64, u64) {
        (self.first.saturating_mul(PAGE as u64), self.pages.saturating_mul(PAGE as u64))
    }
}

/// Runs as they are stored: pages that are left out since the last run, and pages of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs(Vec<(u32, u32)>);

impl Runs {
    pub(super) fn pack(runs: &[Run]) -> Option<Self> {
        let mut end = 0u64;
        let packed = runs.iter().map(|run| {
            let skip = u32::try_from(run.first.checked_sub(end)?).ok()?;
            end = run.first.checked_add(run.pages)?;
            Some((skip, u32::try_from(run.pages).ok()?))
        });
        packed.collect::<Option<_>>().map(Self)
    }

    /// The runs, and how many pages they have; `None` where one is empty or beyond `limit`.
    pub(super) fn unpack(&self, limit: u64) -> Option<(Vec<Run>, u64)> {
        let (mut end, mut total, mut runs) = (0u64, 0, Vec::with_capacity(self.0.len()));
        for (skip, pages) in &self.0 {
            let run = Run { first: end + u64::from(*skip), pages: u64::from(*pages) };
            end = run.first + run.pages;
            total += run.pages;
            if run.pages == 0 || end > limit {
                return None;
            }
            runs.push(run);
        }
        Some((runs, total))
    }
}

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Codec {
    /// As it is.
    Raw,
    /// As one LZ4 block.
    Lz4,
}

/// A chunk in the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chunk {
    pub(super) codec: Codec,
    /// Stored bytes.
    pub(super) len: u32,
    /// Of the stored bytes: [`chunk_hash`], or the tag of an encrypted chunk.
    pub(super) hash: u128,
}

/// XXH3 with 128 bits: it finds damage as surely as a cryptographic hash does and takes a tenth of the time. Against someone who makes a file up, no hash
/// that stands in the file helps.
pub(super) fn chunk_hash(stored: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(stored)
}

/// Pages of one chunk that lie side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) run: Run,
    /// Pages of the whole run that it was cut from.
    pub(super) of: u64,
}

/// Section `ParkedIndex`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    /// Bytes of the whole guest memory.
    pub(super) memory: u64,
    /// Pages that the chunks hold.
    pub(super) data: Runs,
    /// Pages that became zero.
    pub(super) zero: Runs,
    /// In the order of the data.
    pub(super) chunks: Vec<Chunk>,
}

/// An [`Index`] whose numbers fit each other.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) memory: u64,
    pub(super) data: Vec<Run>,
    pub(super) data_pages: u64,
    pub(super) zero: Vec<Run>,
    pub(super) zero_pages: u64,
    pub(super) chunks: Vec<Chunk>,
}

impl Index {
    /// Sees that the numbers fit each other and the data's length.
    pub(super) fn check(self, data_len: u64) -> Result<Checked, ParkedError> {
        if self.memory == 0 || self.memory > MAX_MEMORY || !self.memory.is_multiple_of(PAGE as u64) {
            return Err(ParkedError::Index("memory of an impossible size"));
        }
        let limit = self.memory / PAGE as u64;
        let beyond = ParkedError::Index("a run of pages is empty or beyond the memory");
        let (Some((data, data_pages)), Some((zero, zero_pages))) = (self.data.unpack(limit), self.zero.unpack(limit)) else {
            return Err(beyond);
        };
        if self.chunks.len() as u64 != data_pages.div_ceil(CHUNK_PAGES) {
            return Err(ParkedError::Index("the number of chunks is not that of the pages"));
        }
        let (mut left, mut stored) = (data_pages, 0);
        for chunk in &self.chunks {
            let pages = left.min(CHUNK_PAGES);
            left -= pages;
            let (len, full) = (u64::from(chunk.len), pages * PAGE as u64);
            let fits = match chunk.codec {
                Codec::Raw => len == full,
                Codec::Lz4 => len > 0 && len < full,
            };
            if !fits {
                return Err(ParkedError::Index("a chunk has an impossible length"));
            }
            stored += len;
        }
        if stored != data_len {
            return Err(ParkedError::Index("the chunks are not as long as the data"));
        }
        Ok(Checked { memory: self.memory, data, data_pages, zero, zero_pages, chunks: self.chunks })
    }
}

/// Cuts runs into the pieces of one chunk after the other.
pub(super) struct Cutter<'a> {
    runs: &'a [Run],
    /// Pages of the first run that are cut off already.
    done: u64,
}

impl<'a> Cutter<'a> {
    pub(super) const fn new(runs: &'a [Run]) -> Self {
        Self { runs, done: 0 }
    }

    /// The pieces of the next chunk, none at the end. Gives their pages.
    pub(super) fn next(&mut self, pieces: &mut Vec<Piece>) -> u64 {
        pieces.clear();
        let mut pages = 0;
        while let Some((run, rest)) = self.runs.split_first() {
            let cut = (run.pages - self.done).min(CHUNK_PAGES - pages);
            if cut > 0 {
                pieces.push(Piece { run: Run { first: run.first + self.done, pages: cut }, of: run.pages });
            }
            (self.done, pages) = (self.done + cut, pages + cut);
            if self.done == run.pages {
                (self.runs, self.done) = (rest, 0);
            }
            if pages == CHUNK_PAGES {
                break;
            }
        }
        pages
    }
}
