//! The CPUID table that a guest is given: what KVM supports, with what only the monitor knows put in.
//!
//! Where guest kernel mode is emulated, KVM offers no XSAVE, though guest user mode sees and uses the host's vector
//! registers natively. There the monitor completes XSAVE and XRSTOR itself ([`super::vector`]) and so can tell the guest's kernel
//! about the vector state that its programs use.

use crate::error::VmmError;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};
use std::arch::x86_64::__cpuid_count;

const LEAF1_ECX_VMX: u32 = 1 << 5;
const LEAF1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF1_ECX_XSAVE: u32 = 1 << 26;
const LEAF1_ECX_AVX: u32 = 1 << 28;
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF8000_0001_ECX_SVM: u32 = 1 << 2;
const LEAF7_EBX_VECTOR: u32 = (1 << 5) | (1 << 16) | (1 << 17) | (1 << 28) | (1 << 30) | (1 << 31);

/// KVM's paravirtual features, leaf 0x4000_0001 (Documentation/virt/kvm/x86/cpuid.rst): asynchronous page faults (4, 10, 14) wake every waiter
/// at each restore, and steal time (5) is an account that nobody in a microVM reads. Both cost the guest thousands of instructions.
const KVM_FEATURES_LEFT_OUT: u32 = (1 << 4) | (1 << 5) | (1 << 10) | (1 << 14);

/// x87, SSE, AVX and the three parts of AVX-512: what `KVM_GET_XSAVE` returns and the monitor can move.
pub const VECTOR_STATE: u64 = 0xe7;

/// The table for a VM on this host.
pub fn table(kvm: &Kvm, emulated: bool) -> Result<CpuId, VmmError> {
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(VmmError::kvm("KVM_GET_SUPPORTED_CPUID"))?;
    let deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
    let host_state = host_vector_state();
    for entry in cpuid.as_mut_slice() {
        for_microvm(entry, deadline_timer);
        if let (true, Some(host_state)) = (emulated, host_state) {
            add_vector_state(entry, host_state);
        }
    }
    Ok(cpuid)
}

/// What differs from KVM's table on every host.
const fn for_microvm(entry: &mut kvm_cpuid_entry2, deadline_timer: bool) {
    match entry.function {
        0x1 => {
            // One processor with APIC id 0: bits 31..16 of EBX count and number it.
            entry.ebx &= 0xffff;
            entry.ebx |= 1 << 16;
            entry.ecx |= LEAF1_ECX_HYPERVISOR;
            // Nobody needs VMs within a VM, and what KVM does for them is a lot to attack.
            entry.ecx &= !LEAF1_ECX_VMX;
            // A guest's only timer: there is no PIT, HPET or PM timer, without one of which the plain LAPIC timer's frequency can't be measured. Every
            // KVM has it, but before Linux 6.14 it is not listed as supported.
            if deadline_timer {
                entry.ecx |= LEAF1_ECX_TSC_DEADLINE;
            }
        }
        0x8000_0001 => entry.ecx &= !LEAF8000_0001_ECX_SVM,
        0x4000_0001 => entry.eax &= !KVM_FEATURES_LEFT_OUT,
        0xb | 0x1f => (entry.eax, entry.ebx, entry.edx) = (0, 0, 0),
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

/// Where kernel mode is emulated: the vector state that user mode has and the monitor can move.
fn add_vector_state(entry: &mut kvm_cpuid_entry2, (mask, size): (u32, u32)) {
    match (entry.function, entry.index) {
        (0x1, _) => entry.ecx |= LEAF1_ECX_XSAVE | (__cpuid_count(1, 0).ecx & LEAF1_ECX_AVX),
        (0x7, 0) => entry.ebx |= __cpuid_count(7, 0).ebx & LEAF7_EBX_VECTOR,
        (0xd, 0) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (mask, size, size, 0),
        // No XSAVEOPT, XSAVEC, XSAVES: the monitor completes the plain forms only.
        (0xd, 1) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        _ => {}
    }
}

/// Low half of the state components that user mode has here and the monitor can move, and the bytes that they take in standard format.
/// `None` where the host has no XSAVE.
fn host_vector_state() -> Option<(u32, u32)> {
    if __cpuid_count(1, 0).ecx & LEAF1_ECX_XSAVE == 0 {
        return None;
    }
    let mask = u64::from(__cpuid_count(0xd, 0).eax) & VECTOR_STATE;
    let mut size = 576;
    for component in 2..8 {
        if mask & (1 << component) != 0 {
            let leaf = __cpuid_count(0xd, component);
            size = size.max(leaf.ebx.saturating_add(leaf.eax));
        }
    }
    u32::try_from(mask).ok().map(|mask| (mask, size))
}

/// The table as plain values, to be kept with a snapshot.
#[must_use]
pub fn entries(cpuid: &CpuId) -> Vec<kvm_cpuid_entry2> {
    cpuid.as_slice().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(function: u32, deadline_timer: bool) -> kvm_cpuid_entry2 {
        let mut entry = kvm_cpuid_entry2 { function, eax: !0, ebx: !0, ecx: !LEAF1_ECX_TSC_DEADLINE, edx: !0, ..Default::default() };
        for_microvm(&mut entry, deadline_timer);
        entry
    }

    #[test]
    fn a_guest_has_one_processor_and_a_timer_also_where_kvm_does_not_list_it() {
        let leaf = changed(0x1, true);
        assert_eq!(leaf.ebx, 0x0001_ffff);
        assert_ne!(leaf.ecx & LEAF1_ECX_TSC_DEADLINE, 0);
        assert_eq!(changed(0x1, false).ecx & LEAF1_ECX_TSC_DEADLINE, 0);
        assert_eq!(changed(0xb, true).ebx, 0);
    }

    #[test]
    fn a_guest_is_offered_no_virtualization() {
        assert_eq!(changed(0x1, true).ecx & LEAF1_ECX_VMX, 0);
        assert_eq!(changed(0x8000_0001, true).ecx & LEAF8000_0001_ECX_SVM, 0);
        assert_eq!(changed(0x8000_000a, true).edx, 0);
    }
}
