//! An exported execution as anybody may have made it: refused, or taken apart into things that lie inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::unix::fs::FileExt;
use torpor_daemon::manifest::AccountName;
use torpor_daemon::code::{erofs, image};
use torpor_daemon::transfer::container::{Kind, Writer, check};
use torpor_daemon::transfer::content::{Contents, bytes, unpack};

const KINDS: [Kind; 10] = [
    Kind::Record,
    Kind::Input,
    Kind::Event,
    Kind::Ended,
    Kind::Log,
    Kind::Code,
    Kind::Machine,
    Kind::TemplateMeta,
    Kind::TemplateState,
    Kind::TemplateMemory,
];

fn look(file: &[u8]) {
    let on_disk: File = tempfile::tempfile().expect("a temporary file");
    on_disk.write_all_at(file, 0).expect("room for it");
    let Ok(sections) = check(&on_disk) else { return };
    for section in &sections {
        assert!(section.body.start <= section.body.end && section.body.end <= file.len() as u64);
    }
    for section in sections.iter().filter(|section| section.kind == Kind::Code) {
        let Ok(tree) = image::read(&on_disk, section.body.clone()) else { continue };
        erofs::write(&tree, &on_disk, &mut std::io::sink()).expect("what was read lies in the file");
    }
    for section in sections.iter().filter(|section| section.kind == Kind::TemplateMemory) {
        let _ = unpack(&bytes(&on_disk, &section.body).expect("inside the file"));
    }
    let _ = Contents::read(&on_disk, &AccountName::default());
}

fuzz_target!(|data: &[u8]| {
    look(data);
    // Sections with the right hashes, so that what lies behind them is reached as well.
    let mut writer = Writer::new(Vec::new()).expect("memory");
    let mut rest = data;
    for kind in KINDS {
        let Some((len, after)) = rest.split_first_chunk::<2>() else { break };
        let (body, after) = after.split_at(usize::from(u16::from_le_bytes(*len)).min(after.len()));
        rest = after;
        if writer.section(kind, body).is_err() {
            return;
        }
    }
    let (mut file, trailer) = writer.finish().expect("memory");
    file.extend(trailer);
    look(&file);
});
