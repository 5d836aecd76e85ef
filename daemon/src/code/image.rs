//! An image of code read back into a [`Tree`]: that of [`super::erofs`] and no other, since whoever reads one writes it anew and compares. The image is hostile:
//! every number in it is checked.

use super::erofs::{BLOCK_U64, DIRENT, FT_DIR, INODE, MAGIC, ROOT, S_IFDIR, S_IFLNK, S_IFREG, SUPER};
use super::tree::{MAX_PATH, Node, Tree, clean};
use super::{CodeError, MAX_ENTRIES};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// No folder's entries take more.
const MAX_FOLDER: u64 = MAX_ENTRIES as u64 * (DIRENT as u64 + 256) * 2;

fn bad(why: &str) -> CodeError {
    CodeError::Image(why.to_owned())
}

struct Image<'a> {
    file: &'a File,
    at: Range<u64>,
}

struct Inode {
    mode: u16,
    size: u64,
    data: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    out
}

impl Image<'_> {
    /// Where so many bytes of the image are in the file.
    fn place(&self, offset: u64, len: u64) -> Result<u64, CodeError> {
        let from = self.at.start.checked_add(offset);
        let fits = from.filter(|from| from.checked_add(len).is_some_and(|end| end <= self.at.end));
        fits.ok_or_else(|| bad("it points beyond its end"))
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, CodeError> {
        let from = self.place(offset, len)?;
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| CodeError::TooLarge)?];
        self.file.read_exact_at(&mut bytes, from).map_err(CodeError::io("can't read the image of the code"))?;
        Ok(bytes)
    }

    fn inode(&self, number_of: u64) -> Result<Inode, CodeError> {
        let at = number_of.checked_mul(INODE).ok_or_else(|| bad("it points beyond its end"))?;
        let bytes = self.read(at, INODE)?;
        let (mode, size) = (u16::from_le_bytes(number(&bytes, 4)), u32::from_le_bytes(number(&bytes, 8)));
        let block = u32::from_le_bytes(number(&bytes, 16));
        Ok(Inode { mode, size: u64::from(size), data: u64::from(block) * BLOCK_U64 })
    }

    /// Names, inode numbers, and whether each is a folder.
    fn entries(&self, folder: &Inode) -> Result<Vec<(String, u64, bool)>, CodeError> {
        if folder.size > MAX_FOLDER {
            return Err(CodeError::TooMany);
        }
        let bytes = self.read(folder.data, folder.size)?;
        let mut found = Vec::new();
        for block in bytes.chunks(usize::try_from(BLOCK_U64).unwrap_or(usize::MAX)) {
            let names = usize::from(u16::from_le_bytes(number(block, 8)));
            let count = names / DIRENT;
            for entry in 0..count {
                let at = entry * DIRENT;
                let from = usize::from(u16::from_le_bytes(number(block, at + 8)));
                let to = if entry + 1 < count { usize::from(u16::from_le_bytes(number(block, at + DIRENT + 8))) } else { block.len() };
                let name = block.get(from..to).ok_or_else(|| bad("a name is beyond its folder"))?;
                // The last name of a block ends with the block, or with the first zero.
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = std::str::from_utf8(name).map_err(|_| bad("a name is not UTF-8"))?;
                let kind = block.get(at + 10).copied().unwrap_or(0);
                if !matches!(name, "." | "..") {
                    found.push((name.to_owned(), u64::from_le_bytes(number(block, at)), kind == FT_DIR));
                }
                if found.len() > MAX_ENTRIES {
                    return Err(CodeError::TooMany);
                }
            }
        }
        Ok(found)
    }
}

/// Reads the image that is at this place of a file; contents lie in that file.
pub fn read(file: &File, at: Range<u64>) -> Result<Tree, CodeError> {
    let image = Image { file, at };
    let magic = image.read(SUPER as u64, 4)?;
    if magic != MAGIC.to_le_bytes() {
        return Err(bad("its first bytes are not those of one"));
    }
    let mut tree = Tree::default();
    let mut folders = vec![(String::new(), ROOT)];
    let mut seen = 0;
    while let Some((path, number)) = folders.pop() {
        let folder = image.inode(number)?;
        if folder.mode & 0o170_000 != S_IFDIR {
            return Err(bad("a folder is none"));
        }
        for (name, number, is_folder) in image.entries(&folder)? {
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(CodeError::TooMany);
            }
            let raw = if path.is_empty() { name } else { format!("{path}/{name}") };
            let path = clean(&raw)?.filter(|path| *path == raw).ok_or_else(|| CodeError::entry(&raw, "no name of a file"))?;
            let inode = image.inode(number)?;
            let node = match inode.mode & 0o170_000 {
                S_IFDIR if is_folder => {
                    folders.push((path.clone(), number));
                    Node::Dir
                }
                S_IFLNK if inode.size <= MAX_PATH as u64 => {
                    let target = image.read(inode.data, inode.size)?;
                    Node::Link { target: String::from_utf8(target).map_err(|_| CodeError::entry(&raw, "the link's target is not UTF-8"))? }
                }
                S_IFREG => {
                    Node::File { offset: image.place(inode.data, inode.size)?, size: inode.size, executable: inode.mode & 0o100 != 0 }
                }
                _ => return Err(CodeError::entry(&raw, "only files, folders and symbolic links are allowed")),
            };
            tree.insert(path, node)?;
        }
    }
    tree.check_links()?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{check::check, erofs, intake};
    use super::*;
    use std::io::Write;

    fn image_of(files: &[(&str, &str)]) -> (Vec<u8>, String) {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, body) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if path.contains("run") { 0o755 } else { 0o644 });
            header.set_size(body.len() as u64);
            tar.append_data(&mut header, path, body.as_bytes()).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "a/link", "../main.py").unwrap();
        let mut spool = tempfile::tempfile().unwrap();
        spool.write_all(&tar.into_inner().unwrap()).unwrap();
        let code = check(&spool, intake::read(&spool).unwrap()).unwrap();
        let mut image = Vec::new();
        erofs::write(&code.tree, &spool, &mut image).unwrap();
        (image, code.version)
    }

    const MANIFEST: &str = "[task]\nname = \"t\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n";

    fn read_back(image: &[u8], before: usize) -> Result<(Vec<u8>, String), CodeError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[&vec![1; before], image].concat()).unwrap();
        let tree = read(&file, before as u64..(before + image.len()) as u64)?;
        let mut again = Vec::new();
        erofs::write(&tree, &file, &mut again)?;
        Ok((again, check(&file, tree)?.version))
    }

    #[test]
    fn an_image_is_read_back_as_it_was_wherever_it_lies() {
        let many: Vec<(String, String)> = (0..600).map(|n| (format!("many/file-with-a-name-{n}"), "x".repeat(n * 11))).collect();
        let mut files = vec![("torpor.toml", MANIFEST), ("main.py", "def handler(i, c): return i\n"), ("a/b/run", ""), ("a/b/c/d", "d")];
        files.extend(many.iter().map(|(path, body)| (path.as_str(), body.as_str())));
        let (image, version) = image_of(&files);
        for before in [0, 7, 5000] {
            let (again, got) = read_back(&image, before).unwrap();
            assert!(again == image && got == version);
        }
    }

    #[test]
    fn damage_is_refused_or_makes_another_image() {
        let (image, version) = image_of(&[("torpor.toml", MANIFEST), ("main.py", "def handler(i, c): return i\n"), ("a/b", "b")]);
        for at in (0..image.len()).filter(|at| *at < 1600 || at % 61 == 0) {
            for bit in [1, 16, 128] {
                let mut damaged = image.clone();
                damaged[at] ^= bit;
                if let Ok((again, got)) = read_back(&damaged, 0) {
                    assert!(again != damaged || got != version, "bit {bit} of byte {at}");
                }
            }
        }
        assert!(read_back(&image[..image.len() / 2], 0).is_err() && read_back(b"", 0).is_err());
    }
}
