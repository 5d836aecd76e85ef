//! One daemon a state folder: a lock that the kernel drops with the process, whatever way that ends.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a dead daemon's children may take to end.
const LINGER: Duration = Duration::from_secs(2);
/// How long a holder that seems to live is looked at again: one that was killed takes a moment until that shows.
const SEEMS: Duration = Duration::from_millis(200);
const AGAIN: Duration = Duration::from_millis(5);
/// `PF_EXITING` of the kernel.
const EXITING: u64 = 4;
/// SIGKILL in a set of signals.
const KILLED: u64 = 1 << (Signal::SIGKILL as u64 - 1);

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

/// Whether there is a process of this id that goes on: not one that is dead and not reaped, nor one on which a SIGKILL waits. One that may not be asked
/// lives.
fn lives(pid: i32) -> bool {
    pid <= 0 || kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) && !dying(pid)
}

/// By what the kernel says of it; where that can't be read it is not dying.
fn dying(pid: i32) -> bool {
    let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let stat = read("stat");
    // The name is in brackets and may hold anything. After it: state, parent, group, session, terminal, its group, flags.
    let fields: Vec<&str> = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let exiting = fields.get(6).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|flags| flags & EXITING != 0);
    let dead = fields.first().is_some_and(|state| ["Z", "X", "x"].contains(state));
    let waits = |line: &str| {
        let signals = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        signals.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits & KILLED != 0)
    };
    dead || exiting || read("status").lines().any(waits)
}

/// The same, looked at for a moment where it seems to live.
pub(crate) fn stays(pid: i32) -> bool {
    let start = Instant::now();
    while lives(pid) {
        if start.elapsed() >= SEEMS {
            return true;
        }
        std::thread::sleep(AGAIN);
    }
    false
}

/// How long whoever holds the lock may go on doing so. Without an id, its holder is just writing that.
fn held_for(pid: &str) -> Duration {
    if pid.parse().is_ok_and(|pid| !lives(pid)) { LINGER } else { SEEMS }
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
                Err(LockError::Held { pid, .. }) if start.elapsed() < held_for(&pid) => std::thread::sleep(AGAIN),
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
    use std::process::{Child, Command, Stdio};

    fn child(words: &[&str]) -> Child {
        Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap()
    }

    fn id(child: &Child) -> i32 {
        child.id().try_into().unwrap()
    }

    /// Takes a folder whose lock says that `holder` has it, while another process holds it for a moment.
    fn take_after(holder: u32) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        std::fs::write(&path, holder.to_string()).unwrap();
        let mut heir = child(&["flock", path.to_str().unwrap(), "sleep", "0.5"]);
        while File::open(&path).unwrap().try_lock().is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lock = StateLock::take(dir.path()).unwrap();
        assert!(heir.wait().unwrap().success());
        assert!(matches!(StateLock::take(dir.path()), Err(LockError::Held { pid, .. }) if pid == std::process::id().to_string()));
        drop(lock);
    }

    #[test]
    fn what_a_dead_daemon_left_running_is_waited_for() {
        let mut dead = child(&["true"]);
        dead.wait().unwrap();
        take_after(dead.id());
    }

    #[test]
    fn one_that_nobody_has_reaped_is_dead_too() {
        let mut dead = child(&["true"]);
        take_after(dead.id());
        dead.wait().unwrap();
    }

    #[test]
    fn who_was_killed_is_dead_at_once_and_who_stands_still_is_not() {
        let mut still = child(&["sleep", "100"]);
        kill(Pid::from_raw(id(&still)), Signal::SIGSTOP).unwrap();
        assert!(
            stays(id(&still)) && stays(std::process::id().try_into().unwrap()) && stays(0),
            "a daemon that answers late has its folder"
        );
        still.kill().unwrap();
        assert!(!stays(id(&still)));
        still.wait().unwrap();
        assert!(!lives(id(&still)));
    }
}
