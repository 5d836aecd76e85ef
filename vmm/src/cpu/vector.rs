//! XSAVE and XRSTOR for guests whose kernel mode is emulated: KVM's emulator has neither, and ends `KVM_RUN` there with an emulation failure. Our guest
//! kernel runs its code in ring 3 on such hosts, where both are native; it gets here when it switches programs while it is in ring 0, and with `noring3`.
//!
//! Guest user mode uses all of the host's vector registers natively, so a guest kernel that could save only part of them would leak
//! and lose them between processes. Here the monitor does what the processor would have done (Intel SDM vol. 1, ch. 13; standard format):
//! it moves the live state, which `KVM_GET_XSAVE` gives and `KVM_SET_XSAVE` takes, from and to guest memory, raises #PF or #GP where the
//! processor would, and steps over the instruction.

use super::cpuid::VECTOR_STATE;
use super::state::set_xsave;
use crate::error::VmmError;
use crate::memory::Mem;
use crate::paging::{PageFault, Walker};
use kvm_bindings::{kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::arch::x86_64::__cpuid_count;

const GP: u8 = 13;
const PF: u8 = 14;
const HEADER: usize = 512;
const HEADER_END: usize = 576;
const MXCSR: usize = 24;
const MXCSR_MASK: u32 = 0xffff;
const MXCSR_INIT: u32 = 0x1f80;
const X87: u64 = 1;
const SSE: u64 = 2;
const AVX: u64 = 4;
const AREA: usize = 4096;

/// What the emulator stopped at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Save,
    Restore,
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    operation: Operation,
    address: u64,
    length: u64,
}

/// An exception to raise in the guest instead.
#[derive(Debug)]
enum Fault {
    General,
    Page(PageFault),
}

impl From<PageFault> for Fault {
    fn from(fault: PageFault) -> Self {
        Self::Page(fault)
    }
}

/// Completes the instruction at RIP. `false`: it is none that is done here.
pub fn complete(vcpu: &VcpuFd, mem: &Mem) -> Result<bool, VmmError> {
    let mut regs = vcpu.get_regs().map_err(VmmError::kvm("KVM_GET_REGS"))?;
    let sregs = vcpu.get_sregs().map_err(VmmError::kvm("KVM_GET_SREGS"))?;
    if sregs.cs.l == 0 || sregs.cs.dpl != 0 {
        return Ok(false);
    }
    let walker = Walker::new(mem, &sregs);
    let mut code = [0u8; 15];
    let fetched = walker.read_some(regs.rip, &mut code);
    let Some(instruction) = decode(&code[..fetched], &regs) else { return Ok(false) };
    let xcrs = vcpu.get_xcrs().map_err(VmmError::kvm("KVM_GET_XCRS"))?;
    let enabled = xcrs.xcrs.first().map_or(0, |xcr| xcr.value) & VECTOR_STATE;
    let asked = ((regs.rdx & 0xffff_ffff) << 32 | (regs.rax & 0xffff_ffff)) & enabled;
    let mut live = vcpu.get_xsave().map_err(VmmError::kvm("KVM_GET_XSAVE"))?;
    let mut area = bytes_of(&live.region);
    let done = if instruction.address % 64 != 0 {
        Err(Fault::General)
    } else {
        match instruction.operation {
            Operation::Save => save(&walker, instruction.address, &area, asked),
            Operation::Restore => restore(&walker, instruction.address, &mut area, asked, enabled),
        }
    };
    match done {
        Ok(()) => {
            if instruction.operation == Operation::Restore {
                for (word, bytes) in live.region.iter_mut().zip(area.as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(*bytes);
                }
                set_xsave(vcpu, &live)?;
            }
            regs.rip = regs.rip.wrapping_add(instruction.length);
            vcpu.set_regs(&regs).map_err(VmmError::kvm("KVM_SET_REGS"))?;
        }
        Err(fault) => raise(vcpu, sregs, &fault)?,
    }
    Ok(true)
}

fn bytes_of(words: &[u32; 1024]) -> [u8; AREA] {
    let mut bytes = [0; AREA];
    for (out, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *out = word.to_le_bytes();
    }
    bytes
}

fn raise(vcpu: &VcpuFd, mut sregs: kvm_sregs, fault: &Fault) -> Result<(), VmmError> {
    let (vector, code) = match fault {
        Fault::General => (GP, 0),
        Fault::Page(fault) => {
            sregs.cr2 = fault.address;
            vcpu.set_sregs(&sregs).map_err(VmmError::kvm("KVM_SET_SREGS"))?;
            (PF, fault.code)
        }
    };
    let mut events = vcpu.get_vcpu_events().map_err(VmmError::kvm("KVM_GET_VCPU_EVENTS"))?;
    (events.exception.injected, events.exception.nr) = (1, vector);
    (events.exception.has_error_code, events.exception.error_code) = (1, code);
    vcpu.set_vcpu_events(&events).map_err(VmmError::kvm("KVM_SET_VCPU_EVENTS"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// Places of the extended components (2 and up) of `mask` in standard format: component, offset, size.
fn components(mask: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    (2..8u32).filter(move |i| mask & (1 << i) != 0).map(|i| {
        let leaf = __cpuid_count(0xd, i);
        (1 << i, leaf.ebx as usize, leaf.eax as usize)
    })
}

fn save(walker: &Walker<'_>, at: u64, live: &[u8; AREA], asked: u64) -> Result<(), Fault> {
    if asked & X87 != 0 {
        walker.write(at, &live[..MXCSR])?;
        walker.write(at + 32, &live[32..160])?;
    }
    if asked & (SSE | AVX) != 0 {
        walker.write(at + MXCSR as u64, &live[MXCSR..32])?;
    }
    if asked & SSE != 0 {
        walker.write(at + 160, &live[160..416])?;
    }
    for (_, offset, size) in components(asked) {
        if let Some(bytes) = live.get(offset..offset + size) {
            walker.write(at + offset as u64, bytes)?;
        }
    }
    let mut header = [0; 8];
    walker.read(at + HEADER as u64, &mut header)?;
    let in_use = u64_at(live, HEADER) & asked;
    let present = (u64::from_le_bytes(header) & !asked) | in_use;
    Ok(walker.write(at + HEADER as u64, &present.to_le_bytes())?)
}

fn restore(walker: &Walker<'_>, at: u64, live: &mut [u8; AREA], asked: u64, enabled: u64) -> Result<(), Fault> {
    let mut area = [0u8; AREA];
    walker.read(at, &mut area[..HEADER_END])?;
    let present = u64_at(&area, HEADER);
    if present & !enabled != 0 || area[HEADER + 8..HEADER_END].iter().any(|byte| *byte != 0) {
        return Err(Fault::General);
    }
    let mut bits = u64_at(live, HEADER) & !asked;
    let load = asked & present;
    bits |= load;
    if asked & (SSE | AVX) != 0 {
        let mxcsr = area[MXCSR..].first_chunk().map_or(MXCSR_INIT, |chunk| u32::from_le_bytes(*chunk));
        if mxcsr & !MXCSR_MASK != 0 {
            return Err(Fault::General);
        }
        live[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        // KVM takes MXCSR only together with a component that is in use.
        if mxcsr != MXCSR_INIT && bits & (SSE | AVX) == 0 {
            bits |= SSE;
            if load & SSE == 0 {
                live[160..416].fill(0);
            }
        }
    }
    if load & X87 != 0 {
        live[..MXCSR].copy_from_slice(&area[..MXCSR]);
        live[32..160].copy_from_slice(&area[32..160]);
    }
    if load & SSE != 0 {
        live[160..416].copy_from_slice(&area[160..416]);
    } else if asked & SSE != 0 && bits & SSE != 0 {
        live[160..416].fill(0);
    }
    for (_, offset, size) in components(load) {
        if let Some(bytes) = live.get_mut(offset..offset + size) {
            walker.read(at + offset as u64, bytes)?;
        }
    }
    live[HEADER..HEADER + 8].copy_from_slice(&bits.to_le_bytes());
    Ok(())
}

/// Decodes `[REX] 0F AE /4` (XSAVE) and `/5` (XRSTOR) with a memory operand.
fn decode(code: &[u8], regs: &kvm_regs) -> Option<Instruction> {
    let mut at = 0;
    let mut next = || {
        at += 1;
        code.get(at - 1).copied()
    };
    let mut byte = next()?;
    let rex = if byte & 0xf0 == 0x40 {
        let rex = byte;
        byte = next()?;
        rex
    } else {
        0
    };
    if byte != 0x0f || next()? != 0xae {
        return None;
    }
    let modrm = next()?;
    let operation = match (modrm >> 3) & 7 {
        4 => Operation::Save,
        5 => Operation::Restore,
        _ => return None,
    };
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return None;
    }
    let mut relative = false;
    let mut base = 0u64;
    let mut wide = mode == 2;
    if rm == 4 {
        let sib = next()?;
        let index = ((sib >> 3) & 7) | ((rex & 2) << 2);
        if index != 4 {
            base = register(regs, index) << (sib >> 6);
        }
        if sib & 7 == 5 && mode == 0 {
            wide = true;
        } else {
            base = base.wrapping_add(register(regs, (sib & 7) | ((rex & 1) << 3)));
        }
    } else if rm == 5 && mode == 0 {
        relative = true;
        wide = true;
    } else {
        base = register(regs, rm | ((rex & 1) << 3));
    }
    let displacement = if wide {
        i64::from(i32::from_le_bytes([next()?, next()?, next()?, next()?]))
    } else if mode == 1 {
        i64::from(i8::from_le_bytes([next()?]))
    } else {
        0
    };
    let length = at as u64;
    if relative {
        base = regs.rip.wrapping_add(length);
    }
    Some(Instruction { operation, address: base.wrapping_add_signed(displacement), length })
}

fn register(regs: &kvm_regs, number: u8) -> u64 {
    match number {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        4 => regs.rsp,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        _ => regs.r15,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_addressing_form_is_decoded() {
        let regs = kvm_regs { rip: 0x1000, rax: 0x10, rbx: 0x200, rdi: 0x3000, r8: 0x80, r9: 0x9000, r12: 0xc000, ..Default::default() };
        let at = |code: &[u8]| decode(code, &regs).map(|i| (i.operation, i.address, i.length));
        assert_eq!(at(&[0x48, 0x0f, 0xae, 0x27]), Some((Operation::Save, 0x3000, 4)), "xsave64 [rdi]");
        assert_eq!(at(&[0x48, 0x0f, 0xae, 0x2f]), Some((Operation::Restore, 0x3000, 4)), "xrstor64 [rdi]");
        assert_eq!(at(&[0x0f, 0xae, 0x67, 0xc0]), Some((Operation::Save, 0x2fc0, 4)), "xsave [rdi - 64]");
        assert_eq!(at(&[0x49, 0x0f, 0xae, 0xa1, 0x40, 0, 0, 0]), Some((Operation::Save, 0x9040, 8)), "xsave64 [r9 + 64]");
        assert_eq!(at(&[0x0f, 0xae, 0x2d, 0x10, 0, 0, 0]), Some((Operation::Restore, 0x1017, 7)), "xrstor [rip + 16]");
        assert_eq!(at(&[0x0f, 0xae, 0x24, 0x25, 0, 0x80, 0x18, 0]), Some((Operation::Save, 0x18_8000, 8)), "xsave [0x188000]");
        assert_eq!(at(&[0x0f, 0xae, 0x24, 0x98]), Some((Operation::Save, 0x810, 4)), "xsave [rax + rbx * 4]");
        assert_eq!(at(&[0x49, 0x0f, 0xae, 0x24, 0x24]), Some((Operation::Save, 0xc000, 5)), "xsave64 [r12]");
        assert_eq!(at(&[0x0f, 0xae, 0xe8]), None, "lfence");
        assert_eq!(at(&[0x0f, 0xae, 0x07]), None, "fxsave");
        for cut in 0..7 {
            assert_eq!(at(&[0x0f, 0xae, 0x2d, 0x10, 0, 0, 0][..cut]), None);
        }
    }
}
