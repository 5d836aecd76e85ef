//! Warm monitors: processes whose VM is made and that wait for a snapshot.
//!
//! ```text
//! refill: launch -> Prepare -> Prepared -> on the shelf --take--> an execution's
//!                                              |-- dies, or its size is not wanted any more --> dropped
//! ```
//! One background task makes and drops; `take` only lifts one off the shelf. Invariant: the shelf never holds more than the limit, and
//! nobody who runs an execution waits for the shelf to be filled.

mod demand;

use super::monitor::{Launcher, StartError};
use super::stats::Stats;
use super::vm::{Vm, VmError, VmState};
use demand::Demand;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use torpor_protocol::monitor::{Command, Event};

/// What tasks get unless they ask for another size: made warm before anything is known of demand.
const DEFAULT_MEMORY_MIB: u32 = 128;
/// How long refilling keeps out of the way of the execution that took a monitor, unless that ends before.
const SETTLE: Duration = Duration::from_millis(20);
/// A VM that is not made by then never will be.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Why there is no monitor.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    /// The process did not start.
    #[error("can't start the monitor: {0}; check --monitor and the limits on processes and open files")]
    Launch(#[from] StartError),
    /// It started, but no VM came of it.
    #[error("the monitor can't make a VM: {0}")]
    Vm(#[from] VmError),
    /// It said nothing in time.
    #[error("the monitor made no VM within {} s", PREPARE_TIMEOUT.as_secs())]
    Slow,
    /// It said something else.
    #[error("the monitor can't make a VM: {0}")]
    Refused(String),
}

/// What a monitor may take: what its VM is charged, and as much again as its RAM for the page cache of what it writes and maps, which the kernel takes
/// back when it needs it.
fn memory_limit(memory_mib: u32) -> u64 {
    super::Engine::vm_bytes(memory_mib) + (u64::from(memory_mib) << 20)
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    launcher: Arc<Launcher>,
    kvm: Arc<OwnedFd>,
    stats: Arc<Stats>,
    limit: usize,
    shelf: Mutex<Shelf>,
    wake: Arc<Notify>,
    idle: Notify,
}

#[derive(Debug)]
struct Shelf {
    ready: BTreeMap<u32, Vec<Vm>>,
    demand: Demand,
    closed: bool,
}

impl Pool {
    /// `wake` must be what the launcher tells of ended monitors.
    pub(super) fn new(launcher: Arc<Launcher>, kvm: Arc<OwnedFd>, stats: Arc<Stats>, limit: usize, wake: Arc<Notify>) -> Arc<Self> {
        let shelf = Mutex::new(Shelf { ready: BTreeMap::new(), demand: Demand::new(DEFAULT_MEMORY_MIB, Instant::now()), closed: false });
        Arc::new(Self { launcher, kvm, stats, limit, shelf, wake, idle: Notify::new() })
    }

    /// A warm VM of this size, if one is there. Never waits.
    pub(super) fn take(&self, memory_mib: u32) -> Option<Vm> {
        let mut shelf = self.shelf();
        shelf.demand.used(memory_mib, Instant::now());
        let vms = shelf.ready.get_mut(&memory_mib);
        let vm = vms.and_then(|vms| std::iter::from_fn(|| vms.pop()).find(|vm| !self.is_lost(vm)));
        self.count(&shelf);
        drop(shelf);
        self.wake.notify_one();
        vm
    }

    /// A VM in a new process. The command that makes it is sent, not waited for: a restore may follow at once.
    pub(super) async fn fresh(&self, memory_mib: u32) -> Result<Vm, PoolError> {
        let mut vm = Vm::new(self.launcher.launch(memory_limit(memory_mib)).await?, memory_mib);
        vm.send(&Command::Prepare { memory_mib }, &[self.kvm.as_fd()]).await?;
        Ok(vm)
    }

    /// A VM in a new process, made.
    pub(super) async fn prepared(&self, memory_mib: u32) -> Result<Vm, PoolError> {
        let making = async {
            let mut vm = self.fresh(memory_mib).await?;
            match vm.recv().await? {
                Event::Prepared => Ok(vm),
                Event::Stopped { reason, .. } => Err(PoolError::Refused(reason.to_string())),
                other => Err(PoolError::Refused(format!("it answered with {}", super::guest::event_name(&other)))),
            }
        };
        tokio::time::timeout(PREPARE_TIMEOUT, making).await.unwrap_or(Err(PoolError::Slow))
    }

    /// An execution's hot part is over: a good moment to refill.
    pub(super) fn settled(&self) {
        self.idle.notify_waiters();
    }

    /// Keeps the shelf filled until `closing`.
    pub(super) async fn keep(self: Arc<Self>, closing: CancellationToken) {
        tokio::select! {
            () = closing.cancelled() => {}
            () = self.refill() => {}
        }
        let ready = {
            let mut shelf = self.shelf();
            shelf.closed = true;
            std::mem::take(&mut shelf.ready)
        };
        drop(ready);
        self.stats.warm_is(0);
    }

    async fn refill(self: &Arc<Self>) {
        let mut backoff = BACKOFF.0;
        loop {
            while let Some(memory_mib) = self.tidy() {
                match self.prepared(memory_mib).await {
                    Ok(vm) => {
                        backoff = BACKOFF.0;
                        self.shelve(vm);
                    }
                    Err(error) => {
                        tracing::warn!(memory_mib, "no warm monitor: {error}; next attempt in {backoff:?}");
                        tokio::time::sleep(backoff).await;
                        backoff = (backoff * 2).min(BACKOFF.1);
                    }
                }
            }
            self.wake.notified().await;
            let _ = tokio::time::timeout(SETTLE, self.idle.notified()).await;
        }
    }

    /// Drops dead and unwanted VMs; the size of the next one to make, if one is missing.
    fn tidy(&self) -> Option<u32> {
        let mut dropped = Vec::new();
        let mut shelf = self.shelf();
        let targets = shelf.demand.targets(self.limit, Instant::now());
        for (memory_mib, vms) in &mut shelf.ready {
            dropped.extend(vms.extract_if(.., |vm| self.is_lost(vm)));
            let target = targets.get(memory_mib).copied().unwrap_or_default();
            dropped.extend(vms.drain(..vms.len().saturating_sub(target)));
        }
        self.count(&shelf);
        let have = |memory_mib: &u32| shelf.ready.get(memory_mib).map_or(0, Vec::len);
        let missing = targets.iter().filter(|(memory_mib, target)| have(memory_mib) < **target);
        let next = missing.min_by_key(|(memory_mib, _)| have(memory_mib)).map(|(memory_mib, _)| *memory_mib);
        drop(shelf);
        next
    }

    fn is_lost(&self, vm: &Vm) -> bool {
        let lost = vm.is_gone();
        if lost {
            tracing::warn!(pid = vm.pid(), memory_mib = vm.memory_mib, "a warm monitor ended while it waited; it is replaced");
            self.stats.warm_lost();
        }
        lost
    }

    fn shelve(&self, mut vm: Vm) {
        debug_assert_eq!(vm.state(), VmState::Prepared);
        vm.warm = true;
        let mut shelf = self.shelf();
        if !shelf.closed {
            shelf.ready.entry(vm.memory_mib).or_default().push(vm);
        }
        self.count(&shelf);
    }

    fn count(&self, shelf: &Shelf) {
        self.stats.warm_is(shelf.ready.values().map(Vec::len).sum());
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
