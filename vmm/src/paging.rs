//! A walk through the guest's page tables (4-level, Intel SDM vol. 3, 4.5), for instructions that the monitor completes for guest kernel mode.
//!
//! The tables belong to a hostile guest: a walk reads four entries and whatever they say stays inside guest memory.

use crate::memory::Mem;
use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const FRAME: u64 = 0x000f_ffff_ffff_f000;
const CR0_WP: u64 = 1 << 16;
const PAGE: u64 = 4096;

/// What an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
}

/// A page fault of guest kernel mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageFault {
    /// For CR2.
    pub address: u64,
    /// Error code: bit 0 the page is there, bit 1 a write.
    pub code: u32,
}

/// Guest virtual memory as guest kernel mode sees it.
pub struct Walker<'a> {
    mem: &'a Mem,
    root: u64,
    protect: bool,
}

impl<'a> Walker<'a> {
    /// With the tables that CR3 names.
    #[must_use]
    pub const fn new(mem: &'a Mem, sregs: &kvm_sregs) -> Self {
        Self { mem, root: sregs.cr3 & FRAME, protect: sregs.cr0 & CR0_WP != 0 }
    }

    /// Guest physical address of a virtual one. Sets the accessed and dirty bits as the processor does.
    fn translate(&self, address: u64, access: Access) -> Result<u64, PageFault> {
        let write = access == Access::Write;
        let fault = |present: bool| PageFault { address, code: u32::from(present) | (u32::from(write) << 1) };
        let mut table = self.root;
        let mut writable = true;
        for level in (0..4u32).rev() {
            let shift = 12 + 9 * level;
            let slot = GuestAddress(table + ((address >> shift) & 0x1ff) * 8);
            let entry: u64 = self.mem.read_obj(slot).map_err(|_| fault(false))?;
            if entry & PRESENT == 0 {
                return Err(fault(false));
            }
            writable &= entry & WRITABLE != 0;
            let leaf = level == 0 || (level < 3 && entry & HUGE != 0);
            if leaf && write && self.protect && !writable {
                return Err(fault(true));
            }
            let marked = entry | ACCESSED | if leaf && write { DIRTY } else { 0 };
            if marked != entry {
                self.mem.write_obj(marked, slot).map_err(|_| fault(false))?;
            }
            if leaf {
                let offset = (1u64 << shift) - 1;
                return Ok((entry & FRAME & !offset) | (address & offset));
            }
            table = entry & FRAME;
        }
        Err(fault(false))
    }

    fn each_page(
        &self,
        address: u64,
        len: usize,
        access: Access,
        mut f: impl FnMut(GuestAddress, std::ops::Range<usize>) -> bool,
    ) -> Result<(), PageFault> {
        let mut done = 0usize;
        while done < len {
            let at = address.wrapping_add(done as u64);
            let room = usize::try_from(PAGE - at % PAGE).unwrap_or(1);
            let n = room.min(len - done);
            let physical = self.translate(at, access)?;
            if !f(GuestAddress(physical), done..done + n) {
                return Err(PageFault { address: at, code: 0 });
            }
            done += n;
        }
        Ok(())
    }

    /// Reads all of `out`.
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), PageFault> {
        let len = out.len();
        self.each_page(address, len, Access::Read, |at, range| self.mem.read_slice(&mut out[range], at).is_ok())
    }

    /// Reads as much of `out` as is mapped and says how much that was.
    pub fn read_some(&self, address: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        let len = out.len();
        let _ = self.each_page(address, len, Access::Read, |at, range| {
            let end = range.end;
            let good = self.mem.read_slice(&mut out[range], at).is_ok();
            if good {
                done = end;
            }
            good
        });
        done
    }

    /// Writes all of `bytes`.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), PageFault> {
        self.each_page(address, bytes.len(), Access::Write, |at, range| self.mem.write_slice(&bytes[range], at).is_ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::GuestMemory;

    /// Tables at 0x1000.. that map 0xffff_8000_0000_0000 to 0x5000 (writable), the page after it to 0x6000 (read-only), and 2 MiB at
    /// 0xffff_8000_0020_0000 one to one from 0.
    fn tables(mem: &Mem) -> kvm_sregs {
        let put = |at: u64, value: u64| mem.write_obj(value, GuestAddress(at)).unwrap();
        put(0x1000 + 256 * 8, 0x2003);
        put(0x2000, 0x3003);
        put(0x3000, 0x4003);
        put(0x3008, HUGE | 3);
        put(0x4000, 0x5003);
        put(0x4008, 0x6001);
        put(0x4010, 0x7fff_ffff_f003);
        kvm_sregs { cr3: 0x1000, cr0: CR0_WP, ..Default::default() }
    }

    #[test]
    fn reads_and_writes_go_where_the_tables_say() {
        let memory = GuestMemory::with_ram(4 << 20).unwrap();
        let sregs = tables(&memory.mem);
        let walker = Walker::new(&memory.mem, &sregs);
        let base = 0xffff_8000_0000_0000;
        walker.write(base + 0xff0, &[7; 16]).unwrap();
        let mut got = [0; 32];
        walker.read(base + 0xff0, &mut got).unwrap();
        assert_eq!((got[15], got[16]), (7, 0));
        assert_eq!(walker.write(base + 0xff8, &[7; 16]), Err(PageFault { address: base + 0x1000, code: 3 }));
        assert_eq!(walker.read(base + 0x3000, &mut got), Err(PageFault { address: base + 0x3000, code: 0 }));
        assert_eq!(walker.write(base + 0x2000, &[1]), Err(PageFault { address: base + 0x2000, code: 0 }), "outside of memory");
        assert_eq!(walker.read_some(base + 0x2ff0, &mut got), 0);
        walker.read(base + 0x20_5ff0, &mut got[..16]).unwrap();
        assert_eq!(got[..16], [7; 16], "through the large page");
        let entry: u64 = memory.mem.read_obj(GuestAddress(0x4000)).unwrap();
        assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
    }
}
