//! What a template depends on besides its task: kernel, root disk, monitor, processor and host kernel, as hashes.
//!
//! Invariant: whatever changes how a snapshot is made or read changes the fingerprint, so an old template is never used with a new part.

use super::types::EngineError;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A blake3 hash.
pub(super) type Hash = blake3::Hash;

/// What a file must be: its magic number, and where that stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Format {
    name: &'static str,
    at: u64,
    magic: [u8; 4],
}

/// A guest kernel.
pub(super) const ELF: Format = Format { name: "an ELF file", at: 0, magic: *b"\x7fELF" };
/// A root disk.
pub(super) const EROFS: Format = Format { name: "an EROFS image", at: 1024, magic: 0xE0F5_E1E2_u32.to_le_bytes() };

/// Hashes and opens a file of a format: what was hashed is what is used later, whatever happens to the path.
pub(super) fn open_hashed(path: &Path, format: Format) -> io::Result<(File, Hash)> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, format.at) {
        Ok(()) if magic == format.magic => {}
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not {}", format.name))),
    }
    let hash = hash_file(&file)?;
    Ok((file, hash))
}

/// The hash of a whole file, read from its start whatever its offset is.
pub(super) fn hash_file(file: &File) -> io::Result<Hash> {
    let (mut hasher, mut buffer, mut at) = (blake3::Hasher::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What identifies the processor: a snapshot taken on one kind must not run on another.
pub(super) fn cpu() -> Result<String, EngineError> {
    let info = std::fs::read_to_string("/proc/cpuinfo").map_err(EngineError::Cpu)?;
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
    Ok(identity(&info, &release))
}

fn identity(cpuinfo: &str, release: &str) -> String {
    const FIELDS: [&str; 5] = ["vendor_id", "cpu family", "model", "stepping", "flags"];
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let mut identity = format!("kernel={release}");
    for line in first.lines() {
        if let Some((name, value)) = line.split_once(':')
            && FIELDS.contains(&name.trim())
        {
            identity.push_str(&format!(";{}={}", name.trim(), value.trim()));
        }
    }
    identity
}

/// One hash over parts, each with its length before it so that no two lists of parts look alike.
pub(super) fn combine(parts: &[&[u8]]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_matters_of_the_processor_counts() {
        let info = "processor\t: 0\nvendor_id\t: A\nmodel\t\t: 1\nmodel name\t: x\ncpu MHz\t\t: 1.5\nflags\t\t: a b\n\nprocessor\t: 1\nmodel\t\t: 2\n";
        assert_eq!(identity(info, "6.1"), "kernel=6.1;vendor_id=A;model=1;flags=a b");
        assert_eq!(identity(&info.replace("1.5", "2.5"), "6.1"), identity(info, "6.1"));
        assert!(cpu().unwrap().contains("flags="));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(combine(&[b"ab", b"c"]), combine(&[b"a", b"bc"]));
        assert_ne!(combine(&[b"ab"]), combine(&[b"ab", b""]));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        assert!(open_hashed(Path::new("/"), ELF).is_err());
        assert!(open_hashed(Path::new("/nonexistent"), ELF).is_err());
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let why = |format| open_hashed(&path, format).unwrap_err().to_string();
        for other in ["", "root:x:0:0:root:/root:/bin/bash\n", &"x".repeat(4096)] {
            std::fs::write(&path, other).unwrap();
            assert_eq!((why(ELF), why(EROFS)), ("not an ELF file".to_owned(), "not an EROFS image".to_owned()));
        }
        let mut image = vec![0; 1024];
        image.extend([0xe2, 0xe1, 0xf5, 0xe0]);
        std::fs::write(&path, &image).unwrap();
        assert!(open_hashed(&path, EROFS).is_ok());
        assert!(open_hashed(&std::env::current_exe().unwrap(), ELF).is_ok());
    }
}
