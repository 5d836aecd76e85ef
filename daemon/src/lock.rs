//! One daemon a state folder: a lock that the kernel drops with the process, whatever way that ends.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a dead daemon's children may take to end.
const LINGER: Duration = Duration::from_secs(2);

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

/// Whether there is a process of this id. One that may not be asked lives.
pub(crate) fn lives(pid: i32) -> bool {
    pid <= 0 || kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// Holds the folder while it lives.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "the lock is its descriptor")] Flock<File>);

impl StateLock {
    /// Takes the folder. Waits for it where its holder is dead: what that was just starting has its descriptors until it ends too.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let start = Instant::now();
        loop {
            match Self::try_take(folder) {
                Err(LockError::Held { pid, .. }) if pid.parse().is_ok_and(|pid| !lives(pid)) && start.elapsed() < LINGER => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                done => return done,
            }
        }
    }

    fn try_take(folder: &Path) -> Result<Self, LockError> {
        let fail = |source| LockError::Io { folder: folder.to_owned(), source };
        let path = folder.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(fail)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
                written.map_err(fail)?;
                Ok(Self(file))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                Err(LockError::Held { folder: folder.to_owned(), pid: pid.trim().to_owned() })
            }
            Err((_, errno)) => Err(fail(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_a_dead_daemon_left_running_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        // A process that is dead, and one that has inherited its lock and ends a little later.
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        std::fs::write(dir.path().join("lock"), dead.id().to_string()).unwrap();
        let mut child = Command::new("flock").arg(dir.path().join("lock")).args(["sleep", "0.3"]).stdin(Stdio::null()).spawn().unwrap();
        let held = || File::open(dir.path().join("lock")).unwrap().try_lock().is_err();
        while !held() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lock = StateLock::take(dir.path()).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(matches!(StateLock::take(dir.path()), Err(LockError::Held { pid, .. }) if pid == std::process::id().to_string()));
        drop(lock);
    }
}
