//! Folders to push: copies of `tests/tasks/NAME`, changed as a test needs.

use crate::setup::root;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a task of the tests") {
        let entry = entry.expect("a readable folder");
        let to = to.join(entry.file_name());
        let kind = entry.file_type().expect("a type");
        if kind.is_dir() {
            fs::create_dir(&to).expect("a folder");
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

/// A task's folder.
#[derive(Debug)]
pub struct TaskFolder {
    dir: TempDir,
}

impl TaskFolder {
    /// An empty one.
    #[must_use]
    pub fn empty() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A copy of `tests/tasks/NAME`.
    #[must_use]
    pub fn copy(name: &str) -> Self {
        let folder = Self::empty();
        copy(&root().join("tests/tasks").join(name), folder.path());
        folder
    }

    /// A copy of `examples/NAME`.
    #[must_use]
    pub fn example(name: &str) -> Self {
        let folder = Self::empty();
        copy(&root().join("examples").join(name), folder.path());
        folder
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path: PathBuf = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
        self
    }

    /// Writes the manifest.
    #[must_use]
    pub fn manifest(self, text: &str) -> Self {
        self.file("torpor.toml", text)
    }

    /// Writes a manifest of a task that differs in name and policy only: `runtime` and `entry` stay.
    #[must_use]
    pub fn named(self, name: &str, policy: &[(&str, &str)]) -> Self {
        let old = fs::read_to_string(self.path().join("torpor.toml")).expect("a manifest to change");
        let keep = |key: &str| old.lines().find(|line| line.starts_with(key)).expect("a complete manifest").to_owned();
        let mut text = format!("[task]\nname = \"{name}\"\n{}\n{}\n\n[policy]\n", keep("runtime"), keep("entry"));
        for (key, value) in policy {
            text.push_str(&format!("{key} = {value}\n"));
        }
        self.manifest(&text)
    }
}
