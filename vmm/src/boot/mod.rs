//! What a VM needs before its kernel's first instruction: the kernel itself, its command line, and the structures that it reads at once.
//!
//! - [`cmdline`]: the command line, chosen by what the host can do
//! - [`load`]: kernel image, `boot_params`, memory map, seed
//! - [`mptable`]: one processor and its interrupts (the guest has no ACPI)

mod by_position;
pub mod cmdline;
pub mod load;
pub mod mptable;
