//! A task's folder as plain data: what is in it by path, and where in the spool file each content lies.
//!
//! Invariant: every path's parent is a folder of the tree, and every link, followed to its end, stays inside.

use super::{CodeError, MAX_ENTRIES};
use std::collections::BTreeMap;
use torpor_protocol::limits::MAX_CODE;

/// Longest name of one file or folder.
pub const MAX_NAME: usize = 255;
/// Longest path.
pub const MAX_PATH: usize = 1024;
/// Deepest folder.
pub const MAX_DEPTH: usize = 64;
const MAX_HOPS: usize = 40;

/// One thing in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Dir,
    /// A file.
    File {
        /// Where its content begins in the spool file.
        offset: u64,
        /// Bytes of its content.
        size: u64,
        /// Its owner may run it.
        executable: bool,
    },
    /// A symbolic link.
    Link {
        /// As it is written.
        target: String,
    },
}

/// Everything in a task's folder; paths are relative, without `.`, `..` or empty parts. The folder itself is not listed.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    bytes: u64,
}

/// The parts of a path as an archive gives it; `None` in place of the folder itself.
pub(super) fn clean(raw: &str) -> Result<Option<String>, CodeError> {
    let refuse = |why: &str| Err(CodeError::entry(raw, why));
    if raw.starts_with('/') {
        return refuse("absolute paths are not allowed");
    }
    if raw.contains('\0') {
        return refuse("a name holds a zero byte");
    }
    let parts: Vec<&str> = raw.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return refuse("paths that leave the folder are not allowed");
    }
    if parts.len() > MAX_DEPTH {
        return refuse("nested deeper than 64 folders");
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return refuse("a name longer than 255 bytes");
    }
    let path = parts.join("/");
    if path.len() > MAX_PATH {
        return refuse("a path longer than 1024 bytes");
    }
    Ok((!path.is_empty()).then_some(path))
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

impl Tree {
    /// All nodes, sorted by the bytes of their paths.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// What is at a path, links not followed.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Bytes of all files together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is below a folder, as a tree of its own.
    #[must_use]
    pub fn below(&self, folder: &str) -> Self {
        let head = format!("{folder}/");
        self.filtered(|path| path.strip_prefix(&head))
    }

    /// All but these folders and this file.
    #[must_use]
    pub fn without(&self, folders: &[&str], file: &str) -> Self {
        let gone = |path: &str| {
            folders.iter().any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        self.filtered(|path| (path != file && !gone(path)).then_some(path))
    }

    fn filtered<'a>(&'a self, keep: impl Fn(&'a str) -> Option<&'a str>) -> Self {
        let kept = |(path, node): (&'a String, &'a Node)| Some((keep(path)?.to_owned(), node.clone()));
        let nodes: BTreeMap<String, Node> = self.nodes.iter().filter_map(kept).collect();
        let size = |node: &Node| if let Node::File { size, .. } = node { *size } else { 0 };
        let bytes = nodes.values().map(size).sum();
        Self { nodes, bytes }
    }

    /// Puts a node at a path that [`clean`] made, and folders above it where they are missing.
    pub(super) fn insert(&mut self, path: String, node: Node) -> Result<(), CodeError> {
        let mut above = parent(&path);
        while let Some(folder) = above {
            match self.nodes.get(folder) {
                Some(Node::Dir) => break,
                Some(_) => return Err(CodeError::entry(&path, format!("{folder:?} above it is not a folder"))),
                None => {
                    self.nodes.insert(folder.to_owned(), Node::Dir);
                }
            }
            above = parent(folder);
        }
        match (self.nodes.get(&path), &node) {
            (None, _) => {}
            // Archives may name a folder after what is in it.
            (Some(Node::Dir), Node::Dir) => return Ok(()),
            (Some(_), _) => return Err(CodeError::entry(path, "the archive holds it twice")),
        }
        if let Node::File { size, .. } = node {
            self.bytes = self.bytes.checked_add(size).filter(|bytes| *bytes <= MAX_CODE).ok_or(CodeError::TooLarge)?;
        }
        self.nodes.insert(path, node);
        if self.nodes.len() > MAX_ENTRIES { Err(CodeError::TooMany) } else { Ok(()) }
    }

    /// Refuses links that lead out of the folder or in circles. A link to what is not there is allowed.
    pub(super) fn check_links(&self) -> Result<(), CodeError> {
        for (path, node) in &self.nodes {
            if matches!(node, Node::Link { .. }) {
                self.resolve(path).map_err(|why| CodeError::entry(path, why))?;
            }
        }
        Ok(())
    }

    /// Follows a path through every link to what it means: `None` where nothing is there.
    pub fn resolve(&self, path: &str) -> Result<Option<(String, &Node)>, String> {
        let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut at: Vec<String> = Vec::new();
        let mut hops = 0;
        while let Some(part) = rest.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop().ok_or("the link leaves the task's folder")?;
                    continue;
                }
                _ => at.push(part),
            }
            if let Some(Node::Link { target }) = self.nodes.get(&at.join("/")) {
                hops += 1;
                if hops > MAX_HOPS {
                    return Err("the link leads in a circle".into());
                }
                if target.starts_with('/') {
                    return Err("the link is absolute, so it leaves the task's folder".into());
                }
                at.pop();
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        let path = at.join("/");
        Ok(self.nodes.get(&path).map(|node| (path, node)))
    }
}
