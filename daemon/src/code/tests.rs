//! Hostile archives are refused with the path that is wrong; honest ones become images that Linux reads back.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::check::{Checked, check};
use super::images::Images;
use super::tree::Node;
use super::{CodeError, MAX_ENTRIES, erofs, intake};
use crate::testing::Mount;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tar::{Builder, EntryType, Header};

const MANIFEST: &[u8] = b"[task]\nname = \"t\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n";
const EXEC: &[u8] = b"[task]\nname = \"t\"\nruntime = \"exec\"\nentry = \"run\"\n";

/// Writes entries as they are told, however wrong.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn task() -> Self {
        Self::new().file("torpor.toml", MANIFEST).file("main.py", b"def handler(i, c): return i\n")
    }

    fn raw(mut self, path: &str, kind: EntryType, mode: u32, body: &[u8], link: &str) -> Self {
        let mut header = Header::new_gnu();
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(body.len() as u64);
        header.set_mtime(12345);
        header.set_uid(1000);
        header.set_cksum();
        self.0.append(&header, body).unwrap();
        self
    }

    fn file(self, path: &str, body: &[u8]) -> Self {
        self.raw(path, EntryType::Regular, 0o600, body, "")
    }

    fn program(self, path: &str, body: &[u8]) -> Self {
        self.raw(path, EntryType::Regular, 0o750, body, "")
    }

    fn dir(self, path: &str) -> Self {
        self.raw(path, EntryType::Directory, 0o700, b"", "")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.raw(path, EntryType::Symlink, 0o777, b"", target)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn take(self) -> Result<(Checked, File), CodeError> {
        take(&self.bytes())
    }

    fn refused(self) -> String {
        match self.take() {
            Err(error) => error.to_string(),
            Ok((code, _)) => panic!("taken: {:?}", code.tree),
        }
    }
}

fn take(bytes: &[u8]) -> Result<(Checked, File), CodeError> {
    let mut spool = tempfile::tempfile().unwrap();
    spool.write_all(bytes).unwrap();
    let tree = intake::read(&spool)?;
    Ok((check(&spool, tree)?, spool))
}

#[test]
fn a_task_is_taken() {
    let (code, _) =
        Tar::task().dir("./data/").file("data/a.txt", b"a").link("data/b.txt", "a.txt").link("up", "data/../main.py").take().unwrap();
    assert_eq!(code.manifest.name.as_str(), "t");
    assert_eq!(code.version.len(), 64);
    assert_eq!(code.tree.bytes(), MANIFEST.len() as u64 + 28 + 1);
    let paths: Vec<&str> = code.tree.nodes().map(|(path, _)| path).collect();
    assert_eq!(paths, ["data", "data/a.txt", "data/b.txt", "main.py", "torpor.toml", "up"]);
}

#[test]
fn the_version_is_the_content_alone() {
    let version = |tar: Tar| tar.take().unwrap().0.version;
    let plain = version(Tar::task());
    let reordered = Tar::new().dir("./").file("./main.py", b"def handler(i, c): return i\n").file("torpor.toml", MANIFEST);
    assert_eq!(version(reordered), plain);
    let others = [
        Tar::task().dir("empty"),
        Tar::task().file("empty", b""),
        Tar::task().program("empty", b""),
        Tar::task().link("empty", "main.py"),
        Tar::new().file("torpor.toml", MANIFEST).file("main.py", b"def handler(i, c): return 1\n"),
        Tar::new().file("torpor.toml", MANIFEST).program("main.py", b"def handler(i, c): return i\n"),
    ];
    let mut seen = vec![plain];
    for tar in others {
        let version = version(tar);
        assert!(!seen.contains(&version));
        seen.push(version);
    }
}

#[test]
fn what_leaves_the_folder_is_refused_by_name() {
    let cases: Vec<(Tar, &str, &str)> = vec![
        (Tar::task().file("/etc/passwd", b"x"), "\"/etc/passwd\"", "absolute"),
        (Tar::task().file("a/../../b", b"x"), "\"a/../../b\"", "leave the folder"),
        (Tar::task().file("..", b"x"), "\"..\"", "leave the folder"),
        (Tar::task().link("l", "/etc/passwd"), "\"l\"", "absolute"),
        (Tar::task().link("l", "../x"), "\"l\"", "leaves"),
        (Tar::task().dir("d").link("d/l", "../../x"), "\"d/l\"", "leaves"),
        // Counted by names it stays inside; followed, it does not.
        (Tar::task().link("here", ".").link("l", "here/.."), "\"l\"", "leaves"),
        (Tar::task().link("a", "b").link("b", "a"), "\"a\"", "circle"),
        (Tar::task().link("self", "self"), "\"self\"", "circle"),
        (Tar::task().link("l", ""), "\"l\"", "empty"),
        (Tar::task().link("d", "data").file("d/x", b"x"), "\"d/x\"", "not a folder"),
        (Tar::task().file("main.py/x", b"x"), "\"main.py/x\"", "not a folder"),
        (Tar::task().file("main.py", b"again"), "\"main.py\"", "twice"),
        (Tar::task().file("d/x", b"x").file("d", b"x"), "\"d\"", "twice"),
        (Tar::task().raw("h", EntryType::Link, 0o644, b"", "main.py"), "\"h\"", "hard links"),
        (Tar::task().raw("c", EntryType::Char, 0o644, b"", ""), "\"c\"", "devices"),
        (Tar::task().raw("b", EntryType::Block, 0o644, b"", ""), "\"b\"", "devices"),
        (Tar::task().raw("f", EntryType::Fifo, 0o644, b"", ""), "\"f\"", "pipes"),
        (Tar::task().file(".", b"x"), "\".\"", "not a folder"),
    ];
    for (tar, name, why) in cases {
        let message = tar.refused();
        assert!(message.contains(name) && message.contains(why), "{message} should name {name} and say {why}");
    }
}

#[test]
fn links_inside_are_kept_even_to_nothing() {
    let (code, _) = Tar::task().link("gone", "data/none").dir("d").link("d/up", "..").take().unwrap();
    assert_eq!(code.tree.get("gone"), Some(&Node::Link { target: "data/none".into() }));
}

#[test]
fn manifest_and_entry_must_be_there() {
    assert!(matches!(Tar::new().file("main.py", b"").take(), Err(CodeError::NoManifest)));
    assert!(matches!(Tar::new().file("d/torpor.toml", MANIFEST).take(), Err(CodeError::NoManifest)));
    assert!(Tar::new().link("torpor.toml", "x").refused().contains("not a plain file"));
    assert!(matches!(Tar::new().file("torpor.toml", b"nonsense").take(), Err(CodeError::Manifest(_))));
    let entry = |tar: Tar, why: &str| match tar.take() {
        Err(CodeError::Program { line: 4, message }) => assert!(message.contains(why), "{message}"),
        other => panic!("{other:?}"),
    };
    entry(Tar::new().file("torpor.toml", MANIFEST), "not in the task's folder");
    entry(Tar::new().file("torpor.toml", MANIFEST).dir("main.py"), "not a file");
    entry(Tar::new().file("torpor.toml", MANIFEST).link("main.py", "other.py"), "not in the task's folder");
    entry(Tar::new().file("torpor.toml", EXEC).file("run", b"#!/bin/sh\n"), "chmod +x");
    entry(Tar::new().file("torpor.toml", EXEC).program("run", b"echo\n"), "#!");
    entry(Tar::new().file("torpor.toml", EXEC).program("run", b""), "#!");
    assert!(Tar::new().file("torpor.toml", EXEC).program("run", b"#!/bin/sh\n").take().is_ok());
    assert!(Tar::new().file("torpor.toml", EXEC).program("bin/x", b"\x7fELF\x02").link("run", "bin/x").take().is_ok());
}

#[test]
fn sizes_are_capped() {
    let big = vec![0; 33 << 20];
    assert!(matches!(Tar::task().file("a", &big).file("b", &big).take(), Err(CodeError::TooLarge)));
    let mut many = Tar::task();
    for n in 0..MAX_ENTRIES {
        many = many.file(&format!("f{n}"), b"");
    }
    assert!(matches!(many.take(), Err(CodeError::TooMany)));
    let mut folders = Tar::task();
    for _ in 0..2 * MAX_ENTRIES {
        folders = folders.dir("d");
    }
    assert!(matches!(folders.take(), Err(CodeError::TooMany)));
}

#[test]
fn broken_archives_are_refused() {
    let whole = Tar::task().file("data", &[7; 3000]).bytes();
    assert!(matches!(take(b"not a tar at all"), Err(CodeError::Tar(_) | CodeError::NoManifest)));
    assert!(matches!(take(b""), Err(CodeError::Tar(_))));
    // Cut inside the last file's content.
    let end = whole.len() - 1024 - 1000;
    assert!(matches!(take(&whole[..end]), Err(CodeError::Tar(_))));
    let mut damaged = whole;
    damaged[150] ^= 0x7f;
    assert!(matches!(take(&damaged), Err(CodeError::Tar(_))));
}

fn image(code: &Checked, spool: &File) -> Vec<u8> {
    let mut out = Vec::new();
    let bytes = erofs::write(&code.tree, spool, &mut out).unwrap();
    assert_eq!(bytes, out.len() as u64);
    assert_eq!(out.len() % 4096, 0);
    out
}

fn run(program: &str, args: &[&Path]) -> bool {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// What Linux sees in the image: mounted where the kernel can, unpacked by erofs-utils elsewhere.
fn read_back(image: &[u8]) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let (file, top) = (folder.path().join("code.erofs"), folder.path().join("top"));
    std::fs::write(&file, image).unwrap();
    run("fsck.erofs", &[&file]);
    std::fs::create_dir(&top).unwrap();
    let mounted = Mount::try_new("erofs", "ro,loop", file.as_os_str(), &top);
    if mounted.is_none() {
        let extract = format!("--extract={}", top.display());
        run("fsck.erofs", &[Path::new(&extract), &file]);
    }
    let mut found = BTreeMap::new();
    walk(&top, "", &mut found);
    found
}

fn walk(folder: &Path, above: &str, found: &mut BTreeMap<String, String>) {
    use std::os::unix::fs::MetadataExt;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{above}{}", entry.file_name().to_str().unwrap());
        let meta = entry.metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mtime()), (0, 0, 0), "{path}");
        let mode = meta.mode() & 0o7777;
        let what = if meta.is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
            format!("dir {mode:o}")
        } else if meta.is_symlink() {
            format!("link {}", std::fs::read_link(entry.path()).unwrap().display())
        } else {
            format!("file {mode:o} {}", blake3::hash(&std::fs::read(entry.path()).unwrap()))
        };
        found.insert(path, what);
    }
}

fn file(mode: u32, body: &[u8]) -> String {
    format!("file {mode:o} {}", blake3::hash(body))
}

#[test]
fn an_image_reads_back_as_it_was() {
    let sizes = [0, 1, 4095, 4096, 4097, 70_000];
    let mut tar = Tar::task().program("bin/tool", b"#!/bin/sh\n").dir("empty").link("to-tool", "bin/tool").link("bin/up", "..");
    let mut want = BTreeMap::from([
        ("torpor.toml".into(), file(0o644, MANIFEST)),
        ("main.py".into(), file(0o644, b"def handler(i, c): return i\n")),
        ("bin".into(), "dir 755".into()),
        ("bin/tool".into(), file(0o755, b"#!/bin/sh\n")),
        ("bin/up".into(), "link ..".into()),
        ("empty".into(), "dir 755".into()),
        ("to-tool".into(), "link bin/tool".into()),
        ("many".into(), "dir 755".to_owned()),
    ]);
    for size in sizes {
        let body: Vec<u8> = (0..size).map(|n: u32| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        tar = tar.file(&format!("size-{size}"), &body);
        want.insert(format!("size-{size}"), file(0o644, &body));
    }
    // A folder of several blocks, with names on both sides of "." and "..".
    for n in 0..600 {
        let name = format!("many/{}{n:03}-{}", ["!", "-", "a", "é"][n % 4], "x".repeat(n % 80));
        tar = tar.file(&name, &n.to_le_bytes());
        want.insert(name, file(0o644, &n.to_le_bytes()));
    }
    let (code, spool) = tar.take().unwrap();
    assert_eq!(read_back(&image(&code, &spool)), want);
}

#[test]
fn the_same_tree_gives_the_same_image() {
    let files: [(&str, &[u8]); 3] = [("torpor.toml", MANIFEST), ("main.py", b"x"), ("d/e/f", b"deep")];
    let make = |order: [usize; 3]| {
        let tar = order.iter().fold(Tar::new(), |tar, n| tar.file(files[*n].0, files[*n].1));
        let (code, spool) = tar.take().unwrap();
        (code.version.clone(), image(&code, &spool))
    };
    assert!(make([0, 1, 2]) == make([2, 1, 0]));
}

#[test]
fn images_are_kept_whole_or_not_at_all() {
    let state = tempfile::tempdir().unwrap();
    let images = Images::open(state.path()).unwrap();
    let (code, spool) = Tar::task().take().unwrap();
    images.keep(&code, &spool, false).unwrap();
    let path = images.path(&code.version);
    let first = std::fs::metadata(&path).unwrap();
    assert!(first.permissions().readonly());
    images.keep(&code, &spool, true).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), first.modified().unwrap());

    std::fs::write(state.path().join("tmp/half-done"), b"x").unwrap();
    std::fs::write(state.path().join("code/0000.erofs"), b"x").unwrap();
    let images = Images::open(state.path()).unwrap();
    assert!(!state.path().join("tmp/half-done").exists());
    assert_eq!(images.sweep(|version| version == code.version).unwrap(), 1);
    assert!(path.exists());
    images.remove(&code.version).unwrap();
    images.remove(&code.version).unwrap();
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_or_taken(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = take(&bytes);
    }

    #[test]
    fn a_damaged_archive_never_gets_out(at in 0usize..5000, byte in any::<u8>()) {
        let mut bytes = Tar::task().dir("d").link("d/l", "../main.py").file("d/f", &[1; 600]).bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok((code, spool)) = take(&bytes) {
            for (path, _) in code.tree.nodes() {
                prop_assert!(!path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
            image(&code, &spool);
        }
    }
}
