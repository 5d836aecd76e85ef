//! Room on the disk that is kept free for the ends of executions that were accepted: a file of zeros, given up when the disk is full.
//!
//! ```text
//! held --(a commit of something accepted finds the disk full)--> given up --(there is room again)--> held
//! ```
//!
//! Invariant: while it is given up nothing new is accepted, so what it freed goes to what was accepted before.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The largest result, and some of the database around it.
const BYTES: i64 = 8 << 20;
/// Room that there must be before it is taken again.
const ENOUGH: u64 = 16 << 20;
/// How often it tries to get its room back.
const RETRY: Duration = Duration::from_secs(1);

/// The file.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
    held: AtomicBool,
}

impl Reserve {
    /// Takes its room, if there is any.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        let reserve = Self { path, held: AtomicBool::new(false) };
        if let Err(error) = reserve.take() {
            tracing::warn!(%error, "the disk of the state folder is full; no executions are accepted until there is room");
        }
        reserve
    }

    /// Nothing new may be accepted while this is false.
    #[must_use]
    pub fn held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    fn take(&self) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, BYTES) {
            // Where files can't be preallocated there is nothing to keep.
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {}
            Err(errno) => {
                let _ = fs::remove_file(&self.path);
                return Err(errno.into());
            }
        }
        self.held.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives the room up; true if there was any. Whoever calls this has to call [`Self::regain`] in time.
    pub fn give_up(&self) -> bool {
        let had = self.held.swap(false, Ordering::AcqRel);
        had && fs::remove_file(&self.path).is_ok()
    }

    /// Taking what has just been freed for a commit would help nobody.
    fn room_enough(&self) -> bool {
        let folder = self.path.parent().unwrap_or(&self.path);
        statvfs(folder).is_ok_and(|disk| disk.blocks_available().saturating_mul(disk.fragment_size()) >= ENOUGH)
    }

    /// Waits until the room is taken again.
    pub async fn regain(&self) {
        loop {
            tokio::time::sleep(RETRY).await;
            if self.room_enough() && self.take().is_ok() {
                break;
            }
        }
        tracing::info!("the disk of the state folder has room again");
    }
}
