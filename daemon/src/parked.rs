//! The files of parked machines: one for each execution that is parked.
//!
//! ```text
//! begin -> draft (.new-N) -> commit: rename to ID.parked, folder synced -> open -> remove: removed
//! ```
//! A file is written once, by one execution's monitor, and never used again: that monitor was handed the descriptor, and whatever it was taken over by may keep
//! it until it is reaped. Invariants: a name `ID.parked` is whole; what is not named in the database when the daemon starts is removed; all files together
//! stay within the quota, and those of an account within its part. All functions but those of the quota block.

use crate::manifest::{AccountName, format_bytes};
use crate::secrets::give::ParkKeyError;
use crate::state::id::ExecutionId;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use torpor_snapshot::parked::HEADER;

/// What a file may have beyond what its monitor says that it has: the end of its last block.
const SLACK: u64 = 64 << 10;
const SUFFIX: &str = ".parked";

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ParkError {
    /// The file system says no.
    #[error("{what} of a parked machine: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Too much is parked already.
    #[error(
        "parked machines of this host may take {quota} bytes together, and there is no room for this one; raise torpord's --parked-quota, or end what is parked"
    )]
    Quota {
        /// Bytes that may be.
        quota: u64,
    },
    /// Its account has too much parked already.
    #[error(
        "parked machines of account {account} may take {} together, and there is no room for this one; end what is parked, or have the administrator raise `parked` in the [limits] of the host's policy",
        format_bytes(*most)
    )]
    Part {
        /// Whose.
        account: AccountName,
        /// Bytes that may be.
        most: u64,
    },
    /// It is whole, perhaps, but not the one that was parked.
    #[error("the file is not the parked machine that the database knows: was it exchanged?")]
    Other,
    /// Its monitor wrote more than it said: it would take more than its part of the quota.
    #[error("its monitor wrote {found} bytes and said {said}")]
    Size {
        /// Bytes of the file.
        found: u64,
        /// Bytes that were told of.
        said: u64,
    },
    /// It must be encrypted, and can't be.
    #[error(transparent)]
    Key(#[from] ParkKeyError),
    /// The database does not take it.
    #[error("recording that it is parked: {0}")]
    Record(String),
}

impl ParkError {
    /// Whether it is for want of room, which may last.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            Self::Quota { .. } | Self::Part { .. } => true,
            Self::Io { source, .. } => matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded),
            Self::Other | Self::Size { .. } | Self::Key(_) | Self::Record(_) => false,
        }
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ParkError {
    move |source| ParkError::Io { what, source }
}

/// What tells one parked machine from another: the hash of its file's header, which has the hashes of all else.
pub fn mark(file: &File) -> Result<String, ParkError> {
    let mut header = [0; HEADER];
    let len = file.read_at(&mut header, 0).map_err(failed("reading the header"))?;
    Ok(blake3::hash(&header[..len]).to_hex().to_string())
}

#[derive(Debug, Default)]
struct Used {
    all: u64,
    of: HashMap<AccountName, u64>,
    /// Files that have their names, whose they are, and their bytes.
    files: HashMap<String, (AccountName, u64)>,
}

impl Used {
    fn add(&mut self, account: &AccountName, bytes: u64) {
        self.all = self.all.saturating_add(bytes);
        let own = self.of.entry(account.clone()).or_default();
        *own = own.saturating_add(bytes);
    }

    fn take(&mut self, account: &AccountName, bytes: u64) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(own) = self.of.get_mut(account) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.of.remove(account);
            }
        }
    }
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    quota: u64,
    used: Mutex<Used>,
    number: AtomicU64,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct ParkedFiles(Arc<Inner>);

/// A file that is being written; dropped uncommitted, it is removed.
#[derive(Debug)]
pub struct Draft {
    /// For the monitor.
    pub file: File,
    path: PathBuf,
    committed: bool,
}

impl Draft {
    /// Its file holds no more than this.
    pub fn holds(&self, said: u64) -> Result<(), ParkError> {
        let found = self.file.metadata().map_err(failed("the size"))?.len();
        if found <= said.saturating_add(SLACK) { Ok(()) } else { Err(ParkError::Size { found, said }) }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            remove(&self.path);
        }
    }
}

impl ParkedFiles {
    /// Opens the folder, makes it if missing, and removes what is not in `needed`: whose, names and their bytes.
    pub fn open(state_dir: &Path, quota: u64, needed: &[(AccountName, String, u64)]) -> io::Result<Self> {
        let folder = state_dir.join("parked");
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !needed.iter().any(|(_, needed, _)| name.to_str() == Some(needed)) {
                fs::remove_file(entry.path())?;
            }
        }
        let mut used = Used::default();
        for (account, name, bytes) in needed {
            used.add(account, *bytes);
            used.files.insert(name.clone(), (account.clone(), *bytes));
        }
        let inner = Inner { folder, quota, used: Mutex::new(used), number: AtomicU64::new(0) };
        Ok(Self(Arc::new(inner)))
    }

    // A panic while the lock was held can't have left the sums apart by more than one file.
    fn sums(&self) -> MutexGuard<'_, Used> {
        self.0.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all parked machines.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.sums().all
    }

    /// Bytes that they may take.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.0.quota
    }

    /// Takes part of the quota for an account, which may have `most`.
    pub fn reserve(&self, account: &AccountName, bytes: u64, most: u64) -> Result<(), ParkError> {
        let (mut used, quota) = (self.sums(), self.0.quota);
        let own = used.of.get(account).copied().unwrap_or_default();
        if used.all.checked_add(bytes).is_none_or(|all| all > quota) {
            return Err(ParkError::Quota { quota });
        }
        if own.checked_add(bytes).is_none_or(|own| own > most) {
            return Err(ParkError::Part { account: account.clone(), most });
        }
        used.add(account, bytes);
        Ok(())
    }

    /// Gives it back.
    pub fn unreserve(&self, account: &AccountName, bytes: u64) {
        self.sums().take(account, bytes);
    }

    /// A file to write.
    pub fn begin(&self) -> Result<Draft, ParkError> {
        let path = self.0.folder.join(format!(".new-{}", self.0.number.fetch_add(1, Ordering::Relaxed)));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        Ok(Draft { file: file.map_err(failed("making the file"))?, path, committed: false })
    }

    /// The name of an execution's file.
    #[must_use]
    pub fn name(id: &ExecutionId) -> String {
        format!("{id}{SUFFIX}")
    }

    /// Gives a draft its name, and what was taken of the quota for it to the file; durable when it returns.
    pub fn commit(&self, mut draft: Draft, id: &ExecutionId, account: &AccountName, bytes: u64) -> Result<String, ParkError> {
        let name = Self::name(id);
        let path = self.0.folder.join(&name);
        fs::rename(&draft.path, &path).map_err(failed("naming the file"))?;
        draft.path = path;
        File::open(&self.0.folder).and_then(|folder| folder.sync_all()).map_err(failed("syncing the folder"))?;
        draft.committed = true;
        self.sums().files.insert(name.clone(), (account.clone(), bytes));
        Ok(name)
    }

    /// Opens a parked machine.
    pub fn file(&self, name: &str) -> Result<File, ParkError> {
        File::open(self.path(name)).map_err(failed("opening the file"))
    }

    /// The same, which must have this [`mark`].
    pub fn marked(&self, name: &str, wanted: &str) -> Result<File, ParkError> {
        let file = self.file(name)?;
        if mark(&file)? == wanted { Ok(file) } else { Err(ParkError::Other) }
    }

    fn path(&self, name: &str) -> PathBuf {
        // A name is one of this folder, whatever a database says.
        self.0.folder.join(Path::new(name).file_name().unwrap_or_default())
    }

    /// A machine is needed no more. Again of the same, or of one that is not there: nothing.
    pub fn remove(&self, name: &str) {
        {
            let mut used = self.sums();
            if let Some((account, bytes)) = used.files.remove(name) {
                used.take(&account, bytes);
            }
        }
        remove(&self.path(name));
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{} can't be removed: {error}; the next start does", path.display());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::time::Timestamp;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder.join("parked")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_named_once_whole_and_never_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let files = ParkedFiles::open(folder.path(), 100, &[]).unwrap();
        let id = ExecutionId::first_of(Timestamp::now());
        drop(files.begin().unwrap());
        assert!(names(folder.path()).is_empty(), "a draft that was dropped is gone");
        let mut draft = files.begin().unwrap();
        draft.file.write_all(b"machine").unwrap();
        files.reserve(&AccountName::default(), 7, 100).unwrap();
        let name = files.commit(draft, &id, &AccountName::default(), 7).unwrap();
        assert_eq!(names(folder.path()), std::slice::from_ref(&name));
        assert!(files.file(&name).is_ok());
        files.remove(&name);
        files.remove(&name);
        assert_eq!(files.used(), 0);
        assert!(files.file(&name).is_err());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn who_kept_its_descriptor_sees_nothing_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let files = ParkedFiles::open(folder.path(), 100, &[]).unwrap();
        let first = files.begin().unwrap();
        let kept = first.file.try_clone().unwrap();
        drop(first);
        let mut next = files.begin().unwrap();
        next.file.write_all(b"machine").unwrap();
        kept.write_all_at(b"evil", 0).unwrap();
        let mut bytes = [0; 7];
        next.file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((&bytes, kept.metadata().unwrap().len()), (b"machine", 4));
    }

    #[test]
    fn more_than_was_told_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = ParkedFiles::open(folder.path(), 100, &[]).unwrap();
        let draft = files.begin().unwrap();
        draft.file.set_len(SLACK + 7).unwrap();
        assert!(draft.holds(7).is_ok() && matches!(draft.holds(6), Err(ParkError::Size { said: 6, .. })));
    }

    #[test]
    fn the_quota_holds_and_a_start_removes_what_nobody_needs() {
        let folder = tempfile::tempdir().unwrap();
        let files = ParkedFiles::open(folder.path(), 100, &[]).unwrap();
        let [a, b] = ["a", "b"].map(|name| AccountName::try_from(name.to_owned()).unwrap());
        files.reserve(&a, 60, 100).unwrap();
        let refused = files.reserve(&b, 41, 100).unwrap_err().to_string();
        assert!(refused.contains("may take 100 bytes") && refused.contains("--parked-quota"), "{refused}");
        let refused = files.reserve(&a, 31, 90).unwrap_err().to_string();
        assert!(refused.contains("account a may take 90B") && refused.contains("[limits]"), "{refused}");
        files.reserve(&b, 40, 90).unwrap();
        files.unreserve(&b, 40);
        files.unreserve(&a, 60);
        files.reserve(&a, 100, 100).unwrap();
        let id = ExecutionId::first_of(Timestamp::now());
        let name = files.commit(files.begin().unwrap(), &id, &a, 100).unwrap();
        let draft = files.begin().unwrap();
        std::mem::forget(draft);
        let files = ParkedFiles::open(folder.path(), 100, &[(a, name.clone(), 30)]).unwrap();
        assert_eq!((files.used(), names(folder.path())), (30, vec![name]));
        assert!(files.file("../../etc/passwd").is_err());
    }
}
