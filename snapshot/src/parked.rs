//! The file of a parked machine: what it changed in its template, and the state that it stopped in. Always one difference to one template.
//!
//! ```text
//! 0     header, 4 KiB: "TORPPARK" | u32 version | u32 0 | u64 bytes of data | u64 bytes of sections | blake3 of the section block | zeros | blake3 of
//!       all bytes of the header before
//! 4096  data: chunks of up to 64 KiB of changed pages, each as it is or one LZ4 block
//! then  section block, as in a state file: Machine, Origin, ParkedIndex (the changed pages; codec, length and XXH3 hash of each chunk)
//! ```
//! Version 1 is as it is here; in version 2 ([`seal`]) chunks and section block are encrypted, a chunk's hash is its tag, and the header has the section
//! block's tag behind its hash, which is that of the encrypted block. All integers little-endian. The file may be longer: what follows the section block is no part of it, so that a file can be written over, which
//! costs a disk much less than a new one. The header's hash covers all else by way of the hashes that it leads to.

mod header;
mod index;
mod origin;
mod seal;
#[cfg(test)]
mod tests;
mod write;

pub use header::{HEADER, MAGIC, SEALED_VERSION, VERSION};
pub use index::{CHUNK, Run};
pub use origin::Origin;
pub use seal::SealKey;
pub use write::{Contents, Still, Written, retire, write};

use crate::memory::{Aligned, PAGE};
use crate::state::{MAX_SECTION, SectionId, Sections};
use crate::{SnapshotError, io};
use header::Header;
use index::{Checked, Codec, Cutter, Index, Piece, chunk_hash};
use seal::{Part, Sealer};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::unix::fs::FileExt;
use zeroize::{Zeroize, Zeroizing};

/// A run of fewer pages is copied: that is faster than to map it.
const MAPPED_PAGES: u64 = 8;
/// No section block is larger.
pub const MAX_SECTIONS_LEN: u64 = 3 * MAX_SECTION;

/// How memory is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    None,
    /// Compressed where a sample of it says that this takes less time.
    Fast,
    /// Compressed wherever it gets smaller.
    Small,
}

/// Why a file is not a parked machine, or not a sound one.
#[derive(Debug, thiserror::Error)]
pub enum ParkedError {
    /// Something else.
    #[error("this is not a parked machine: its first bytes are not those of one")]
    Magic,
    /// Writing it has begun and not ended, or the file was given free.
    #[error("this parked machine was never finished: its header is empty")]
    Unfinished,
    /// A machine that was resumed from it lives and reads from it, or it is being written.
    #[error("this parked machine's file is in use: a machine that was resumed from it lives, or it is being written")]
    InUse,
    /// One of another format version.
    #[error("parked machine of format version {found}, this build reads versions {expected} and {SEALED_VERSION}")]
    Version {
        /// In the file.
        found: u32,
        /// [`VERSION`].
        expected: u32,
    },
    /// The header is not what was written.
    #[error("damaged parked machine: its header does not have the recorded hash")]
    HeaderHash,
    /// The section block is not what was written, or is that of another one.
    #[error("damaged parked machine: its sections do not have the hash that the header records")]
    SectionsHash,
    /// The file ends too early.
    #[error("damaged parked machine: cut off at {found} of {expected} bytes")]
    Cut {
        /// Bytes of the file.
        found: u64,
        /// Bytes that it should have at least.
        expected: u64,
    },
    /// It is encrypted, and there is no key.
    #[error("this parked machine is encrypted, and its key is not there")]
    NoKey,
    /// It has a key, so it must have been encrypted.
    #[error("this parked machine is not encrypted as it must be: was its file exchanged?")]
    NotSealed,
    /// The key is another one's.
    #[error("this parked machine is encrypted with another key")]
    WrongKey,
    /// Numbers that can't be.
    #[error("damaged parked machine: {0}")]
    Index(&'static str),
    /// A chunk is not what was written.
    #[error("damaged parked machine: chunk {number} at {offset:#x} of the file does not have the recorded hash")]
    ChunkHash {
        /// Which, counted from 0.
        number: u64,
        /// Where it is in the file.
        offset: u64,
    },
    /// A chunk has its hash, but does not unpack to its pages.
    #[error("damaged parked machine: chunk {number} at {offset:#x} of the file does not unpack to its pages")]
    Unpack {
        /// Which, counted from 0.
        number: u64,
        /// Where it is in the file.
        offset: u64,
    },
}

/// Memory that a parked machine is laid over.
pub trait Target {
    /// The bytes of a run; `None` where it is not in memory.
    fn pages(&mut self, run: Run) -> Option<&mut [u8]>;

    /// Puts checked bytes of the file in place of a run, so that they need not be copied. `false`: they are copied.
    fn map(&mut self, _file: &File, _offset: u64, _run: Run) -> bool {
        false
    }

    /// Puts zeros in place of a run, so that they need not be written. `false`: they are written.
    fn map_zeros(&mut self, _run: Run) -> bool {
        false
    }
}

/// A parked machine whose header and sections are sound.
#[derive(Debug)]
pub struct Parked {
    header: Header,
    sections: Sections,
    index: Checked,
    sealer: Option<Sealer>,
}

/// Pages of a machine that is encrypted on disk do not stay in memory.
struct Buffer {
    bytes: Aligned,
    wipe: bool,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.wipe {
            self.bytes.bytes().zeroize();
        }
    }
}

impl Parked {
    /// Reads header and sections and checks them. The memory is checked by [`Self::verify`] or while it is laid over.
    pub fn read(file: &File) -> Result<Self, SnapshotError> {
        Self::open(file, None)
    }

    /// The same for a file that was encrypted, where there is a key: one that was not is refused then.
    pub fn open(file: &File, key: Option<&SealKey>) -> Result<Self, SnapshotError> {
        let header = Header::read(file)?;
        let sealer = match (header.sealed, key) {
            (None, None) => None,
            (Some(_), Some(key)) => Some(Sealer::new(key)),
            (Some(_), None) => return Err(ParkedError::NoKey.into()),
            (None, Some(_)) => return Err(ParkedError::NotSealed.into()),
        };
        let len = usize::try_from(header.sections_len).map_err(|_| ParkedError::Index("the sections are too large"))?;
        let mut block = Zeroizing::new(vec![0; len]);
        file.read_exact_at(&mut block, header.sections_offset()).map_err(io("reading the sections of the parked machine"))?;
        if blake3::hash(&block) != header.sections_hash {
            return Err(ParkedError::SectionsHash.into());
        }
        if let (Some(sealer), Some(tag)) = (&sealer, header.sealed) {
            sealer.open(Part::Sections(header.data_len), &mut block, tag).map_err(|_| ParkedError::WrongKey)?;
        }
        let sections = Sections::parse(&block)?;
        for needed in [SectionId::Machine, SectionId::Origin] {
            sections.encoded(needed)?;
        }
        let index: Index = sections.decode(SectionId::ParkedIndex)?;
        Ok(Self { header, index: index.check(header.data_len)?, sections, sealer })
    }

    /// What the machine needs of a host.
    pub fn origin(&self) -> Result<Origin, SnapshotError> {
        self.sections.decode(SectionId::Origin)
    }

    /// Section [`SectionId::Machine`].
    pub fn machine<M: DeserializeOwned>(&self) -> Result<M, SnapshotError> {
        self.sections.decode(SectionId::Machine)
    }

    /// Bytes of the whole guest memory.
    #[must_use]
    pub const fn memory(&self) -> u64 {
        self.index.memory
    }

    /// Bytes of pages that differ from the template.
    #[must_use]
    pub const fn changed_bytes(&self) -> u64 {
        (self.index.data_pages + self.index.zero_pages) * PAGE as u64
    }

    /// Bytes of the file that count. What follows them is no part of the parked machine, and need not be copied with it.
    #[must_use]
    pub const fn stored_bytes(&self) -> u64 {
        self.header.file_len()
    }

    /// Reads and checks all chunks.
    pub fn verify(&self, file: &File) -> Result<(), SnapshotError> {
        self.each_chunk(file, |_| Ok(()))
    }

    /// Checks all chunks and lays the changed pages over the template's memory. Where this fails, some of them are laid over, and the memory must not be used.
    pub fn lay_over(&self, file: &File, target: &mut impl Target) -> Result<(), SnapshotError> {
        let beyond = || ParkedError::Index("a run of pages is empty or beyond the memory");
        let copy = |target: &mut _, run: Run, bytes: &[u8]| {
            let to = Target::pages(target, run).filter(|to| to.len() == bytes.len()).ok_or_else(beyond)?;
            to.copy_from_slice(bytes);
            Ok::<_, SnapshotError>(())
        };
        // What can be mapped, put together as far as it lies side by side in memory and file.
        let mut waiting: Option<(Run, u64)> = None;
        let mut maps = Vec::new();
        self.each_chunk(file, |chunk| {
            let mut rest = chunk.bytes;
            for piece in chunk.pieces {
                let len = usize::try_from(piece.run.extent().1).unwrap_or(usize::MAX);
                let (bytes, after) = rest.split_at_checked(len).ok_or_else(beyond)?;
                let offset = chunk.raw_at.map(|at| at + (chunk.bytes.len() - rest.len()) as u64);
                rest = after;
                match offset.filter(|offset| piece.of >= MAPPED_PAGES && offset.is_multiple_of(PAGE as u64)) {
                    None => copy(target, piece.run, bytes)?,
                    Some(offset) => match &mut waiting {
                        Some((run, at)) if run.first + run.pages == piece.run.first && *at + run.extent().1 == offset => {
                            run.pages += piece.run.pages;
                        }
                        _ => maps.extend(waiting.replace((piece.run, offset))),
                    },
                }
            }
            Ok(())
        })?;
        maps.extend(waiting);
        for (run, offset) in maps {
            if !target.map(file, offset, run) {
                let to = target.pages(run).ok_or_else(beyond)?;
                file.read_exact_at(to, offset).map_err(io("reading the memory of the parked machine"))?;
            }
        }
        for run in &self.index.zero {
            if run.pages < MAPPED_PAGES || !target.map_zeros(*run) {
                target.pages(*run).ok_or_else(beyond)?.fill(0);
            }
        }
        Ok(())
    }

    /// Calls `f` with each chunk once it is checked.
    fn each_chunk(&self, file: &File, mut f: impl FnMut(Unpacked<'_>) -> Result<(), SnapshotError>) -> Result<(), SnapshotError> {
        let buffer = || Buffer { bytes: Aligned::new(CHUNK), wipe: self.sealer.is_some() };
        let (mut stored, mut unpacked) = (buffer(), buffer());
        let (mut cutter, mut pieces, mut offset) = (Cutter::new(&self.index.data), Vec::new(), HEADER as u64);
        for (number, chunk) in (0..).zip(&self.index.chunks) {
            let full = usize::try_from(cutter.next(&mut pieces)).unwrap_or(0) * PAGE;
            let len = usize::try_from(chunk.len).ok().filter(|len| *len <= full && full <= CHUNK);
            let len = len.ok_or(ParkedError::Index("a chunk has an impossible length"))?;
            let bytes = &mut stored.bytes.bytes()[..len];
            file.read_exact_at(bytes, offset).map_err(io("reading the memory of the parked machine"))?;
            let sound = match &self.sealer {
                Some(sealer) => sealer.open(Part::Chunk(number), bytes, chunk.hash.to_le_bytes()).is_ok(),
                None => chunk_hash(bytes) == chunk.hash,
            };
            if !sound {
                return Err(ParkedError::ChunkHash { number, offset }.into());
            }
            match chunk.codec {
                Codec::Raw => f(Unpacked { pieces: &pieces, bytes, raw_at: self.sealer.is_none().then_some(offset) })?,
                Codec::Lz4 => {
                    let out = &mut unpacked.bytes.bytes()[..full];
                    if !matches!(lz4_flex::block::decompress_into(bytes, out), Ok(got) if got == full) {
                        return Err(ParkedError::Unpack { number, offset }.into());
                    }
                    f(Unpacked { pieces: &pieces, bytes: out, raw_at: None })?;
                }
            }
            offset += len as u64;
        }
        Ok(())
    }
}

/// A chunk that is checked.
struct Unpacked<'a> {
    pieces: &'a [Piece],
    bytes: &'a [u8],
    /// Where these very bytes are in the file.
    raw_at: Option<u64>,
}
