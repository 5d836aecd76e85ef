//! A task's folder as a tar: sorted, without owners and times, so that the same content gives the same bytes. What the daemon would refuse
//! anyway (no manifest, a symlink that leaves the folder, too large) is said here before anything is sent.

use crate::error::CliError;
use crate::output::size;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// Largest code of a task, as the daemon has it.
const MAX_CODE: u64 = 64 << 20;
const MANIFEST: &str = "torpor.toml";
/// Folders that never belong to a task's code.
const SKIPPED: [&str; 2] = [".git", "__pycache__"];

/// What was packed.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) tar: Vec<u8>,
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// Packs a folder.
pub(crate) fn pack(dir: &Path) -> Result<Packed, CliError> {
    let kind = fs::metadata(dir).map_err(|source| file_error("can't read", dir, source))?;
    if !kind.is_dir() {
        return Err(CliError::Usage(format!("{} is not a folder; push takes the folder that holds {MANIFEST}", dir.display())));
    }
    if !dir.join(MANIFEST).is_file() {
        return Err(CliError::Usage(format!("{} has no {MANIFEST}; each task's folder needs one at its top", dir.display())));
    }
    let mut packer = Packer { root: dir.to_owned(), builder: tar::Builder::new(Vec::new()), files: 0, bytes: 0 };
    packer.folder(Path::new(""))?;
    let tar = packer.builder.into_inner().map_err(|source| file_error("can't pack", dir, source))?;
    Ok(Packed { tar, files: packer.files, bytes: packer.bytes })
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> CliError {
    CliError::File { what, path: path.to_owned(), source }
}

struct Packer {
    root: PathBuf,
    builder: tar::Builder<Vec<u8>>,
    files: usize,
    bytes: u64,
}

impl Packer {
    fn folder(&mut self, relative: &Path) -> Result<(), CliError> {
        let dir = self.root.join(relative);
        let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut names: Vec<_> =
            entries.map_err(|source| file_error("can't read", &dir, source))?.iter().map(fs::DirEntry::file_name).collect();
        names.sort();
        for name in names {
            if !SKIPPED.iter().any(|skipped| name == *skipped) {
                self.entry(&relative.join(name))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, relative: &Path) -> Result<(), CliError> {
        let path = self.root.join(relative);
        if relative.to_str().is_none() {
            return Err(CliError::Usage(format!("{}: file names in a task's folder must be UTF-8", path.display())));
        }
        let metadata = fs::symlink_metadata(&path).map_err(|source| file_error("can't read", &path, source))?;
        let kind = metadata.file_type();
        let packed = if kind.is_dir() {
            let header = header(tar::EntryType::Directory, 0, 0o755);
            self.append(header, relative, io::empty()).map_err(|source| file_error("can't pack", &path, source))?;
            return self.folder(relative);
        } else if kind.is_symlink() {
            self.link(relative, &path)?
        } else if kind.is_file() {
            self.file(relative, &path, &metadata)?
        } else {
            return Err(CliError::Usage(format!("{} is neither a file, a folder nor a symlink", path.display())));
        };
        packed.map_err(|source| file_error("can't pack", &path, source))
    }

    fn file(&mut self, relative: &Path, path: &Path, metadata: &Metadata) -> Result<io::Result<()>, CliError> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(metadata.len());
        if self.bytes > MAX_CODE {
            return Err(CliError::Usage(format!(
                "{} holds more than {}, the most that a task's code may be (passed at {})",
                self.root.display(),
                size(MAX_CODE),
                relative.display()
            )));
        }
        let content = fs::read(path).map_err(|source| file_error("can't read", path, source))?;
        let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        Ok(self.append(header(tar::EntryType::Regular, length, mode), relative, content.as_slice()))
    }

    fn link(&mut self, relative: &Path, path: &Path) -> Result<io::Result<()>, CliError> {
        let target = fs::read_link(path).map_err(|source| file_error("can't read", path, source))?;
        if leaves(relative, &target) {
            return Err(CliError::Usage(format!(
                "{} is a symlink to {}, which is outside the task's folder; copy the file into the folder instead",
                path.display(),
                target.display()
            )));
        }
        let mut header = header(tar::EntryType::Symlink, 0, 0o777);
        Ok(self.builder.append_link(&mut header, relative, target))
    }

    fn append(&mut self, mut header: tar::Header, relative: &Path, content: impl io::Read) -> io::Result<()> {
        self.builder.append_data(&mut header, relative, content)
    }
}

fn header(kind: tar::EntryType, length: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(length);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Whether a symlink at `link` (relative to the top) points above the top.
fn leaves(link: &Path, target: &Path) -> bool {
    let mut depth = link.components().count().saturating_sub(1);
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    fn task() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MANIFEST), "[task]\n").unwrap();
        fs::create_dir(dir.path().join("lib")).unwrap();
        fs::write(dir.path().join("lib/a.py"), "x = 1\n").unwrap();
        dir
    }

    #[test]
    fn same_content_same_bytes_and_no_clutter() {
        let (one, two) = (task(), task());
        fs::create_dir(two.path().join(".git")).unwrap();
        fs::write(two.path().join(".git/HEAD"), "x").unwrap();
        fs::create_dir(two.path().join("lib/__pycache__")).unwrap();
        let (one, two) = (pack(one.path()).unwrap(), pack(two.path()).unwrap());
        assert_eq!(one.tar, two.tar);
        assert_eq!((one.files, one.bytes), (2, 13));
    }

    #[test]
    fn folders_that_can_not_be_tasks_are_refused() {
        let dir = task();
        fs::remove_file(dir.path().join(MANIFEST)).unwrap();
        assert!(pack(dir.path()).unwrap_err().to_string().contains("has no torpor.toml"));
        assert!(pack(&dir.path().join("lib/a.py")).unwrap_err().to_string().contains("not a folder"));
        assert!(pack(&dir.path().join("none")).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn symlinks_stay_inside() {
        let dir = task();
        symlink("../torpor.toml", dir.path().join("lib/m")).unwrap();
        pack(dir.path()).unwrap();
        symlink("../../etc/passwd", dir.path().join("lib/out")).unwrap();
        assert!(pack(dir.path()).unwrap_err().to_string().contains("outside the task's folder"));
        assert!(leaves(Path::new("a"), Path::new("/etc")));
        assert!(leaves(Path::new("a/b"), Path::new("../c/../../d")));
        assert!(!leaves(Path::new("a/b"), Path::new("../c/../d")));
    }

    #[test]
    fn too_much_code_is_refused_unread() {
        let dir = task();
        fs::File::create(dir.path().join("big")).unwrap().set_len(MAX_CODE).unwrap();
        assert!(pack(dir.path()).unwrap_err().to_string().contains("64.0 MiB"));
    }
}
