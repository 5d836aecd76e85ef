//! Writing a parked machine's file.
//!
//! The file may hold an older parked machine and be longer. Its header goes first and comes last: what a writer that was stopped in between left is
//! refused. Where the host itself may stop, the header's hash covers all else by way of the hashes that it records.

use super::header::{HEADER, Header};
use super::index::{CHUNK, CHUNK_PAGES, Chunk, Codec, Cutter, Index, Piece, Run, Runs, chunk_hash};
use super::seal::{Part, SealKey, Sealer};
use super::{Packing, ParkedError};
use crate::memory::{Aligned, PAGE, is_zero};
use crate::state::{SectionId, Sections};
use crate::{SnapshotError, io};
use serde::Serialize;
use std::fs::{File, TryLockError};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// What a disk is taken to write in a second where blocks are there already: compression has to be faster than what it saves at this rate.
const DISK_BYTES_PER_SECOND: f64 = 600e6;
/// Bytes of the sample.
const SAMPLE: usize = 16 << 10;
/// Compressed pieces are written together.
const TOGETHER: usize = 256 << 10;
/// Each time that this much was written, the disk may begin.
const BEGIN: u64 = 1 << 20;

/// Memory of a machine that stands still.
pub trait Still {
    /// The bytes of a run; `None` where it is not in memory.
    fn pages(&self, run: Run) -> Option<&[u8]>;

    /// This part of the file is written and will not change: the disk may begin with it.
    fn begin_writing(&self, _file: &File, _offset: u64, _len: u64) {}
}

/// What is to be written.
#[derive(Debug)]
pub struct Contents<'a, M> {
    /// Bytes of the whole guest memory.
    pub memory: u64,
    /// The template's memory file.
    pub template: &'a File,
    /// Pages that may differ from the template: in order, and none twice. Those that do not are left out: of what Python touches in its heap, half is as it was.
    pub changed: &'a [Run],
    /// Section [`SectionId::Machine`].
    pub machine: &'a M,
    /// Section [`SectionId::Origin`], encoded.
    pub origin: &'a [u8],
    /// How memory is written.
    pub packing: Packing,
    /// All but the header is encrypted with this. A key is good for one file: another one, and another attempt, need another key.
    pub key: Option<&'a SealKey>,
}

/// How large it became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of changed pages.
    pub changed_bytes: u64,
    /// Bytes of the file that count.
    pub stored_bytes: u64,
}

/// Writes it all and syncs it. What the file held is lost, also where this fails, unless a machine that was resumed from it lives: that is refused.
pub fn write<M: Serialize>(file: &File, memory: &impl Still, contents: &Contents<'_, M>) -> Result<Written, SnapshotError> {
    lock(file)?;
    let written = write_locked(file, memory, contents);
    // A lock that stays is away with the descriptor.
    let _ = file.unlock();
    written
}

/// A machine that was resumed from a file reads from it as long as it lives, and holds a shared lock so long.
fn lock(file: &File) -> Result<(), ParkedError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(ParkedError::InUse),
        // A file system without locks.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

fn write_locked<M: Serialize>(file: &File, memory: &impl Still, contents: &Contents<'_, M>) -> Result<Written, SnapshotError> {
    let mut bounce = Aligned::new(CHUNK);
    let bounce = bounce.bytes();
    let (data, zero) = apart(memory, contents, bounce)?;
    let pack = |runs: &[Run]| Runs::pack(runs).ok_or(ParkedError::Index("runs of pages are not in order"));
    let mut index = Index { memory: contents.memory, data: pack(&data)?, zero: pack(&zero)?, chunks: Vec::new() };
    file.write_all_at(&[0; HEADER], 0).map_err(io("clearing the header of the parked machine's file"))?;
    let mut sink = Sink { file, memory, at: HEADER as u64, begun: HEADER as u64, buffer: Vec::new() };
    let mut packer = Packer::new(memory, &data, contents.packing, bounce)?;
    let (mut cutter, mut pieces, mut data_len) = (Cutter::new(&data), Vec::new(), 0);
    let sealer = contents.key.map(Sealer::new);
    let mut sealed = Aligned::new(if sealer.is_some() { CHUNK } else { 0 });
    let broken = || ParkedError::Index("a chunk can't be encrypted");
    while cutter.next(&mut pieces) > 0 {
        let bytes = gather(memory, &pieces, bounce)?;
        let packed = packer.pack(bytes);
        let stored = packed.unwrap_or(bytes);
        let codec = if packed.is_some() { Codec::Lz4 } else { Codec::Raw };
        let len = u32::try_from(stored.len()).map_err(|_| ParkedError::Index("a chunk has an impossible length"))?;
        let (stored, hash) = match &sealer {
            None => (stored, chunk_hash(stored)),
            Some(sealer) => {
                let out = sealed.bytes().get_mut(..stored.len()).ok_or_else(broken)?;
                let tag = sealer.seal(Part::Chunk(index.chunks.len() as u64), stored, out).ok_or_else(broken)?;
                (&*out, u128::from_le_bytes(tag))
            }
        };
        index.chunks.push(Chunk { codec, len, hash });
        data_len += u64::from(len);
        sink.put(stored)?;
    }
    let mut sections = Sections::default();
    sections.add(SectionId::Machine, contents.machine)?;
    sections.add_encoded(SectionId::Origin, contents.origin.to_vec());
    sections.add(SectionId::ParkedIndex, &index)?;
    let mut block = sections.encode()?;
    let mut tag = None;
    if let Some(sealer) = &sealer {
        let plain = Zeroizing::new(block.clone());
        tag = Some(sealer.seal(Part::Sections(data_len), &plain, &mut block).ok_or_else(broken)?);
    }
    sink.put(&block)?;
    sink.flush_all()?;
    let header = Header { data_len, sections_len: block.len() as u64, sections_hash: *blake3::hash(&block).as_bytes(), sealed: tag };
    file.write_all_at(&header.encode(), 0).map_err(io("writing the header of the parked machine"))?;
    file.sync_data().map_err(io("syncing the parked machine"))?;
    let pages = |runs: &[Run]| runs.iter().map(|run| run.pages * PAGE as u64).sum::<u64>();
    Ok(Written { changed_bytes: pages(&data) + pages(&zero), stored_bytes: header.file_len() })
}

/// Makes a file that is written anew one day be no parked machine until then, whatever happens to the host.
/// A file that a machine was resumed from and which still lives is refused.
pub fn retire(file: &File) -> Result<(), SnapshotError> {
    lock(file)?;
    let cleared = clear(file);
    let _ = file.unlock();
    cleared
}

fn clear(file: &File) -> Result<(), SnapshotError> {
    file.write_all_at(&[0; HEADER], 0).map_err(io("clearing the header of the parked machine's file"))?;
    file.sync_data().map_err(io("syncing the parked machine's file"))
}

fn pages_of(memory: &impl Still, run: Run) -> Result<&[u8], ParkedError> {
    let len = usize::try_from(run.extent().1).ok();
    memory.pages(run).filter(|bytes| Some(bytes.len()) == len).ok_or(ParkedError::Index("a run of pages is empty or beyond the memory"))
}

/// Of the pages that differ from the template, runs of those that are not zero, and of those that are.
fn apart<M>(memory: &impl Still, contents: &Contents<'_, M>, bounce: &mut [u8]) -> Result<(Vec<Run>, Vec<Run>), SnapshotError> {
    let (mut data, mut zero): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
    for run in contents.changed {
        let mut number = run.first;
        for part in pages_of(memory, *run)?.chunks(CHUNK) {
            let before = &mut bounce[..part.len()];
            let offset = number.saturating_mul(PAGE as u64);
            contents.template.read_exact_at(before, offset).map_err(io("comparing with the template"))?;
            for (page, before) in part.chunks(PAGE).zip(before.chunks(PAGE)) {
                let runs = if is_zero(page) { &mut zero } else { &mut data };
                match runs.last_mut() {
                    _ if page == before => {}
                    Some(last) if last.first + last.pages == number => last.pages += 1,
                    _ => runs.push(Run { first: number, pages: 1 }),
                }
                number += 1;
            }
        }
    }
    Ok((data, zero))
}

/// The bytes of a chunk: where they are, or together in `bounce` (hashing and writing many small pieces takes longer than a copy).
fn gather<'a>(memory: &'a impl Still, pieces: &[Piece], bounce: &'a mut [u8]) -> Result<&'a [u8], ParkedError> {
    if let [one] = pieces {
        return pages_of(memory, one.run);
    }
    let mut filled = 0;
    for piece in pieces {
        let bytes = pages_of(memory, piece.run)?;
        let room = bounce.get_mut(filled..filled + bytes.len()).ok_or(ParkedError::Index("a chunk has an impossible length"))?;
        room.copy_from_slice(bytes);
        filled += bytes.len();
    }
    Ok(&bounce[..filled])
}

/// Compresses chunks, or does not.
struct Packer {
    /// Compressed bytes must be fewer than this share of a chunk, in sixteenths.
    below: usize,
    out: Vec<u8>,
}

impl Packer {
    fn new(memory: &impl Still, data: &[Run], packing: Packing, bounce: &mut [u8]) -> Result<Self, ParkedError> {
        let room = lz4_flex::block::get_maximum_output_size(CHUNK);
        let mut this = Self { below: 16, out: vec![0; room] };
        if packing == Packing::None || (packing == Packing::Fast && !this.pays(gather(memory, &middle(data), bounce)?)) {
            this.below = 0;
        } else if packing == Packing::Fast {
            this.below = 14;
        }
        Ok(this)
    }

    /// Whether compressing a sample took less time than it saves.
    fn pays(&mut self, sample: &[u8]) -> bool {
        let sample = sample.get(..SAMPLE).unwrap_or(sample);
        let begin = Instant::now();
        let Some(packed) = self.pack(sample).map(<[u8]>::len) else { return false };
        let took = begin.elapsed();
        #[expect(clippy::cast_precision_loss, reason = "bytes of a chunk")]
        let saves = (sample.len() - packed) as f64 / DISK_BYTES_PER_SECOND;
        took < Duration::from_secs_f64(saves)
    }

    /// The compressed bytes, where they are few enough.
    fn pack(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        if self.below == 0 {
            return None;
        }
        let len = lz4_flex::block::compress_into(bytes, &mut self.out).ok()?;
        (len > 0 && len * 16 < bytes.len() * self.below).then(|| &self.out[..len])
    }
}

/// Pieces of the chunk in the middle.
fn middle(data: &[Run]) -> Vec<Piece> {
    let half = data.iter().map(|run| run.pages).sum::<u64>() / CHUNK_PAGES / 2;
    let (mut cutter, mut pieces) = (Cutter::new(data), Vec::new());
    for _ in 0..=half {
        cutter.next(&mut pieces);
    }
    pieces
}

/// Writes one after the other, whole pages at a time: a part of a page that a recycled file has on disk only would have to be read first.
struct Sink<'a, M> {
    file: &'a File,
    memory: &'a M,
    /// Where the buffer goes, a whole page.
    at: u64,
    begun: u64,
    buffer: Vec<u8>,
}

impl<M: Still> Sink<'_, M> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        if self.buffer.is_empty() && bytes.len().is_multiple_of(PAGE) {
            return self.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < TOGETHER {
            return Ok(());
        }
        let rest = self.buffer.split_off(self.buffer.len() / PAGE * PAGE);
        let whole = std::mem::replace(&mut self.buffer, rest);
        self.write(&whole)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all_at(bytes, self.at).map_err(io("writing the parked machine"))?;
        self.at += bytes.len() as u64;
        if self.at - self.begun >= BEGIN {
            self.memory.begin_writing(self.file, self.begun, self.at - self.begun);
            self.begun = self.at;
        }
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), SnapshotError> {
        self.buffer.resize(self.buffer.len().next_multiple_of(PAGE), 0);
        let last = std::mem::take(&mut self.buffer);
        if last.is_empty() { Ok(()) } else { self.write(&last) }
    }
}
