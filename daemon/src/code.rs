//! A task's code: taken in as a tar, checked, named by its content, kept as a read-only image.
//!
//! ```text
//! tar (a spool file) --intake--> Tree --check--> Checked --image--> state-dir/code/VERSION.erofs
//! ```
//!
//! - [`tree`]: files, folders and links, normalised: no owners, no times, modes 0644 and 0755 only
//! - [`intake`]: a hostile tar to a [`tree::Tree`]
//! - [`check`]: the manifest in it, the entry that the manifest names, the content hash
//! - [`erofs`]: a tree as an EROFS image, the same bytes for the same tree; [`image`]: the way back
//! - [`images`]: images on disk
//!
//! Invariant: an image under its final name is whole, on disk and never changes.

pub mod check;
pub mod erofs;
pub mod image;
pub mod images;
pub mod intake;
pub mod tree;

#[cfg(test)]
mod tests;

use crate::manifest::{self, ManifestError};
use std::io;

/// Most files, folders and links of a task.
pub const MAX_ENTRIES: usize = 16_384;
/// Largest tar: the code and what the format adds.
pub const MAX_TAR: u64 = torpor_protocol::limits::MAX_CODE + (32 << 20);

/// Why code is refused, or could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// The bytes are no tar.
    #[error("the body is not a readable tar archive: {0}")]
    Tar(String),
    /// An image of another host that is none.
    #[error("the image of the code is damaged: {0}")]
    Image(String),
    /// An entry that may not be there.
    #[error("{path:?} in the task's folder: {why}")]
    Entry {
        /// Its path, as the archive names it.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// All files together.
    #[error(
        "the code is larger than {}, all files together; leave out what the program does not need",
        manifest::format_bytes(torpor_protocol::limits::MAX_CODE)
    )]
    TooLarge,
    /// Files, folders and links together.
    #[error("the code has more than {MAX_ENTRIES} files, folders and links; leave out what the program does not need")]
    TooMany,
    /// The folder has no manifest.
    #[error("no {} at the top of the task's folder", manifest::FILE)]
    NoManifest,
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What the manifest names as entry does not fit the folder.
    #[error("{message}")]
    Program {
        /// Line of `entry` in the manifest.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The disk.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl CodeError {
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }

    fn entry(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Entry { path: path.into(), why: why.into() }
    }
}
