//! Real VMs with kernels of a few bytes: how a machine ends, the door, save and restore, and what a guest may not do.
//! They need /dev/kvm and fail without.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use torpor_protocol::door;
use torpor_protocol::monitor::{Command, Event, StopReason};
use torpor_vmm::client::Client;
use torpor_vmm::monitor::{self, Options};

const MEMORY_MIB: u32 = 64;
const WINDOW: u64 = (MEMORY_MIB as u64) << 20;

/// Machine code, assembled by hand.
#[derive(Default)]
struct Code(Vec<u8>);

impl Code {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov rbx, address`
    fn point(self, address: u64) -> Self {
        self.raw(&[0x48, 0xbb]).raw(&address.to_le_bytes())
    }

    /// `mov al, value; mov [rbx], al`
    fn store(self, address: u64, value: u8) -> Self {
        self.point(address).raw(&[0xb0, value, 0x88, 0x03])
    }

    /// `mov rax, value; mov [rbx], rax`
    fn store_wide(self, address: u64, value: u64) -> Self {
        self.point(address).raw(&[0x48, 0xb8]).raw(&value.to_le_bytes()).raw(&[0x48, 0x89, 0x03])
    }

    /// Reads the doorbell's wait register.
    fn wait(self) -> Self {
        self.point(door::DOORBELL + door::BELL_WAIT).raw(&[0x8a, 0x03])
    }

    fn ring(self) -> Self {
        self.store(door::DOORBELL + door::BELL_OUTBOX, 1)
    }

    /// A frame of one byte of body in the outbox, the byte taken from DL, and ring.
    fn say_dl(self) -> Self {
        let user = WINDOW + door::USER;
        self.store_wide(user + door::OUTBOX, 0x7700_0000_0001)
            .point(user + door::OUTBOX + 8)
            .raw(&[0x88, 0x13])
            .store_wide(user + door::OUTBOX_LEN, 9)
            .ring()
    }

    fn power_off(self) -> Self {
        self.store(door::KERNEL_REGS + door::REG_STOP, 1)
    }

    /// As an ELF kernel at 1 MiB.
    fn kernel(&self) -> File {
        const BASE: u64 = 0x10_0000;
        let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        elf.extend_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
        for word in [BASE, 64, 0] {
            elf.extend_from_slice(&u64::to_le_bytes(word));
        }
        elf.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        elf.extend_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
        let len = self.0.len() as u64;
        for word in [0x1000, BASE, BASE, len, len, 0x1000] {
            elf.extend_from_slice(&u64::to_le_bytes(word));
        }
        elf.resize(0x1000, 0);
        elf.extend_from_slice(&self.0);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&elf).unwrap();
        file
    }
}

fn prepared() -> Client {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || monitor::run(theirs, Options::default()));
    let client = Client::new(ours);
    client.set_timeout(Duration::from_secs(20)).unwrap();
    client.send(&Command::Prepare { memory_mib: MEMORY_MIB }, &[kvm.as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Event::Prepared);
    client
}

fn booted(code: &Code) -> Client {
    boot(prepared(), code)
}

fn boot(client: Client, code: &Code) -> Client {
    let (kernel, root) = (code.kernel(), tempfile::tempfile().unwrap());
    client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()]).unwrap();
    assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
    client
}

fn reason(client: &Client) -> StopReason {
    match client.receive().unwrap() {
        Event::Stopped { reason, .. } => reason,
        other => panic!("instead of the end: {other:?}"),
    }
}

fn said(client: &Client) -> u8 {
    match client.receive().unwrap() {
        Event::Outbox { frame } => {
            assert_eq!(&frame[..8], &[1, 0, 0, 0, 0, 0x77, 0, 0]);
            frame[8]
        }
        other => panic!("instead of a frame: {other:?}"),
    }
}

#[test]
fn each_end_of_a_machine_is_told_apart() {
    assert_eq!(reason(&booted(&Code::default().power_off())), StopReason::PowerOff);
    assert_eq!(reason(&booted(&Code::default().store(door::KERNEL_REGS + door::REG_STOP, 2))), StopReason::Panic);
    // mov al, 0xfe; out 0x64, al
    assert_eq!(reason(&booted(&Code::default().raw(&[0xb0, 0xfe, 0xe6, 0x64]))), StopReason::Reboot);
    // ud2 without an interrupt table
    assert_eq!(reason(&booted(&Code::default().raw(&[0x0f, 0x0b]))), StopReason::TripleFault);
    let unknown = reason(&booted(&Code::default().store(door::KERNEL_REGS + door::REG_STOP, 9)));
    assert!(matches!(unknown, StopReason::GuestFault { .. }), "{unknown}");
}

#[test]
fn machines_that_boot_at_once_share_one_open_kernel() {
    let (kernel, root) = (Code::default().power_off().kernel(), tempfile::tempfile().unwrap());
    for _ in 0..10 {
        let clients: Vec<_> = (0..4).map(|_| prepared()).collect();
        for client in &clients {
            client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()]).unwrap();
        }
        for client in &clients {
            assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
            assert_eq!(reason(client), StopReason::PowerOff);
        }
    }
}

#[test]
fn an_outbox_beyond_its_box_drops_the_guest() {
    let code = Code::default().store_wide(WINDOW + door::USER + door::OUTBOX_LEN, u64::MAX).ring();
    assert!(matches!(reason(&booted(&code)), StopReason::GuestFault { device, .. } if device == "the door"));
}

#[test]
fn reads_and_writes_all_over_the_address_space_do_no_harm() {
    let mut code = Code::default();
    for address in [0xd000_0000u64, 0xd000_0100, 0xd000_1000, 0xd000_2ffc, 0xd000_3000, 0xd001_0018, 0xd001_1ff8, 0xe000_0000, 0xfff0_0000]
    {
        // mov al, [rbx]; mov rax, [rbx]; mov [rbx], al (with 0)
        code = code.point(address).raw(&[0x8a, 0x03, 0x48, 0x8b, 0x03, 0x30, 0xc0, 0x88, 0x03]);
    }
    for port in [0x60u8, 0x64, 0x70, 0x80, 0xf0] {
        // in al, port; out port, al (with 0, which resets nothing)
        code = code.raw(&[0xe4, port, 0x30, 0xc0, 0xe6, port]);
    }
    assert_eq!(reason(&booted(&code.power_off())), StopReason::PowerOff);
}

/// Waits at the door with a count in DL, and says the count each time that it is let go on.
fn counter() -> Code {
    // xor edx, edx
    let start = Code::default().raw(&[0x31, 0xd2]);
    let body = Code::default().wait().raw(&[0xfe, 0xc2]).say_dl();
    let back = i8::try_from(-(i64::try_from(body.0.len()).unwrap() + 2)).unwrap_or(i8::MIN);
    let long = i32::try_from(body.0.len()).unwrap() + 5;
    let looped = if back == i8::MIN { body.raw(&[0xe9]).raw(&(-long).to_le_bytes()) } else { body.raw(&[0xeb, back.to_le_bytes()[0]]) };
    start.raw(&looped.0)
}

fn snapshot(client: &Client) -> (File, File) {
    let (state, memory) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    client.send(&Command::Save, &[state.as_fd(), memory.as_fd()]).unwrap();
    assert!(matches!(client.receive().unwrap(), Event::Saved { .. }));
    (state, memory)
}

fn restored(state: &File, memory: &File, inbox: Option<Vec<u8>>) -> Client {
    let client = prepared();
    let root = tempfile::tempfile().unwrap();
    client.send(&Command::Restore { code: false, inbox }, &[state.as_fd(), memory.as_fd(), root.as_fd()]).unwrap();
    client
}

#[test]
fn a_machine_goes_on_where_its_snapshot_was_taken_as_often_as_one_likes() {
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(said(&client), 1);
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    torpor_snapshot::verify(&state, &memory).unwrap();
    client.send(&Command::Inbox { frame: vec![1] }, &[]).unwrap();
    assert_eq!(said(&client), 2, "the saved machine itself goes on");
    for _ in 0..3 {
        let again = restored(&state, &memory, Some(vec![2]));
        assert!(matches!(again.receive().unwrap(), Event::Running { .. }));
        assert_eq!(said(&again), 2, "registers are those of the snapshot");
        assert_eq!(again.receive().unwrap(), Event::AtDoor);
    }
}

#[test]
fn the_time_stamp_counter_of_a_restored_machine_does_not_go_back() {
    // rdtsc; shl rdx, 32; or rax, rdx
    let read = [0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0];
    // mov r8, rax; ... cmp rax, r8; setb dl
    let code = Code::default().raw(&read).raw(&[0x49, 0x89, 0xc0]).wait().raw(&read).raw(&[0x4c, 0x39, 0xc0, 0x0f, 0x92, 0xc2]);
    let client = prepared();
    // So that the counter is less than a second, but well above that of the VM that it is restored into.
    std::thread::sleep(Duration::from_millis(400));
    let client = boot(client, &code.say_dl().power_off());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    let again = restored(&state, &memory, Some(vec![1]));
    assert!(matches!(again.receive().unwrap(), Event::Running { .. }));
    assert_eq!(said(&again), 0, "it went back");
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    use std::os::unix::fs::FileExt;
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    let (state, memory) = snapshot(&client);
    let mut byte = [0];
    state.read_exact_at(&mut byte, 300).unwrap();
    state.write_all_at(&[byte[0] ^ 1], 300).unwrap();
    assert!(matches!(reason(&restored(&state, &memory, None)), StopReason::Failed(why) if why.contains("damaged")));
    state.write_all_at(&byte, 300).unwrap();
    memory.set_len(4096).unwrap();
    assert!(matches!(reason(&restored(&state, &memory, None)), StopReason::Failed(why) if why.contains("memory file")));
}

#[test]
fn commands_out_of_turn_are_errors() {
    let client = prepared();
    client.send(&Command::Inbox { frame: vec![] }, &[]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("does not run")));
    let client = prepared();
    client.send(&Command::Save, &[]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("descriptors")));
    let client = booted(&counter());
    assert_eq!(client.receive().unwrap(), Event::AtDoor);
    client.send(&Command::Prepare { memory_mib: 64 }, &[tempfile::tempfile().unwrap().as_fd()]).unwrap();
    assert!(matches!(reason(&client), StopReason::Failed(why) if why.contains("already")));
}
