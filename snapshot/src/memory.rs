//! The memory file and its index.
//!
//! Memory is looked at in blocks of [`BLOCK`] bytes. A block of zeros is not written (the file is sparse there) and has no hash; each other
//! block has one. Writing and hashing is one pass over a reader of guest memory.

use crate::{SnapshotError, io};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes of a block: large enough to hash fast, small enough to leave most zeros out.
pub const BLOCK: usize = 64 << 10;
/// No memory is larger.
pub const MAX_MEMORY: u64 = 4 << 30;
pub(crate) const PAGE: usize = 4096;

/// What the memory file must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Size of the memory and of the file.
    pub size: u64,
    /// Hash of each block; `None` for zeros.
    pub blocks: Vec<Option<[u8; 32]>>,
    /// Bytes of pages that are not zero.
    pub written: u64,
}

impl Index {
    /// Writes memory of `size` bytes to an empty file. `read(offset, buffer)` gives a block's bytes.
    pub fn write(file: &File, size: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<(), SnapshotError>) -> Result<Self, SnapshotError> {
        let count = block_count(size)?;
        file.set_len(size).map_err(io("sizing the memory file"))?;
        let mut index = Self { size, blocks: Vec::with_capacity(count), written: 0 };
        let mut buffer = vec![0u8; BLOCK];
        for block in 0..count {
            let (offset, block) = extent(size, block, &mut buffer);
            read(offset, block)?;
            if is_zero(block) {
                index.blocks.push(None);
                continue;
            }
            index.blocks.push(Some(*blake3::hash(block).as_bytes()));
            index.written += write_pages(file, offset, block)?;
        }
        file.sync_all().map_err(io("syncing the memory file"))?;
        Ok(index)
    }

    /// Checks a memory file against this index.
    pub fn verify(&self, file: &File) -> Result<(), SnapshotError> {
        let found = file.metadata().map_err(io("reading the memory file's size"))?.len();
        if found != self.size {
            return Err(SnapshotError::MemorySize { found, expected: self.size });
        }
        if self.blocks.len() != block_count(self.size)? {
            return Err(SnapshotError::Damaged("the memory index has the wrong number of blocks"));
        }
        let mut buffer = Aligned::new(BLOCK);
        let buffer = buffer.bytes();
        for (number, want) in self.blocks.iter().enumerate() {
            let (offset, block) = extent(self.size, number, buffer);
            file.read_exact_at(block, offset).map_err(io("reading the memory file"))?;
            let good = match want {
                Some(hash) => blake3::hash(block) == *hash,
                None => is_zero(block),
            };
            if !good {
                return Err(SnapshotError::MemoryHash { offset });
            }
        }
        Ok(())
    }
}

/// Bytes on a page boundary: the kernel copies to others several times slower.
pub(crate) struct Aligned {
    bytes: Vec<u8>,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Self {
        Self { bytes: vec![0; len + PAGE], len }
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let at = self.bytes.as_ptr().align_offset(PAGE).min(PAGE);
        &mut self.bytes[at..at + self.len]
    }
}

fn block_count(size: u64) -> Result<usize, SnapshotError> {
    if size == 0 || size > MAX_MEMORY || !size.is_multiple_of(PAGE as u64) {
        return Err(SnapshotError::Damaged("memory of an impossible size"));
    }
    usize::try_from(size.div_ceil(BLOCK as u64)).map_err(|_| SnapshotError::Damaged("memory of an impossible size"))
}

fn extent(size: u64, block: usize, buffer: &mut [u8]) -> (u64, &mut [u8]) {
    let offset = block as u64 * BLOCK as u64;
    let len = usize::try_from(size.saturating_sub(offset)).unwrap_or(BLOCK).min(BLOCK);
    (offset, &mut buffer[..len])
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Writes the runs of pages that are not zero.
fn write_pages(file: &File, offset: u64, block: &[u8]) -> Result<u64, SnapshotError> {
    let mut written = 0;
    let mut run: Option<(usize, usize)> = None;
    let mut flush = |run: Option<(usize, usize)>| -> Result<(), SnapshotError> {
        let Some((from, to)) = run else { return Ok(()) };
        written += (to - from) as u64;
        file.write_all_at(&block[from..to], offset + from as u64).map_err(io("writing the memory file"))
    };
    for (number, page) in block.chunks(PAGE).enumerate() {
        let at = number * PAGE;
        run = match (run, is_zero(page)) {
            (Some((from, _)), false) => Some((from, at + page.len())),
            (None, false) => Some((at, at + page.len())),
            (run, true) => {
                flush(run)?;
                None
            }
        };
    }
    flush(run)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn memory_is_sparse_and_checked() {
        let size = (BLOCK * 40 + PAGE * 3) as u64;
        let mut memory = vec![0u8; size as usize];
        memory[5] = 1;
        memory[BLOCK * 20 + PAGE * 2..BLOCK * 20 + PAGE * 4].fill(7);
        *memory.last_mut().unwrap() = 9;
        let file = tempfile::tempfile().unwrap();
        let index = Index::write(&file, size, |offset, out| {
            out.copy_from_slice(&memory[offset as usize..offset as usize + out.len()]);
            Ok(())
        })
        .unwrap();
        assert_eq!((index.written, index.blocks.iter().flatten().count()), (4 * PAGE as u64, 3));
        assert!(file.metadata().unwrap().blocks() * 512 <= 8 * PAGE as u64, "the file is not sparse");
        index.verify(&file).unwrap();
        for at in [0u64, (BLOCK * 3) as u64, size - 1] {
            file.write_all_at(&[0x55], at).unwrap();
            assert!(matches!(index.verify(&file), Err(SnapshotError::MemoryHash { .. })), "a change at {at} unnoticed");
            file.write_all_at(&memory[at as usize..=at as usize], at).unwrap();
        }
        file.set_len(size - PAGE as u64).unwrap();
        assert!(matches!(index.verify(&file), Err(SnapshotError::MemorySize { .. })));
    }
}
