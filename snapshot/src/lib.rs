//! What a snapshot is on disk, and how it is checked.
//!
//! A snapshot is two files:
//!
//! - **state** ([`state`]): magic, format version, and sections, each with its length and blake3 hash;
//! - **memory** ([`memory`]): guest memory, byte for byte at its guest physical address, sparse where it is zero, so that a monitor can
//!   map it privately. Its [`memory::Index`] (a hash per block) is a section of the state file.
//!
//! A parked machine is one file ([`parked`]): what the machine changed in the template that it stems from, and the state that it stopped in.
//!
//! Snapshots may come damaged or from someone else: everything is bounded and hashed before it is used, and nothing here knows KVM.
#![forbid(unsafe_code)]

pub mod memory;
pub mod parked;
pub mod state;

use std::fs::File;
use std::io;

/// Why a snapshot is refused or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading or writing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// Not a snapshot at all.
    #[error("this is not a snapshot: its first bytes are not those of a state file")]
    Magic,
    /// A snapshot of another format version.
    #[error("snapshot of format version {found}, this build reads version {expected}: make the template anew")]
    Version {
        /// In the file.
        found: u32,
        /// [`state::VERSION`].
        expected: u32,
    },
    /// Lengths or counts that can't be.
    #[error("damaged snapshot: {0}")]
    Damaged(&'static str),
    /// A section's bytes are not those that were written.
    #[error("damaged snapshot: section {0:?} does not have the recorded hash")]
    SectionHash(state::SectionId),
    /// A section is not there.
    #[error("snapshot without section {0:?}")]
    Missing(state::SectionId),
    /// A block of memory is not what was written.
    #[error("damaged snapshot: memory at {offset:#x} does not have the recorded hash")]
    MemoryHash {
        /// Where the block starts.
        offset: u64,
    },
    /// The memory file has another size than recorded.
    #[error("damaged snapshot: memory file of {found} bytes, {expected} recorded")]
    MemorySize {
        /// Of the file.
        found: u64,
        /// Recorded.
        expected: u64,
    },
    /// A file of a parked machine that is not.
    #[error(transparent)]
    Parked(#[from] parked::ParkedError),
    /// A section does not parse.
    #[error("damaged snapshot: {0}")]
    Body(#[from] postcard::Error),
}

pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> SnapshotError {
    move |source| SnapshotError::Io { what, source }
}

/// Checks a whole snapshot: every section of `state` and every block of `memory`. Reads all of both; do it once, before first use.
pub fn verify(state: &File, memory: &File) -> Result<(), SnapshotError> {
    let sections = state::Sections::read(state)?;
    let index: memory::Index = sections.decode(state::SectionId::MemoryIndex)?;
    index.verify(memory)
}
