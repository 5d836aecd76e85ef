//! Park and resume.

use crate::tiny::{Code, booted, counter, prepared, reason, restored, said, snapshot};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use torpor_protocol::monitor::{Command, Event, Packing, StopReason};
use torpor_snapshot::parked::{Parked, Run};
use torpor_vmm::client::Client;

/// Pages of their own: one that the machine makes zero, one that it leaves as the template has it, one that it writes.
const ZEROED: u64 = 0x20_0000;
const KEPT: u64 = 0x30_0000;
const WRITTEN: u64 = 0x40_0000;
/// Many pages side by side, which the machine makes zero, and writes: the last of each is looked at.
const MANY_ZEROED: u64 = 0x60_0000;
const MANY_WRITTEN: u64 = 0x70_0000;
const MANY: u64 = 40;
const LAST: u64 = (MANY - 1) << 12;
const PLACES: [u64; 5] = [ZEROED, KEPT, WRITTEN, MANY_ZEROED + LAST, MANY_WRITTEN + LAST];
const SEEN: [u8; 5] = [0, 9, 5, 0, 6];

/// Waits, changes its memory, waits, says what it sees and changes a page among the many, waits, and says it again.
fn changes_memory() -> Code {
    let see = |code: Code| PLACES.iter().fold(code.wait(), |code, place| code.say(*place));
    let template = Code::default().store(ZEROED, 7).store(KEPT, 9).store_in_each(MANY_ZEROED, MANY, 8).wait();
    let changed = template.store(ZEROED, 0).store(WRITTEN, 5).store_in_each(MANY_ZEROED, MANY, 0).store_in_each(MANY_WRITTEN, MANY, 6);
    let again = see(changed).store(MANY_WRITTEN + 0x3000, 1).store(MANY_ZEROED + 0x3000, 2);
    see(again).power_off()
}

/// The files of a template.
struct Template {
    state: File,
    memory: File,
}

impl Template {
    fn of(code: &Code) -> Self {
        let client = booted(code);
        assert_eq!(client.receive().unwrap(), Event::AtDoor);
        let (state, memory) = snapshot(&client);
        Self { state, memory }
    }

    /// A machine that was restored and let go on to the next time at the door.
    fn started(&self) -> Client {
        let client = restored(&self.state, &self.memory, Some(vec![1]));
        assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
        client
    }

    fn resumed(&self, parked: &File) -> Client {
        let client = prepared();
        self.resume(&client, parked);
        client
    }

    fn resume(&self, client: &Client, parked: &File) {
        let (root, code) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let fds = [parked.as_fd(), self.memory.as_fd(), root.as_fd(), code.as_fd()];
        client.send(&Command::Resume { inbox: vec![1], key: None }, &fds).unwrap();
    }
}

fn park(client: &Client, file: BorrowedFd<'_>, packing: Packing) -> Event {
    client.send(&Command::Park { origin: b"from here".to_vec(), packing, key: None }, &[file]).unwrap();
    client.receive().unwrap()
}

/// Parks, and gives the bytes of changed pages.
fn parked(client: &Client, file: &File, packing: Packing) -> u64 {
    match park(client, file.as_fd(), packing) {
        Event::Parked { changed_bytes, stored_bytes, .. } => {
            let parked = Parked::read(file).unwrap();
            parked.verify(file).unwrap();
            assert_eq!((parked.changed_bytes(), parked.stored_bytes()), (changed_bytes, stored_bytes));
            changed_bytes
        }
        other => panic!("instead of a parked machine: {other:?}"),
    }
}

fn sees(client: &Client) -> [u8; 5] {
    std::array::from_fn(|_| said(client))
}

fn runs(client: &Client) {
    assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
}

fn at_door(client: &Client) {
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
}

/// The pages that a file holds, looked at without a VM.
fn pages(file: &File, template: &File) -> impl Fn(u64) -> u8 {
    struct All(Vec<u8>);
    impl torpor_snapshot::parked::Target for All {
        fn pages(&mut self, run: Run) -> Option<&mut [u8]> {
            let (at, len) = run.extent();
            self.0.get_mut(usize::try_from(at).ok()?..usize::try_from(at + len).ok()?)
        }
    }
    let mut all = All(vec![0; usize::try_from(template.metadata().unwrap().len()).unwrap()]);
    template.read_exact_at(&mut all.0, 0).unwrap();
    Parked::read(file).unwrap().lay_over(file, &mut all).unwrap();
    move |address| all.0[usize::try_from(address).unwrap()]
}

#[test]
fn a_parked_machine_goes_on_in_another_vm_with_its_memory() {
    let template = Template::of(&changes_memory());
    for packing in [Packing::None, Packing::Fast, Packing::Small] {
        let client = template.started();
        at_door(&client);
        let file = tempfile::tempfile().unwrap();
        parked(&client, &file, packing);
        drop(client);
        let byte = pages(&file, &template.memory);
        assert_eq!(PLACES.map(byte), SEEN);
        for _ in 0..2 {
            let client = template.resumed(&file);
            runs(&client);
            assert_eq!(sees(&client), SEEN);
            at_door(&client);
        }
    }
}

#[test]
fn the_machine_that_was_parked_can_go_on_itself() {
    let template = Template::of(&changes_memory());
    let client = template.started();
    at_door(&client);
    parked(&client, &tempfile::tempfile().unwrap(), Packing::None);
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(sees(&client), SEEN);
}

/// Parked, resumed, parked again: what is written each time is all that differs from the template, in the same file.
#[test]
fn a_machine_is_parked_again_as_one_difference_to_its_template() {
    let template = Template::of(&counter());
    let file = tempfile::tempfile().unwrap();
    file.set_len(8 << 20).unwrap();
    let client = template.started();
    assert_eq!(said(&client), 1);
    at_door(&client);
    let mut last = parked(&client, &file, Packing::None);
    drop(client);
    for count in 2..6 {
        let client = template.resumed(&file);
        runs(&client);
        assert_eq!(said(&client), count, "registers are those of the parked machine");
        at_door(&client);
        let now = parked(&client, &file, [Packing::None, Packing::Small][usize::from(count % 2)]);
        assert!(now >= last && now <= last + (64 << 10), "{now} bytes after {last}");
        last = now;
    }
    assert_eq!(file.metadata().unwrap().len(), 8 << 20);

    let template = Template::of(&changes_memory());
    let client = template.started();
    at_door(&client);
    parked(&client, &file, Packing::Fast);
    let client = template.resumed(&file);
    runs(&client);
    assert_eq!(sees(&client), SEEN);
    at_door(&client);
    parked(&client, &file, Packing::Fast);
    let byte = pages(&file, &template.memory);
    assert_eq!([MANY_WRITTEN + 0x3000, MANY_WRITTEN + 0x4000, MANY_ZEROED + 0x3000, MANY_ZEROED + 0x4000].map(byte), [1, 6, 2, 0]);
    let client = template.resumed(&file);
    runs(&client);
    assert_eq!(sees(&client), SEEN, "pages of the first park are in the second");
    assert_eq!(reason(&client), StopReason::PowerOff);
}

/// What a resumed machine has not written it reads from the file: nobody writes over that, but for the machine itself, which takes copies first.
#[test]
fn the_file_of_a_machine_that_lives_is_not_written_over() {
    let template = Template::of(&changes_memory());
    let named = tempfile::NamedTempFile::new().unwrap();
    let (first, second) = (template.started(), template.started());
    at_door(&first);
    at_door(&second);
    parked(&first, &named.reopen().unwrap(), Packing::None);
    let client = template.resumed(&named.reopen().unwrap());
    runs(&client);
    assert_eq!(sees(&client), SEEN);
    at_door(&client);
    match park(&second, named.reopen().unwrap().as_fd(), Packing::None) {
        Event::NotParked { reason } => assert!(reason.contains("in use"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(torpor_snapshot::parked::retire(named.as_file()).is_err());
    let file = named.reopen().unwrap();
    parked(&client, &file, Packing::Small);
    let byte = pages(&file, &template.memory);
    assert_eq!([MANY_WRITTEN + 0x3000, MANY_WRITTEN + 0x4000, MANY_ZEROED + 0x3000, MANY_ZEROED + 0x4000].map(byte), [1, 6, 2, 0]);
    torpor_snapshot::parked::retire(named.as_file()).unwrap();
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(sees(&client), SEEN);
}

#[test]
fn a_damaged_or_foreign_parked_machine_is_refused_before_the_guest_runs() {
    let template = Template::of(&changes_memory());
    let client = template.started();
    at_door(&client);
    let file = tempfile::tempfile().unwrap();
    parked(&client, &file, Packing::None);
    let len = Parked::read(&file).unwrap().stored_bytes();
    let refused = |template: &Template| match reason(&template.resumed(&file)) {
        StopReason::Failed(why) => why,
        other => panic!("{other:?}"),
    };
    for (at, named) in [(0, "not a parked machine"), (8, "format version"), (3000, "header"), (5000, "chunk 0"), (len - 1, "sections")] {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert!(refused(&template).contains(named), "{at}: {}", refused(&template));
        file.write_all_at(&byte, at).unwrap();
    }
    let other = Template { state: tempfile::tempfile().unwrap(), memory: tempfile::tempfile().unwrap() };
    other.memory.set_len(4096).unwrap();
    assert!(refused(&other).contains("memory file"));
    file.set_len(len - 1).unwrap();
    assert!(refused(&template).contains("cut off"));
}

/// A full file system of its own.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mounted(bytes: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_machine_that_can_not_be_written_down_goes_on() {
    let template = Template::of(&changes_memory());
    let client = template.started();
    at_door(&client);
    let open = |path: &Path| File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let disk = SmallDisk::mounted("16k");
    let full = open(&disk.0.path().join("parked"));
    let read_only = File::open("/dev/null").unwrap();
    for (file, named) in [(&open(Path::new("/dev/full")), "No space"), (&full, "No space"), (&read_only, "Bad file descriptor")] {
        match park(&client, file.as_fd(), Packing::None) {
            Event::NotParked { reason } => assert!(reason.contains(named), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(Parked::read(&full).is_err());
    let file = tempfile::tempfile().unwrap();
    parked(&client, &file, Packing::None);
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(sees(&client), SEEN);
}

#[test]
fn a_machine_that_was_booted_is_not_parked() {
    let client = booted(&counter());
    at_door(&client);
    match park(&client, tempfile::tempfile().unwrap().as_fd(), Packing::Fast) {
        Event::NotParked { reason } => assert!(reason.contains("template"), "{reason}"),
        other => panic!("{other:?}"),
    }
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(said(&client), 1);
}

/// With its sandbox closed, in a process of its own.
#[test]
fn a_locked_in_monitor_parks_and_resumes() {
    let template = Template::of(&changes_memory());
    let client = template.started();
    at_door(&client);
    let file = tempfile::tempfile().unwrap();
    parked(&client, &file, Packing::None);
    for packing in [Packing::None, Packing::Fast, Packing::Small] {
        let (client, mut child) = Client::spawn(Path::new(env!("CARGO_BIN_EXE_torpor-vmm"))).unwrap();
        client.set_timeout(std::time::Duration::from_secs(20)).unwrap();
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        client.send(&Command::Prepare { memory_mib: crate::tiny::MEMORY_MIB }, &[kvm.as_fd()]).unwrap();
        assert_eq!(client.receive().unwrap(), Event::Prepared);
        template.resume(&client, &file);
        runs(&client);
        assert_eq!(sees(&client), SEEN);
        at_door(&client);
        parked(&client, &tempfile::tempfile().unwrap(), packing);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
