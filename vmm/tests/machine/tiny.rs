//! Kernels of a few bytes, and monitors in threads that run them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use torpor_protocol::door;
use torpor_protocol::monitor::{Command, Event, StopReason};
use torpor_vmm::client::Client;
use torpor_vmm::monitor::{self, Options};

pub(crate) const MEMORY_MIB: u32 = 64;
pub(crate) const WINDOW: u64 = (MEMORY_MIB as u64) << 20;

/// Machine code, assembled by hand.
#[derive(Default)]
pub(crate) struct Code(pub(crate) Vec<u8>);

impl Code {
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov rbx, address`
    pub(crate) fn point(self, address: u64) -> Self {
        self.raw(&[0x48, 0xbb]).raw(&address.to_le_bytes())
    }

    /// `mov al, value; mov [rbx], al`
    pub(crate) fn store(self, address: u64, value: u8) -> Self {
        self.point(address).raw(&[0xb0, value, 0x88, 0x03])
    }

    /// `mov rax, value; mov [rbx], rax`
    pub(crate) fn store_wide(self, address: u64, value: u64) -> Self {
        self.point(address).raw(&[0x48, 0xb8]).raw(&value.to_le_bytes()).raw(&[0x48, 0x89, 0x03])
    }

    /// Stores a word in each of some pages: `mov rdi, address; mov rcx, pages; mov rax, value;` then until no page is left `mov [rdi], rax;
    /// add rdi, 4096; dec rcx`.
    pub(crate) fn store_in_each(self, address: u64, pages: u64, value: u64) -> Self {
        self.raw(&[0x48, 0xbf])
            .raw(&address.to_le_bytes())
            .raw(&[0x48, 0xb9])
            .raw(&pages.to_le_bytes())
            .raw(&[0x48, 0xb8])
            .raw(&value.to_le_bytes())
            .raw(&[0x48, 0x89, 0x07, 0x48, 0x81, 0xc7, 0, 0x10, 0, 0, 0x48, 0xff, 0xc9, 0x75, 0xf1])
    }

    /// `mov rbx, address; mov dl, [rbx]`, and says it.
    pub(crate) fn say(self, address: u64) -> Self {
        self.point(address).raw(&[0x8a, 0x13]).say_dl()
    }

    /// Reads the doorbell's wait register.
    pub(crate) fn wait(self) -> Self {
        self.point(door::DOORBELL + door::BELL_WAIT).raw(&[0x8a, 0x03])
    }

    pub(crate) fn ring(self) -> Self {
        self.store(door::DOORBELL + door::BELL_OUTBOX, 1)
    }

    /// A frame of one byte of body in the outbox, the byte taken from DL, and ring.
    pub(crate) fn say_dl(self) -> Self {
        let user = WINDOW + door::USER;
        self.store_wide(user + door::OUTBOX, 0x7700_0000_0001)
            .point(user + door::OUTBOX + 8)
            .raw(&[0x88, 0x13])
            .store_wide(user + door::OUTBOX_LEN, 9)
            .ring()
    }

    pub(crate) fn power_off(self) -> Self {
        self.store(door::KERNEL_REGS + door::REG_STOP, 1)
    }

    /// As an ELF kernel at 1 MiB.
    pub(crate) fn kernel(&self) -> File {
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

pub(crate) fn prepared() -> Client {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::spawn(move || monitor::run(theirs, Options::default()));
    let client = Client::new(ours);
    client.set_timeout(Duration::from_secs(20)).unwrap();
    client.send(&Command::Prepare { memory_mib: MEMORY_MIB }, &[kvm.as_fd()]).unwrap();
    assert_eq!(client.receive().unwrap(), Event::Prepared);
    client
}

pub(crate) fn booted(code: &Code) -> Client {
    boot(prepared(), code)
}

pub(crate) fn boot(client: Client, code: &Code) -> Client {
    let (kernel, root) = (code.kernel(), tempfile::tempfile().unwrap());
    client.send(&Command::Boot { extra_cmdline: String::new() }, &[kernel.as_fd(), root.as_fd()]).unwrap();
    assert!(matches!(client.receive().unwrap(), Event::Running { .. }));
    client
}

pub(crate) fn reason(client: &Client) -> StopReason {
    match client.receive().unwrap() {
        Event::Stopped { reason, .. } => reason,
        other => panic!("instead of the end: {other:?}"),
    }
}

pub(crate) fn said(client: &Client) -> u8 {
    match client.receive().unwrap() {
        Event::Outbox { frame } => {
            assert_eq!(&frame[..8], &[1, 0, 0, 0, 0, 0x77, 0, 0]);
            frame[8]
        }
        other => panic!("instead of a frame: {other:?}"),
    }
}

/// Waits at the door with a count in DL, and says the count each time that it is let go on.
pub(crate) fn counter() -> Code {
    // xor edx, edx
    let start = Code::default().raw(&[0x31, 0xd2]);
    let body = Code::default().wait().raw(&[0xfe, 0xc2]).say_dl();
    let back = i8::try_from(-(i64::try_from(body.0.len()).unwrap() + 2)).unwrap_or(i8::MIN);
    let long = i32::try_from(body.0.len()).unwrap() + 5;
    let looped = if back == i8::MIN { body.raw(&[0xe9]).raw(&(-long).to_le_bytes()) } else { body.raw(&[0xeb, back.to_le_bytes()[0]]) };
    start.raw(&looped.0)
}

pub(crate) fn snapshot(client: &Client) -> (File, File) {
    let (state, memory) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    client.send(&Command::Save, &[state.as_fd(), memory.as_fd()]).unwrap();
    assert!(matches!(client.receive().unwrap(), Event::Saved { .. }));
    (state, memory)
}

pub(crate) fn restored(state: &File, memory: &File, inbox: Option<Vec<u8>>) -> Client {
    let client = prepared();
    let root = tempfile::tempfile().unwrap();
    client.send(&Command::Restore { code: false, inbox }, &[state.as_fd(), memory.as_fd(), root.as_fd()]).unwrap();
    client
}
