//! Puts kernel, command line, memory map and seed where the Linux boot protocol wants them (Documentation/arch/x86/boot.rst).

use super::{by_position::ByPosition, cmdline, mptable};
use crate::error::VmmError;
use crate::layout::{CMDLINE, HIGH_RAM, LOW_RAM_END, RNG_SEED, ZERO_PAGE};
use crate::memory::GuestMemory;
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::Elf;
use linux_loader::loader::{KernelLoader, load_cmdline};
use std::fs::File;
use vm_memory::{Address, Bytes, GuestAddress};

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
const LOADER_UNKNOWN: u8 = 0xff;
const SETUP_RNG_SEED: u32 = 9;
const SEED_LEN: usize = 32;
const MAX_KERNEL: u64 = 128 << 20;

/// Loads a kernel (ELF `vmlinux`) and all that it reads first. Gives its entry point.
pub fn load(memory: &GuestMemory, kernel: &File, emulated: bool, devices: u64, extra: &str) -> Result<u64, VmmError> {
    let mem = &memory.mem;
    let size = kernel.metadata().map_err(VmmError::io("reading the kernel's size"))?.len();
    if size > MAX_KERNEL {
        return Err(VmmError::Kernel(format!("it is larger than {} MiB", MAX_KERNEL >> 20)));
    }
    let mut kernel = ByPosition::new(kernel, size);
    let loaded = Elf::load(mem, None, &mut kernel, Some(GuestAddress(HIGH_RAM))).map_err(|e| VmmError::Kernel(e.to_string()))?;
    let line = cmdline::compose(emulated, devices, extra)?;
    load_cmdline(mem, GuestAddress(CMDLINE), &line).map_err(|e| VmmError::Kernel(e.to_string()))?;
    mptable::write(mem)?;

    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_UNKNOWN;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.kernel_alignment = 0x0100_0000;
    params.hdr.cmd_line_ptr = narrow(CMDLINE)?;
    params.hdr.cmdline_size = narrow(line.as_cstring().map_err(|e| VmmError::Kernel(e.to_string()))?.as_bytes_with_nul().len() as u64)?;
    params.hdr.setup_data = RNG_SEED;
    let map = [
        (0, LOW_RAM_END, E820_RAM),
        (LOW_RAM_END, HIGH_RAM - LOW_RAM_END, E820_RESERVED),
        (HIGH_RAM, memory.ram - HIGH_RAM, E820_RAM),
        (memory.window(), memory.size() - memory.ram, E820_RESERVED),
    ];
    for (slot, (addr, size, kind)) in params.e820_table.iter_mut().zip(map) {
        *slot = boot_e820_entry { addr, size, r#type: kind };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    let params = BootParams::new::<boot_params>(&params, GuestAddress(ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, mem).map_err(|e| VmmError::Kernel(e.to_string()))?;
    write_seed(memory)?;
    Ok(loaded.kernel_load.raw_value())
}

fn narrow(value: u64) -> Result<u32, VmmError> {
    u32::try_from(value).map_err(|_| VmmError::Kernel("a boot structure lies above 4 GiB".into()))
}

/// `struct setup_data { u64 next; u32 type; u32 len; u8 data[] }` with [`SEED_LEN`] bytes of the host's entropy.
fn write_seed(memory: &GuestMemory) -> Result<(), VmmError> {
    let seed = crate::entropy::bytes::<SEED_LEN>()?;
    let mut node = 0u64.to_le_bytes().to_vec();
    node.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    node.extend_from_slice(&narrow(SEED_LEN as u64)?.to_le_bytes());
    node.extend_from_slice(&seed);
    memory.mem.write_slice(&node, GuestAddress(RNG_SEED)).map_err(VmmError::guest_memory("seed"))
}
