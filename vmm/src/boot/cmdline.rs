//! The kernel command line. One kernel serves all hosts; what costs too much where kernel mode is emulated is switched off here, and
//! only there.

use crate::error::VmmError;
use crate::layout::{CMDLINE_MAX, VIRTIO_BASE, VIRTIO_IRQ, VIRTIO_SIZE};
use linux_loader::cmdline::Cmdline;
use torpor_protocol::door;
use vm_memory::GuestAddress;

/// For every host. `reboot=k`: a reset is a write to the keyboard controller. `panic=-1`: no wait before it.
const COMMON: &str =
    "console=ttyS0 reboot=k panic=-1 tsc=reliable no_timer_check root=/dev/vda rootfstype=erofs ro init=/sbin/torpor-agent";
/// Hosts with hardware virtualization: all of the kernel's own defences stay on.
const HARDWARE: &str = "quiet random.trust_cpu=on";
/// Hosts that emulate kernel mode: the kernel goes round what the emulator lacks, and runs its own code in ring 3. Barriers against speculation would
/// keep a VM's kernel from its own program, of which there is one for each VM; each costs a privileged, so emulated, instruction at every entry.
const EMULATED: &str = "loglevel=4 ring0_emul mitigations=off clocksource=kvm-clock";

/// The command line as text.
pub fn compose(emulated: bool, devices: u64, extra: &str) -> Result<Cmdline, VmmError> {
    let failed = |e: linux_loader::cmdline::Error| VmmError::Kernel(format!("command line: {e}"));
    let mut line = Cmdline::new(CMDLINE_MAX).map_err(failed)?;
    line.insert_str(COMMON).map_err(failed)?;
    line.insert_str(if emulated { EMULATED } else { HARDWARE }).map_err(failed)?;
    line.insert("torpor_door", &format!("{:#x}", door::KERNEL_REGS)).map_err(failed)?;
    for (i, irq) in (0..devices).zip(VIRTIO_IRQ..) {
        line.add_virtio_mmio_device(VIRTIO_SIZE, GuestAddress(VIRTIO_BASE + i * VIRTIO_SIZE), irq, None).map_err(failed)?;
    }
    if !extra.is_empty() {
        line.insert_str(extra).map_err(failed)?;
    }
    Ok(line)
}
