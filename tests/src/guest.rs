//! Faults put into running guests from outside: their memory is the memory of their monitors, and root may write there. What a program in a guest can
//! never do to its agent or its kernel is done this way.
//!
//! Everything is looked for by its content, as it is in the image and in the kernel's file: where nothing is found, the test fails.

use crate::daemon::Daemon;
use crate::setup;
use nix::unistd::Pid;
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

const PAGE: usize = 4096;
/// What the agent names and no other program of the image does.
const AGENT_MARK: &[u8] = b"/etc/torpor/warm";
/// Virtual address of physical address 0 in the kernel's own mapping.
const KERNEL_MAP: u64 = 0xffff_ffff_8000_0000;
/// `ud2`, all over.
const INVALID: [u8; 2] = [0x0f, 0x0b];
/// `xor eax, eax; mov rax, [rax]`
const NULL_DEREFERENCE: [u8; 5] = [0x31, 0xc0, 0x48, 0x8b, 0x00];

/// The memory of a guest that runs.
#[derive(Debug)]
pub struct GuestMemory {
    memory: File,
    start: u64,
    len: u64,
}

impl GuestMemory {
    /// That of the one VM that runs the newest version of a task.
    #[must_use]
    pub fn of(daemon: &Daemon, task: &str) -> Self {
        let version = daemon.get(&format!("/v1/tasks/{task}")).expect(200)["latest"].clone();
        let host = daemon.get("/v1/host").expect(200);
        let templates = host["templates"].as_array().expect("a list");
        let template = templates.iter().find(|template| template["version"] == version).expect("a task that runs has a template");
        let file = daemon.state().join("templates").join(template["id"].as_str().expect("an id")).join("memory");
        let mut running: Vec<_> = daemon.monitors().into_iter().filter_map(|pid| Self::mapped(pid, &file)).collect();
        assert_eq!(running.len(), 1, "VMs of {task}");
        running.remove(0)
    }

    fn mapped(pid: Pid, file: &Path) -> Option<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let line = maps.lines().find(|line| line.ends_with(file.to_str().expect("UTF-8")))?;
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).expect("an address");
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"));
        let memory = memory.expect("these tests write into the memory of other processes: run them as root");
        Some(Self { memory, start: hex(start), len: hex(end) - hex(start) })
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_exact_at(&mut bytes, self.start + at).expect("guest memory can be read");
        bytes
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + at).expect("guest memory can be written");
    }

    /// Replaces the agent's code by invalid instructions: it dies when it runs next, perhaps before all of it is replaced.
    pub fn break_agent(&self, image: &Path) {
        let image = fs::read(image).expect("the image can be read");
        let code = agent_code(&image);
        let all = self.read(0, usize::try_from(self.len).expect("a 64-bit host"));
        let mut broken = 0;
        for (number, page) in (0_u64..).zip(all.chunks_exact(PAGE)) {
            if !code.contains(page) {
                continue;
            }
            match self.memory.write_all_at(&INVALID.repeat(PAGE / 2), self.start + number * PAGE as u64) {
                Ok(()) => broken += 1,
                Err(error) if broken == 0 => panic!("guest memory can't be written: {error}"),
                // Its monitor is gone with it.
                Err(_) => return,
            }
        }
        assert!(broken > 4, "only {broken} of {} pages of the agent's code are in the guest's memory", code.len());
    }

    /// Puts a null dereference at the beginning of a function of the guest's kernel.
    pub fn break_kernel(&self, function: &str) {
        let at = kernel_symbol(function) - KERNEL_MAP;
        let elf = fs::read(&setup::get().kernel).expect("the kernel can be read");
        let code = Segment::all(&elf).find_map(|segment| segment.at_physical(at, 16)).expect("the function is in the kernel's file");
        assert_eq!(self.read(at, code.len()), code, "the guest's memory does not have {function} where the kernel's file has it");
        self.write(at, &NULL_DEREFERENCE);
    }
}

/// The address of a function of the guest's kernel, from the `vmlinux.debug` that lies beside it.
#[must_use]
pub fn kernel_symbol(function: &str) -> u64 {
    let kernel = fs::canonicalize(&setup::get().kernel).expect("the kernel");
    let symbols = kernel.with_file_name("vmlinux.debug");
    let output = Command::new("nm").arg(&symbols).output().expect("nm, of binutils, can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let symbols = String::from_utf8(output.stdout).expect("symbols in UTF-8");
    let line = symbols.lines().find(|line| line.split(' ').nth(2) == Some(function));
    let address = line.unwrap_or_else(|| panic!("the kernel has no {function}")).split(' ').next().expect("an address");
    u64::from_str_radix(address, 16).expect("an address")
}

/// Whole pages of the code of the agent in an image. It is stored in one piece, as an ELF file for one fixed address.
fn agent_code(image: &[u8]) -> HashSet<&[u8]> {
    let is_agent = |elf: &&[u8]| {
        let end = Segment::all(elf).map(|segment| segment.offset + segment.file_len).max().unwrap_or(0);
        elf.get(..end).is_some_and(|elf| elf.windows(AGENT_MARK.len()).any(|window| window == AGENT_MARK))
    };
    let starts = (0..image.len()).step_by(PAGE).filter(|at| image[*at..].starts_with(b"\x7fELF\x02\x01\x01"));
    let mut agents = starts.map(|at| &image[at..]).filter(is_agent);
    let (agent, other) = (agents.next().expect("the image has the agent"), agents.next());
    assert!(other.is_none(), "two programs of the image look like the agent");
    let code = Segment::all(agent).find(|segment| segment.executable).expect("a program has code");
    let pages = (code.offset.next_multiple_of(PAGE)..code.offset + code.file_len).step_by(PAGE);
    let pages = pages.filter_map(|at| agent.get(at..(at + PAGE).min(code.offset + code.file_len)));
    pages.filter(|page| page.len() == PAGE && page.iter().any(|byte| *byte != page[0])).collect()
}

/// A loadable segment of a 64-bit little-endian ELF file.
#[derive(Debug)]
struct Segment<'a> {
    elf: &'a [u8],
    executable: bool,
    offset: usize,
    physical: u64,
    file_len: usize,
}

impl<'a> Segment<'a> {
    fn all(elf: &'a [u8]) -> impl Iterator<Item = Self> {
        let number = move |at: usize, bytes: usize| {
            let mut wide = [0; 8];
            wide[..bytes].copy_from_slice(elf.get(at..at + bytes).unwrap_or(&[0; 8][..bytes]));
            u64::from_le_bytes(wide)
        };
        let index = move |at, bytes| usize::try_from(number(at, bytes)).unwrap_or(0);
        let headers = (0..index(56, 2)).map(move |header| index(32, 8) + header * index(54, 2));
        headers.filter(move |at| number(*at, 4) == 1).map(move |at| Self {
            elf,
            executable: number(at + 4, 4) & 1 == 1,
            offset: index(at + 8, 8),
            physical: number(at + 24, 8),
            file_len: index(at + 32, 8),
        })
    }

    fn at_physical(&self, at: u64, len: usize) -> Option<&'a [u8]> {
        let inside = usize::try_from(at.checked_sub(self.physical)?).ok()?;
        if inside + len > self.file_len { None } else { self.elf.get(self.offset + inside..self.offset + inside + len) }
    }
}
