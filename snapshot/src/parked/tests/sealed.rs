//! The same files encrypted: nothing in plain, nothing taken that was changed, moved or made with another key.

use super::*;

fn key(byte: u8) -> SealKey {
    SealKey::new(&[byte; 32])
}

fn seal(file: &File, memory: &Memory, changed: &[Run], packing: Packing, key: &SealKey) -> Written {
    let template = file_of(&template().0);
    let machine = &"state that nobody reads";
    let contents =
        Contents { memory: memory.0.len() as u64, template: &template, changed, machine, origin: b"whence", packing, key: Some(key) };
    write(file, memory, &contents).unwrap()
}

fn bytes_of(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn opened(file: &File, key: &SealKey) -> Result<Memory, SnapshotError> {
    let mut memory = template();
    let parked = Parked::open(file, Some(key))?;
    parked.verify(file)?;
    parked.lay_over(file, &mut memory)?;
    Ok(memory)
}

fn refused(file: &File, key: Option<&SealKey>) -> ParkedError {
    match Parked::open(file, key).and_then(|parked| parked.verify(file)).unwrap_err() {
        SnapshotError::Parked(error) => error,
        other => panic!("{other}"),
    }
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|at| at == what)
}

#[test]
fn what_was_sealed_comes_back_and_is_nowhere_in_plain() {
    let (memory, runs) = changed();
    for packing in [Packing::None, Packing::Fast, Packing::Small] {
        let (file, plain) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let (written, open) = (seal(&file, &memory, &runs, packing, &key(1)), park(&plain, &memory, &runs, packing));
        assert!(opened(&file, &key(1)).unwrap() == memory);
        let parked = Parked::open(&file, Some(&key(1))).unwrap();
        assert_eq!((written.changed_bytes, parked.stored_bytes()), (open.changed_bytes, written.stored_bytes));
        assert_eq!(parked.machine::<String>().unwrap(), "state that nobody reads");
        // What does not compress stands in the plain file as it is.
        let page = &Still::pages(&memory, run(11, 1)).unwrap()[..64];
        assert!(packing != Packing::None || holds(&bytes_of(&plain), page));
        let bytes = bytes_of(&file);
        for what in [page, b"state that nobody", b"whence", b"TORPSNAP"] {
            assert!(!holds(&bytes, what), "{what:?}");
        }
    }
}

#[test]
fn another_key_none_or_one_too_many_is_refused() {
    let (memory, runs) = changed();
    let (file, plain) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    seal(&file, &memory, &runs, Packing::None, &key(1));
    park(&plain, &memory, &runs, Packing::None);
    assert!(matches!(refused(&file, None), ParkedError::NoKey));
    assert!(matches!(refused(&file, Some(&key(2))), ParkedError::WrongKey));
    assert!(matches!(refused(&plain, Some(&key(1))), ParkedError::NotSealed));
}

#[test]
fn each_changed_byte_and_each_cut_is_noticed() {
    let mut memory = template();
    memory.fill(5, 2);
    memory.fill(6, 3);
    let file = tempfile::tempfile().unwrap();
    let len = seal(&file, &memory, &[run(5, 2)], Packing::Small, &key(1)).stored_bytes;
    let good = bytes_of(&file);
    for at in 0..len {
        let byte = good[at as usize];
        file.write_all_at(&[byte ^ 1], at).unwrap();
        assert!(opened(&file, &key(1)).is_err(), "byte {at} changed unnoticed");
        file.write_all_at(&[byte], at).unwrap();
    }
    opened(&file, &key(1)).unwrap();
    for at in (0..len).rev().step_by(7) {
        file.set_len(at).unwrap();
        assert!(matches!(refused(&file, Some(&key(1))), ParkedError::Cut { .. }), "cut at {at} unnoticed");
    }
}

#[test]
fn chunks_that_change_places_are_noticed() {
    let mut memory = template();
    (0..32).for_each(|page| memory.fill(page, 2 * page + 1));
    let file = tempfile::tempfile().unwrap();
    seal(&file, &memory, &[run(0, 32)], Packing::None, &key(1));
    let bytes = bytes_of(&file);
    let (one, two) = (&bytes[HEADER..HEADER + CHUNK], &bytes[HEADER + CHUNK..HEADER + 2 * CHUNK]);
    file.write_all_at(&[two, one].concat(), HEADER as u64).unwrap();
    assert!(matches!(refused(&file, Some(&key(1))), ParkedError::ChunkHash { number: 0, .. }));
}

#[test]
fn equal_pages_and_equal_machines_look_different() {
    let mut memory = template();
    (0..32).for_each(|page| memory.fill(page, 2));
    let (one, two) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    seal(&one, &memory, &[run(0, 32)], Packing::None, &key(1));
    seal(&two, &memory, &[run(0, 32)], Packing::None, &key(2));
    let (one, two) = (bytes_of(&one), bytes_of(&two));
    let mut pages: Vec<_> = [&one, &two].into_iter().flat_map(|bytes| bytes[HEADER..HEADER + 2 * CHUNK].chunks(PAGE)).collect();
    pages.sort_unstable();
    pages.dedup();
    assert_eq!(pages.len(), 64);
}

#[test]
fn a_file_of_either_kind_is_written_over_the_other() {
    let (memory, runs) = changed();
    let file = tempfile::tempfile().unwrap();
    seal(&file, &memory, &runs, Packing::None, &key(1));
    park(&file, &memory, &runs, Packing::Small);
    assert!(resumed(&file).unwrap() == memory);
    seal(&file, &memory, &runs, Packing::Small, &key(3));
    assert!(opened(&file, &key(3)).unwrap() == memory);
}
