//! VMs that are kept for the next execution of their kind (`isolation = "task"`). They hold memory like an execution does, until somebody waits for memory,
//! nothing has come for a while, or their task is gone.

use super::{Dispatcher, Event, Job};
use crate::engine::Kept;
use crate::manifest::Isolation;
use crate::schedule::live::Live;
use crate::state::record::Version;
use std::sync::Arc;
use std::time::Duration;
use torpor_scheduler::Action;

/// Most VMs that are kept at once.
const MOST: usize = 32;
/// How long a VM is kept without work.
const IDLE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    vms: Vec<(u64, Arc<Version>, Kept)>,
    last: u64,
}

impl Dispatcher {
    /// Whether the VM of an execution is kept. What talks to services outside, or is at work when its answer is there, gets a fresh one each time.
    pub(in crate::schedule) fn keeps(live: &Live) -> bool {
        live.version.policy.isolation == Isolation::Task && live.version.rights.aux.is_empty()
    }

    /// Keeps a VM whose execution, which held it as `job`, is over.
    pub(in crate::schedule) fn keep(self: &Arc<Self>, live: &Live, job: &Job, vm: Kept) {
        let (follows, number) = {
            let mut shared = self.lock();
            if shared.core.short_of_memory() || shared.core.draining() || shared.kept.vms.len() >= MOST {
                drop(shared);
                drop(vm);
                return self.release(job.clone());
            }
            shared.kept.last += 1;
            let number = shared.kept.last;
            shared.kept.vms.push((number, Arc::clone(&live.version), vm));
            (shared.step(Event::Keep(job.clone(), Job::Kept(number))), number)
        };
        self.act(follows);
        self.changed.send_replace(());
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            this.drop_those(|kept, _| kept == number);
        });
    }

    /// A kept VM for an execution, which has memory of its own.
    pub(in crate::schedule) fn take_kept(self: &Arc<Self>, live: &Live) -> Option<Kept> {
        let (vm, number) = {
            let mut shared = self.lock();
            // The one that was used last: others may pass their time.
            let at = shared
                .kept
                .vms
                .iter()
                .rposition(|(_, version, _)| version.same(&live.version) && version.portion == live.version.portion)?;
            let (number, _, vm) = shared.kept.vms.remove(at);
            (vm, number)
        };
        self.release(Job::Kept(number));
        Some(vm)
    }

    /// Gives up kept VMs, oldest first, as long as somebody waits for memory. All that follows.
    pub(super) fn unkeep(&self, mut follows: Vec<Action<Job>>) -> Vec<Action<Job>> {
        loop {
            let vm = {
                let mut shared = self.lock();
                if !shared.core.short_of_memory() || shared.kept.vms.is_empty() {
                    return follows;
                }
                let (number, _, vm) = shared.kept.vms.remove(0);
                follows.extend(shared.step(Event::Release(Job::Kept(number))));
                vm
            };
            drop(vm);
        }
    }

    /// Gives up those of a version that is gone.
    pub(super) fn drop_kept(self: &Arc<Self>, gone: &Version) {
        self.drop_those(|_, version| version.same(gone));
    }

    /// Gives up all.
    pub(super) fn drop_all_kept(self: &Arc<Self>) {
        self.drop_those(|_, _| true);
    }

    fn drop_those(self: &Arc<Self>, which: impl Fn(u64, &Version) -> bool) {
        let gone: Vec<_> = {
            let mut shared = self.lock();
            shared.kept.vms.extract_if(.., |(number, version, _)| which(*number, version)).collect()
        };
        for (number, _, vm) in gone {
            drop(vm);
            self.release(Job::Kept(number));
        }
    }
}
