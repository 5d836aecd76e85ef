//! Templates on disk: `ID/{state,memory,meta.json}`.
//!
//! ```text
//!   begin -> .making-… (files written by a monitor) -> meta.json written, all synced -> rename to ID, folder synced
//! ```
//! The rename is the commit point: a folder without a leading dot is whole, or was damaged later, which its hashes show. What was begun and
//! not committed is removed at the next start. All functions block.

use crate::engine::fingerprint::hash_file;
use crate::engine::host::Spec;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use torpor_snapshot::SnapshotError;

const STATE: &str = "state";
const MEMORY: &str = "memory";
const META: &str = "meta.json";
const MAX_META: u64 = 64 << 10;

/// What a template was made from, beside it on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    /// Its id, the folder's name.
    pub(super) id: String,
    /// Hash of kernel, root disk, monitor and processor.
    pub(super) base: String,
    /// Name of the runtime.
    pub(super) runtime: String,
    /// RAM of its VMs.
    pub(super) memory_mib: u32,
    /// Name of the task that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<String>,
    /// Version of that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    /// Hash of the image of that task's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    /// Bytes of memory that are not zero.
    pub(super) memory_bytes: u64,
}

impl Meta {
    /// What is known before the template is made.
    pub(super) fn of(spec: &Spec, id: String, base: String, code: Option<String>) -> Self {
        Self {
            id,
            base,
            runtime: spec.runtime().name().into(),
            memory_mib: spec.memory_mib(),
            task: spec.task().map(|task| task.task.clone()),
            version: spec.task().map(|task| task.version.clone()),
            code,
            memory_bytes: 0,
        }
    }
}

/// Why a template on disk can't be used or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file system says no.
    #[error("{what} of template {path}: {source}; check the disk's space and health")]
    Io {
        /// What was being done.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Damaged, foreign or of another version.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The description beside it does not fit.
    #[error("template {0} is not what its name says")]
    Meta(PathBuf),
}

impl StoreError {
    /// The system could not do it now, and may next time: it says nothing of what is on disk.
    pub(super) fn passing(&self) -> bool {
        let (Self::Io { source, .. } | Self::Snapshot(SnapshotError::Io { source, .. })) = self else { return false };
        let damage = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory, io::ErrorKind::IsADirectory, io::ErrorKind::UnexpectedEof];
        !damage.contains(&source.kind())
    }
}

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// The open files of a whole template.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) state: File,
    pub(super) memory: File,
    pub(super) meta: Meta,
}

/// A template being written; dropped uncommitted, it is removed.
#[derive(Debug)]
pub(super) struct Draft {
    dir: PathBuf,
    /// Empty and writable.
    pub(super) state: File,
    /// Empty and writable.
    pub(super) memory: File,
    committed: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            tracing::warn!("can't remove {}: {error}; the next start does", self.dir.display());
        }
    }
}

/// The folder of templates.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    drafts: AtomicU64,
}

impl Store {
    /// Opens the folder, makes it if missing, and removes what is half-made or can't be used by this host any more.
    /// Those that are `needed` (ids) stay.
    pub(super) fn open(root: &Path, bases: &[String], needed: &[String]) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let store = Self { root: root.to_owned(), drafts: AtomicU64::new(0) };
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let why = match read_meta(&path) {
                _ if name.starts_with('.') => "half-made",
                Ok(meta) if bases.contains(&meta.base) || needed.contains(&meta.id) => continue,
                Ok(_) => "made with another kernel, root disk, monitor or processor",
                Err(_) => "without a readable description",
            };
            tracing::info!("removing template {name}: {why}");
            remove(&path)?;
        }
        Ok(store)
    }

    /// Ids of all whole templates.
    pub(super) fn all(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            ids.extend(entry?.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
        }
        Ok(ids)
    }

    /// The folder can't be read.
    pub(super) fn unreadable(&self, source: io::Error) -> StoreError {
        StoreError::Io { what: "listing", path: self.root.clone(), source }
    }

    /// Whether a whole template of this id is there. One system call.
    pub(super) fn has(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// Opens a template and, unless that was done before, checks all of it; `None` where there is none.
    pub(super) fn load(&self, id: &str, checked: bool) -> Result<Option<Files>, StoreError> {
        let dir = self.root.join(id);
        if !dir.exists() {
            return Ok(None);
        }
        let files = files(&dir)?;
        if files.meta.id != id {
            return Err(StoreError::Meta(dir));
        }
        if !checked {
            torpor_snapshot::verify(&files.state, &files.memory)?;
        }
        Ok(Some(files))
    }

    /// Begins a template.
    pub(super) fn begin(&self, id: &str) -> Result<Draft, StoreError> {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let dir = self.root.join(format!(".making-{id}-{number}"));
        fs::create_dir(&dir).map_err(io("making the folder", &dir))?;
        let create = |name| {
            let path = dir.join(name);
            let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
            file.map_err(io("making a file", &path))
        };
        let (state, memory) = (create(STATE), create(MEMORY));
        match (state, memory) {
            (Ok(state), Ok(memory)) => Ok(Draft { dir, state, memory, committed: false }),
            (Err(error), _) | (_, Err(error)) => {
                let _ = fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// Makes a draft a template; one of the same id that is there gives way.
    pub(super) fn commit(&self, mut draft: Draft, meta: &Meta) -> Result<Files, StoreError> {
        let path = draft.dir.join(META);
        let text = serde_json::to_vec_pretty(meta).map_err(|error| io("describing", &path)(error.into()))?;
        let mut file = File::create_new(&path).map_err(io("describing", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io("describing", &path))?;
        let dir = self.root.join(&meta.id);
        for file in [&draft.state, &draft.memory] {
            file.sync_all().map_err(io("syncing a file", &dir))?;
        }
        let files = files(&draft.dir)?;
        sync_dir(&draft.dir)?;
        remove(&dir).map_err(io("replacing", &dir))?;
        fs::rename(&draft.dir, &dir).map_err(io("renaming", &dir))?;
        draft.committed = true;
        sync_dir(&self.root)?;
        Ok(files)
    }

    /// Takes a template out of use at once; the path that is returned is what remains to be deleted. VMs that run on it go on.
    pub(super) fn set_aside(&self, id: &str) -> io::Result<Option<PathBuf>> {
        let aside = self.root.join(format!(".gone-{id}-{}", self.drafts.fetch_add(1, Ordering::Relaxed)));
        match fs::rename(self.root.join(id), &aside) {
            Ok(()) => Ok(Some(aside)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Hash of a template's content: of the state file, which has the hashes of all memory.
pub(super) fn content(files: &Files) -> Result<String, StoreError> {
    let hash = hash_file(&files.state).map_err(io("reading the state", Path::new(&files.meta.id)))?;
    Ok(hash.to_hex().to_string())
}

/// Reads, opens and does not check.
fn files(dir: &Path) -> Result<Files, StoreError> {
    let open = |name| File::open(dir.join(name)).map_err(io("opening", dir));
    Ok(Files { state: open(STATE)?, memory: open(MEMORY)?, meta: read_meta(dir)? })
}

fn read_meta(dir: &Path) -> Result<Meta, StoreError> {
    let mut text = Vec::new();
    let file = File::open(dir.join(META)).map_err(io("opening the description", dir))?;
    file.take(MAX_META).read_to_end(&mut text).map_err(io("reading the description", dir))?;
    serde_json::from_slice(&text).map_err(|_| StoreError::Meta(dir.to_owned()))
}

fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("syncing the folder", dir))
}

/// Deletes what is there, if anything.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens an image of code and hashes it.
pub(super) fn open_code(path: &Path) -> Result<(File, String), StoreError> {
    let file = File::open(path).map_err(io("opening the code", path))?;
    let hash = hash_file(&file).map_err(io("reading the code", path))?;
    Ok((file, hash.to_hex().to_string()))
}

#[cfg(test)]
pub(super) mod tests;
