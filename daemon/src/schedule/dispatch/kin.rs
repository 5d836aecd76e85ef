//! The executions that have not ended: by id, by who started them, and how many there are of each account.
//!
//! Invariant: all agree, since nothing else adds to them or takes from them. What is read is read from the map by id.

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
    open: BTreeMap<AccountName, Open>,
}

/// Executions of an account that have not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Open {
    pub(super) executions: usize,
    /// Of their inputs.
    pub(super) bytes: u64,
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
        let open = self.open.entry(live.account.clone()).or_default();
        *open = Open { executions: open.executions + 1, bytes: open.bytes.saturating_add(live.input_bytes) };
        if let Some(before) = self.live.insert(live.id.clone(), live) {
            self.closed(&before);
        }
    }

    fn closed(&mut self, live: &Live) {
        let Some(open) = self.open.get_mut(&live.account) else { return };
        *open = Open { executions: open.executions.saturating_sub(1), bytes: open.bytes.saturating_sub(live.input_bytes) };
        if open.executions == 0 {
            self.open.remove(&live.account);
        }
    }

    /// What there is of an account.
    pub(super) fn open(&self, account: &AccountName) -> Open {
        self.open.get(account).copied().unwrap_or_default()
    }

    /// One is not live any more.
    pub(super) fn remove(&mut self, id: &ExecutionId) {
        let Some(live) = self.live.remove(id) else { return };
        self.closed(&live);
        let Some(parent) = live.parent.clone() else { return };
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
