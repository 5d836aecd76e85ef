//! A version 2 hierarchy: controllers come from the group that the host delegated to torpord, which then must hold no process itself. So torpord moves into
//! a leaf below it, where it has to, before controllers are enabled for its VMs.

use super::{Controller, State, make, put, remove};
use crate::error::CgroupError;
use std::fs;
use std::path::{Path, PathBuf};

/// The leaf that torpord itself lives in.
const LEAF: &str = "torpord";

/// What came of it.
pub(super) struct Delegated {
    folder: PathBuf,
    enabled: Vec<Controller>,
    refused: Option<String>,
}

impl Delegated {
    /// `own`: this process's group.
    pub(super) fn open(own: &Path, name: &str) -> Self {
        let folder = own.join(name);
        let mut delegated = Self { folder, enabled: Vec::new(), refused: None };
        if let Err(error) = delegated.enable(own) {
            delegated.refused = Some(error.to_string());
            if delegated.enabled.is_empty() {
                let _ = remove(&delegated.folder);
            }
        }
        delegated
    }

    fn enable(&mut self, own: &Path) -> Result<(), CgroupError> {
        let there = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
        let wanted: Vec<_> =
            Controller::ALL.into_iter().filter(|wanted| there.split_whitespace().any(|name| name == wanted.name())).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        make(&self.folder).map_err(|source| CgroupError::Io { what: "making", path: self.folder.clone(), source })?;
        let enable = |folder: &Path| {
            wanted.iter().try_for_each(|controller| put(folder, "cgroup.subtree_control", format!("+{}", controller.name())))
        };
        if enable(own).is_err() {
            let leaf = own.join(LEAF);
            make(&leaf).map_err(|source| CgroupError::Io { what: "making", path: leaf.clone(), source })?;
            put(&leaf, "cgroup.procs", std::process::id())?;
            if let Err(error) = enable(own) {
                // Others live there too: it is not torpord's to rule.
                let _ = put(own, "cgroup.procs", std::process::id());
                let _ = remove(&leaf);
                return Err(error);
            }
        }
        enable(&self.folder)?;
        self.enabled = wanted;
        Ok(())
    }

    /// What a controller is.
    pub(super) fn state(&self, controller: Controller) -> State {
        if self.enabled.contains(&controller) {
            return State::V2(self.folder.clone());
        }
        State::Missing(match &self.refused {
            Some(why) => format!("{why}; start torpord in a group of its own, as a service with Delegate=yes"),
            None => format!("it is not delegated to torpord's group; start torpord as a service with Delegate={}", controller.name()),
        })
    }
}
