//! From a file to a host. The commit in the database is the point at which the execution is here; whatever fails before it leaves nothing behind.

use super::Place;
use super::container::TransferError;
use super::content::{self, Contents};
use crate::code::check::{Checked, check};
use crate::code::{CodeError, erofs, image};
use crate::engine::{Base, Engine, ErrorKind, TaskVersion};
use crate::manifest::AccountName;
use crate::notify::{Delivery, Notify};
use crate::parked::{Draft, ParkError};
use crate::schedule::dispatch::{Dispatcher, SubmitError};
use crate::schedule::live::task_version;
use crate::state::id::ExecutionId;
use crate::state::record::{Execution, Happening, TimelineEntry, Version};
use crate::state::store::StoreError;
use crate::state::time::Timestamp;
use crate::state::waiting::Parked;
use crate::state::writer::{Change, Import};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::Mutex;
use torpor_snapshot::SnapshotError;
use torpor_snapshot::parked::{Origin, Parked as Machine, SealKey};

/// Why an execution is not taken in. Nothing of it is kept.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file.
    #[error(transparent)]
    File(#[from] TransferError),
    /// The code in the file.
    #[error("the code in the file: {0}")]
    Code(CodeError),
    /// The machine in the file.
    #[error("the machine in the file: {0}")]
    Machine(#[from] SnapshotError),
    /// It is here, or was.
    #[error("execution {0} is known here already; an execution is imported once")]
    Known(ExecutionId),
    /// This host is not like the one that it was parked on.
    #[error("it can't go on on this host: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// Its template is not there.
    #[error("its template {0} is neither here nor in the file; export without --without-template")]
    NoTemplate(String),
    /// It could never run.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No room for its machine.
    #[error(transparent)]
    Parked(#[from] ParkError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The template in the file is not what it should be.
    #[error("{0}")]
    Foreign(String),
    /// Templates can't be looked for or kept.
    #[error("{0}")]
    Template(String),
    /// A file of the state folder.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> ImportError {
    move |source| ImportError::Io { what, source }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImportError> + Send + 'static) -> Result<T, ImportError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| io("work on the file broke off")(io::Error::other(error)))?
}

/// The code, and the hash that its image has here.
fn code(file: &File, contents: &Contents) -> Result<(Checked, String), ImportError> {
    let read = || {
        let code = check(file, image::read(file, contents.code.clone())?)?;
        let mut hash = blake3::Hasher::new();
        erofs::write(code.tree_of(&contents.record.portion), file, &mut hash)?;
        Ok::<_, CodeError>((code, hash.finalize().to_hex().to_string()))
    };
    let (code, hash) = read().map_err(ImportError::Code)?;
    if code.manifest.name != contents.record.task || code.version != *contents.record.version {
        return Err(TransferError::malformed("its code is not that of its task's version").into());
    }
    Ok((code, hash))
}

/// The key of the machine in the file: only a host with the same master key has it, and only for the account that it was parked in.
fn key(d: &Dispatcher, account: &AccountName, contents: &Contents) -> Result<Option<SealKey>, ImportError> {
    let record = &contents.record;
    let opened = record.parked.key.as_ref().map(|sealed| d.secrets.park_key(account, &record.id, sealed)).transpose();
    let key = opened.map_err(|error| ImportError::Differs(vec![format!("it holds secrets; {error}")]))?;
    Ok(key.map(|key| SealKey::new(key.bytes())))
}

/// The machine in a file of its own, checked, and what it needs.
fn machine(from: &File, contents: &Contents, draft: &Draft, key: Option<&SealKey>) -> Result<Origin, ImportError> {
    let (mut to, parked) = (&draft.file, &contents.record.parked);
    io::copy(&mut Place { file: from, at: contents.machine.clone() }, &mut to).map_err(io("can't keep its machine"))?;
    let machine = Machine::open(&draft.file, key)?;
    if machine.stored_bytes() != parked.stored_bytes {
        return Err(TransferError::malformed("its machine is longer or shorter than recorded").into());
    }
    machine.verify(&draft.file)?;
    let origin = machine.origin()?;
    if origin.template_hash != parked.base.content {
        return Err(TransferError::malformed("its machine was parked on another template than recorded").into());
    }
    draft.file.sync_all().map_err(io("can't keep its machine"))?;
    Ok(origin)
}

/// Makes a template of the one in the file.
fn unpack(
    engine: &Engine,
    file: &File,
    content: &str,
    from: &content::Template,
    task: &TaskVersion,
    code: &str,
) -> Result<(), ImportError> {
    let draft = engine.begin_template(content).map_err(|error| ImportError::Template(error.message))?;
    let keep = "can't keep its template";
    io::copy(&mut Place { file, at: from.state.clone() }, &mut draft.state()).map_err(io(keep))?;
    let sections = torpor_snapshot::state::Sections::read(draft.state())?;
    let index: torpor_snapshot::memory::Index = sections.decode(torpor_snapshot::state::SectionId::MemoryIndex)?;
    if index.size > torpor_snapshot::memory::MAX_MEMORY {
        return Err(TransferError::malformed("its template has more memory than can be").into());
    }
    draft.memory().set_len(index.size).map_err(io(keep))?;
    for at in &from.memory {
        let (offset, piece) = content::unpack(&content::bytes(file, at)?)?;
        if offset.checked_add(piece.len() as u64).is_none_or(|end| end > index.size) {
            return Err(TransferError::malformed("a piece of its template's memory is beyond its end").into());
        }
        for (number, page) in piece.chunks(4096).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
            draft.memory().write_all_at(page, offset + number as u64 * 4096).map_err(io(keep))?;
        }
    }
    engine.keep_template(draft, &from.meta, task, code).map_err(|error| ImportError::Foreign(error.message))
}

/// What was put into its place; taken out again where the commit does not come.
struct Placed<'a> {
    d: &'a Dispatcher,
    account: &'a AccountName,
    id: &'a ExecutionId,
    bytes: u64,
    file: Option<String>,
    log: bool,
    template: Option<(&'a Engine, String)>,
    code: Vec<Arc<str>>,
    committed: bool,
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        match &self.file {
            Some(file) => self.d.parked.remove(file),
            None => self.d.parked.unreserve(self.account, self.bytes),
        }
        if let Some((engine, content)) = &self.template {
            engine.drop_template(content);
        }
        let log = if self.log { self.d.logs.remove(self.id).map(drop) } else { Ok(()) };
        let code = self.code.iter().try_for_each(|name| self.d.images.remove(name));
        if let Err(error) = log.and(code) {
            tracing::warn!(execution = %self.id, %error, "a part of an import that failed can't be removed; the next start does");
        }
    }
}

fn imports(timeline: &[TimelineEntry]) -> usize {
    timeline.iter().filter(|entry| entry.what == Happening::Imported).count()
}

/// An execution that was here before.
struct Before {
    /// Where its end is told: that it moved is not its end any more.
    notify: Option<Notify>,
}

/// Refuses what is known, unless it has moved away and been on another host since: then it comes back.
async fn known(d: &Dispatcher, account: &AccountName, contents: &Contents) -> Result<Option<Before>, ImportError> {
    let record = &contents.record;
    if d.live(&record.id).is_some() {
        return Err(ImportError::Known(record.id.clone()));
    }
    let Some(before) = d.store.execution(&record.id).await? else { return Ok(None) };
    let own = before.account == *account;
    let moved = own && before.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Moved);
    if !moved || imports(&record.timeline) <= imports(&before.timeline) {
        return Err(ImportError::Known(record.id.clone()));
    }
    Ok(Some(Before { notify: before.notify.map(|delivery| delivery.notify) }))
}

/// Takes an execution in, for an account. One at a time; `tasks` is held while tasks are changed.
pub async fn take(d: &Arc<Dispatcher>, tasks: &Mutex<()>, account: &AccountName, file: File) -> Result<Arc<Execution>, ImportError> {
    let file = Arc::new(file);
    let (from, owner) = (Arc::clone(&file), account.clone());
    let contents = Arc::new(blocking(move || Ok(Contents::read(&from, &owner)?)).await?);
    let record = &contents.record;
    let returns = known(d, account, &contents).await?;
    let (from, all) = (Arc::clone(&file), Arc::clone(&contents));
    let (code, code_hash) = blocking(move || code(&from, &all)).await?;
    let main = d.catalog.exact(account, &record.task, &record.version);
    let main = main.unwrap_or_else(|| Arc::new(code.version(account, &d.caps)));
    let version = main.portion(&record.portion).ok_or_else(|| TransferError::malformed("its task has no such portion"))?;
    // Who made a file without a key has not parked it under this policy: its machine could be anything, and would get the secrets' rights.
    if record.parked.key.is_none() && !version.rights.secrets().is_empty() {
        return Err(TransferError::malformed("its task has secrets, and its machine is not encrypted").into());
    }
    d.check_capacity(&version)?;
    d.check_open(account, contents.input.len() as u64)?;
    d.store.check_room()?;
    let key = key(d, account, &contents)?;
    let (from, all, draft) = (Arc::clone(&file), Arc::clone(&contents), d.parked.begin()?);
    let (draft, origin) = blocking(move || machine(&from, &all, &draft, key.as_ref()).map(|origin| (draft, origin))).await?;
    let engine = d.runner().engine().ok_or_else(|| ImportError::Differs(vec!["it runs no machines".into()]))?;
    let mut differences = engine.differences(&origin, version.entry.runtime());
    if origin.code != code_hash {
        differences.push(format!("code disk: the machine was parked with {}, here it would be {code_hash}", origin.code));
    }
    if origin.memory_mib != version.policy.memory_mib {
        differences.push(format!("memory: the machine has {} MiB, its task {}", origin.memory_mib, version.policy.memory_mib));
    }
    if !differences.is_empty() {
        return Err(ImportError::Differs(differences));
    }
    let content = &record.parked.base.content;
    let template = engine.template_with(content).await.map_err(|error| ImportError::Template(error.message))?;
    if template.is_none() && contents.template.is_none() {
        return Err(ImportError::NoTemplate(content.clone()));
    }
    let bytes = record.parked.stored_bytes;
    d.room_to_park(account, bytes)?;
    let mut placed =
        Placed { d, account, id: &record.id, bytes, file: None, log: false, template: None, code: Vec::new(), committed: false };
    if let (None, Some(_)) = (&template, &contents.template) {
        let task = task_version(&version, &d.images);
        let (from, all, d) = (Arc::clone(&file), Arc::clone(&contents), Arc::clone(d));
        placed.template = Some((engine, content.clone()));
        blocking(move || match (d.runner().engine(), &all.template) {
            (Some(engine), Some(template)) => unpack(engine, &from, &all.record.parked.base.content, template, &task, &code_hash),
            _ => Ok(()),
        })
        .await?;
    }
    let base = Base { template: template.unwrap_or_else(|| content.clone()), content: content.clone() };
    let (from, all, this) = (Arc::clone(&file), Arc::clone(&contents), Arc::clone(d));
    placed.log = contents.log.is_some() && returns.is_none();
    let owner = account.clone();
    let name = blocking(move || {
        if let Some(at) = all.log.clone() {
            this.logs.take_in(&all.record.id, Place { file: &from, at }).map_err(io("can't keep its log"))?;
        }
        let mark = crate::parked::mark(&draft.file)?;
        Ok((this.parked.commit(draft, &all.record.id, &owner, bytes)?, mark))
    });
    let (name, mark) = name.await?;
    let parked = Parked { file: name, mark, base, ..record.parked.clone() };
    placed.file = Some(parked.file.clone());
    let execution = commit(d, tasks, (&contents, &file), (code, main, origin.code), (parked, returns), &mut placed).await?;
    placed.committed = true;
    tracing::info!(execution = %execution.id, task = %execution.task, "imported from another host");
    Ok(execution)
}

/// The images of a version that no task here has yet.
fn new_images(d: &Dispatcher, main: &Arc<Version>) -> Vec<Arc<str>> {
    let names = std::iter::once(&main.version).chain(main.all().map(|portion| &portion.code));
    names.filter(|name| !d.catalog.knows(name)).cloned().collect()
}

/// From here on its task can't be removed, nor pushed at the same time.
async fn commit(
    d: &Arc<Dispatcher>,
    tasks: &Mutex<()>,
    (contents, file): (&Contents, &Arc<File>),
    (code, main, code_hash): (Checked, Arc<Version>, String),
    (parked, returns): (Parked, Option<Before>),
    placed: &mut Placed<'_>,
) -> Result<Arc<Execution>, ImportError> {
    let _one = tasks.lock().await;
    let main = d.catalog.exact(&main.account, &main.task, &main.version).unwrap_or(main);
    let version = main.portion(&contents.record.portion).ok_or_else(|| TransferError::malformed("its task has no such portion"))?;
    placed.code = new_images(d, &main);
    let (images, from, path) = (d.images.clone(), Arc::clone(file), d.images.path(&version.code));
    blocking(move || {
        images.keep(&code, &from, false).map_err(ImportError::Code)?;
        let mut hash = blake3::Hasher::new();
        let kept = File::open(path).and_then(|mut kept| io::copy(&mut kept, &mut hash));
        kept.map_err(io("can't read its code"))?;
        let found = hash.finalize().to_hex().to_string();
        if found == code_hash {
            return Ok(());
        }
        Err(ImportError::Differs(vec![format!("code disk: the machine was parked with {code_hash}, here is {found}")]))
    })
    .await?;
    let mut execution = contents.record.execution(&main.account, parked);
    // Its file may name a later one, or none.
    let own = version
        .policy
        .deadline_ms
        .and_then(|ms| i64::try_from(ms).ok())
        .map(|ms| Timestamp(execution.created_at.0.min(Timestamp::now().0).saturating_add(ms.saturating_mul(1000))));
    execution.due = execution.due.into_iter().chain(own).min_by_key(|due| due.0);
    let notify = returns.as_ref().and_then(|before| before.notify.clone());
    // Under another id: the old one may have told that it moved.
    execution.notify = notify.map(Delivery::new).transpose().map_err(|error| io("no randomness")(error.into()))?;
    let imported = execution.apply(Timestamp::now(), Happening::Imported);
    imported.map_err(|error| TransferError::malformed(error.to_string()))?;
    let parked = execution.parked.clone().ok_or_else(|| TransferError::malformed("it is not parked"))?;
    let import = Import {
        execution: Arc::new(execution.clone()),
        version: Arc::clone(&main),
        input: contents.input.clone(),
        events: contents.events.clone(),
        ended: contents.ended.clone(),
        returns: returns.is_some().then(|| execution.id.clone()),
    };
    match d.store.commit(Change::Import(Arc::new(import))).await {
        Err(StoreError::Constraint) => return Err(ImportError::Known(execution.id)),
        other => other?,
    }
    placed.committed = true;
    d.catalog.put_older(main);
    Ok(d.take_in(execution, version, parked, contents.input.len() as u64))
}
