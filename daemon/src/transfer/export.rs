//! From a host to a file: a parked execution is held, written down, given up for good, and only then is the file whole.

use super::Place;
use super::container::{Kind, MAX_TOGETHER, PIECE, Writer};
use super::content::{Ended, Event, Record, pack};
use crate::engine::TemplateFiles;
use crate::manifest::format_bytes;
use crate::parked::ParkError;
use crate::schedule::dispatch::Dispatcher;
use crate::schedule::live::{Live, task_version};
use crate::schedule::moved::Held;
use crate::state::record::Execution;
use crate::state::store::StoreError;
use axum::body::Bytes;
use serde_json::value::RawValue;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Pieces between writer and client.
pub const DEPTH: usize = 4;
const SENT: usize = 256 << 10;
/// Most bytes of events, and of results: a file may have somewhat more.
const MOST: u64 = MAX_TOGETHER / 2;
/// A client that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);

/// Why an execution is not exported. It stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It is not parked, or others here have to do with it.
    #[error("{0}")]
    Stays(String),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its machine.
    #[error(transparent)]
    Parked(#[from] ParkError),
    /// Its template.
    #[error("{0}")]
    Template(String),
    /// A file of it.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn io(what: &'static str) -> impl FnOnce(io::Error) -> ExportError {
    move |source| ExportError::Io { what, source }
}

/// All that goes into a file.
#[derive(Debug)]
struct Parts {
    record: Vec<u8>,
    input: Vec<u8>,
    events: Vec<(String, Option<Vec<u8>>)>,
    ended: Vec<Execution>,
    log: Option<(File, u64)>,
    code: File,
    machine: (File, u64),
    template: Option<TemplateFiles>,
}

/// An execution that is held, and all that is to be written of it.
#[derive(Debug)]
pub struct Export {
    held: Held,
    parts: Parts,
}

fn json<T: serde::Serialize>(value: &T) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

/// Holds an execution and opens what belongs to it. `template`: its template goes with it.
pub async fn prepare(d: &Dispatcher, live: &Arc<Live>, template: bool) -> Result<Export, ExportError> {
    let held = d.hold(live).await.map_err(ExportError::Stays)?;
    d.ties(&held).map_err(ExportError::Stays)?;
    let (id, view, parked) = (&live.id, live.view(), &held.parked);
    let mut below = d.store.ended_below(&live.account, id).await?;
    below.extend(parked.asks.iter().flat_map(|ask| ask.targets()).cloned());
    below.sort();
    below.dedup();
    let too_large = |what: &str| ExportError::Stays(format!("{what} take more than {}, and no more may move", format_bytes(MOST)));
    if d.store.signalled(id).await?.1 > MOST {
        return Err(too_large("its events"));
    }
    let (mut ended, mut bytes) = (Vec::with_capacity(below.len()), 0);
    for id in &below {
        let end = d.store.end(id).await?.filter(|end| end.account == live.account);
        bytes += end.iter().filter_map(|end| end.result.as_ref()).map(|result| result.get().len() as u64).sum::<u64>();
        if bytes > MOST {
            return Err(too_large("results of executions that it started"));
        }
        ended.extend(end);
    }
    let log = d.logs.file(id).map_err(io("can't open its log"))?;
    let bytes = live.log.borrow().bytes;
    let task = task_version(&live.version, &d.images);
    let template = match d.runner().engine() {
        Some(engine) if template => {
            Some(engine.template_files(&parked.base, &task).await.map_err(|error| ExportError::Template(error.message))?)
        }
        _ => None,
    };
    let parts = Parts {
        record: json(&Record::of(&view, parked)).map_err(io("can't describe it"))?,
        input: d.store.input(id).await?,
        events: d.store.events(id).await?,
        ended,
        log: log.map(|file| (file, bytes)),
        code: File::open(d.images.path(&live.version.version)).map_err(io("can't open its code"))?,
        machine: (d.parked.file(&parked.file)?, parked.stored_bytes),
        template,
    };
    Ok(Export { held, parts })
}

impl Parts {
    /// All but the trailer, which is given back.
    fn write(self, out: impl Write) -> io::Result<Vec<u8>> {
        let mut to = Writer::new(out)?;
        to.section(Kind::Record, &self.record)?;
        to.section(Kind::Input, &self.input)?;
        for (token, data) in self.events {
            let text = data.map(String::from_utf8).transpose().map_err(io::Error::other)?;
            let data = text.map(RawValue::from_string).transpose()?.map(Arc::from);
            to.section(Kind::Event, &json(&Event { token, data })?)?;
        }
        for ended in self.ended.iter().filter_map(Ended::of) {
            to.section(Kind::Ended, &json(&ended)?)?;
        }
        if let Some((file, bytes)) = &self.log {
            to.copy(Kind::Log, *bytes, file)?;
        }
        to.copy(Kind::Code, self.code.metadata()?.len(), &self.code)?;
        to.copy(Kind::Machine, self.machine.1, &self.machine.0)?;
        if let Some(template) = &self.template {
            to.section(Kind::TemplateMeta, &template.meta)?;
            let len = template.state.metadata()?.len();
            to.copy(Kind::TemplateState, len, Place { file: &template.state, at: 0..len })?;
            memory(&mut to, &template.memory)?;
        }
        Ok(to.finish()?.1)
    }
}

fn memory<W: Write>(to: &mut Writer<W>, file: &File) -> io::Result<()> {
    let (size, mut offset, mut buffer) = (file.metadata()?.len(), 0, vec![0; PIECE]);
    while offset < size {
        let now = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
        let piece = &mut buffer[..now];
        file.read_exact_at(piece, offset)?;
        if piece.iter().any(|byte| *byte != 0) {
            to.section(Kind::TemplateMemory, &pack(offset, piece))?;
        }
        offset += now as u64;
    }
    Ok(())
}

/// Where the pieces of a file go.
pub type Pieces = mpsc::Sender<io::Result<Bytes>>;

/// Hands on what is written, and waits where the client is slow.
struct Outlet {
    to: Pieces,
    runtime: Handle,
    buffer: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= SENT {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        if piece.is_empty() {
            return Ok(());
        }
        match self.runtime.block_on(self.to.send_timeout(Ok(piece), STALLED)) {
            Ok(()) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client went away")),
        }
    }
}

/// Sends an export to a client, to its end or until the client goes away: then the execution is where it was.
pub async fn send(d: Arc<Dispatcher>, export: Export, to: Pieces) {
    let id = export.held.live.id.clone();
    match whole(&d, export, &to).await {
        Ok(bytes) => tracing::info!(execution = %id, bytes, "moved: it is in a file, and goes on where that is imported"),
        Err(error) => {
            tracing::warn!(execution = %id, %error, "not exported; it stays parked here unless it was ended");
            let _ = to.try_send(Err(error));
        }
    }
}

async fn whole(d: &Arc<Dispatcher>, export: Export, to: &Pieces) -> io::Result<u64> {
    let Export { held, parts } = export;
    let outlet = Outlet { to: to.clone(), runtime: Handle::current(), buffer: Vec::with_capacity(SENT) };
    let bytes = parts.machine.1;
    let signalled = parts.events.iter().filter(|(_, data)| data.is_some()).count() as u64;
    let trailer = tokio::task::spawn_blocking(move || parts.write(outlet)).await.map_err(io::Error::other)??;
    let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the client went away");
    // The client has taken all that can be known to be taken.
    let taken = tokio::time::timeout(STALLED, to.reserve_many(DEPTH)).await.map_err(|_| gone())?.map_err(|_| gone())?;
    drop(taken);
    if d.draining() {
        return Err(io::Error::other("torpord is stopping"));
    }
    if held.lost() {
        return Err(io::Error::other("it was cancelled, or its deadline passed"));
    }
    d.ties(&held).map_err(io::Error::other)?;
    let leaving = held.leave();
    if d.store.signalled(&held.live.id).await.map_err(io::Error::other)?.0 != signalled {
        return Err(io::Error::other("an event of it was signalled meanwhile"));
    }
    if !held.moved().await {
        return Err(io::Error::other("it was cancelled, or its deadline passed"));
    }
    drop(leaving);
    // From here on it is in the file or nowhere.
    to.send_timeout(Ok(trailer.into()), STALLED).await.map_err(|_| gone())?;
    Ok(bytes)
}
