//! What each account has waiting and holding, for whoever looks; decides nothing. Accounts with nothing are not kept.

use crate::claim::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) waiting: BTreeSet<(Time, u64)>,
    pub(crate) holding: usize,
    pub(crate) bytes: u64,
    pub(crate) cpu: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Loads(BTreeMap<Arc<str>, Load>);

impl Loads {
    /// Changes an account's load, and drops it where nothing is left of it.
    pub(crate) fn change(&mut self, account: &Arc<str>, change: impl FnOnce(&mut Load)) {
        if let Some(load) = self.0.get_mut(account) {
            change(load);
            if load.waiting.is_empty() && load.holding == 0 {
                self.0.remove(account);
            }
        } else {
            let mut load = Load::default();
            change(&mut load);
            if !load.waiting.is_empty() || load.holding > 0 {
                self.0.insert(Arc::clone(account), load);
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Load)> {
        self.0.iter()
    }
}
