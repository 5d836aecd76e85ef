//! Save and restore of the vCPU and of what KVM keeps beside it: interrupt controllers and the guest's clock.
//!
//! Time: the clock is restored to what it was, so the guest's monotonic time does not jump over the time in between. A TSC that can't be
//! written (hosts without hardware virtualization) goes on with the host's; the LAPIC's TSC deadline is moved by the same difference.
//! Where it can, it is written twice: KVM before Linux 6.7 takes a value that is within a second of what the new vCPU's TSC is anyway for
//! an attempt to synchronize processors, and leaves the TSC as it is. A value far from both comes first.

use crate::error::VmmError;
use kvm_bindings::{
    CpuId, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_clock_data, kvm_cpuid_entry2, kvm_debugregs,
    kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

const MSR_TSC: u32 = 0x10;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// Further than any TSC gets.
const FAR_TSC: u64 = 1 << 62;
/// More entries than any host's KVM has.
const MAX_ENTRIES: usize = 1024;

/// Everything that KVM knows of a VM with one vCPU.
#[derive(Serialize, Deserialize)]
pub struct KvmState {
    /// The CPUID table given to the guest.
    pub cpuid: Vec<kvm_cpuid_entry2>,
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: kvm_xsave,
    xcrs: kvm_xcrs,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    mp: kvm_mp_state,
    lapic: kvm_lapic_state,
    msrs: Vec<kvm_msr_entry>,
    tsc_khz: u32,
    clock: kvm_clock_data,
    chips: Vec<kvm_irqchip>,
}

impl KvmState {
    /// Reads it all. The vCPU must not be running and must have completed its last exit.
    pub fn save(kvm: &Kvm, vm: &VmFd, vcpu: &VcpuFd, cpuid: &CpuId) -> Result<Self, VmmError> {
        let mut chips = Vec::new();
        for chip_id in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            vm.get_irqchip(&mut chip).map_err(VmmError::kvm("KVM_GET_IRQCHIP"))?;
            chips.push(chip);
        }
        Ok(Self {
            cpuid: super::cpuid::entries(cpuid),
            mp: vcpu.get_mp_state().map_err(VmmError::kvm("KVM_GET_MP_STATE"))?,
            regs: vcpu.get_regs().map_err(VmmError::kvm("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(VmmError::kvm("KVM_GET_SREGS"))?,
            xsave: vcpu.get_xsave().map_err(VmmError::kvm("KVM_GET_XSAVE"))?,
            xcrs: vcpu.get_xcrs().map_err(VmmError::kvm("KVM_GET_XCRS"))?,
            debug: vcpu.get_debug_regs().map_err(VmmError::kvm("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(VmmError::kvm("KVM_GET_LAPIC"))?,
            msrs: get_msrs(kvm, vcpu)?,
            events: vcpu.get_vcpu_events().map_err(VmmError::kvm("KVM_GET_VCPU_EVENTS"))?,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
            clock: vm.get_clock().map_err(VmmError::kvm("KVM_GET_CLOCK"))?,
            chips,
        })
    }

    /// Bounds of what a snapshot may hold, before any of it is used.
    pub fn check(&self) -> Result<(), VmmError> {
        if self.cpuid.len() > MAX_ENTRIES || self.msrs.len() > MAX_ENTRIES || self.chips.len() > 3 {
            return Err(VmmError::Incompatible("it lists more CPUID leaves, MSRs or interrupt controllers than exist".into()));
        }
        Ok(())
    }

    /// The recorded CPUID table.
    pub fn cpuid(&self) -> Result<CpuId, VmmError> {
        CpuId::from_entries(&self.cpuid).map_err(|_| VmmError::Incompatible("its CPUID table is too long".into()))
    }

    /// Puts it all into a fresh VM and vCPU.
    pub fn restore(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<(), VmmError> {
        self.check()?;
        vcpu.set_cpuid2(&self.cpuid()?).map_err(VmmError::kvm("KVM_SET_CPUID2"))?;
        let khz = vcpu.get_tsc_khz().unwrap_or(0);
        if khz != self.tsc_khz && vcpu.set_tsc_khz(self.tsc_khz).is_err() {
            return Err(VmmError::Incompatible(format!(
                "its TSC runs at {} kHz, this host's at {khz} kHz and cannot be scaled",
                self.tsc_khz
            )));
        }
        for chip in &self.chips {
            vm.set_irqchip(chip).map_err(VmmError::kvm("KVM_SET_IRQCHIP"))?;
        }
        let clock = kvm_clock_data { clock: self.clock.clock, ..Default::default() };
        vm.set_clock(&clock).map_err(VmmError::kvm("KVM_SET_CLOCK"))?;
        vcpu.set_mp_state(self.mp).map_err(VmmError::kvm("KVM_SET_MP_STATE"))?;
        vcpu.set_regs(&self.regs).map_err(VmmError::kvm("KVM_SET_REGS"))?;
        vcpu.set_sregs(&self.sregs).map_err(VmmError::kvm("KVM_SET_SREGS"))?;
        set_xsave(vcpu, &self.xsave)?;
        vcpu.set_xcrs(&self.xcrs).map_err(VmmError::kvm("KVM_SET_XCRS"))?;
        vcpu.set_debug_regs(&self.debug).map_err(VmmError::kvm("KVM_SET_DEBUGREGS"))?;
        vcpu.set_lapic(&self.lapic).map_err(VmmError::kvm("KVM_SET_LAPIC"))?;
        let (deadline, others): (Vec<_>, Vec<_>) = self.msrs.iter().partition(|msr| msr.index == MSR_TSC_DEADLINE);
        if let Some(tsc) = self.msrs.iter().find(|msr| msr.index == MSR_TSC) {
            set_msrs(vcpu, &[kvm_msr_entry { data: tsc.data ^ FAR_TSC, ..*tsc }])?;
        }
        set_msrs(vcpu, &others)?;
        self.restore_deadline(vcpu, &deadline)?;
        vcpu.set_vcpu_events(&self.events).map_err(VmmError::kvm("KVM_SET_VCPU_EVENTS"))
    }

    fn restore_deadline(&self, vcpu: &VcpuFd, deadline: &[kvm_msr_entry]) -> Result<(), VmmError> {
        let Some(deadline) = deadline.first().filter(|msr| msr.data != 0) else { return Ok(()) };
        let saved = self.msrs.iter().find(|msr| msr.index == MSR_TSC).map_or(0, |msr| msr.data);
        let mut tsc = msr_list(&[kvm_msr_entry { index: MSR_TSC, ..Default::default() }])?;
        vcpu.get_msrs(&mut tsc).map_err(VmmError::kvm("KVM_GET_MSRS"))?;
        let now = tsc.as_slice().first().map_or(0, |msr| msr.data);
        // At least 1: a deadline of 0 would disarm the timer.
        let data = deadline.data.wrapping_add(now.wrapping_sub(saved)).max(1);
        set_msrs(vcpu, &[kvm_msr_entry { data, ..*deadline }])
    }
}

/// Sets the vector state.
pub fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), VmmError> {
    // SAFETY: KVM reads more than the 4096 bytes of `kvm_xsave` only after a feature with larger state was asked for with
    // arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM); this process never does.
    unsafe { vcpu.set_xsave(xsave) }.map_err(VmmError::kvm("KVM_SET_XSAVE"))
}

fn msr_list(entries: &[kvm_msr_entry]) -> Result<Msrs, VmmError> {
    Msrs::from_entries(entries).map_err(|_| VmmError::Incompatible("it lists too many MSRs".into()))
}

/// Sets MSRs. One that this host does not have is passed over where its value is 0.
pub fn set_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), VmmError> {
    let mut rest = entries;
    while !rest.is_empty() {
        let set = vcpu.set_msrs(&msr_list(rest)?).map_err(VmmError::kvm("KVM_SET_MSRS"))?;
        rest = rest.get(set..).unwrap_or(&[]);
        if let Some((refused, after)) = rest.split_first() {
            if refused.data != 0 {
                return Err(VmmError::Incompatible(format!("this host refuses {:#x} for MSR {:#x}", refused.data, refused.index)));
            }
            rest = after;
        }
    }
    Ok(())
}

/// Reads the MSRs that KVM lists for saving, less those that this vCPU does not have.
fn get_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, VmmError> {
    let list = kvm.get_msr_index_list().map_err(VmmError::kvm("KVM_GET_MSR_INDEX_LIST"))?;
    let mut rest: Vec<kvm_msr_entry> = list.as_slice().iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
    if !rest.iter().any(|msr| msr.index == MSR_TSC_DEADLINE) {
        rest.push(kvm_msr_entry { index: MSR_TSC_DEADLINE, ..Default::default() });
    }
    let mut saved = Vec::new();
    while !rest.is_empty() {
        let mut msrs = msr_list(&rest)?;
        let got = vcpu.get_msrs(&mut msrs).map_err(VmmError::kvm("KVM_GET_MSRS"))?;
        saved.extend_from_slice(msrs.as_slice().get(..got).unwrap_or(&[]));
        rest.drain(..(got + 1).min(rest.len()));
    }
    Ok(saved)
}
