//! What this host's KVM can do with guest kernel mode, found by trying: no name of a module or processor is looked at.

use super::start;
use crate::error::VmmError;
use crate::memory::GuestMemory;
use kvm_ioctls::{Kvm, VcpuExit, VmFd};
use vm_memory::{Bytes, GuestAddress};

const CODE: u64 = 0x10_0000;
const PORT: u8 = 0x77;
/// `fwait; out 0x77, al`: an emulator of kernel mode has no FWAIT, a processor does.
const TRY: [u8; 3] = [0x9b, 0xe6, PORT];

/// Whether guest kernel mode goes through KVM's instruction emulator. Takes about 2 ms, so it is asked at boot and not at restore.
pub fn kernel_mode_is_emulated(kvm: &Kvm) -> Result<bool, VmmError> {
    let memory = GuestMemory::with_ram(4 << 20)?;
    let vm = kvm.create_vm().map_err(VmmError::kvm("KVM_CREATE_VM"))?;
    add_memory(&vm, &memory)?;
    let mut vcpu = vm.create_vcpu(0).map_err(VmmError::kvm("KVM_CREATE_VCPU"))?;
    vcpu.set_cpuid2(&super::cpuid::table(kvm, false)?).map_err(VmmError::kvm("KVM_SET_CPUID2"))?;
    memory.mem.write_slice(&TRY, GuestAddress(CODE)).map_err(VmmError::guest_memory("probe"))?;
    start::long_mode(&vcpu, &memory.mem, CODE)?;
    match vcpu.run().map_err(VmmError::kvm("KVM_RUN"))? {
        VcpuExit::InternalError => Ok(true),
        VcpuExit::IoOut(port, _) if port == u16::from(PORT) => Ok(false),
        other => Err(VmmError::Incompatible(format!("KVM answers a three-byte program with {other:?}"))),
    }
}

/// The same, opening `/dev/kvm` itself: for tools.
pub fn probe() -> Result<bool, VmmError> {
    kernel_mode_is_emulated(&Kvm::new().map_err(VmmError::kvm("opening /dev/kvm"))?)
}

/// Gives a VM its memory as slot 0. Before the interrupt controllers: afterwards KVM waits for a grace period, milliseconds.
pub fn add_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), VmmError> {
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: memory.size(),
        userspace_addr: memory.host_address(),
    };
    // SAFETY: the range is `memory`'s mapping of exactly this size, which is never unmapped while this process lives.
    unsafe { vm.set_user_memory_region(region) }.map_err(VmmError::kvm("KVM_SET_USER_MEMORY_REGION"))
}
