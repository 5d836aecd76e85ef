//! What a hostile client pushes: refused, or a tree that stays in its folder and becomes an image of the size that was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::{Seek, Write};
use torpor_daemon::code::check::check;
use torpor_daemon::code::tree::Node;
use torpor_daemon::code::{erofs, intake};

fuzz_target!(|data: &[u8]| {
    let mut spool = tempfile::tempfile().expect("a temporary file");
    spool.write_all(data).and_then(|()| spool.rewind()).expect("room for it");
    let Ok(tree) = intake::read(&spool) else { return };
    for (path, node) in tree.nodes() {
        assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255));
        if let Node::File { offset, size, .. } = node {
            assert!(offset + size <= data.len() as u64);
        }
        assert!(tree.resolve(path).is_ok(), "{path} leaves the folder");
    }
    let mut image = Vec::new();
    let bytes = erofs::write(&tree, &spool, &mut image).expect("what was taken can be written");
    assert_eq!(bytes, image.len() as u64);
    let _ = check(&spool, tree);
});
