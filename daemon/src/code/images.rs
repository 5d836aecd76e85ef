//! Images of code on disk: `state-dir/code/HASH.erofs`, of each whole task, and of each portion where there is more than one.
//!
//! The commit point of an image is its rename: before it there is only a temporary file, which the next start removes; after it and
//! the sync of the folder the image is whole.

use super::check::Checked;
use super::tree::Tree;
use super::{CodeError, erofs};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The two folders that images live in.
#[derive(Debug, Clone)]
pub struct Images {
    code: PathBuf,
    tmp: PathBuf,
}

const WRITE: &str = "can't write the image of the code";

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Images {
    /// Opens the folders in a state folder, makes them where they are missing and removes what an earlier daemon left half-done.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let images = Self { code: state_dir.join("code"), tmp: state_dir.join("tmp") };
        match fs::remove_dir_all(&images.tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&images.tmp)?;
        fs::create_dir_all(&images.code)?;
        Ok(images)
    }

    /// A new file for an archive; it has no name, so nothing of it is left whatever happens.
    pub fn spool(&self) -> io::Result<File> {
        let path = self.tmp.join(format!("spool-{}", unique()?));
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Bytes that are free on the disk of [`Self::spool`].
    pub fn free(&self) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.tmp)?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    /// Where the image of a whole task or of a portion is, or would be.
    #[must_use]
    pub fn path(&self, version: &str) -> PathBuf {
        self.code.join(format!("{version}.erofs"))
    }

    /// Keeps the images of checked code; durable when it returns. One that is already there is left as it is, and all the same written where it was not
    /// `known` to who brings it: how long this takes must not tell that others have the same.
    pub fn keep(&self, code: &Checked, spool: &File, known: bool) -> Result<(), CodeError> {
        code.images().try_for_each(|(name, tree)| self.keep_one(name, tree, spool, known))
    }

    fn keep_one(&self, name: &str, tree: &Tree, spool: &File, known: bool) -> Result<(), CodeError> {
        let path = self.path(name);
        let there = path.try_exists().map_err(CodeError::io(WRITE))?;
        if there && known {
            return Ok(());
        }
        let tmp = self.tmp.join(format!("{name}-{}", unique().map_err(CodeError::io(WRITE))?));
        let name = || if there { Ok(()) } else { fs::rename(&tmp, &path).and_then(|()| sync_folder(&self.code)) };
        let written = Self::fill(&tmp, tree, spool).and_then(|()| name().map_err(CodeError::io(WRITE)));
        if there || written.is_err() {
            let _ = fs::remove_file(&tmp);
        }
        written
    }

    fn fill(tmp: &Path, tree: &Tree, spool: &File) -> Result<(), CodeError> {
        let file = File::options().write(true).create_new(true).open(tmp).map_err(CodeError::io(WRITE))?;
        let mut out = BufWriter::with_capacity(256 << 10, file);
        erofs::write(tree, spool, &mut out)?;
        out.flush().map_err(CodeError::io(WRITE))?;
        let file = out.into_inner().map_err(|e| CodeError::Io { what: WRITE, source: e.into_error() })?;
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        file.set_permissions(read_only).and_then(|()| file.sync_all()).map_err(CodeError::io(WRITE))
    }

    /// Removes an image that no task needs any more.
    pub fn remove(&self, version: &str) -> io::Result<()> {
        match fs::remove_file(self.path(version)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Removes images that `known` does not name: pushes that ended between image and record.
    pub fn sweep(&self, known: impl Fn(&str) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.code)? {
            let entry = entry?;
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_suffix(".erofs"));
            if !version.is_some_and(&known) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn unique() -> io::Result<String> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}
