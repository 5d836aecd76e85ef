//! A tar from a client, made into a [`Tree`]. The archive is hostile: whatever it names stays inside the folder, or it is refused with
//! the path that is wrong.
//!
//! Contents are not read here: the tree remembers where in the spool file they are.

use super::tree::{MAX_PATH, Node, Tree, clean};
use super::{CodeError, MAX_ENTRIES};
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use tar::{Archive, Entry, EntryType};

fn bad(error: impl std::fmt::Display) -> CodeError {
    CodeError::Tar(error.to_string())
}

fn text(what: &str, bytes: &[u8]) -> Result<String, CodeError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| CodeError::entry(String::from_utf8_lossy(bytes), format!("{what} is not UTF-8")))
}

fn node<R: Read>(entry: &Entry<'_, R>, path: &str, spool: u64) -> Result<Option<Node>, CodeError> {
    let refuse = |why: &str| Err(CodeError::entry(path, why));
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let (offset, size) = (entry.raw_file_position(), entry.size());
            if offset.checked_add(size).is_none_or(|end| end > spool) {
                return Err(bad(format!("it ends inside {path:?}")));
            }
            let mode = entry.header().mode().map_err(bad)?;
            Ok(Some(Node::File { offset, size, executable: mode & 0o100 != 0 }))
        }
        EntryType::Directory => Ok(Some(Node::Dir)),
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = text("the link's target", &target)?;
            if target.is_empty() || target.len() > MAX_PATH || target.contains('\0') {
                return refuse("the link's target is empty, too long or holds a zero byte");
            }
            Ok(Some(Node::Link { target }))
        }
        EntryType::XGlobalHeader => Ok(None),
        EntryType::Link => refuse("hard links are not allowed; pack the file itself"),
        EntryType::Char | EntryType::Block => refuse("devices are not allowed"),
        EntryType::Fifo => refuse("named pipes are not allowed"),
        EntryType::GNUSparse => refuse("sparse files are not allowed; pack it without holes"),
        _ => refuse("only files, folders and symbolic links are allowed"),
    }
}

/// Reads an archive from the beginning of `spool`.
pub fn read(spool: &File) -> Result<Tree, CodeError> {
    let what = "can't read the spooled archive";
    let size = spool.metadata().map_err(CodeError::io(what))?.len();
    if size == 0 {
        return Err(bad("it is empty"));
    }
    let mut reader = spool;
    reader.rewind().map_err(CodeError::io(what))?;
    let mut archive = Archive::new(BufReader::with_capacity(64 << 10, reader));
    let mut tree = Tree::default();
    for (seen, entry) in archive.entries().map_err(bad)?.enumerate() {
        // Folders named again and again add nothing to the tree, so they are counted apart.
        if seen > 2 * MAX_ENTRIES {
            return Err(CodeError::TooMany);
        }
        let entry = entry.map_err(bad)?;
        let raw = text("its name", &entry.path_bytes())?;
        let Some(node) = node(&entry, &raw, size)? else { continue };
        match clean(&raw)? {
            Some(path) => tree.insert(path, node)?,
            None if node == Node::Dir => {}
            None => return Err(CodeError::entry(raw, "the folder itself is not a folder")),
        }
    }
    tree.check_links()?;
    Ok(tree)
}
