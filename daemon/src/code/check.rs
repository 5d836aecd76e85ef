//! What a folder must hold to be a task, and the hash that names its content.

use super::CodeError;
use super::tree::{Node, Tree};
use crate::manifest::{self, Entry, Manifest};
use crate::state::record::Version;
use crate::state::time::Timestamp;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// A folder that is a task.
#[derive(Debug)]
pub struct Checked {
    /// Its manifest.
    pub manifest: Manifest,
    /// BLAKE3 of the tree: 64 lower-case hex digits.
    pub version: String,
    /// Its content.
    pub tree: Tree,
}

impl Checked {
    /// As a version of its task, pushed now.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            task: self.manifest.name.clone(),
            version: self.version.as_str().into(),
            entry: self.manifest.entry.clone(),
            policy: self.manifest.policy,
            code_bytes: self.tree.bytes(),
            created_at: Timestamp::now(),
        }
    }
}

const READ: &str = "can't read the spooled archive";

fn content(spool: &File, offset: u64, size: u64) -> Result<Vec<u8>, CodeError> {
    let len = usize::try_from(size).map_err(|_| CodeError::TooLarge)?;
    let mut bytes = vec![0; len];
    spool.read_exact_at(&mut bytes, offset).map_err(CodeError::io(READ))?;
    Ok(bytes)
}

fn manifest_of(spool: &File, tree: &Tree) -> Result<Manifest, CodeError> {
    match tree.get(manifest::FILE) {
        Some(Node::File { offset, size, .. }) => {
            // One byte past the cap is enough to be refused by it.
            Ok(Manifest::parse(&content(spool, *offset, (*size).min(manifest::MAX_BYTES as u64 + 1))?)?)
        }
        Some(_) => Err(CodeError::entry(manifest::FILE, "the manifest is not a plain file")),
        None => Err(CodeError::NoManifest),
    }
}

fn check_entry(spool: &File, tree: &Tree, manifest: &Manifest) -> Result<(), CodeError> {
    let file = manifest.entry.file();
    let refuse = |message: String| Err(CodeError::Program { line: manifest.entry_line, message });
    let Some((path, node)) = tree.resolve(file).map_err(|why| CodeError::entry(file, why))? else {
        return refuse(format!("entry {file:?} is not in the task's folder"));
    };
    let Node::File { offset, size, executable } = node else {
        return refuse(format!("entry {file:?} is not a file"));
    };
    if matches!(manifest.entry, Entry::Python { .. }) {
        return Ok(());
    }
    if !executable {
        return refuse(format!("entry {path:?} is not executable; chmod +x it"));
    }
    let magic = content(spool, *offset, (*size).min(4))?;
    if magic.starts_with(b"#!") || magic == b"\x7fELF" {
        Ok(())
    } else {
        refuse(format!("entry {path:?} is neither a script with a #! line nor an ELF program"))
    }
}

fn hash(spool: &File, tree: &Tree) -> Result<String, CodeError> {
    let mut hasher = blake3::Hasher::new_derive_key("torpor task content v1");
    let mut field = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for (path, node) in tree.nodes() {
        field(b'p', path.as_bytes());
        match node {
            Node::Dir => field(b'd', &[]),
            Node::Link { target } => field(b'l', target.as_bytes()),
            Node::File { offset, size, executable } => {
                let kind = if *executable { b'x' } else { b'f' };
                field(kind, blake3::hash(&content(spool, *offset, *size)?).as_bytes());
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Checks a tree that [`super::intake::read`] made from `spool`.
pub fn check(spool: &File, tree: Tree) -> Result<Checked, CodeError> {
    let manifest = manifest_of(spool, &tree)?;
    check_entry(spool, &tree, &manifest)?;
    let version = hash(spool, &tree)?;
    Ok(Checked { manifest, version, tree })
}
