//! One VM: made, then booted, restored or resumed, run by its vCPU thread, saved or parked while it stands at the door.
//!
//! ```text
//!                      +-- boot() ----+
//!  new() -- prepared --+-- restore() -+--> ready to run <--> at the door --+-- save()
//!                      +-- resume() --+                                    +-- park()
//! ```
//! All three ways in end in the same place; resume and park are in [`crate::park`]. The vCPU thread owns the [`Machine`]; the event loop shares only its
//! [`Devices`] and the VM's descriptor for interrupt lines.

use crate::boot;
use crate::changed::PageMap;
use crate::cpu::state::KvmState;
use crate::cpu::{cpuid, host, start};
use crate::devices::{Devices, DevicesState, VIRTIO_DEVICES};
use crate::error::VmmError;
use crate::layout::TSS;
use crate::memory::GuestMemory;
use crate::park::Source;
use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use torpor_snapshot::SnapshotError;
use torpor_snapshot::memory::Index;
use torpor_snapshot::state::{SectionId, Sections};
use vm_memory::{Bytes, GuestAddress};

/// Devices as both threads hold them.
pub type SharedDevices = Arc<Mutex<Devices>>;

/// Takes the lock. A poisoned one is taken as well: nothing here panics while it holds it, and if it did, the devices check the guest anew.
pub fn lock(devices: &Mutex<Devices>) -> MutexGuard<'_, Devices> {
    devices.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See the module.
pub struct Machine {
    pub(crate) kvm: Kvm,
    /// For interrupt lines.
    pub vm: Arc<VmFd>,
    /// The one vCPU.
    pub vcpu: VcpuFd,
    /// Guest memory.
    pub memory: GuestMemory,
    /// All devices.
    pub devices: SharedDevices,
    pub(crate) cpuid: Option<CpuId>,
    /// The memory file that guest memory is a private mapping of, once it is.
    pub(crate) template: Option<File>,
    /// Where it was resumed from.
    pub(crate) source: Option<Source>,
    /// Where the host's kernel tells which pages changed.
    pub(crate) pages: Option<PageMap>,
}

/// Section [`SectionId::Machine`] of a snapshot and of a parked machine.
#[derive(Serialize, Deserialize)]
pub(crate) struct MachineState {
    pub(crate) ram: u64,
    pub(crate) kvm: KvmState,
    pub(crate) devices: DevicesState,
}

impl Machine {
    /// A VM with memory, vCPU, interrupt controllers and devices, that has not run.
    /// `pages`: without it, the machine can't be parked.
    pub fn new(kvm: OwnedFd, memory_mib: u32, copy_console: bool, pages: Option<PageMap>) -> Result<Self, VmmError> {
        // SAFETY: the descriptor is owned and given up here, so `Kvm` becomes its only owner.
        let kvm = unsafe { <Kvm as std::os::fd::FromRawFd>::from_raw_fd(kvm.into_raw_fd()) };
        let memory = GuestMemory::new(memory_mib)?;
        let vm = kvm.create_vm().map_err(VmmError::kvm("KVM_CREATE_VM"))?;
        host::add_memory(&vm, &memory)?;
        vm.set_tss_address(TSS).map_err(VmmError::kvm("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(VmmError::kvm("KVM_CREATE_IRQCHIP"))?;
        let vcpu = vm.create_vcpu(0).map_err(VmmError::kvm("KVM_CREATE_VCPU"))?;
        let devices = Arc::new(Mutex::new(Devices::new(memory.clone(), copy_console)));
        Ok(Self { kvm, vm: Arc::new(vm), vcpu, memory, devices, cpuid: None, template: None, source: None, pages })
    }

    /// Makes it ready to run a kernel from its entry.
    pub fn boot(&mut self, kernel: &File, root: File, extra_cmdline: &str) -> Result<(), VmmError> {
        let emulated = host::kernel_mode_is_emulated(&self.kvm)?;
        let table = cpuid::table(&self.kvm, emulated)?;
        self.vcpu.set_cpuid2(&table).map_err(VmmError::kvm("KVM_SET_CPUID2"))?;
        self.cpuid = Some(table);
        let entry = boot::load::load(&self.memory, kernel, emulated, VIRTIO_DEVICES, extra_cmdline)?;
        start::firmware_state(&self.vcpu)?;
        start::long_mode(&self.vcpu, &self.memory.mem, entry)?;
        let mut devices = lock(&self.devices);
        devices.set_root(root)?;
        devices.door.open(&self.memory)
    }

    /// Makes it ready to go on where a snapshot was taken.
    pub fn restore(&mut self, state: &File, memory: File, root: File, code: Option<File>) -> Result<(), VmmError> {
        let state: MachineState = Sections::read(state)?.decode(SectionId::Machine)?;
        self.fits(&state)?;
        self.memory.map_file(&memory)?;
        self.template = Some(memory);
        self.go_on(state, root, code)
    }

    /// A state can only go on in memory of its size.
    pub(crate) fn fits(&self, state: &MachineState) -> Result<(), VmmError> {
        if state.ram == self.memory.ram {
            return Ok(());
        }
        let (needed, there) = (state.ram >> 20, self.memory.ram >> 20);
        Err(VmmError::Incompatible(format!("it has {needed} MiB of RAM, the prepared VM {there} MiB")))
    }

    /// Gives vCPU and devices their state, once memory is that of the state.
    pub(crate) fn go_on(&mut self, state: MachineState, root: File, code: Option<File>) -> Result<(), VmmError> {
        state.kvm.restore(&self.vm, &self.vcpu)?;
        self.cpuid = Some(state.kvm.cpuid()?);
        let mut devices = lock(&self.devices);
        devices.set_root(root)?;
        devices.set_code(code);
        let lines = devices.restore(state.devices)?;
        lines.pulse(&devices, &self.vm)?;
        devices.door.open(&self.memory)
    }

    /// Writes a snapshot to two empty files and syncs them. The vCPU must stand still with its last exit completed. Gives the bytes of memory written.
    pub fn save(&self, state: &File, memory: &File) -> Result<u64, VmmError> {
        let cpuid = self.cpuid.as_ref().ok_or(VmmError::Command("a VM that never ran can't be saved"))?;
        let devices = lock(&self.devices).save();
        let kvm = KvmState::save(&self.kvm, &self.vm, &self.vcpu, cpuid)?;
        let index = Index::write(memory, self.memory.size(), |offset, out| {
            self.memory.mem.read_slice(out, GuestAddress(offset)).map_err(|_| SnapshotError::Damaged("guest memory can't be read"))
        })?;
        let mut sections = Sections::default();
        sections.add(SectionId::Machine, &MachineState { ram: self.memory.ram, kvm, devices })?;
        sections.add(SectionId::MemoryIndex, &index)?;
        sections.write(state)?;
        Ok(index.written)
    }
}
