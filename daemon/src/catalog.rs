//! Tasks of all accounts and their versions in memory: what the store has, so that a submission asks no database.
//!
//! Invariants: changed only after the store has committed the same change; whoever asks names an account and gets nothing of another.

use crate::hex;
use crate::manifest::flow::{self, By, Denied};
use crate::manifest::host::HostPolicy;
use crate::manifest::{AccountName, PortionName, TaskName};
use crate::state::record::Version;
use crate::state::store::StoredTask;
use crate::state::time::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Fewest hex digits that may stand for a version.
pub const MIN_PREFIX: usize = 8;

/// One task.
#[derive(Debug, Clone)]
pub struct Task {
    /// When it was pushed first.
    pub created_at: Timestamp,
    /// What `run NAME` runs: the version pushed last.
    pub latest: Arc<Version>,
    /// All versions, oldest first.
    pub versions: Vec<Arc<Version>>,
}

/// Why a name leads to no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// No such task.
    #[error("no task named {0:?}; `torpor task ls` lists them")]
    Task(String),
    /// The task has no such version.
    #[error("task {task:?} has no version {hash:?}; `torpor task inspect {task}` lists them")]
    Version {
        /// The task.
        task: String,
        /// What was asked for.
        hash: String,
    },
    /// The digits stand for more than one version.
    #[error("{hash:?} stands for more than one version of task {task:?}; give more digits")]
    Ambiguous {
        /// The task.
        task: String,
        /// What was asked for.
        hash: String,
    },
    /// Not a hash.
    #[error("{0:?} is no version: at least {MIN_PREFIX} hex digits")]
    Hash(String),
}

/// Tasks of one account.
type Own = BTreeMap<TaskName, Task>;
type All = BTreeMap<AccountName, Own>;

/// All tasks.
#[derive(Debug, Default)]
pub struct Catalog(RwLock<All>);

impl Catalog {
    /// As the store has them, under these caps.
    #[must_use]
    pub fn load(stored: Vec<StoredTask>, caps: &HostPolicy) -> Self {
        let catalog = Self::default();
        for task in stored {
            let mut versions: Vec<Arc<Version>> = task.versions.into_iter().map(|version| Arc::new(version.under(caps))).collect();
            versions.sort_by_key(|version| version.created_at);
            let latest = versions.iter().find(|version| *version.version == *task.latest).or_else(|| versions.last()).cloned();
            if let Some(latest) = latest {
                catalog.write().entry(task.account).or_default().insert(task.name, Task { created_at: task.created_at, latest, versions });
            }
        }
        catalog
    }

    // A panic while the lock was held can't have left the map half-changed: each change is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, All> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, All> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// All tasks of all accounts.
    #[must_use]
    pub fn all(&self) -> Vec<Task> {
        self.read().values().flat_map(BTreeMap::values).cloned().collect()
    }

    /// All tasks of an account by name.
    #[must_use]
    pub fn of(&self, account: &AccountName) -> Vec<(TaskName, Task)> {
        self.read().get(account).into_iter().flatten().map(|(name, task)| (name.clone(), task.clone())).collect()
    }

    /// One task.
    pub fn task(&self, account: &AccountName, name: &str) -> Result<Task, LookupError> {
        named(&self.read(), account, name).cloned()
    }

    /// The version that `NAME` or `NAME@HASH` means.
    pub fn version(&self, account: &AccountName, reference: &str) -> Result<Arc<Version>, LookupError> {
        self.with_version(account, reference, |version| version)
    }

    /// Does something with the version that `NAME` or `NAME@HASH` means, before anybody can remove its task.
    pub fn with_version<T>(&self, account: &AccountName, reference: &str, work: impl FnOnce(Arc<Version>) -> T) -> Result<T, LookupError> {
        let tasks = self.read();
        let (name, hash) = reference.split_once('@').map_or((reference, None), |(name, hash)| (name, Some(hash)));
        let task = named(&tasks, account, name)?;
        let version = match hash {
            None => Arc::clone(&task.latest),
            Some(hash) => task.by_prefix(name, hash)?,
        };
        Ok(work(version))
    }

    /// The same for a client: refused where that version does not let clients call it, or the newest one does not. What a push closes is closed in older versions too.
    pub fn with_version_for_client<T, E: From<Denied>>(
        &self,
        account: &AccountName,
        reference: &str,
        work: impl FnOnce(Arc<Version>) -> Result<T, E>,
    ) -> Result<Result<T, E>, LookupError> {
        let newest = reference.split_once('@').map_or(reference, |(name, _)| name);
        let newest = self.version(account, newest)?;
        self.with_version(account, reference, |version| {
            flow::allowed(By::Client, newest.end())?;
            flow::allowed(By::Client, version.end())?;
            work(version)
        })
    }
}

fn named<'a>(tasks: &'a All, account: &AccountName, name: &str) -> Result<&'a Task, LookupError> {
    let found = TaskName::try_from(name.to_owned()).ok().and_then(|name| tasks.get(account)?.get(&name));
    found.ok_or_else(|| LookupError::Task(name.to_owned()))
}

impl Task {
    fn by_prefix(&self, name: &str, hash: &str) -> Result<Arc<Version>, LookupError> {
        if hash.len() < MIN_PREFIX || hash.len() > 64 || !hex::are_digits(hash) {
            return Err(LookupError::Hash(hash.to_owned()));
        }
        let mut matching = self.versions.iter().filter(|version| version.version.starts_with(hash));
        let (task, hash) = (name.to_owned(), hash.to_owned());
        match (matching.next(), matching.next()) {
            (Some(version), None) => Ok(Arc::clone(version)),
            (Some(_), Some(_)) => Err(LookupError::Ambiguous { task, hash }),
            (None, _) => Err(LookupError::Version { task, hash }),
        }
    }
}

impl Catalog {
    /// A version by its whole hash.
    #[must_use]
    pub fn exact(&self, account: &AccountName, name: &TaskName, hash: &str) -> Option<Arc<Version>> {
        self.read().get(account)?.get(name)?.versions.iter().find(|version| *version.version == *hash).cloned()
    }

    /// A portion of a version by its whole hash.
    #[must_use]
    pub fn portion(&self, account: &AccountName, name: &TaskName, hash: &str, portion: &PortionName) -> Option<Arc<Version>> {
        self.exact(account, name, hash)?.portion(portion)
    }

    /// Any task of any account has an image of this name: of a version, or of a portion.
    #[must_use]
    pub fn knows(&self, hash: &str) -> bool {
        let has = |version: &Arc<Version>| *version.version == *hash || version.all().any(|portion| *portion.code == *hash);
        self.read().values().flat_map(BTreeMap::values).any(|task| task.versions.iter().any(has))
    }

    /// A version was stored: it is its task's newest.
    pub fn put(&self, version: Arc<Version>) {
        let mut tasks = self.write();
        let task = tasks.entry(version.account.clone()).or_default().entry(version.task.clone()).or_insert_with(|| Task {
            created_at: version.created_at,
            latest: Arc::clone(&version),
            versions: Vec::new(),
        });
        if !task.versions.iter().any(|known| known.version == version.version) {
            task.versions.push(Arc::clone(&version));
        }
        task.latest = version;
    }

    /// A version from another host was stored: it is its task's newest only where there was no such task.
    pub fn put_older(&self, version: Arc<Version>) {
        let mut tasks = self.write();
        let made = || Task { created_at: version.created_at, latest: Arc::clone(&version), versions: Vec::new() };
        let task = tasks.entry(version.account.clone()).or_default().entry(version.task.clone()).or_insert_with(made);
        if !task.versions.iter().any(|known| known.version == version.version) {
            task.versions.push(version);
        }
    }

    /// Removes a task, unless it is busy: then says how much. Nobody can submit to it between the question and the removal.
    pub fn remove_unless(&self, account: &AccountName, name: &TaskName, busy: impl FnOnce() -> usize) -> Result<Option<Task>, usize> {
        let mut tasks = self.write();
        match busy() {
            0 => Ok(tasks.get_mut(account).and_then(|own| own.remove(name))),
            busy => Err(busy),
        }
    }

    /// The removal could not be stored.
    pub fn put_back(&self, task: Task) {
        let (account, name) = (task.latest.account.clone(), task.latest.task.clone());
        self.write().entry(account).or_default().insert(name, task);
    }
}
