//! Templates: snapshots that VMs start from, of a booted runtime and of a task with its code loaded.
//!
//! - [`table`]: which there are, and the states of each
//! - [`store`]: on disk
//! - [`make`]: a VM is brought to the door and saved
//! - [`parked`]: those that parked machines are differences to; [`moved`]: those that travel with them
//!
//! Invariants: a template is made once however many want it, in a task of its own that outlives those who asked first; that of a task ends
//! when nobody waits for it any more or its task is removed, and its VM with it; code that hangs while it is loaded keeps others waiting
//! for [`PATIENCE`] at most; a template is used only after all of it was checked or made in this life of the daemon; its files stay open, so that a run opens nothing.

mod make;
mod moved;
mod parked;
mod store;
mod table;

use super::fingerprint::hash_file;
use super::host::{Host, Image, Spec};
use super::pool::Pool;
use super::stats::Stats;
use super::types::{Base, ErrorKind, ExecutionError, TaskVersion, TemplateInfo, TemplateState};
use crate::caught::caught;
pub use moved::{TemplateDraft, TemplateFiles};
pub(super) use parked::{Ground, NoGround};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use store::{Draft, Files, Meta, Store, StoreError};
use table::{Attempt, Found, Table};
use tokio::sync::Semaphore;
use torpor_protocol::agent::Runtime;

/// Most runtimes booted at once: each takes a core.
const BOOTS: usize = 2;
/// Least number of tasks that may be loaded at once, on hosts with fewer processors. What all of them take is in the memory budget.
const LOADS: usize = 4;
/// A load that takes longer is waiting rather than working, and does not count as one of those at once any more.
const PATIENCE: Duration = Duration::from_secs(5);

/// A template ready for use, its files open.
#[derive(Debug)]
pub(super) struct Template {
    /// Hash of what it was made from.
    pub(super) id: String,
    state: File,
    memory: File,
    image: Arc<Image>,
    code: Option<File>,
    /// What machines that start from it are differences to.
    pub(super) ground: Arc<Ground>,
    memory_bytes: u64,
}

impl Template {
    /// The descriptors of a restore from a task's template, in the command's order.
    pub(super) fn task_fds(&self) -> Vec<BorrowedFd<'_>> {
        let files = [Some(&self.state), Some(&self.memory), Some(&self.image.file), self.code.as_ref()];
        files.into_iter().flatten().map(AsFd::as_fd).collect()
    }
}

/// A template, and whether it had to be made.
type Got = table::Got<Template>;

/// See the module.
#[derive(Debug)]
pub(super) struct Templates {
    host: Arc<Host>,
    pool: Arc<Pool>,
    stats: Arc<Stats>,
    store: Store,
    table: Mutex<Table<Template>>,
    /// Those that only parked machines use, by content.
    parked: Mutex<HashMap<String, Arc<Template>>>,
    boots: Semaphore,
    loads: Semaphore,
}

impl Templates {
    /// Opens the folder and cleans it. Blocks.
    pub(super) fn open(root: &Path, host: Arc<Host>, pool: Arc<Pool>, stats: Arc<Stats>, needed: &[String]) -> io::Result<Self> {
        let store = Store::open(root, &host.bases(), needed)?;
        let loads = std::thread::available_parallelism().map_or(LOADS, |processors| processors.get().max(LOADS));
        let (boots, loads) = (Semaphore::new(BOOTS), Semaphore::new(loads));
        Ok(Self { host, pool, stats, store, table: Mutex::default(), parked: Mutex::default(), boots, loads })
    }

    /// The template, made first where it is missing. Everybody who asks while it is being made shares that attempt's end.
    pub(super) async fn get(self: &Arc<Self>, spec: &Spec) -> Got {
        let id = self.host.id(spec);
        let mut end = {
            let mut table = self.table();
            match table.find(&id) {
                Found::Ready(template) => return Ok((template, false)),
                Found::Making(end) => end,
                Found::Nothing => self.begin(&mut table, id, spec.clone()),
            }
        };
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(got)) => got.clone(),
            _ => Err(ExecutionError::new(ErrorKind::Host, "the making of the template was broken off; torpord's log has more")),
        }
    }

    fn begin(self: &Arc<Self>, table: &mut Table<Template>, id: String, spec: Spec) -> table::End<Template> {
        let (attempt, end) = table.begin(&id, spec.clone());
        let this = self.clone();
        tokio::spawn(async move {
            this.attempt(&id, &attempt, this.load_or_make(&id, &spec, &attempt)).await;
        });
        end
    }

    /// Does the work of an attempt and tells its end, whatever that is: who asks later waits for it too.
    async fn attempt(&self, id: &str, attempt: &Attempt<Template>, work: impl Future<Output = Got>) {
        let got = caught(work).await.flatten();
        let wanted = self.table().settle(id, attempt, &got);
        if !wanted {
            self.remove(id);
        }
        attempt.told.send_replace(Some(got));
    }

    /// Until nobody wants what comes of an attempt. A runtime is everybody's: the next task needs it.
    async fn unwanted(&self, id: &str, spec: &Spec, attempt: &Attempt<Template>) {
        let abandoned = async {
            loop {
                attempt.told.closed().await;
                if self.table().abandon(id, attempt) {
                    return;
                }
            }
        };
        tokio::select! {
            () = attempt.unwanted.cancelled() => {}
            () = abandoned, if spec.task().is_some() => {}
        }
    }

    async fn load_or_make(self: &Arc<Self>, id: &str, spec: &Spec, attempt: &Attempt<Template>) -> Got {
        let code = match spec.task() {
            Some(task) => {
                let path = task.code.clone();
                Some(blocking(move || store::open_code(&path)).await?)
            }
            None => None,
        };
        let (file, hash) = code.unzip();
        if let Some(files) = self.load(id, hash.as_deref()).await? {
            return Ok((Arc::new(self.template(spec.runtime(), files, file)?), false));
        }
        let since = Instant::now();
        let made = tokio::select! {
            biased;
            () = self.unwanted(id, spec, attempt) => {
                tracing::info!(template = id, "the making of a template of {spec} was stopped after {:?}: nobody wants it", since.elapsed());
                return Err(ExecutionError::new(ErrorKind::Load, "nobody waited for the code to be loaded, or its task was removed"));
            }
            made = self.make(id, spec, file.as_ref()) => made,
        };
        let made = match made {
            Ok((draft, memory_bytes)) => self.commit(id, spec, hash, draft, memory_bytes).await,
            Err(error) => Err(error),
        };
        self.stats.template(made.is_ok());
        match made {
            Ok(files) => {
                tracing::info!(template = id, "template of {spec} made in {:?}", since.elapsed());
                Ok((Arc::new(self.template(spec.runtime(), files, file)?), true))
            }
            Err(error) => {
                tracing::warn!(template = id, console = error.console, "no template of {spec}: {error}");
                Err(error)
            }
        }
    }

    /// From disk, if it is there and whole; what is not whole is removed. What can't be read now stays: one that is made anew has other content, and machines
    /// may be parked on this one.
    async fn load(self: &Arc<Self>, id: &str, code: Option<&str>) -> Result<Option<Files>, ExecutionError> {
        let (this, wanted, checked) = (self.clone(), id.to_owned(), self.table().is_checked(id));
        let loaded = blocking(move || {
            this.store.load(&wanted, checked).map(Ok).or_else(|error| if error.passing() { Err(error) } else { Ok(Err(error)) })
        });
        match loaded.await? {
            Ok(Some(files)) if files.meta.code.as_deref() == code => return Ok(Some(files)),
            Ok(Some(_)) => tracing::error!(template = id, "template made from other code; it is made anew"),
            Ok(None) => return Ok(None),
            Err(error) => tracing::error!(template = id, "{error}; the template is made anew"),
        }
        self.remove(id);
        Ok(None)
    }

    /// A template that is not in its place yet, and how much memory it holds. Dropped halfway, it leaves neither a VM nor files.
    async fn make(self: &Arc<Self>, id: &str, spec: &Spec, code: Option<&File>) -> Result<(Draft, u64), ExecutionError> {
        let below = match spec {
            Spec::Runtime { .. } => None,
            Spec::Task(_) => Some(Box::pin(self.get(&spec.below())).await?.0),
        };
        let permit = if below.is_some() { &self.loads } else { &self.boots }.acquire().await;
        let (this, name) = (self.clone(), id.to_owned());
        let draft = blocking(move || this.store.begin(&name)).await?;
        let out = (&draft.state, &draft.memory);
        let memory_bytes = match (spec, &below, code) {
            (Spec::Task(task), Some(below), Some(code)) => patiently(permit, make::task(&self.pool, task, below, code, out)).await?,
            _ => {
                let (bytes, first_frame) = make::runtime(&self.host, &self.pool, spec, out).await?;
                self.stats.booted(first_frame);
                bytes
            }
        };
        Ok((draft, memory_bytes))
    }

    /// Puts a template in its place.
    async fn commit(
        self: &Arc<Self>,
        id: &str,
        spec: &Spec,
        hash: Option<String>,
        draft: Draft,
        memory_bytes: u64,
    ) -> Result<Files, ExecutionError> {
        let base = self.host.image(spec.runtime()).base.clone();
        let meta = Meta { memory_bytes, ..Meta::of(spec, id.to_owned(), base, hash) };
        let this = self.clone();
        blocking(move || this.store.commit(draft, &meta)).await
    }

    fn template(&self, runtime: Runtime, files: Files, code: Option<File>) -> Result<Template, ExecutionError> {
        let Files { state, memory, meta } = files;
        let failed = |error: &dyn std::fmt::Display| ExecutionError::new(ErrorKind::Host, format!("reading a template: {error}"));
        let content = hash_file(&state).map_err(|error| failed(&error))?.to_hex().to_string();
        let base = Base { template: meta.id.clone(), content };
        let origin = parked::origin(&self.host, runtime, meta.memory_mib, &base, meta.code.as_deref().unwrap_or_default());
        let origin = postcard::to_stdvec(&origin).map_err(|error| failed(&error))?;
        let ground = Arc::new(Ground { base, origin });
        Ok(Template { id: meta.id, state, memory, image: self.host.image(runtime).clone(), code, ground, memory_bytes: meta.memory_bytes })
    }

    /// Whether a task's template is there.
    pub(super) fn state(&self, task: &TaskVersion) -> TemplateState {
        let id = self.host.id(&Spec::Task(task.clone()));
        let known = self.table().state(&id);
        known.unwrap_or_else(|| if self.store.has(&id) { TemplateState::Ready } else { TemplateState::None })
    }

    /// A monitor could not use this template: it is read and checked again before its next use.
    pub(super) fn suspect(&self, template: &Template) {
        self.table().suspect(&template.id, template);
    }

    /// Drops a task's template, from disk too.
    pub(super) fn forget(&self, task: &TaskVersion) {
        let id = self.host.id(&Spec::Task(task.clone()));
        self.table().forget(&id);
        self.remove(&id);
    }

    /// Removes templates on disk that none of these tasks needs: of tasks that are gone, or whose daemon died while it removed them, and of runtimes in
    /// sizes that nobody asks for any more. For the start, when nothing is being made.
    pub(super) fn collect(&self, tasks: &[TaskVersion], parked: &[String]) -> io::Result<usize> {
        let specs = tasks.iter().map(|task| Spec::Task(task.clone()));
        let mut needed: HashSet<String> = specs.flat_map(|spec| [self.host.id(&spec.below()), self.host.id(&spec)]).collect();
        needed.extend(parked.iter().cloned());
        let unneeded: Vec<String> = self.store.all()?.into_iter().filter(|id| !needed.contains(id)).collect();
        for id in &unneeded {
            self.remove(id);
        }
        Ok(unneeded.len())
    }

    /// Those that are open or being made, by runtime and task.
    pub(super) fn list(&self) -> Vec<TemplateInfo> {
        let table = self.table();
        let info = |(id, spec, state, template): (&str, &Spec, TemplateState, Option<&Template>)| TemplateInfo {
            id: id.to_owned(),
            runtime: spec.runtime().name().to_owned(),
            memory_mib: spec.memory_mib(),
            account: spec.task().map(|task| task.account.clone()),
            task: spec.task().map(|task| task.task.clone()),
            version: spec.task().map(|task| task.version.clone()),
            state,
            memory_bytes: template.map_or(0, |template| template.memory_bytes),
        };
        let mut list: Vec<TemplateInfo> = table.list().map(info).collect();
        list.sort_by(|a, b| (&a.runtime, &a.task, &a.id).cmp(&(&b.runtime, &b.task, &b.id)));
        list
    }

    fn remove(&self, id: &str) {
        match self.store.set_aside(id) {
            Ok(Some(aside)) => {
                let deleted =
                    move || store::remove(&aside).unwrap_or_else(|error| tracing::error!("can't delete {}: {error}", aside.display()));
                match tokio::runtime::Handle::try_current() {
                    Ok(runtime) => drop(runtime.spawn_blocking(deleted)),
                    Err(_) => deleted(),
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(template = id, "can't remove the template: {error}"),
        }
    }

    fn parked(&self) -> MutexGuard<'_, HashMap<String, Arc<Template>>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table<Template>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does work that holds a permit, for [`PATIENCE`] at most.
async fn patiently<T>(permit: impl Sized, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    if let Ok(done) = tokio::time::timeout(PATIENCE, &mut work).await {
        return done;
    }
    drop(permit);
    work.await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, ExecutionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| ExecutionError::new(ErrorKind::Host, error.to_string())),
        Err(error) => Err(ExecutionError::new(ErrorKind::Host, format!("disk work broke off: {error}"))),
    }
}

#[cfg(test)]
mod tests;
