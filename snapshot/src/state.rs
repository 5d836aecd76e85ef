//! The state file: a header and sections, each hashed.
//!
//! ```text
//! "TORPSNAP" | u32 version | u32 count | count x (u32 id, u64 length, 32 bytes blake3) | bodies in the same order
//! ```
//! All integers little-endian. The file ends with the last body.

use crate::{SnapshotError, io};
use serde::{Serialize, de::DeserializeOwned};
use std::fs::File;
use std::os::unix::fs::FileExt;
use zeroize::Zeroize;

/// First bytes of each state file.
pub const MAGIC: &[u8; 8] = b"TORPSNAP";
/// Version of this layout and of what the sections hold. Count it up with each change of either.
pub const VERSION: u32 = 1;
/// No section is larger.
pub const MAX_SECTION: u64 = 8 << 20;
const MAX_SECTIONS: u32 = 16;
const HEADER: usize = 16;
const ENTRY: usize = 44;

/// What a section holds. Two numbers differ in two bits at least: the table of sections has no hash of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionId {
    /// vCPU, interrupt controllers, clock and devices: the monitor's own.
    Machine = 1,
    /// [`crate::memory::Index`].
    MemoryIndex = 2,
    /// [`crate::parked::Origin`].
    Origin = 4,
    /// Which pages a parked machine changed, and where they are in its file.
    ParkedIndex = 7,
}

impl SectionId {
    const fn of(id: u32) -> Option<Self> {
        match id {
            1 => Some(Self::Machine),
            2 => Some(Self::MemoryIndex),
            4 => Some(Self::Origin),
            7 => Some(Self::ParkedIndex),
            _ => None,
        }
    }
}

/// The sections of a state file, in memory, which is wiped: they may be those of a machine that holds secrets.
#[derive(Debug, Default)]
pub struct Sections(Vec<(SectionId, Vec<u8>)>);

impl Drop for Sections {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|(_, body)| body.zeroize());
    }
}

impl Sections {
    /// Adds a section.
    pub fn add<T: Serialize>(&mut self, id: SectionId, value: &T) -> Result<(), SnapshotError> {
        self.0.push((id, postcard::to_stdvec(value)?));
        Ok(())
    }

    /// A section's value.
    pub fn decode<T: DeserializeOwned>(&self, id: SectionId) -> Result<T, SnapshotError> {
        Ok(postcard::from_bytes(self.encoded(id)?)?)
    }

    /// A section's bytes.
    pub fn encoded(&self, id: SectionId) -> Result<&[u8], SnapshotError> {
        let (_, body) = self.0.iter().find(|(i, _)| *i == id).ok_or(SnapshotError::Missing(id))?;
        Ok(body)
    }

    /// Adds a section of bytes that are encoded already.
    pub fn add_encoded(&mut self, id: SectionId, bytes: Vec<u8>) {
        self.0.push((id, bytes));
    }

    /// Writes the file and syncs it.
    pub fn write(&self, file: &File) -> Result<(), SnapshotError> {
        file.write_all_at(&self.encode()?, 0).map_err(io("writing the state file"))?;
        file.sync_all().map_err(io("syncing the state file"))
    }

    /// What [`Self::parse`] takes.
    pub fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let count = u32::try_from(self.0.len()).ok().filter(|n| *n <= MAX_SECTIONS).ok_or(SnapshotError::Damaged("too many sections"))?;
        let mut bytes = Vec::with_capacity(HEADER + self.0.len() * ENTRY);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        for (id, body) in &self.0 {
            let len = body.len() as u64;
            if len > MAX_SECTION {
                return Err(SnapshotError::Damaged("a section is too large"));
            }
            bytes.extend_from_slice(&(*id as u32).to_le_bytes());
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(blake3::hash(body).as_bytes());
        }
        for (_, body) in &self.0 {
            bytes.extend_from_slice(body);
        }
        Ok(bytes)
    }

    /// Reads a file and checks all of it.
    pub fn read(file: &File) -> Result<Self, SnapshotError> {
        let size = file.metadata().map_err(io("reading the state file's size"))?.len();
        if size > u64::from(MAX_SECTIONS) * (MAX_SECTION + ENTRY as u64) {
            return Err(SnapshotError::Damaged("the state file is too large"));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| SnapshotError::Damaged("the state file is too large"))?];
        file.read_exact_at(&mut bytes, 0).map_err(io("reading the state file"))?;
        Self::parse(&bytes)
    }

    /// The same from bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, SnapshotError> {
        const CUT: SnapshotError = SnapshotError::Damaged("the state file is cut off");
        let mut rest = bytes.strip_prefix(MAGIC).ok_or(SnapshotError::Magic)?;
        let found = u32::from_le_bytes(take(&mut rest).ok_or(CUT)?);
        if found != VERSION {
            return Err(SnapshotError::Version { found, expected: VERSION });
        }
        let count = u32::from_le_bytes(take(&mut rest).ok_or(CUT)?);
        if count > MAX_SECTIONS {
            return Err(SnapshotError::Damaged("too many sections"));
        }
        let mut table = Vec::new();
        for _ in 0..count {
            let id = u32::from_le_bytes(take(&mut rest).ok_or(CUT)?);
            let len = u64::from_le_bytes(take(&mut rest).ok_or(CUT)?);
            let hash: [u8; 32] = take(&mut rest).ok_or(CUT)?;
            let id = SectionId::of(id).ok_or(SnapshotError::Damaged("a section of unknown kind"))?;
            if len > MAX_SECTION || table.iter().any(|(i, _, _)| *i == id) {
                return Err(SnapshotError::Damaged("a section is too large or there twice"));
            }
            table.push((id, len, hash));
        }
        let mut sections = Vec::new();
        for (id, len, hash) in table {
            let (body, after) = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len)).ok_or(CUT)?;
            if blake3::hash(body) != hash {
                return Err(SnapshotError::SectionHash(id));
            }
            sections.push((id, body.to_vec()));
            rest = after;
        }
        if rest.is_empty() { Ok(Self(sections)) } else { Err(SnapshotError::Damaged("bytes after the last section")) }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*head)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let file = tempfile::tempfile().unwrap();
        let mut sections = Sections::default();
        sections.add(SectionId::Machine, &vec![1u8, 2, 3]).unwrap();
        sections.add(SectionId::MemoryIndex, &"index").unwrap();
        sections.write(&file).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let sections = Sections::parse(&sample()).unwrap();
        assert_eq!(sections.decode::<Vec<u8>>(SectionId::Machine).unwrap(), [1, 2, 3]);
        assert_eq!(sections.decode::<String>(SectionId::MemoryIndex).unwrap(), "index");
    }

    #[test]
    fn each_changed_byte_and_each_cut_is_noticed() {
        let good = sample();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Sections::parse(&bad).is_err(), "byte {at} changed unnoticed");
            assert!(Sections::parse(&good[..at]).is_err(), "cut at {at} unnoticed");
        }
        let mut longer = good;
        longer.push(0);
        assert!(Sections::parse(&longer).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_taken(mut bytes in prop::collection::vec(any::<u8>(), 0..200), real in any::<bool>()) {
            if real {
                let mut head = MAGIC.to_vec();
                head.extend_from_slice(&VERSION.to_le_bytes());
                head.append(&mut bytes);
                bytes = head;
            }
            let _ = Sections::parse(&bytes);
        }
    }
}
