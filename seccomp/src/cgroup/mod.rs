//! Control groups of VMs, in version 1 and version 2 hierarchies, whichever has a controller on this host.
//!
//! ```text
//! own group -+- NAME ---------+- vm-1   one for each live VM; removed when it is dead
//!            |                +- vm-2
//!            +- torpord (version 2 where the host says so: who delegates controllers must hold no processes itself)
//! ```
//! NAME belongs to one torpord at a time. Invariant: when a [`Cgroups`] is made, NAME holds nothing of an earlier one: what lived there was killed and removed.

mod find;
mod v2;

pub use find::Controller;

use crate::error::CgroupError;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

/// For processes that were killed to be gone.
const SWEEP: Duration = Duration::from_secs(5);
/// What a share of a processor is counted over, in microseconds.
const PERIOD: u64 = 100_000;

/// What a controller is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// In a version 1 hierarchy.
    V1(PathBuf),
    /// In the version 2 hierarchy.
    V2(PathBuf),
    /// Not to be had; why.
    Missing(String),
}

/// The groups of one torpord.
#[derive(Debug)]
pub struct Cgroups {
    states: [(Controller, State); 3],
    next: AtomicU64,
    /// Groups that could not be removed at once.
    left: Mutex<Vec<PathBuf>>,
    closed: AtomicBool,
}

/// The group of one VM, in every hierarchy. Removed when this is dropped: its process must be gone by then.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<(Controller, u8, PathBuf)>,
    of: Option<Arc<Cgroups>>,
}

impl Cgroups {
    /// Finds the controllers, and makes `name` in this process's own groups. `required`: all of them have to be there.
    pub fn open(name: &str, required: bool) -> Result<Arc<Self>, CgroupError> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::open_in(name, required, &read("/proc/self/mountinfo"), &read("/proc/self/cgroup"))
    }

    /// None at all, for processes that need no limits: tests and benches.
    #[must_use]
    pub fn none() -> Arc<Self> {
        let states = Controller::ALL.map(|controller| (controller, State::Missing("not asked for".into())));
        Arc::new(Self { states, next: AtomicU64::new(1), left: Mutex::default(), closed: AtomicBool::new(false) })
    }

    fn open_in(name: &str, required: bool, mountinfo: &str, groups: &str) -> Result<Arc<Self>, CgroupError> {
        let mut unified = None;
        let states = Controller::ALL.map(|controller| {
            let state = match find::v1(controller, mountinfo, groups) {
                Some(own) => {
                    let folder = own.join(name);
                    match make(&folder) {
                        Ok(()) => State::V1(folder),
                        Err(error) => State::Missing(format!("torpord can't make {}: {error}", folder.display())),
                    }
                }
                None => match find::v2(mountinfo, groups) {
                    Some(own) => unified.get_or_insert_with(|| v2::Delegated::open(&own, name)).state(controller),
                    None => State::Missing("no control group hierarchy of it is mounted".into()),
                },
            };
            (controller, state)
        });
        let missing = states.iter().filter_map(|(controller, state)| match state {
            State::Missing(why) => Some(format!("{}: {why}", controller.name())),
            State::V1(_) | State::V2(_) => None,
        });
        let missing: Vec<_> = missing.collect();
        if required && !missing.is_empty() {
            return Err(CgroupError::Required(missing.join("; ")));
        }
        let cgroups = Arc::new(Self { states, next: AtomicU64::new(1), left: Mutex::default(), closed: AtomicBool::new(false) });
        cgroups.sweep()?;
        Ok(cgroups)
    }

    /// What each controller is.
    #[must_use]
    pub const fn states(&self) -> &[(Controller, State); 3] {
        &self.states
    }

    fn folders(&self) -> impl Iterator<Item = (Controller, u8, &PathBuf)> {
        self.states.iter().filter_map(|(controller, state)| match state {
            State::V1(folder) => Some((*controller, 1, folder)),
            State::V2(folder) => Some((*controller, 2, folder)),
            State::Missing(_) => None,
        })
    }

    /// A new group for one VM.
    pub fn make(self: &Arc<Self>) -> Result<Cgroup, CgroupError> {
        self.retry();
        let name = format!("vm-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let mut group = Cgroup { folders: Vec::new(), of: Some(Arc::clone(self)) };
        for (controller, version, parent) in self.folders() {
            let folder = parent.join(&name);
            make(&folder).map_err(|source| CgroupError::Io { what: "making", path: folder.clone(), source })?;
            group.folders.push((controller, version, folder));
        }
        Ok(group)
    }

    /// Kills and removes what an earlier torpord of this name left.
    fn sweep(&self) -> Result<(), CgroupError> {
        for (_, _, parent) in self.folders() {
            for folder in below(parent) {
                let start = Instant::now();
                while let Err(source) = remove(&folder) {
                    if start.elapsed() > SWEEP {
                        return Err(CgroupError::Io { what: "removing what an earlier torpord left in", path: folder, source });
                    }
                    end_all(&folder);
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        Ok(())
    }

    /// Removes all of it, at an orderly end: no VM lives any more. Once: what has the name afterwards is another torpord's.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::SeqCst) {
            return;
        }
        self.retry();
        for (_, _, folder) in self.folders() {
            below(folder).iter().for_each(|group| drop(remove(group)));
            let _ = remove(folder);
        }
    }

    fn retry(&self) {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).retain(|folder| remove(folder).is_err());
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.close();
    }
}

impl Cgroup {
    /// Of nothing.
    pub(crate) const fn none() -> Self {
        Self { folders: Vec::new(), of: None }
    }

    /// Puts a process in.
    pub(crate) fn add(&self, pid: u32) -> Result<(), CgroupError> {
        let mut done: Option<&Path> = None;
        for (_, _, folder) in &self.folders {
            // Controllers of one hierarchy share a folder.
            if done.replace(folder) != Some(folder) {
                put(folder, "cgroup.procs", pid)?;
            }
        }
        Ok(())
    }

    /// Limits the VM: bytes of memory, thousandths of one processor's time, processes and threads. What the host can't limit is not.
    pub fn limits(&self, memory: u64, cpu_permille: Option<u32>, pids: u32) -> Result<(), CgroupError> {
        for (controller, version, folder) in &self.folders {
            match (controller, version) {
                (Controller::Memory, 1) => {
                    put(folder, "memory.limit_in_bytes", memory)?;
                    // Memory and swap together.
                    put_if_there(folder, "memory.memsw.limit_in_bytes", memory)?;
                }
                (Controller::Memory, _) => {
                    put(folder, "memory.max", memory)?;
                    put_if_there(folder, "memory.swap.max", 0)?;
                }
                (Controller::Pids, _) => put(folder, "pids.max", pids)?,
                (Controller::Cpu, _) => {}
            }
        }
        cpu_permille.map_or(Ok(()), |permille| self.cpu(permille))
    }

    /// Limits the VM to thousandths of one processor's time.
    pub fn cpu(&self, permille: u32) -> Result<(), CgroupError> {
        let quota = (u64::from(permille) * PERIOD / 1000).max(1000);
        for (_, version, folder) in self.folders.iter().filter(|(controller, _, _)| *controller == Controller::Cpu) {
            if *version == 1 {
                put(folder, "cpu.cfs_period_us", PERIOD)?;
                put(folder, "cpu.cfs_quota_us", quota)?;
            } else {
                put(folder, "cpu.max", format!("{quota} {PERIOD}"))?;
            }
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(of) = self.of.as_ref().filter(|of| !of.closed.load(Ordering::SeqCst)) else { return };
        for (_, _, folder) in &self.folders {
            if remove(folder).is_err() {
                of.left.lock().unwrap_or_else(PoisonError::into_inner).push(folder.clone());
            }
        }
    }
}

fn put(folder: &Path, file: &str, value: impl std::fmt::Display) -> Result<(), CgroupError> {
    let path = folder.join(file);
    fs::write(&path, value.to_string()).map_err(|source| CgroupError::Io { what: "writing to", path, source })
}

/// Hosts that do not count swap have no such file.
fn put_if_there(folder: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    if folder.join(file).exists() { put(folder, file, value) } else { Ok(()) }
}

/// One that is there already is as good: in one hierarchy several controllers share it.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done,
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Kills what is in a group that an earlier torpord left.
fn end_all(folder: &Path) {
    let _ = fs::write(folder.join("cgroup.kill"), "1");
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests;
