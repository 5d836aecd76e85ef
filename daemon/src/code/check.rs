//! What a folder must hold to be a task, and the hash that names its content.

use super::CodeError;
use super::tree::{Node, Tree};
use crate::manifest::host::HostPolicy;
use crate::manifest::{self, AccountName, Entry, Manifest, Portion, PortionName};
use crate::state::record::Version;
use crate::state::time::Timestamp;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A folder that is a task.
#[derive(Debug)]
pub struct Checked {
    /// Its manifest.
    pub manifest: Manifest,
    /// BLAKE3 of the tree: 64 lower-case hex digits.
    pub version: String,
    /// Its content.
    pub tree: Tree,
    /// The code of each portion, in the order of the manifest; none where main is all there is, whose code the whole tree is.
    pub portions: Vec<PortionCode>,
}

/// The code of a portion.
#[derive(Debug)]
pub struct PortionCode {
    /// BLAKE3 of the tree: 64 lower-case hex digits.
    pub code: String,
    /// Its content.
    pub tree: Tree,
}

impl Checked {
    /// As a version of its task in an account, pushed now, under these caps.
    #[must_use]
    pub fn version(&self, account: &AccountName, host: &HostPolicy) -> Version {
        let now = Timestamp::now();
        let mut portions = self.manifest.portions.iter().enumerate().map(|(at, portion)| {
            let own = self.portions.get(at);
            Version {
                account: account.clone(),
                task: self.manifest.name.clone(),
                version: self.version.as_str().into(),
                portion: portion.name.clone(),
                code: own.map_or(&self.version, |own| &own.code).as_str().into(),
                entry: portion.entry.clone(),
                declared: portion.declared,
                policy: host.resolve(account, &portion.declared).policy,
                rights: Arc::new(portion.rights.clone()),
                code_bytes: own.map_or(&self.tree, |own| &own.tree).bytes(),
                created_at: now,
                portions: Vec::new(),
            }
        });
        let main = portions.next();
        let others = portions.map(Arc::new).collect();
        // A manifest has a main: see `Manifest::parse`.
        main.map_or_else(|| Version::lost(account, &self.manifest.name, &self.version, now), |main| Version { portions: others, ..main })
    }

    /// The code of a portion; that of the task where it has no such portion.
    #[must_use]
    pub fn tree_of(&self, portion: &PortionName) -> &Tree {
        let at = self.manifest.portions.iter().position(|own| own.name == *portion);
        at.and_then(|at| self.portions.get(at)).map_or(&self.tree, |own| &own.tree)
    }

    /// All images that it has: their names and trees.
    pub fn images(&self) -> impl Iterator<Item = (&str, &Tree)> {
        std::iter::once((self.version.as_str(), &self.tree)).chain(self.portions.iter().map(|own| (own.code.as_str(), &own.tree)))
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

fn check_entry(spool: &File, tree: &Tree, portion: &Portion) -> Result<(), CodeError> {
    let file = portion.entry.file();
    let refuse = |message: String| Err(CodeError::Program { line: portion.entry_line, message });
    let Some((path, node)) = tree.resolve(file).map_err(|why| CodeError::entry(file, why))? else {
        let folder =
            portion.folder.as_ref().map_or_else(|| "the task's folder".to_owned(), |folder| format!("its folder {:?}", folder.value));
        return refuse(format!("entry {file:?} is not in {folder}"));
    };
    let Node::File { offset, size, executable } = node else {
        return refuse(format!("entry {file:?} is not a file"));
    };
    if matches!(portion.entry, Entry::Python { .. }) {
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
    let version = hash(spool, &tree)?;
    let trees = split(&tree, &manifest)?;
    for (at, portion) in manifest.portions.iter().enumerate() {
        check_entry(spool, trees.get(at).unwrap_or(&tree), portion)?;
    }
    let named = |tree: Tree| Ok::<_, CodeError>(PortionCode { code: hash(spool, &tree)?, tree });
    let portions = trees.into_iter().map(named).collect::<Result<_, _>>()?;
    Ok(Checked { manifest, version, tree, portions })
}

/// The tree of each portion: its folder, and for main all that is left. None where main is all there is.
fn split(tree: &Tree, manifest: &Manifest) -> Result<Vec<Tree>, CodeError> {
    let folders: Vec<&str> = manifest.portions.iter().filter_map(|portion| Some(portion.folder.as_ref()?.value.as_str())).collect();
    if folders.is_empty() {
        return Ok(Vec::new());
    }
    let mut trees = Vec::with_capacity(manifest.portions.len());
    for portion in &manifest.portions {
        let own = match &portion.folder {
            None => tree.without(&folders, manifest::FILE),
            Some(folder) if matches!(tree.get(&folder.value), Some(Node::Dir)) => tree.below(&folder.value),
            Some(folder) => {
                let message = format!("folder {:?} is not a folder of the task", folder.value);
                return Err(CodeError::Program { line: folder.line as usize, message });
            }
        };
        own.check_links()?;
        trees.push(own);
    }
    Ok(trees)
}
