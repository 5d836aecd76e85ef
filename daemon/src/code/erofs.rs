//! A [`Tree`] as an EROFS image: the least of the format that holds one, and the same bytes for the same tree.
//!
//! ```text
//! 0        zeros
//! 1024     superblock, 128 bytes
//! 1152     one compact inode of 32 bytes each: the folder itself, then all nodes in the order of their paths
//! ...      padding to a block
//!          blocks of each folder's entries, then of each link's target and each file's content; each begins at a block
//! ```
//!
//! Inode number N is at byte 32 * N (`meta_blkaddr` 0). No compression, no tails in inodes, no checksum, no extended attributes.
//! Owner 0, times 0, modes 0755 and 0644.

use super::CodeError;
use super::tree::{Node, Tree};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

const BLOCK: usize = 4096;
pub(super) const BLOCK_U64: u64 = BLOCK as u64;
const BLOCK_BITS: u8 = 12;
pub(super) const SUPER: usize = 1024;
const INODES: u64 = SUPER as u64 + 128;
pub(super) const INODE: u64 = 32;
pub(super) const DIRENT: usize = 12;
pub(super) const MAGIC: u32 = 0xE0F5_E1E2;
pub(super) const ROOT: u64 = INODES / INODE;

pub(super) const S_IFDIR: u16 = 0o040_000;
pub(super) const S_IFREG: u16 = 0o100_000;
pub(super) const S_IFLNK: u16 = 0o120_000;
const FT_REG: u8 = 1;
pub(super) const FT_DIR: u8 = 2;
const FT_LNK: u8 = 7;

#[derive(Default)]
struct Folder<'t> {
    /// Name to inode number and file type; sorted by bytes, as the format wants it.
    entries: BTreeMap<&'t str, (u64, u8)>,
    folders: u16,
}

/// Entries cut into blocks: in each, all its entries, then all their names.
fn folder_data(folder: &Folder<'_>, own: u64, above: u64) -> Vec<u8> {
    let mut names: BTreeMap<&str, (u64, u8)> = folder.entries.clone();
    names.insert(".", (own, FT_DIR));
    names.insert("..", (above, FT_DIR));
    let names: Vec<_> = names.into_iter().collect();
    let (mut out, mut rest) = (Vec::new(), names.as_slice());
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|(name, _)| {
            used += DIRENT + name.len();
            used <= BLOCK
        });
        let (now, later) = rest.split_at(fits.count());
        // Names are at most 255 bytes (`tree::clean`), so each block takes at least one.
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        let mut name_at = now.len() * DIRENT;
        for (name, (number, kind)) in now {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&u16::try_from(name_at).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(&[*kind, 0]);
            name_at += name.len();
        }
        now.iter().for_each(|(name, _)| out.extend_from_slice(name.as_bytes()));
        rest = later;
    }
    out
}

struct Inode {
    mode: u16,
    links: u16,
    size: u32,
    block: u32,
}

impl Inode {
    fn bytes(&self, number: u32) -> [u8; 32] {
        let mut out = [0; 32];
        // Bytes 0..4: compact layout, flat data, no attributes. 12..16: time. 24..32: owner, group.
        out[4..6].copy_from_slice(&self.mode.to_le_bytes());
        out[6..8].copy_from_slice(&self.links.to_le_bytes());
        out[8..12].copy_from_slice(&self.size.to_le_bytes());
        out[16..20].copy_from_slice(&self.block.to_le_bytes());
        out[20..24].copy_from_slice(&number.to_le_bytes());
        out
    }
}

fn superblock(inodes: u64, blocks: u32) -> [u8; 128] {
    let mut out = [0; 128];
    out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[12] = BLOCK_BITS;
    out[14..16].copy_from_slice(&u16::try_from(ROOT).unwrap_or(u16::MAX).to_le_bytes());
    out[16..24].copy_from_slice(&inodes.to_le_bytes());
    out[36..40].copy_from_slice(&blocks.to_le_bytes());
    out
}

/// The data of an inode, in the order in which it is written.
enum Data<'t> {
    Bytes(Vec<u8>),
    Spool { offset: u64, size: u64, path: &'t str },
}

impl Data<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Spool { size, .. } => *size,
        }
    }
}

fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let gap = written.next_multiple_of(BLOCK_U64) - written;
    out.write_all(&[0; BLOCK][..usize::try_from(gap).unwrap_or(0)])
}

fn narrow(value: u64) -> Result<u32, CodeError> {
    u32::try_from(value).map_err(|_| CodeError::TooLarge)
}

/// Writes the image of `tree`, whose contents lie in `spool`, to `out`. Returns its bytes.
pub fn write(tree: &Tree, spool: &File, out: &mut impl Write) -> Result<u64, CodeError> {
    const WRITE: &str = "can't write the image of the code";
    let numbers: BTreeMap<&str, u64> = tree.nodes().zip(ROOT + 1..).map(|((path, _), number)| (path, number)).collect();
    let number_of = |path: &str| if path.is_empty() { ROOT } else { numbers.get(path).copied().unwrap_or(ROOT) };
    let parent_of = |path: &str| number_of(path.rsplit_once('/').map_or("", |(parent, _)| parent));

    let mut folders: BTreeMap<u64, Folder<'_>> = BTreeMap::from([(ROOT, Folder::default())]);
    for (path, node) in tree.nodes() {
        let kind = match node {
            Node::Dir => FT_DIR,
            Node::File { .. } => FT_REG,
            Node::Link { .. } => FT_LNK,
        };
        if *node == Node::Dir {
            folders.entry(number_of(path)).or_default();
        }
        let above = folders.entry(parent_of(path)).or_default();
        above.entries.insert(path.rsplit_once('/').map_or(path, |(_, name)| name), (number_of(path), kind));
        above.folders += u16::from(*node == Node::Dir);
    }

    let table_end = INODES + INODE * (1 + tree.nodes().len() as u64);
    let mut block = table_end.div_ceil(BLOCK_U64);
    let mut inodes = Vec::with_capacity(1 + tree.nodes().len());
    let mut data = Vec::new();
    // Folders' data first, so that a look-up reads blocks that lie together; inodes are in the order of their numbers.
    let folder_data = |number: u64, above: u64| {
        let folder = folders.get(&number);
        (folder.map(|f| folder_data(f, number, above)).unwrap_or_default(), folder.map_or(0, |f| f.folders))
    };
    let (mut front, mut back) = (Vec::new(), Vec::new());
    for (path, node) in std::iter::once(("", &Node::Dir)).chain(tree.nodes()) {
        let slot = inodes.len();
        let (mode, links, content) = match node {
            Node::Dir => {
                let (bytes, inner) = folder_data(number_of(path), if path.is_empty() { ROOT } else { parent_of(path) });
                (S_IFDIR | 0o755, 2 + inner, Data::Bytes(bytes))
            }
            Node::Link { target } => (S_IFLNK | 0o777, 1, Data::Bytes(target.clone().into_bytes())),
            Node::File { offset, size, executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                (S_IFREG | mode, 1, Data::Spool { offset: *offset, size: *size, path })
            }
        };
        inodes.push(Inode { mode, links, size: narrow(content.size())?, block: 0 });
        if *node == Node::Dir { front.push((slot, content)) } else { back.push((slot, content)) }
    }
    for (slot, content) in front.into_iter().chain(back) {
        if content.size() > 0 {
            inodes[slot].block = narrow(block)?;
            block += content.size().div_ceil(BLOCK_U64);
            data.push(content);
        }
    }

    out.write_all(&[0; SUPER]).map_err(CodeError::io(WRITE))?;
    out.write_all(&superblock(inodes.len() as u64, narrow(block)?)).map_err(CodeError::io(WRITE))?;
    for (inode, number) in inodes.iter().zip(1..) {
        out.write_all(&inode.bytes(number)).map_err(CodeError::io(WRITE))?;
    }
    pad(out, table_end).map_err(CodeError::io(WRITE))?;
    for content in data {
        match &content {
            Data::Bytes(bytes) => out.write_all(bytes).map_err(CodeError::io(WRITE))?,
            Data::Spool { offset, size, path } => copy(spool, *offset, *size, path, out)?,
        }
        pad(out, content.size()).map_err(CodeError::io(WRITE))?;
    }
    Ok(block * BLOCK_U64)
}

fn copy(mut spool: &File, offset: u64, size: u64, path: &str, out: &mut impl Write) -> Result<(), CodeError> {
    spool.seek(SeekFrom::Start(offset)).map_err(CodeError::io("can't read the spooled archive"))?;
    let copied = io::copy(&mut spool.take(size), out).map_err(CodeError::io("can't write the image of the code"))?;
    if copied == size { Ok(()) } else { Err(CodeError::Tar(format!("it ends inside {path:?}"))) }
}
