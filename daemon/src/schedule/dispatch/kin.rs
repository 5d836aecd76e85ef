//! The executions that have not ended, by id and by who started them.
//!
//! Invariant: both agree, since nothing else adds to either or takes from it. What is read is read from the map by id.

use crate::manifest::AccountName;
use crate::schedule::live::Live;
use crate::state::id::ExecutionId;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Kin {
    live: BTreeMap<ExecutionId, Arc<Live>>,
    children: BTreeMap<ExecutionId, BTreeSet<ExecutionId>>,
}

impl Deref for Kin {
    type Target = BTreeMap<ExecutionId, Arc<Live>>;

    fn deref(&self) -> &Self::Target {
        &self.live
    }
}

impl Kin {
    /// One has not ended.
    pub(super) fn insert(&mut self, live: Arc<Live>) {
        if let Some(parent) = &live.parent {
            self.children.entry(parent.clone()).or_default().insert(live.id.clone());
        }
        self.live.insert(live.id.clone(), live);
    }

    /// One is not live any more.
    pub(super) fn remove(&mut self, id: &ExecutionId) {
        let Some(parent) = self.live.remove(id).and_then(|live| live.parent.clone()) else { return };
        if let Some(children) = self.children.get_mut(&parent) {
            children.remove(id);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    /// Those of its account that an execution has started, oldest first; it may have ended itself.
    pub(super) fn children(&self, account: &AccountName, parent: &ExecutionId) -> impl Iterator<Item = &Arc<Live>> {
        let children = self.children.get(parent).into_iter().flatten().filter_map(|id| self.live.get(id));
        children.filter(move |live| live.account == *account)
    }
}
