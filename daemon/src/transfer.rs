//! A parked execution on its way to another host, as one file.
//!
//! ```text
//! source: parked --held--> everything but the trailer is sent --> `moved` is durable --> trailer
//!            ^                         |
//!            +-- the client went away -+
//! target: whole file, trailer too --> checked --> code, template, machine, log on disk --> one commit: parked here
//! ```
//! - [`container`]: sections with hashes, and the trailer
//! - [`content`]: what the sections hold
//! - [`export`]: from a host to a file; [`import`]: from a file to a host
//!
//! Invariants: an execution is whole in a file only after its source has given it up for good, so it never runs on two hosts; a file without its trailer, or with one byte
//! changed, is refused, and nothing of it is kept; what a refused file brought is gone.

pub mod container;
pub mod content;
pub mod export;
pub mod import;

pub use container::TransferError;

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// A place of a file as a reader. The file's own offset, which others may share, stays where it is.
struct Place<'a> {
    file: &'a File,
    at: Range<u64>,
}

impl Read for Place<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.at.end.saturating_sub(self.at.start)).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..left], self.at.start)?;
        self.at.start += read as u64;
        Ok(read)
    }
}
