//! The file that an execution moves in.
//!
//! ```text
//! "TORPMOVE" | u32 version | u32 0
//! sections:  u32 kind | u32 0 | u64 length | body | blake3 of all of the section before
//! trailer:   a section of kind 15: blake3 of all of the file before it
//! ```
//! All integers little-endian. Kinds come in the order of their numbers, and the file ends with the trailer. A file is read only after all of it was checked.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use torpor_protocol::limits::{MAX_CODE, MAX_INPUT, MAX_RESULT};
use torpor_snapshot::memory::MAX_MEMORY;

/// First bytes of each file.
pub const MAGIC: &[u8; 8] = b"TORPMOVE";
/// Version of this layout and of what the sections hold. Count it up with each change of either.
pub const VERSION: u32 = 1;
/// Bytes of a template's memory in one section, before they are compressed.
pub const PIECE: usize = 1 << 20;
/// Most bytes of all events, and of all ended executions, of one file.
pub const MAX_TOGETHER: u64 = 64 << 20;

/// Bytes of the beginning of a file, and of a section.
pub const HEAD: usize = 16;
const HASH: usize = 32;
const MAX_SECTIONS: usize = 32_768;
const BUFFER: usize = 256 << 10;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Kind {
    /// The execution: [`super::content::Record`].
    Record = 1,
    /// Its input.
    Input = 2,
    /// An event of it; any number of them.
    Event = 3,
    /// An execution that it started or waits for and that has ended; any number of them.
    Ended = 4,
    /// Its log.
    Log = 5,
    /// The image of its code.
    Code = 6,
    /// Its machine.
    Machine = 7,
    /// What its template was made from.
    TemplateMeta = 8,
    /// State of its template.
    TemplateState = 9,
    /// A piece of its template's memory that is not zero; any number of them.
    TemplateMemory = 10,
    /// The end.
    Trailer = 15,
}

impl Kind {
    const fn of(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Record,
            2 => Self::Input,
            3 => Self::Event,
            4 => Self::Ended,
            5 => Self::Log,
            6 => Self::Code,
            7 => Self::Machine,
            8 => Self::TemplateMeta,
            9 => Self::TemplateState,
            10 => Self::TemplateMemory,
            15 => Self::Trailer,
            _ => return None,
        })
    }

    /// Most bytes of a section of this kind.
    #[must_use]
    pub const fn most(self) -> u64 {
        match self {
            Self::Record => 32 << 20,
            Self::Input => MAX_INPUT as u64,
            Self::Event => 2 << 20,
            Self::Ended => MAX_RESULT as u64 + (2 << 20),
            Self::Log => 257 << 20,
            Self::Code => 2 * MAX_CODE + (32 << 20),
            Self::Machine => MAX_MEMORY + (64 << 20),
            Self::TemplateMeta => 64 << 10,
            Self::TemplateState => 160 << 20,
            Self::TemplateMemory => PIECE as u64 + 64,
            Self::Trailer => HASH as u64,
        }
    }

    const fn many(self) -> bool {
        matches!(self, Self::Event | Self::Ended | Self::TemplateMemory)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Record => "the execution's record",
            Self::Input => "its input",
            Self::Event => "an event",
            Self::Ended => "the end of an execution that it started",
            Self::Log => "its log",
            Self::Code => "its code",
            Self::Machine => "its machine",
            Self::TemplateMeta => "its template's description",
            Self::TemplateState => "its template's state",
            Self::TemplateMemory => "its template's memory",
            Self::Trailer => "the trailer",
        })
    }
}

/// Why a file is none that can be taken in.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// Something else.
    #[error("this is not an exported execution: its first bytes are not those of one")]
    Magic,
    /// One of another format version.
    #[error(
        "exported execution of format version {found}, this torpord reads version {VERSION}; import it with a torpord of the same version as its source"
    )]
    Version {
        /// In the file.
        found: u32,
    },
    /// It ends too early.
    #[error("the file is cut off at {at} bytes: an export that was broken off, or a copy that is not whole")]
    Cut {
        /// Where it ends.
        at: u64,
    },
    /// A section is not what was written.
    #[error("damaged file: {kind}, at {at:#x}, does not have the recorded hash")]
    Hash {
        /// Which.
        kind: Kind,
        /// Where it begins.
        at: u64,
    },
    /// The sections are whole, but not those that the trailer was written for.
    #[error("damaged file: its trailer is that of another one")]
    Trailer,
    /// It can't be what this program wrote.
    #[error("damaged file: {0}")]
    Malformed(String),
    /// Reading it failed.
    #[error("can't read the file: {0}")]
    Io(#[from] io::Error),
}

impl TransferError {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed(what.into())
    }
}

/// Writes a file piece by piece.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    whole: blake3::Hasher,
}

fn head(kind: Kind, len: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(kind as u32).to_le_bytes());
    head[8..].copy_from_slice(&len.to_le_bytes());
    head
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub fn new(out: W) -> io::Result<Self> {
        let mut this = Self { out, whole: blake3::Hasher::new() };
        let mut begin = [0; HEAD];
        begin[..8].copy_from_slice(MAGIC);
        begin[8..12].copy_from_slice(&VERSION.to_le_bytes());
        this.put(&begin)?;
        Ok(this)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.whole.update(bytes);
        self.out.write_all(bytes)
    }

    /// A whole section.
    pub fn section(&mut self, kind: Kind, body: &[u8]) -> io::Result<()> {
        self.copy(kind, body.len() as u64, body)
    }

    /// A section of exactly so many bytes of a reader.
    pub fn copy(&mut self, kind: Kind, len: u64, from: impl Read) -> io::Result<()> {
        if len > kind.most() {
            return Err(io::Error::other(format!("{kind} takes {len} bytes, and may take {}", kind.most())));
        }
        let head = head(kind, len);
        let mut hash = blake3::Hasher::new();
        hash.update(&head);
        self.put(&head)?;
        let (mut from, mut left) = (from.take(len), len);
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(BUFFER).min(BUFFER)];
        while left > 0 {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{kind} ends too early")));
            }
            hash.update(&buffer[..read]);
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        self.put(hash.finalize().as_bytes())
    }

    /// All is written but the trailer, which is given back: it makes the file whole.
    pub fn finish(mut self) -> io::Result<(W, Vec<u8>)> {
        self.out.flush()?;
        let head = head(Kind::Trailer, HASH as u64);
        let body = self.whole.finalize();
        let hash = blake3::Hasher::new().update(&head).update(body.as_bytes()).finalize();
        Ok((self.out, [head.as_slice(), body.as_bytes(), hash.as_bytes()].concat()))
    }
}

/// A section of a file that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// What it holds.
    pub kind: Kind,
    /// Where its body is.
    pub body: Range<u64>,
}

struct Checker<R> {
    from: R,
    whole: blake3::Hasher,
    at: u64,
}

impl<R: Read> Checker<R> {
    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), TransferError> {
        match self.from.read_exact(buffer) {
            Ok(()) => {
                self.at += buffer.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(TransferError::Cut { at: self.at }),
            Err(error) => Err(error.into()),
        }
    }

    fn begin(&mut self) -> Result<(), TransferError> {
        let mut begin = [0; HEAD];
        match self.exact(&mut begin) {
            Err(TransferError::Cut { .. }) => return Err(TransferError::Magic),
            other => other?,
        }
        begins(&begin)?;
        self.whole.update(&begin);
        Ok(())
    }

    /// The next section, and its body where that is short.
    fn section(&mut self, size: u64, buffer: &mut [u8]) -> Result<Section, TransferError> {
        let at = self.at;
        let before = self.whole.finalize();
        let mut head = [0; HEAD];
        self.exact(&mut head)?;
        let (number, len) = numbers(&head);
        let kind = u32::try_from(number).ok().and_then(Kind::of);
        let kind = kind.ok_or_else(|| TransferError::malformed(format!("no section begins at {at:#x}")))?;
        if len > kind.most() {
            return Err(TransferError::malformed(format!("{kind}, at {at:#x}, is longer than it can be")));
        }
        let body = self.at..self.at + len;
        if body.end + HASH as u64 > size {
            return Err(TransferError::Cut { at: size });
        }
        let mut hash = blake3::Hasher::new();
        hash.update(&head);
        self.whole.update(&head);
        let (mut left, mut last) = (len, [0; HASH]);
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..now];
            self.exact(piece)?;
            hash.update(piece);
            self.whole.update(piece);
            if kind == Kind::Trailer && now == HASH {
                last.copy_from_slice(piece);
            }
            left -= now as u64;
        }
        let mut recorded = [0; HASH];
        self.exact(&mut recorded)?;
        if hash.finalize() != recorded {
            return Err(TransferError::Hash { kind, at });
        }
        self.whole.update(&recorded);
        if kind == Kind::Trailer && before != last {
            return Err(TransferError::Trailer);
        }
        Ok(Section { kind, body })
    }
}

fn numbers(head: &[u8; HEAD]) -> (u64, u64) {
    let (mut first, mut second) = ([0; 8], [0; 8]);
    first.copy_from_slice(&head[..8]);
    second.copy_from_slice(&head[8..]);
    (u64::from_le_bytes(first), u64::from_le_bytes(second))
}

/// Refuses what does not begin like a file, as far as its beginning is there.
pub fn begins(begin: &[u8]) -> Result<(), TransferError> {
    let magic = begin.len().min(MAGIC.len());
    if begin[..magic] != MAGIC[..magic] {
        return Err(TransferError::Magic);
    }
    let Some(begin) = begin.first_chunk::<HEAD>() else { return Ok(()) };
    let (_, version) = numbers(begin);
    let found = u32::try_from(version & u64::from(u32::MAX)).unwrap_or(0);
    if found != VERSION {
        return Err(TransferError::Version { found });
    }
    if version >> 32 == 0 { Ok(()) } else { Err(TransferError::malformed("its header")) }
}

/// Reads and checks all of a file; its sections without the trailer.
pub fn check(file: &File) -> Result<Vec<Section>, TransferError> {
    let size = file.metadata()?.len();
    let mut from = file;
    from.seek(SeekFrom::Start(0))?;
    let mut checker = Checker { from: BufReader::with_capacity(BUFFER, from), whole: blake3::Hasher::new(), at: 0 };
    checker.begin()?;
    let (mut sections, mut buffer) = (Vec::<Section>::new(), vec![0; BUFFER]);
    loop {
        let section = checker.section(size, &mut buffer)?;
        let fits = sections.last().is_none_or(|last| last.kind < section.kind || (last.kind == section.kind && section.kind.many()));
        if !fits || sections.len() >= MAX_SECTIONS {
            return Err(TransferError::malformed(format!("{}, at {:#x}, is out of its place", section.kind, section.body.start)));
        }
        if section.kind != Kind::Trailer {
            sections.push(section);
            continue;
        }
        if checker.at != size {
            return Err(TransferError::malformed("something follows the trailer"));
        }
        return Ok(sections);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(sections: &[(Kind, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for (kind, body) in sections {
            writer.section(*kind, body).unwrap();
        }
        let (mut bytes, trailer) = writer.finish().unwrap();
        bytes.extend(trailer);
        bytes
    }

    fn checked(bytes: &[u8]) -> Result<Vec<Section>, TransferError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        check(&file)
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is() {
        let long = vec![7; BUFFER + 5];
        let bytes = written(&[(Kind::Record, b"{}"), (Kind::Event, b"a"), (Kind::Event, b""), (Kind::Log, &long)]);
        let sections = checked(&bytes).unwrap();
        let of = |section: &Section| &bytes[usize::try_from(section.body.start).unwrap()..usize::try_from(section.body.end).unwrap()];
        assert_eq!(sections.iter().map(|section| section.kind).collect::<Vec<_>>(), [Kind::Record, Kind::Event, Kind::Event, Kind::Log]);
        assert_eq!((of(&sections[0]), of(&sections[3])), (b"{}".as_slice(), long.as_slice()));
        let small = written(&[(Kind::Record, b"{}"), (Kind::Event, b"a")]);
        for at in 0..small.len() {
            for bit in [1, 0x80] {
                let mut damaged = small.clone();
                damaged[at] ^= bit;
                assert!(checked(&damaged).is_err(), "bit {bit:#x} of byte {at}");
            }
            assert!(checked(&small[..at]).is_err(), "cut at {at}");
        }
        assert!(checked(&[small.as_slice(), b"x"].concat()).unwrap_err().to_string().contains("follows the trailer"));
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let bytes = written(&[(Kind::Record, b"{}"), (Kind::Code, b"code")]);
        let why = |bytes: &[u8]| checked(bytes).unwrap_err().to_string();
        let mut foreign = bytes.clone();
        foreign[8] = 2;
        assert!(why(&foreign).contains("format version 2, this torpord reads version 1"));
        let mut damaged = bytes.clone();
        let at = damaged.windows(4).position(|four| four == b"code").unwrap();
        damaged[at] ^= 4;
        assert!(why(&damaged).contains("its code") && why(&damaged).contains("recorded hash"));
        assert!(why(&bytes[..bytes.len() - 80]).contains("cut off at"));
        assert!(why(b"").contains("not an exported execution") && why(b"PK\x03\x04 something else").contains("not an exported execution"));
        let swapped = [&bytes[..bytes.len() - 80], &written(&[(Kind::Record, b"{}")])[66..]].concat();
        assert!(why(&swapped).contains("trailer is that of another one"), "{}", why(&swapped));
        assert!(why(&written(&[(Kind::Code, b""), (Kind::Record, b"")])).contains("out of its place"));
        assert!(why(&written(&[(Kind::Code, b""), (Kind::Code, b"")])).contains("out of its place"));
    }
}
