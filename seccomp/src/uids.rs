//! User ids for VMs: each live one has its own.
//!
//! A range is cut into blocks. A process takes whole blocks, by locks on a file that all of this host see, and gives out their ids one by one.
//! Invariant: an id is leased at most once at a time, by all processes of the host together; the locks go with the process, whatever ends it.

use crate::error::LaunchError;
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where processes of one host say which ids are theirs.
pub const LOCK: &str = "/run/torpor/vm-uids";
/// Ids of one block.
const BLOCK: u32 = 64;
#[expect(clippy::cast_possible_truncation, reason = "it is 1")]
const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
#[expect(clippy::cast_possible_truncation, reason = "it is 0")]
const FROM_START: libc::c_short = libc::SEEK_SET as libc::c_short;

/// Ids from `first` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// Away from the ids of people, services, containers and `/etc/subuid`.
    pub const DEFAULT: Self = Self { first: 2_000_000_000, count: 65_536 };
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('+').and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
        let (first, count) = parsed.ok_or("a range of ids is FIRST+COUNT: 2000000000+65536")?;
        // The last id is not one: the kernel takes it for none.
        let fits = u32::checked_add(first, count).is_some();
        if first < 1000 || count < BLOCK || !fits {
            return Err(format!("a range of ids begins at 1000 or above, holds {BLOCK} or more and ends below {}", u32::MAX));
        }
        Ok(Self { first, count })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Uids {
    range: Range,
    path: PathBuf,
    file: File,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    /// Blocks that are this process's.
    blocks: Vec<u32>,
    leased: BTreeSet<u32>,
    /// Ids are not given again while others are free: what an old one left finds no new owner.
    last: u32,
}

/// An id for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    id: u32,
    of: Arc<Uids>,
}

impl Uids {
    /// `lock`: [`LOCK`], but for tests.
    pub fn open(range: Range, lock: &Path) -> Result<Arc<Self>, LaunchError> {
        let failed = |source| LaunchError::IdLock { path: lock.to_owned(), source };
        if let Some(folder) = lock.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(failed)?;
        Ok(Arc::new(Self { range, path: lock.to_owned(), file, taken: Mutex::default() }))
    }

    /// The whole range.
    #[must_use]
    pub fn range(&self) -> Range {
        self.range
    }

    /// An id that nobody else has.
    pub fn take(self: &Arc<Self>) -> Result<Lease, LaunchError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let id = match self.free(&taken) {
            Some(id) => id,
            None => {
                self.more(&mut taken)?;
                self.free(&taken).ok_or(LaunchError::Ids(self.range.count))?
            }
        };
        taken.leased.insert(id);
        taken.last = id;
        Ok(Lease { id, of: Arc::clone(self) })
    }

    fn free(&self, taken: &Taken) -> Option<u32> {
        let ids = || taken.blocks.iter().flat_map(|block| self.range.first + block * BLOCK..self.range.first + (block + 1) * BLOCK);
        let free = |id: &u32| !taken.leased.contains(id);
        ids().filter(|id| *id > taken.last).find(free).or_else(|| ids().find(free))
    }

    /// Takes another block, where one is free.
    fn more(&self, taken: &mut Taken) -> Result<(), LaunchError> {
        for block in (0..self.range.count / BLOCK).filter(|block| !taken.blocks.contains(block)) {
            // SAFETY: all members are numbers, for which zero is a value.
            let mut lock: libc::flock = unsafe { std::mem::zeroed() };
            (lock.l_type, lock.l_whence) = (WRITE_LOCK, FROM_START);
            lock.l_start = i64::from(self.range.first) + i64::from(block * BLOCK);
            lock.l_len = i64::from(BLOCK);
            match fcntl(&self.file, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => {
                    taken.blocks.push(block);
                    return Ok(());
                }
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => {}
                Err(error) => return Err(LaunchError::IdLock { path: self.path.clone(), source: error.into() }),
            }
        }
        Err(LaunchError::Ids(self.range.count))
    }
}

impl Lease {
    /// The id, of the user and of its group.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.of.taken.lock().unwrap_or_else(PoisonError::into_inner).leased.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_id_is_leased_twice_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids");
        let range = Range { first: 5000, count: 3 * BLOCK };
        let (one, other) = (Uids::open(range, &path).unwrap(), Uids::open(range, &path).unwrap());
        let mut leases: Vec<_> = (0..BLOCK + 1).map(|_| one.take().unwrap()).collect();
        leases.extend((0..BLOCK).map(|_| other.take().unwrap()));
        let ids: BTreeSet<_> = leases.iter().map(Lease::id).collect();
        assert!(ids.len() == leases.len() && ids.iter().all(|id| (5000..5000 + 3 * BLOCK).contains(id)));
        assert!(matches!(other.take(), Err(LaunchError::Ids(_))));
        drop((leases, one));
        assert!(other.take().is_ok());
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!("2000000000+65536".parse(), Ok(Range::DEFAULT));
        for wrong in ["", "0+100", "5000", "4294967290+64", "5000+1", "a+b"] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
        assert_eq!(Range::DEFAULT.to_string().parse(), Ok(Range::DEFAULT));
    }
}
