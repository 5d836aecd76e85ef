//! Where things are in the guest's physical address space.
//!
//! ```text
//! 0            .. 0x1000        left out
//! 0x1000       .. 0x9fc00       boot structures, then the guest's
//! 0x9fc00      .. 0xa0000       MP table
//! 0x100000     .. RAM           the guest's; the kernel is linked at 16 MiB
//! RAM          .. RAM + 16 MiB  window of the door, reserved in e820, same memory slot
//! 0xd0000000   ..               virtio-mmio devices, one page each
//! 0xd0010000   .. 0xd0012000    registers of the door (torpor_protocol::door)
//! 0xfec00000, 0xfee00000        IO-APIC, LAPIC (in KVM)
//! ```

/// Global descriptor table of the boot vCPU.
pub const GDT: u64 = 0x500;
/// `boot_params` of the Linux boot protocol.
pub const ZERO_PAGE: u64 = 0x7000;
/// Stack of the boot vCPU, growing down.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page tables of the boot vCPU: PML4, then PDPT, then four PDs.
pub const PAGE_TABLES: u64 = 0x9000;
/// `setup_data` node with the seed of the kernel's random number generator.
pub const RNG_SEED: u64 = 0x1_0000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Most bytes of the kernel command line, its NUL included.
pub const CMDLINE_MAX: usize = 2048;
/// MP table, where the BIOS data area would end.
pub const MP_TABLE: u64 = 0x9_fc00;
/// End of the RAM below the legacy hole.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// RAM above the legacy hole; kernels are loaded above it.
pub const HIGH_RAM: u64 = 0x10_0000;

/// First virtio-mmio device; the others follow page by page.
pub const VIRTIO_BASE: u64 = 0xd000_0000;
/// Bytes of a virtio-mmio device's registers.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// Interrupt of the first virtio-mmio device; the others follow.
pub const VIRTIO_IRQ: u32 = 5;
/// Interrupt of the serial port.
pub const SERIAL_IRQ: u32 = 4;
/// Ports of the serial port.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Command port of the keyboard controller, which resets the machine.
pub const I8042_PORT: u16 = 0x64;
/// IO-APIC, made by KVM.
pub const IOAPIC: u32 = 0xfec0_0000;
/// LAPIC, made by KVM.
pub const LAPIC: u32 = 0xfee0_0000;
/// Three pages that KVM on VMX needs for real mode.
pub const TSS: usize = 0xfffb_d000;
/// Largest code disk: code and file system around it.
pub const CODE_DISK: u64 = 96 << 20;
