//! What programs print: one file an execution, one line an entry, cut at the policy's cap.
//!
//! ```text
//! {"at":"2026-01-02T03:04:05.678901Z","stream":"stdout","text":"hello\n"}
//! ```
//!
//! An entry's cursor is the byte where the next one begins, so a reader can go on after any entry, over restarts too. Output is kept in
//! the order in which it came; a character cut between two pieces is put together again. Over the cap, output is counted and dropped; so it
//! is once the file is at its own limit ([`file_limit`]), which many tiny pieces reach first: each costs 70 bytes beside its text.
//! Lines are in the page cache when a reader is told of them, and on disk soon after the execution's end: they survive a crash of
//! the daemon, and their last moments may be lost with the host.
//!
//! Invariant: a reader sees whole lines only ([`Tail::bytes`] never points into one).

#[cfg(test)]
mod tests;

use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use torpor_protocol::agent::Stream;

/// Most bytes of the file that one read returns entries for.
const READ_CHUNK: u64 = 1 << 20;

/// Most bytes of an entry's line beside its text.
const ENTRY_OVERHEAD: u64 = 128;
/// Most bytes of a line for each byte of output: a control character becomes `\u0001`.
const WORST_ESCAPE: u64 = 6;

/// Most bytes that a log with this cap takes on disk. Lines of 24 characters, each an entry of its own, still fill the cap.
const fn file_limit(cap: u64) -> u64 {
    cap.saturating_mul(4).saturating_add(4 << 10)
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogEntry {
    /// When it reached the daemon.
    pub at: Timestamp,
    /// Where it was written.
    #[schema(value_type = String, example = "stdout")]
    pub stream: Stream,
    /// As written; bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Bytes of the file that hold whole entries.
    pub bytes: u64,
    /// Bytes of output kept.
    pub kept: u64,
    /// Bytes of output dropped.
    pub dropped: u64,
    /// Nothing follows.
    pub ended: bool,
}

/// Entries as they were read.
#[derive(Debug, Default)]
pub struct Page {
    /// The entries, and for each the cursor after it.
    pub entries: Vec<(LogEntry, u64)>,
    /// Where the next page begins.
    pub next: u64,
}

/// The folder of logs.
#[derive(Debug, Clone)]
pub struct Logs(PathBuf);

impl Logs {
    /// Opens the folder, makes it where it is missing.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let folder = state_dir.join("logs");
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    /// Removes an execution's log; false if it had none.
    pub fn remove(&self, id: &ExecutionId) -> io::Result<bool> {
        match fs::remove_file(self.path(id)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Executions that have a log, in no order; files that are no logs are left out.
    pub fn all(&self) -> io::Result<impl Iterator<Item = io::Result<ExecutionId>> + Send + use<>> {
        let id = |entry: fs::DirEntry| ExecutionId::parse(entry.file_name().to_str()?.strip_suffix(".jsonl")?);
        Ok(fs::read_dir(&self.0)?.filter_map(move |entry| entry.map(id).transpose()))
    }

    /// An execution's log as it is on disk, where it has one.
    pub fn file(&self, id: &ExecutionId) -> io::Result<Option<File>> {
        match File::open(self.path(id)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes in a log from another host; on disk when it returns.
    pub fn take_in(&self, id: &ExecutionId, mut from: impl Read) -> io::Result<()> {
        let mut file = File::create(self.path(id))?;
        io::copy(&mut from, &mut file)?;
        file.sync_all()
    }

    fn path(&self, id: &ExecutionId) -> PathBuf {
        self.0.join(format!("{id}.jsonl"))
    }

    /// A writer for an execution that runs. Goes on where an earlier attempt stopped.
    #[must_use]
    pub fn writer(&self, id: &ExecutionId, cap: u64) -> LogWriter {
        LogWriter { path: self.path(id), file: None, cap, cut: [Vec::new(), Vec::new()], full: false, failed: false }
    }

    /// How much of an execution's file holds whole entries, and how much output they are. For executions of an earlier daemon.
    pub fn measure(&self, id: &ExecutionId) -> io::Result<Tail> {
        let mut tail = Tail::default();
        loop {
            let page = self.read(id, tail.bytes, u64::MAX)?;
            if page.entries.is_empty() {
                return Ok(tail);
            }
            tail.kept += page.entries.iter().map(|(entry, _)| entry.text.len() as u64).sum::<u64>();
            tail.bytes = page.next;
        }
    }

    /// Entries from a cursor on, up to `end`. Ends early after [`READ_CHUNK`]; an empty page means that there is no more.
    pub fn read(&self, id: &ExecutionId, from: u64, end: u64) -> io::Result<Page> {
        let mut page = Page { entries: Vec::new(), next: from };
        let mut file = match File::open(self.path(id)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(page),
            other => other?,
        };
        file.seek(SeekFrom::Start(from))?;
        let mut reader = io::BufReader::new(file.take(end.saturating_sub(from)));
        let mut line = Vec::new();
        while page.next - from < READ_CHUNK {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            // A last line without its end was being written when the daemon died; a cursor into a line makes it unreadable.
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            page.next += read as u64;
            if let Ok(entry) = serde_json::from_slice(&line) {
                page.entries.push((entry, page.next));
            }
        }
        Ok(page)
    }
}

/// Writes one execution's log; its only owner.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: Option<File>,
    cap: u64,
    /// Bytes of a character that is not whole yet, of stdout and stderr.
    cut: [Vec<u8>; 2],
    /// The file is at its limit.
    full: bool,
    failed: bool,
}

impl LogWriter {
    /// Takes a piece of output; tells readers through `tail`.
    pub fn push(&mut self, stream: Stream, bytes: &[u8], tail: &watch::Sender<Tail>) {
        let now = *tail.borrow();
        if now.kept >= self.cap || self.full || self.failed {
            tail.send_modify(|tail| tail.dropped += bytes.len() as u64);
            return;
        }
        let cut = &mut self.cut[usize::from(stream == Stream::Stderr)];
        let mut whole = std::mem::take(cut);
        whole.extend_from_slice(bytes);
        if let Err(e) = std::str::from_utf8(&whole)
            && e.error_len().is_none()
        {
            *cut = whole.split_off(e.valid_up_to());
        }
        let room = usize::try_from(self.cap - now.kept).unwrap_or(usize::MAX);
        let kept = whole.len().min(room);
        let dropped = (whole.len() - kept) as u64;
        whole.truncate(kept);
        self.write(stream, &whole, dropped, tail);
    }

    /// Nothing is written for a while.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// The program has ended: what is left of a cut character is written as it is. The file is handed out to be synced.
    pub fn end(&mut self, tail: &watch::Sender<Tail>) -> Option<File> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.cut[usize::from(stream == Stream::Stderr)]);
            self.write(stream, &rest, 0, tail);
        }
        self.file.take()
    }

    fn write(&mut self, stream: Stream, bytes: &[u8], dropped: u64, tail: &watch::Sender<Tail>) {
        let (mut kept, mut written) = (bytes, Ok(0));
        if !bytes.is_empty() {
            let at = tail.borrow().bytes;
            (kept, written) = match self.line(stream, bytes, at) {
                Ok((kept, line)) if !line.is_empty() => (kept, self.append(&line, at)),
                Ok((kept, _)) => (kept, Ok(0)),
                Err(error) => (kept, Err(error)),
            };
        }
        let dropped = dropped + (bytes.len() - kept.len()) as u64;
        match written {
            Ok(line) => tail.send_modify(|tail| {
                tail.bytes += line;
                tail.kept += kept.len() as u64;
                tail.dropped += dropped;
            }),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "can't write a log; the rest of it is dropped");
                self.failed = true;
                tail.send_modify(|tail| tail.dropped += kept.len() as u64 + dropped);
            }
        }
    }

    /// As much of a piece as the file has room for, and its line; with the piece cut, the log is full.
    fn line<'a>(&mut self, stream: Stream, bytes: &'a [u8], at: u64) -> io::Result<(&'a [u8], Vec<u8>)> {
        let room = file_limit(self.cap).saturating_sub(at);
        if self.full {
            return Ok((&[], Vec::new()));
        }
        let line = encode(stream, bytes)?;
        if line.len() as u64 <= room {
            return Ok((bytes, line));
        }
        let sure = room.saturating_sub(ENTRY_OVERHEAD) / WORST_ESCAPE;
        self.full = true;
        let kept = &bytes[..bytes.len().min(usize::try_from(sure).unwrap_or(usize::MAX))];
        let line = if kept.is_empty() { Vec::new() } else { encode(stream, kept)? };
        Ok((kept, line))
    }

    /// At most 64 KiB of output into the page cache: too little to be worth a thread.
    fn append(&mut self, line: &[u8], at: u64) -> io::Result<u64> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file = File::options().write(true).create(true).truncate(false).open(&self.path)?;
                // A daemon that died may have left a part of a line.
                file.set_len(at)?;
                self.file.insert(file)
            }
        };
        file.seek(SeekFrom::Start(at))?;
        let written = file.write_all(line);
        if written.is_err() {
            let _ = file.set_len(at);
        }
        written.map(|()| line.len() as u64)
    }
}

fn encode(stream: Stream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let entry = LogEntry { at: Timestamp::now(), stream, text: String::from_utf8_lossy(bytes).into_owned() };
    let mut line = serde_json::to_vec(&entry)?;
    line.push(b'\n');
    Ok(line)
}
