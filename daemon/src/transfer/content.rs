//! What the sections of a file hold: the execution, what it has to do with others, and where the large things are.
//!
//! Invariant: [`Contents`] fits together: whatever the machine waits for is in the file.

use super::container::{Kind, MAX_TOGETHER, PIECE, Section, TransferError, check};
use crate::engine::ExecutionError;
use crate::hex;
use crate::manifest::{AccountName, PortionName, TaskName};
use crate::schedule::asks::{MAX_CHILDREN, MAX_DEPTH};
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Happening, TimelineEntry};
use crate::state::time::Timestamp;
use crate::state::waiting::{CallKey, Parked, Waiting, WaitsFor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use torpor_protocol::ask::{MAX_ASKS, MAX_TARGETS};

/// Most entries of a timeline that a file may have: parks are told of a few hundred times only.
const MAX_TIMELINE: usize = 16_384;
/// Longest token of an event.
const MAX_TOKEN: usize = 64;
/// How far the clock of another host may be ahead of ours: ids made here sort after all that are known.
const AHEAD: Duration = Duration::from_secs(3600);

/// The execution.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the torpord that wrote it, for people.
    pub torpord: String,
    /// Its id, which it keeps.
    pub id: ExecutionId,
    /// Its task.
    pub task: TaskName,
    /// Version of the task.
    pub version: Arc<str>,
    /// Portion of the task.
    #[serde(default = "PortionName::main")]
    pub portion: PortionName,
    /// When it was accepted first.
    pub created_at: Timestamp,
    /// When the program took its input.
    pub started_at: Option<Timestamp>,
    /// How many times it was begun.
    pub attempts: u32,
    /// How many executions were above it.
    pub depth: u32,
    /// When it must have ended.
    #[serde(default)]
    pub due: Option<Timestamp>,
    /// When its result is needed.
    #[serde(default)]
    pub need_by: Option<Timestamp>,
    /// How many times it was parked.
    pub parks: u32,
    /// How long it was parked, before this time.
    pub parked_ms: u64,
    /// Its machine, and what that waits for.
    pub parked: Parked,
    /// What happened.
    pub timeline: Vec<TimelineEntry>,
}

impl Record {
    /// Of an execution that is parked.
    #[must_use]
    pub fn of(execution: &Execution, parked: &Parked) -> Self {
        Self {
            torpord: env!("CARGO_PKG_VERSION").to_owned(),
            id: execution.id.clone(),
            task: execution.task.clone(),
            version: Arc::clone(&execution.version),
            portion: execution.portion.clone(),
            created_at: execution.created_at,
            started_at: execution.started_at,
            attempts: execution.attempts,
            depth: execution.depth,
            due: execution.due,
            need_by: execution.need_by,
            parks: execution.parks,
            parked_ms: execution.parked_ms,
            parked: parked.clone(),
            timeline: execution.timeline.clone(),
        }
    }

    /// The execution as it goes on elsewhere; it has no parent there.
    #[must_use]
    pub fn execution(&self, account: &AccountName, parked: Parked) -> Execution {
        Execution {
            id: self.id.clone(),
            account: account.clone(),
            task: self.task.clone(),
            version: Arc::clone(&self.version),
            portion: self.portion.clone(),
            state: State::Parked,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: None,
            result: None,
            error: None,
            attempts: self.attempts,
            parent: None,
            depth: self.depth,
            due: self.due,
            need_by: self.need_by,
            late: self.timeline.iter().any(|entry| matches!(entry.what, Happening::Late { .. })),
            call_key: None,
            not_before: None,
            schedule: None,
            notify: None,
            waiting: parked.asks.iter().map(Waiting::view).collect(),
            parks: self.parks,
            parked_ms: self.parked_ms,
            parked_since: Some(parked.since),
            parked: Some(Arc::new(parked)),
            timeline: self.timeline.clone(),
        }
    }

    fn check(&self, latest: &ExecutionId) -> Result<(), TransferError> {
        let asks = &self.parked.asks;
        let content = &self.parked.base.content;
        for (good, what) in [
            (self.id <= *latest, "its id is of a time to come; set the clocks of both hosts"),
            (self.version.len() == 64 && hex::are_digits(&self.version), "the version of its task is none"),
            (content.len() == 64 && content.bytes().all(|byte| byte.is_ascii_hexdigit()), "the hash of its template is none"),
            (!asks.is_empty() && asks.len() <= MAX_ASKS, "it waits for nothing, or for too much"),
            (asks.iter().all(|ask| ask.targets().len() <= MAX_TARGETS), "it waits for too many executions"),
            (asks.iter().map(|ask| ask.seq).collect::<HashSet<_>>().len() == asks.len(), "two of its waits have one number"),
            (self.attempts > 0, "it has never been started"),
            (self.timeline.len() <= MAX_TIMELINE, "its timeline is too long"),
            (self.depth <= MAX_DEPTH && self.parked.children <= MAX_CHILDREN, "it has too many executions above or below it"),
            (self.parked.unread.len().is_multiple_of(2), "its connection's bytes are cut"),
            (self.parked.unread.bytes().all(|byte| byte.is_ascii_hexdigit()), "its connection's bytes are none"),
        ] {
            if !good {
                return Err(TransferError::malformed(what));
            }
        }
        Ok(())
    }
}

/// An execution that has ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    id: ExecutionId,
    task: TaskName,
    version: Arc<str>,
    #[serde(default = "PortionName::main")]
    portion: PortionName,
    state: State,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
    attempts: u32,
    parent: Option<ExecutionId>,
    depth: u32,
    parks: u32,
    parked_ms: u64,
    #[serde(default)]
    call_key: Option<CallKey>,
    error: Option<ExecutionError>,
    result: Option<Arc<RawValue>>,
}

impl Ended {
    /// None where it has not ended.
    #[must_use]
    pub fn of(execution: &Execution) -> Option<Self> {
        Some(Self {
            id: execution.id.clone(),
            task: execution.task.clone(),
            version: Arc::clone(&execution.version),
            portion: execution.portion.clone(),
            state: execution.state,
            created_at: execution.created_at,
            started_at: execution.started_at,
            finished_at: execution.finished_at?,
            attempts: execution.attempts,
            parent: execution.parent.clone(),
            depth: execution.depth,
            parks: execution.parks,
            parked_ms: execution.parked_ms,
            call_key: execution.call_key.clone(),
            error: execution.error.clone(),
            result: execution.result.clone(),
        })
    }

    /// `of`: what the file is of. The links of others are not taken over: who started them is not here, or is not the account's.
    fn execution(self, account: &AccountName, of: &ExecutionId) -> Result<Execution, TransferError> {
        let child = self.parent.as_ref() == Some(of);
        if !self.state.ended() {
            return Err(TransferError::malformed("an execution that it waits for has not ended"));
        }
        if self.call_key.as_ref().is_some_and(|key| key.as_str().len() != 64) {
            return Err(TransferError::malformed("the calls before an execution that it waits for are none"));
        }
        Ok(Execution {
            id: self.id,
            account: account.clone(),
            task: self.task,
            version: self.version,
            portion: self.portion,
            state: self.state,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: Some(self.finished_at),
            result: self.result,
            error: self.error,
            attempts: self.attempts,
            parent: self.parent.filter(|_| child),
            depth: self.depth,
            due: None,
            need_by: None,
            late: false,
            call_key: self.call_key.filter(|_| child),
            not_before: None,
            schedule: None,
            notify: None,
            waiting: Vec::new(),
            parks: self.parks,
            parked_ms: self.parked_ms,
            parked_since: None,
            parked: None,
            timeline: Vec::new(),
        })
    }
}

/// An event of the execution, and what it was signalled with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Its token.
    pub token: String,
    /// JSON text.
    pub data: Option<Arc<RawValue>>,
}

/// Where a template is.
#[derive(Debug)]
pub struct Template {
    /// What it was made from: JSON text.
    pub meta: Vec<u8>,
    /// Its state.
    pub state: Range<u64>,
    /// Pieces of its memory, see [`unpack`].
    pub memory: Vec<Range<u64>>,
}

/// A piece of memory as a section: `u64 offset | u32 length | one LZ4 block`, or the bytes as they are where that is not shorter.
#[must_use]
pub fn pack(offset: u64, piece: &[u8]) -> Vec<u8> {
    let packed = lz4_flex::block::compress(piece);
    let stored = if packed.len() < piece.len() { packed.as_slice() } else { piece };
    let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
    [offset.to_le_bytes().as_slice(), &len.to_le_bytes(), stored].concat()
}

/// Where a piece of memory begins, and its bytes.
pub fn unpack(section: &[u8]) -> Result<(u64, Vec<u8>), TransferError> {
    let bad = || TransferError::malformed("a piece of its template's memory does not unpack");
    let (offset, rest) = section.split_first_chunk::<8>().ok_or_else(bad)?;
    let (len, stored) = rest.split_first_chunk::<4>().ok_or_else(bad)?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok().filter(|len| *len <= PIECE && stored.len() <= *len).ok_or_else(bad)?;
    let offset = u64::from_le_bytes(*offset);
    if stored.len() == len {
        return Ok((offset, stored.to_vec()));
    }
    let mut bytes = vec![0; len];
    match lz4_flex::block::decompress_into(stored, &mut bytes) {
        Ok(got) if got == len => Ok((offset, bytes)),
        _ => Err(bad()),
    }
}

/// A file that was checked, taken apart. Large things are where they are.
#[derive(Debug)]
pub struct Contents {
    /// The execution.
    pub record: Record,
    /// JSON text.
    pub input: Vec<u8>,
    /// Its events.
    pub events: Vec<(String, Option<Vec<u8>>)>,
    /// Executions that ended.
    pub ended: Vec<Execution>,
    /// Its log, as it is on disk.
    pub log: Option<Range<u64>>,
    /// The image of its code.
    pub code: Range<u64>,
    /// Its machine.
    pub machine: Range<u64>,
    /// Its template.
    pub template: Option<Template>,
}

/// Bytes of a place in a file.
pub fn bytes(file: &File, at: &Range<u64>) -> Result<Vec<u8>, TransferError> {
    let len = usize::try_from(at.end.saturating_sub(at.start)).map_err(|_| TransferError::malformed("a section is too long"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at.start)?;
    Ok(bytes)
}

fn parse<T: for<'a> Deserialize<'a>>(kind: Kind, bytes: &[u8]) -> Result<T, TransferError> {
    serde_json::from_slice(bytes).map_err(|error| TransferError::malformed(format!("{kind} can't be read: {error}")))
}

struct Sections<'a> {
    file: &'a File,
    all: Vec<Section>,
}

impl Sections<'_> {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Range<u64>> {
        self.all.iter().filter(move |section| section.kind == kind).map(|section| &section.body)
    }

    fn one(&self, kind: Kind) -> Result<Range<u64>, TransferError> {
        self.of(kind).next().cloned().ok_or_else(|| TransferError::malformed(format!("{kind} is not in it")))
    }

    fn parsed<T: for<'a> Deserialize<'a>>(&self, kind: Kind) -> Result<Vec<T>, TransferError> {
        let total: u64 = self.of(kind).map(|at| at.end - at.start).sum();
        if total > MAX_TOGETHER {
            return Err(TransferError::malformed(format!("{kind}: more of these than can be")));
        }
        self.of(kind).map(|at| parse(kind, &bytes(self.file, at)?)).collect()
    }

    fn template(&self) -> Result<Option<Template>, TransferError> {
        let Some(meta) = self.of(Kind::TemplateMeta).next() else {
            let rest = self.of(Kind::TemplateState).next().or(self.of(Kind::TemplateMemory).next());
            return if rest.is_none() { Ok(None) } else { Err(TransferError::malformed("a part of its template is not in it")) };
        };
        let memory = self.of(Kind::TemplateMemory).cloned().collect();
        Ok(Some(Template { meta: bytes(self.file, meta)?, state: self.one(Kind::TemplateState)?, memory }))
    }
}

impl Contents {
    /// Checks all of a file, and takes it apart. What is in it belongs to this account from now on.
    pub fn read(file: &File, account: &AccountName) -> Result<Self, TransferError> {
        let sections = Sections { file, all: check(file)? };
        let record: Record = parse(Kind::Record, &bytes(file, &sections.one(Kind::Record)?)?)?;
        let latest = ExecutionId::first_of(Timestamp::now().after(AHEAD));
        record.check(&latest)?;
        let input = bytes(file, &sections.one(Kind::Input)?)?;
        parse::<Box<RawValue>>(Kind::Input, &input)?;
        let events = sections.parsed::<Event>(Kind::Event)?.into_iter();
        let events = events.map(|Event { token, data }| (token, data.map(|data| data.get().as_bytes().to_vec()))).collect();
        let ended = sections.parsed::<Ended>(Kind::Ended)?.into_iter();
        let ended = ended.map(|ended| ended.execution(account, &record.id)).collect::<Result<_, _>>()?;
        let (log, code, machine) = (sections.of(Kind::Log).next().cloned(), sections.one(Kind::Code)?, sections.one(Kind::Machine)?);
        let contents = Self { record, input, events, ended, log, code, machine, template: sections.template()? };
        contents.fits(&latest)?;
        Ok(contents)
    }

    fn fits(&self, latest: &ExecutionId) -> Result<(), TransferError> {
        let tokens: HashSet<&str> = self.events.iter().map(|(token, _)| token.as_str()).collect();
        let odd = |token: &&str| !token.starts_with("ev_") || token.len() > MAX_TOKEN;
        if tokens.len() != self.events.len() || tokens.iter().any(odd) {
            return Err(TransferError::malformed("an event of it has a token that it can't have"));
        }
        let ended: HashSet<&ExecutionId> = self.ended.iter().map(|execution| &execution.id).collect();
        if ended.len() != self.ended.len() || ended.contains(&self.record.id) {
            return Err(TransferError::malformed("an execution is in it twice"));
        }
        let awaited: HashSet<&ExecutionId> = self.record.parked.asks.iter().flat_map(Waiting::targets).collect();
        for execution in &self.ended {
            if execution.id > *latest {
                return Err(TransferError::malformed("an id in it is of a time to come; set the clocks of both hosts"));
            }
            if execution.parent.is_none() && !awaited.contains(&execution.id) {
                return Err(TransferError::malformed("an execution is in it that it neither started nor waits for"));
            }
        }
        if self.machine.end - self.machine.start != self.record.parked.stored_bytes {
            return Err(TransferError::malformed("its machine is longer or shorter than recorded"));
        }
        for ask in &self.record.parked.asks {
            let there = match &ask.what {
                WaitsFor::Executions { ids, .. } => ids.iter().all(|id| ended.contains(id)),
                WaitsFor::Event { token } => tokens.contains(token.as_str()),
                WaitsFor::Timer => ask.until.is_some(),
            };
            if !there {
                return Err(TransferError::malformed("what it waits for is not in it"));
            }
        }
        Ok(())
    }
}
