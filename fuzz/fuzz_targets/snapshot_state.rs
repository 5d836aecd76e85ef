//! A snapshot's state file as anything may have left it: refused, or sections whose hashes hold and which can be decoded or not, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_snapshot::memory::Index;
use torpor_snapshot::state::{MAGIC, SectionId, Sections, VERSION};

/// One section with a hash that holds, so that what lies behind the hash is reached as well.
fn sealed(id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(blake3::hash(body).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let _ = Sections::parse(data);
    let sections = Sections::parse(&sealed(SectionId::MemoryIndex as u32, data)).expect("a sound file");
    if let Ok(index) = sections.decode::<Index>(SectionId::MemoryIndex) {
        let file = tempfile::tempfile().expect("a temporary file");
        assert!(index.verify(&file).is_err(), "an empty file is no memory");
    }
});
