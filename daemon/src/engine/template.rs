//! Templates: snapshots that VMs start from, of a booted runtime and of a task with its code loaded.
//!
//! ```text
//!   (none) --wanted--> Making --loaded from disk and checked, or made and committed--> Ready --found damaged--> (none)
//!                        |                                                               |
//!                        +--> Failed --wanted again--> Making                            +--forgotten--> (none)
//! ```
//! Invariants: a template is made once however many want it, in a task of its own that outlives those who asked; a template is used only
//! after all of it was checked in this life of the daemon; its files stay open, so that a run opens nothing.

mod make;
mod store;

use super::host::{Host, Image, Spec};
use super::pool::Pool;
use super::stats::Stats;
use super::types::{ErrorKind, ExecutionError, TaskVersion, TemplateInfo, TemplateState};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use store::{Files, Meta, Store, StoreError};
use tokio::sync::{Semaphore, watch};

/// Most templates made at once: each takes a VM and a core.
const MAKERS: usize = 2;

/// A template ready for use, its files open.
#[derive(Debug)]
pub(super) struct Template {
    /// Hash of what it was made from.
    pub(super) id: String,
    state: File,
    memory: File,
    image: Arc<Image>,
    code: Option<File>,
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
type Got = Result<(Arc<Template>, bool), ExecutionError>;

#[derive(Debug)]
enum SlotState {
    Making(watch::Receiver<Option<Got>>),
    Ready(Arc<Template>),
    Failed,
}

#[derive(Debug)]
struct Slot {
    spec: Spec,
    attempt: u64,
    state: SlotState,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<String, Slot>,
    attempts: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Templates {
    host: Arc<Host>,
    pool: Arc<Pool>,
    stats: Arc<Stats>,
    store: Store,
    table: Mutex<Table>,
    makers: Semaphore,
}

impl Templates {
    /// Opens the folder and cleans it. Blocks.
    pub(super) fn open(root: &Path, host: Arc<Host>, pool: Arc<Pool>, stats: Arc<Stats>) -> io::Result<Self> {
        let store = Store::open(root, &host.bases())?;
        Ok(Self { host, pool, stats, store, table: Mutex::default(), makers: Semaphore::new(MAKERS) })
    }

    /// The template, made first where it is missing. Everybody who asks while it is being made shares that attempt's end.
    pub(super) async fn get(self: &Arc<Self>, spec: &Spec) -> Got {
        let id = self.host.id(spec);
        let mut end = {
            let mut table = self.table();
            match table.slots.get(&id).map(|slot| &slot.state) {
                Some(SlotState::Ready(template)) => return Ok((template.clone(), false)),
                Some(SlotState::Making(end)) => end.clone(),
                Some(SlotState::Failed) | None => self.begin(&mut table, id, spec.clone()),
            }
        };
        match end.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(got)) => got.clone(),
            _ => Err(ExecutionError::new(ErrorKind::Host, "the making of the template was broken off; torpord's log has more")),
        }
    }

    fn begin(self: &Arc<Self>, table: &mut Table, id: String, spec: Spec) -> watch::Receiver<Option<Got>> {
        let (told, end) = watch::channel(None);
        table.attempts += 1;
        let attempt = table.attempts;
        table.slots.insert(id.clone(), Slot { spec: spec.clone(), attempt, state: SlotState::Making(end.clone()) });
        let this = self.clone();
        tokio::spawn(async move {
            let got = this.load_or_make(&id, &spec).await;
            this.settle(&id, attempt, &got);
            told.send_replace(Some(got));
        });
        end
    }

    /// Enters an attempt's end in the table, unless the template was forgotten meanwhile: then what was made goes.
    fn settle(&self, id: &str, attempt: u64, got: &Got) {
        let mut table = self.table();
        match table.slots.get_mut(id) {
            Some(slot) if slot.attempt == attempt => {
                slot.state = match got {
                    Ok((template, _)) => SlotState::Ready(template.clone()),
                    Err(_) => SlotState::Failed,
                };
            }
            Some(_another_attempt) => {}
            None => self.remove(id),
        }
    }

    async fn load_or_make(self: &Arc<Self>, id: &str, spec: &Spec) -> Got {
        let code = match spec.task() {
            Some(task) => {
                let path = task.code.clone();
                Some(blocking(move || store::open_code(&path)).await?)
            }
            None => None,
        };
        let (file, hash) = code.unzip();
        if let Some(files) = self.load(id, hash.as_deref()).await {
            return Ok((Arc::new(self.template(spec, files, file)), false));
        }
        let since = Instant::now();
        let made = self.make(id, spec, file.as_ref(), hash).await;
        self.stats.template(made.is_ok());
        match made {
            Ok(files) => {
                tracing::info!(template = id, "template of {spec} made in {:?}", since.elapsed());
                Ok((Arc::new(self.template(spec, files, file)), true))
            }
            Err(error) => {
                tracing::warn!(template = id, console = error.console, "no template of {spec}: {error}");
                Err(error)
            }
        }
    }

    /// From disk, if it is there and whole; what is not whole is removed.
    async fn load(self: &Arc<Self>, id: &str, code: Option<&str>) -> Option<Files> {
        let (this, wanted) = (self.clone(), id.to_owned());
        match blocking(move || this.store.load(&wanted)).await {
            Ok(Some(files)) if files.meta.code.as_deref() == code => return Some(files),
            Ok(Some(_)) => tracing::error!(template = id, "template made from other code; it is made anew"),
            Ok(None) => return None,
            Err(error) => tracing::error!(template = id, "{}; the template is made anew", error.message),
        }
        self.remove(id);
        None
    }

    async fn make(self: &Arc<Self>, id: &str, spec: &Spec, code: Option<&File>, hash: Option<String>) -> Result<Files, ExecutionError> {
        let below = match spec {
            Spec::Runtime { .. } => None,
            Spec::Task(_) => Some(Box::pin(self.get(&spec.below())).await?.0),
        };
        let _permit = self.makers.acquire().await;
        let (this, name) = (self.clone(), id.to_owned());
        let draft = blocking(move || this.store.begin(&name)).await?;
        let out = (&draft.state, &draft.memory);
        let memory_bytes = match (spec, &below, code) {
            (Spec::Task(task), Some(below), Some(code)) => make::task(&self.pool, task, below, code, out).await?,
            _ => {
                let (bytes, first_frame) = make::runtime(&self.host, &self.pool, spec, out).await?;
                self.stats.booted(first_frame);
                bytes
            }
        };
        let base = self.host.image(spec.runtime()).base.clone();
        let meta = Meta { memory_bytes, ..Meta::of(spec, id.to_owned(), base, hash) };
        let this = self.clone();
        blocking(move || this.store.commit(draft, &meta)).await
    }

    fn template(&self, spec: &Spec, files: Files, code: Option<File>) -> Template {
        let Files { state, memory, meta } = files;
        Template { id: meta.id, state, memory, image: self.host.image(spec.runtime()).clone(), code, memory_bytes: meta.memory_bytes }
    }

    /// Whether a task's template is there.
    pub(super) fn state(&self, task: &TaskVersion) -> TemplateState {
        let id = self.host.id(&Spec::Task(task.clone()));
        match self.table().slots.get(&id) {
            Some(slot) => slot.state.public(),
            None if self.store.has(&id) => TemplateState::Ready,
            None => TemplateState::None,
        }
    }

    /// A monitor could not use this template: it is read and checked again before its next use.
    pub(super) fn suspect(&self, template: &Template) {
        let mut table = self.table();
        if let Some(Slot { state: SlotState::Ready(ready), .. }) = table.slots.get(&template.id)
            && std::ptr::eq(ready.as_ref(), template)
        {
            table.slots.remove(&template.id);
        }
    }

    /// Drops a task's template, from disk too.
    pub(super) fn forget(&self, task: &TaskVersion) {
        let id = self.host.id(&Spec::Task(task.clone()));
        let mut table = self.table();
        table.slots.remove(&id);
        self.remove(&id);
    }

    /// All that this daemon has used, by runtime and task.
    pub(super) fn list(&self) -> Vec<TemplateInfo> {
        let table = self.table();
        let mut list: Vec<TemplateInfo> = table.slots.iter().map(|(id, slot)| slot.info(id)).collect();
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

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotState {
    const fn public(&self) -> TemplateState {
        match self {
            Self::Making(_) => TemplateState::Preparing,
            Self::Ready(_) => TemplateState::Ready,
            Self::Failed => TemplateState::Failed,
        }
    }
}

impl Slot {
    fn info(&self, id: &str) -> TemplateInfo {
        TemplateInfo {
            id: id.to_owned(),
            runtime: self.spec.runtime().name().to_owned(),
            memory_mib: self.spec.memory_mib(),
            task: self.spec.task().map(|task| task.task.clone()),
            version: self.spec.task().map(|task| task.version.clone()),
            state: self.state.public(),
            memory_bytes: match &self.state {
                SlotState::Ready(template) => template.memory_bytes,
                SlotState::Making(_) | SlotState::Failed => 0,
            },
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, ExecutionError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| ExecutionError::new(ErrorKind::Host, error.to_string())),
        Err(error) => Err(ExecutionError::new(ErrorKind::Host, format!("disk work broke off: {error}"))),
    }
}
