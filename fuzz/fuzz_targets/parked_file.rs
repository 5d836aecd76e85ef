//! A parked machine's file as anything may have left it: refused, or taken and found sound or not, without a panic.
#![no_main]

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::unix::fs::FileExt;
use torpor_snapshot::parked::{HEADER, MAGIC, Parked, Run, SEALED_VERSION, SealKey, Target, VERSION};
use torpor_snapshot::state::{SectionId, Sections};

/// Memory that is laid over, where it is small enough.
struct Memory(Vec<u8>);

impl Target for Memory {
    fn pages(&mut self, run: Run) -> Option<&mut [u8]> {
        let (at, len) = run.extent();
        self.0.get_mut(usize::try_from(at).ok()?..usize::try_from(at.checked_add(len)?).ok()?)
    }
}

const KEY: [u8; 32] = [0x5a; 32];

fn look(bytes: &[u8], key: Option<&SealKey>) {
    let file: File = tempfile::tempfile().expect("a temporary file");
    file.write_all_at(bytes, 0).expect("room for it");
    let Ok(parked) = Parked::open(&file, key) else { return };
    let _ = parked.origin();
    let sound = parked.verify(&file).is_ok();
    let memory = usize::try_from(parked.memory()).expect("a checked size");
    if memory <= 4 << 20 {
        let laid = parked.lay_over(&file, &mut Memory(vec![1; memory]));
        assert_eq!(laid.is_ok(), sound, "{laid:?}");
    }
}

/// A header and a section block that fit each other around an index and data, so that what lies behind the hashes is reached as well.
/// `encrypted`: in the form of a machine that holds secrets; the data is as the fuzzer wants it, whose index has to have its tags.
fn sealed(index: &[u8], data: &[u8], encrypted: bool) -> Vec<u8> {
    let mut sections = Sections::default();
    sections.add_encoded(SectionId::Machine, Vec::new());
    sections.add_encoded(SectionId::Origin, index.to_vec());
    sections.add_encoded(SectionId::ParkedIndex, index.to_vec());
    let mut block = sections.encode().expect("few and small sections");
    let mut tag = [0; 16];
    if encrypted {
        let mut nonce = [0; 12];
        nonce[0] = 2;
        let cipher = ChaCha20Poly1305::new(&KEY.into());
        let bound = (data.len() as u64).to_le_bytes();
        let sealed = cipher.encrypt_inout_detached(&Nonce::from(nonce), &bound, block.as_mut_slice().into());
        tag = sealed.expect("a small block").into();
    }
    let version = if encrypted { SEALED_VERSION } else { VERSION };
    let mut header = [MAGIC.as_slice(), &version.to_le_bytes(), &[0; 4]].concat();
    header.extend_from_slice(&(data.len() as u64).to_le_bytes());
    header.extend_from_slice(&(block.len() as u64).to_le_bytes());
    header.extend_from_slice(blake3::hash(&block).as_bytes());
    header.extend_from_slice(&tag);
    header.resize(HEADER - 32, 0);
    let hash = blake3::hash(&header);
    header.extend_from_slice(hash.as_bytes());
    [&header, data, &block].concat()
}

fuzz_target!(|data: &[u8]| {
    let key = SealKey::new(&KEY);
    look(data, None);
    look(data, Some(&key));
    let Some((cut, rest)) = data.split_first() else { return };
    let (index, data) = rest.split_at(usize::from(*cut).min(rest.len()));
    look(&sealed(index, data, false), None);
    look(&sealed(index, data, true), Some(&key));
});
