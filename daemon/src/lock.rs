//! One daemon a state folder: a lock that the kernel drops with the process, whatever way that ends.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Why the folder is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("the state folder {folder} is in use by torpord with process id {pid}; stop that one, or give this one its own --state-dir")]
    Held {
        /// Which folder.
        folder: PathBuf,
        /// Who has it.
        pid: String,
    },
    /// The file can't be made or locked.
    #[error("can't lock the state folder {folder}: {source}")]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Holds the folder while it lives.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "the lock is its descriptor")] Flock<File>);

impl StateLock {
    /// Takes the folder.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io { folder: folder.to_owned(), source };
        let path = folder.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
                written.map_err(fail)?;
                Ok(Self(file))
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(LockError::Held { folder: folder.to_owned(), pid: pid.trim().to_owned() })
            }
            Err((_, errno)) => Err(fail(errno.into())),
        }
    }
}
