#![allow(clippy::unwrap_used)]
use super::*;
use std::os::unix::fs::FileExt;
use torpor_protocol::agent::Runtime;
use torpor_snapshot::memory::Index;
use torpor_snapshot::state::{SectionId, Sections};

const ID: &str = "0123";

fn bases() -> Vec<String> {
    vec!["base".into()]
}

fn meta() -> Meta {
    let spec = Spec::Runtime { runtime: Runtime::Exec, memory_mib: 64 };
    Meta { memory_bytes: 4096, ..Meta::of(&spec, ID.into(), "base".into(), None) }
}

/// A draft with a snapshot as a monitor writes it.
fn written(store: &Store) -> Draft {
    written_for(store, ID)
}

/// The same for a template of another id.
pub(in crate::engine::template) fn written_for(store: &Store, id: &str) -> Draft {
    let draft = store.begin(id).unwrap();
    let index = Index::write(&draft.memory, 128 << 10, |offset, block| {
        block[0] = u8::from(offset == 0);
        Ok(())
    });
    let mut sections = Sections::default();
    sections.add(SectionId::MemoryIndex, &index.unwrap()).unwrap();
    sections.write(&draft.state).unwrap();
    draft
}

fn entries(root: &Path) -> Vec<String> {
    fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_committed_template_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &bases(), &[]).unwrap();
    assert!(store.load(ID, false).unwrap().is_none());
    let draft = written(&store);
    assert!(!store.has(ID), "nothing is there before the commit");
    store.commit(draft, &meta()).unwrap();
    let store = Store::open(dir.path(), &bases(), &[]).unwrap();
    assert!(store.has(ID));
    assert_eq!(store.load(ID, false).unwrap().unwrap().meta, meta());
    let again = written(&store);
    store.commit(again, &meta()).unwrap();
    assert_eq!(entries(dir.path()), [ID]);
    let aside = store.set_aside(ID).unwrap().unwrap();
    assert!(!store.has(ID));
    remove(&aside).unwrap();
    remove(&aside).unwrap();
    assert!(store.set_aside(ID).unwrap().is_none());
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn what_is_half_made_or_of_another_host_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &bases(), &[]).unwrap();
    drop(written(&store));
    assert!(entries(dir.path()).is_empty(), "a dropped draft is removed");
    std::mem::forget(written(&store));
    fs::write(dir.path().join("stray"), "x").unwrap();
    let draft = written(&store);
    store.commit(draft, &meta()).unwrap();
    assert_eq!(entries(dir.path()).len(), 3);
    let reopened = Store::open(dir.path(), &bases(), &[]).unwrap();
    assert_eq!(entries(dir.path()), [ID]);
    assert!(reopened.has(ID));
    let reopened = Store::open(dir.path(), &["other".into()], &[]).unwrap();
    assert!(!reopened.has(ID));
}

#[test]
fn damage_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &bases(), &[]).unwrap();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damage: [Damage<'_>; 5] = [
        ("a changed byte of memory", &|dir| {
            OpenOptions::new().write(true).open(dir.join(MEMORY)).unwrap().write_all_at(b"x", 70_000).unwrap();
        }),
        ("memory cut off", &|dir| OpenOptions::new().write(true).open(dir.join(MEMORY)).unwrap().set_len(4096).unwrap()),
        ("an empty state", &|dir| OpenOptions::new().write(true).open(dir.join(STATE)).unwrap().set_len(0).unwrap()),
        ("no memory", &|dir| fs::remove_file(dir.join(MEMORY)).unwrap()),
        ("another's description", &|dir| {
            let text = fs::read_to_string(dir.join(META)).unwrap().replace(ID, "4567");
            fs::write(dir.join(META), text).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let draft = written(&store);
        store.commit(draft, &meta()).unwrap();
        assert!(store.load(ID, false).is_ok());
        damage(&dir.path().join(ID));
        let noticed = store.load(ID, false).is_err_and(|error| !error.passing());
        assert!(noticed, "{what} is not noticed");
    }
}
