//! What several tests need: file systems that are unmounted whatever becomes of the test. Mounting needs root.
#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; not any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// Mounts `what` at a folder, if the host's kernel can.
    pub(crate) fn try_new(kind: &str, options: &str, what: &OsStr, at: &Path) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", kind, "-o", options]).args([what, at.as_os_str()]).status().unwrap().success();
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A small file system in memory.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    // In this order: the folder can be removed when nothing is mounted there.
    _mount: Mount,
    folder: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mount = Mount::try_new("tmpfs", &format!("size={size}"), OsStr::new("tmpfs"), folder.path());
        assert!(mount.is_some(), "mounting a tmpfs needs root");
        Self { _mount: mount.unwrap(), folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[test]
fn a_test_that_fails_leaves_no_mount() {
    let mounted = |path: &Path| std::fs::read_to_string("/proc/self/mounts").unwrap().contains(path.to_str().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let failed = std::thread::spawn(move || {
        let disk = SmallDisk::new("1m");
        assert!(mounted(disk.path()));
        tell.send(disk.path().to_owned()).unwrap();
        assert!(!mounted(disk.path()), "as meant");
    });
    assert!(failed.join().is_err());
    let path = told.recv().unwrap();
    assert!(!mounted(&path) && !path.exists());
}
