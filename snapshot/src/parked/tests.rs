#![allow(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation)]
mod sealed;

use super::*;
use proptest::prelude::*;

/// Memory of a test: what a template's mapping is elsewhere.
#[derive(Clone, PartialEq, Eq)]
struct Memory(Vec<u8>);

impl Memory {
    fn range(&self, run: Run) -> Option<std::ops::Range<usize>> {
        let (at, len) = run.extent();
        let range = usize::try_from(at).ok()?..usize::try_from(at + len).ok()?;
        (range.end <= self.0.len()).then_some(range)
    }

    /// Fills a page with bytes that compress or with ones that do not.
    fn fill(&mut self, page: u64, seed: u64) {
        let range = self.range(Run { first: page, pages: 1 }).unwrap();
        let bytes = &mut self.0[range];
        if seed.is_multiple_of(2) {
            bytes.fill((seed % 255) as u8 + 1);
        } else {
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(bytes);
        }
    }
}

impl Still for Memory {
    fn pages(&self, run: Run) -> Option<&[u8]> {
        self.range(run).map(|range| &self.0[range])
    }
}

impl Target for Memory {
    fn pages(&mut self, run: Run) -> Option<&mut [u8]> {
        self.range(run).map(|range| &mut self.0[range])
    }
}

const PAGES: u64 = 200;

fn template() -> Memory {
    Memory(vec![0xee; PAGES as usize * PAGE])
}

fn run(first: u64, pages: u64) -> Run {
    Run { first, pages }
}

fn park(file: &File, memory: &Memory, changed: &[Run], packing: Packing) -> Written {
    let template = file_of(&template().0);
    let contents =
        Contents { memory: memory.0.len() as u64, template: &template, changed, machine: &"state", origin: b"whence", packing, key: None };
    write(file, memory, &contents).unwrap()
}

/// A machine that changed some pages, and the runs of them.
fn changed() -> (Memory, Vec<Run>) {
    let mut memory = template();
    let runs = vec![run(0, 1), run(3, 2), run(10, 40), run(199, 1)];
    for page in runs.iter().flat_map(|run| run.first..run.first + run.pages) {
        memory.fill(page, page);
    }
    for page in [3, 20, 21] {
        Target::pages(&mut memory, run(page, 1)).unwrap().fill(0);
    }
    (memory, runs)
}

fn resumed(file: &File) -> Result<Memory, SnapshotError> {
    let mut memory = template();
    Parked::read(file)?.lay_over(file, &mut memory)?;
    Ok(memory)
}

#[test]
fn what_was_parked_comes_back_however_it_is_packed() {
    let (memory, runs) = changed();
    let mut sizes = Vec::new();
    for packing in [Packing::None, Packing::Fast, Packing::Small] {
        let file = tempfile::tempfile().unwrap();
        let written = park(&file, &memory, &runs, packing);
        assert!(resumed(&file).unwrap() == memory);
        let parked = Parked::read(&file).unwrap();
        parked.verify(&file).unwrap();
        assert_eq!(written, Written { changed_bytes: parked.changed_bytes(), stored_bytes: parked.stored_bytes() });
        assert_eq!((parked.changed_bytes(), parked.memory()), (44 * PAGE as u64, memory.0.len() as u64));
        assert_eq!(parked.machine::<String>().unwrap(), "state");
        sizes.push(parked.stored_bytes());
    }
    assert!(sizes[0] >= 41 * PAGE as u64 && sizes[2] < sizes[0] * 3 / 4, "{sizes:?}");
}

#[test]
fn a_machine_that_changed_nothing_is_one_too() {
    let file = tempfile::tempfile().unwrap();
    assert_eq!(park(&file, &template(), &[], Packing::Fast).changed_bytes, 0);
    assert!(resumed(&file).unwrap() == template());
}

#[test]
fn pages_that_are_as_the_template_has_them_are_left_out() {
    let mut memory = template();
    memory.fill(21, 3);
    let file = tempfile::tempfile().unwrap();
    assert_eq!(park(&file, &memory, &[run(0, 50)], Packing::None).changed_bytes, PAGE as u64);
    assert!(resumed(&file).unwrap() == memory);
}

#[test]
fn a_longer_file_is_written_over() {
    let (memory, runs) = changed();
    let file = tempfile::tempfile().unwrap();
    park(&file, &memory, &runs, Packing::None);
    let long = file.metadata().unwrap().len();
    park(&file, &memory, &[run(10, 2)], Packing::None);
    assert_eq!(file.metadata().unwrap().len(), long);
    let again = resumed(&file).unwrap();
    assert_eq!(Still::pages(&again, run(10, 2)), Still::pages(&memory, run(10, 2)));
    assert_eq!(Still::pages(&again, run(12, 188)), Still::pages(&template(), run(12, 188)));
}

/// What a writer leaves that ends at any point: the old header is away before anything else is written, the new one comes last.
#[test]
fn a_file_that_was_not_finished_is_refused() {
    struct Ends(Memory);
    impl Still for Ends {
        fn pages(&self, run: Run) -> Option<&[u8]> {
            Still::pages(&self.0, run)
        }
        fn begin_writing(&self, file: &File, _: u64, _: u64) {
            assert!(matches!(Parked::read(file), Err(SnapshotError::Parked(ParkedError::Unfinished))));
        }
    }
    let memory = Ends(Memory(vec![7; 2 << 20]));
    let file = tempfile::tempfile().unwrap();
    let contents = Contents {
        memory: 2 << 20,
        template: &file_of(&[0; 2 << 20]),
        changed: &[run(0, 512)],
        machine: &(),
        origin: &[],
        packing: Packing::None,
        key: None,
    };
    for _ in 0..2 {
        write(&file, &memory, &contents).unwrap();
        Parked::read(&file).unwrap().verify(&file).unwrap();
    }
    retire(&file).unwrap();
    assert!(matches!(Parked::read(&file), Err(SnapshotError::Parked(ParkedError::Unfinished))));
}

/// A file as bytes, small enough to try each of them.
fn sample() -> (Vec<u8>, u64) {
    let mut memory = template();
    memory.fill(5, 2);
    memory.fill(6, 3);
    Target::pages(&mut memory, run(9, 1)).unwrap().fill(0);
    let file = tempfile::tempfile().unwrap();
    let written = park(&file, &memory, &[run(5, 2), run(9, 1)], Packing::Small);
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    (bytes, written.stored_bytes)
}

fn whole(file: &File) -> Result<(), SnapshotError> {
    Parked::read(file)?.verify(file)
}

fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}

#[test]
fn each_changed_byte_and_each_cut_is_noticed() {
    let (good, len) = sample();
    let file = file_of(&good);
    whole(&file).unwrap();
    for at in 0..len {
        let byte = good[at as usize];
        file.write_all_at(&[byte ^ 1], at).unwrap();
        assert!(whole(&file).is_err(), "byte {at} changed unnoticed");
        file.write_all_at(&[byte], at).unwrap();
    }
    for at in len..good.len() as u64 {
        file.write_all_at(&[1], at).unwrap();
    }
    whole(&file).unwrap();
    for at in (0..len).rev() {
        file.set_len(at).unwrap();
        assert!(matches!(whole(&file), Err(SnapshotError::Parked(ParkedError::Cut { .. }))), "cut at {at} unnoticed");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let (good, len) = sample();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        match whole(&file_of(&bad)).unwrap_err() {
            SnapshotError::Parked(error) => error,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(with(0, b"TORPSNAP"), ParkedError::Magic));
    assert!(matches!(with(8, &[9]), ParkedError::Version { found: 9, expected: VERSION }));
    assert!(matches!(with(100, &[9]), ParkedError::HeaderHash));
    assert!(matches!(with(HEADER + 10, &[0x99]), ParkedError::ChunkHash { number: 0, offset: 4096 }));
    assert!(matches!(with(len as usize - 1, &[0x99]), ParkedError::SectionsHash));
    assert!(matches!(with(0, &[0; HEADER]), ParkedError::Unfinished));
    // The header of another file.
    let (memory, runs) = changed();
    let other = tempfile::tempfile().unwrap();
    park(&other, &memory, &runs, Packing::None);
    other.write_all_at(&good[..HEADER], 0).unwrap();
    assert!(matches!(whole(&other), Err(SnapshotError::Parked(ParkedError::SectionsHash))));
}

/// A header and a section block that fit each other around any index.
fn sealed(index: Vec<u8>, data: &[u8]) -> Vec<u8> {
    let mut sections = Sections::default();
    sections.add_encoded(SectionId::Machine, Vec::new());
    sections.add_encoded(SectionId::Origin, Vec::new());
    sections.add_encoded(SectionId::ParkedIndex, index);
    let block = sections.encode().unwrap();
    let header = Header {
        data_len: data.len() as u64,
        sections_len: block.len() as u64,
        sections_hash: *blake3::hash(&block).as_bytes(),
        sealed: None,
    };
    [&header.encode()[..], data, &block].concat()
}

#[test]
fn numbers_that_can_not_be_are_refused() {
    let data = [1; PAGE];
    let chunk = index::Chunk { codec: Codec::Raw, len: PAGE as u32, hash: index::chunk_hash(&data) };
    let runs = |first, pages| index::Runs::pack(&[run(first, pages)]).unwrap();
    let good = Index { memory: 8192, data: runs(1, 1), zero: runs(0, 1), chunks: vec![chunk.clone()] };
    let refused = |index: &Index| whole(&file_of(&sealed(postcard::to_stdvec(index).unwrap(), &data))).is_err();
    assert!(!refused(&good));
    let big = u64::from(u32::MAX);
    let bad = [
        Index { memory: 0, ..good.clone() },
        Index { memory: 4097, ..good.clone() },
        Index { memory: u64::MAX, ..good.clone() },
        Index { data: runs(2, 1), ..good.clone() },
        Index { data: runs(1, 0), ..good.clone() },
        Index { data: runs(big, big), ..good.clone() },
        Index { zero: runs(1, 2), ..good.clone() },
        Index { chunks: vec![], ..good.clone() },
        Index { chunks: vec![chunk.clone(), chunk.clone()], ..good.clone() },
        Index { chunks: vec![index::Chunk { len: 1, ..chunk.clone() }], ..good.clone() },
        Index { chunks: vec![index::Chunk { codec: Codec::Lz4, ..chunk.clone() }], ..good.clone() },
        Index { chunks: vec![index::Chunk { len: u32::MAX, ..chunk }], ..good.clone() },
    ];
    for index in bad {
        assert!(refused(&index), "{index:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3usize) {
        let bytes = match kind {
            0 => bytes,
            1 => [&MAGIC[..], &VERSION.to_le_bytes(), &bytes, &[0; HEADER]].concat(),
            _ => sealed(bytes, &[]),
        };
        let _ = whole(&file_of(&bytes));
    }

    #[test]
    fn any_set_of_pages_comes_back(pages in prop::collection::btree_map(0..PAGES, any::<u64>(), 0..60), packing in 0..3usize) {
        let mut memory = template();
        let mut runs: Vec<Run> = Vec::new();
        for (page, seed) in &pages {
            memory.fill(*page, *seed);
            if seed.is_multiple_of(5) {
                Target::pages(&mut memory, run(*page, 1)).unwrap().fill(0);
            }
            match runs.last_mut() {
                Some(last) if last.first + last.pages == *page => last.pages += 1,
                _ => runs.push(run(*page, 1)),
            }
        }
        let file = tempfile::tempfile().unwrap();
        park(&file, &memory, &runs, [Packing::None, Packing::Fast, Packing::Small][packing]);
        prop_assert!(resumed(&file).unwrap() == memory);
    }
}
