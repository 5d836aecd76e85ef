//! The vCPU at the kernel's 64-bit entry (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol"): long mode, flat segments, the first 4 GiB
//! mapped one to one, RSI at `boot_params`.

use crate::error::VmmError;
use crate::layout::{BOOT_STACK, GDT, PAGE_TABLES, ZERO_PAGE};
use crate::memory::Mem;
use kvm_bindings::{kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;
/// RAM and device registers lie below.
const MAPPED_GIB: u64 = 4;
const GDT_CODE: u64 = 0x00af_9b00_0000_ffff;
const GDT_DATA: u64 = 0x00cf_9300_0000_ffff;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const LVT_EXTINT: u32 = 0x700;
const LVT_NMI: u32 = 0x400;

fn segment(selector: u16, type_: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        s: 1,
        l: u8::from(long),
        db: u8::from(!long),
        g: 1,
        ..Default::default()
    }
}

/// Writes page tables and descriptors to guest memory and sets the registers for a start at `entry`.
pub fn long_mode(vcpu: &VcpuFd, mem: &Mem, entry: u64) -> Result<(), VmmError> {
    let put = |value: u64, at: u64| mem.write_obj(value, GuestAddress(at)).map_err(VmmError::guest_memory("boot structures"));
    put(0, GDT)?;
    put(GDT_CODE, GDT + 0x10)?;
    put(GDT_DATA, GDT + 0x18)?;
    let (pml4, pdpt, pd) = (PAGE_TABLES, PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    put(pdpt | PRESENT_WRITABLE, pml4)?;
    for gib in 0..MAPPED_GIB {
        put((pd + gib * 0x1000) | PRESENT_WRITABLE, pdpt + gib * 8)?;
    }
    for i in 0..MAPPED_GIB * 512 {
        put((i << 21) | PRESENT_WRITABLE | HUGE, pd + i * 8)?;
    }
    let mut sregs = vcpu.get_sregs().map_err(VmmError::kvm("KVM_GET_SREGS"))?;
    let data = segment(0x18, 3, false);
    sregs.cs = segment(0x10, 11, true);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { selector: 0x20, type_: 11, limit: 0x67, present: 1, ..Default::default() };
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 0x27);
    (sregs.idt.base, sregs.idt.limit) = (0, 0);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = pml4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(VmmError::kvm("KVM_SET_SREGS"))?;
    let regs = kvm_regs { rflags: 2, rip: entry, rsp: BOOT_STACK, rbp: BOOT_STACK, rsi: ZERO_PAGE, ..Default::default() };
    vcpu.set_regs(&regs).map_err(VmmError::kvm("KVM_SET_REGS"))
}

/// What firmware would have set up: FPU control words, fast strings, LAPIC pins.
pub fn firmware_state(vcpu: &VcpuFd) -> Result<(), VmmError> {
    let fpu = kvm_bindings::kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
    vcpu.set_fpu(&fpu).map_err(VmmError::kvm("KVM_SET_FPU"))?;
    let misc = kvm_msr_entry { index: MSR_MISC_ENABLE, data: MISC_ENABLE_FAST_STRING, ..Default::default() };
    super::state::set_msrs(vcpu, &[misc])?;
    let mut lapic = vcpu.get_lapic().map_err(VmmError::kvm("KVM_GET_LAPIC"))?;
    for (offset, mode) in [(0x350usize, LVT_EXTINT), (0x360, LVT_NMI)] {
        for (register, byte) in lapic.regs[offset..offset + 4].iter_mut().zip(mode.to_le_bytes()) {
            *register = i8::from_ne_bytes([byte]);
        }
    }
    vcpu.set_lapic(&lapic).map_err(VmmError::kvm("KVM_SET_LAPIC"))
}
