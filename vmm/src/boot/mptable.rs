//! The MP table (Intel MultiProcessor Specification 1.4): one processor, one ISA bus, one IO-APIC, its 16 ISA interrupts, and the LAPIC's two pins.

use crate::error::VmmError;
use crate::layout::{IOAPIC, LAPIC, MP_TABLE};
use crate::memory::Mem;
use vm_memory::{Bytes, GuestAddress};

const SPEC: u8 = 4;
const CPU: u8 = 0;
const BUS: u8 = 1;
const IO_APIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const IO_APIC_ID: u8 = 1;
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
const ISA_IRQS: u8 = 16;
const FLOATING: usize = 16;
const HEADER: usize = 44;

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn interrupt(kind: u8, type_: u8, source: u8, destination: u8, pin: u8) -> [u8; 8] {
    [kind, type_, 0, 0, 0, source, destination, pin]
}

/// The table's bytes, to be put at `at`.
fn table(at: u32) -> Vec<u8> {
    let mut entries = vec![];
    let mut count = 0u16;
    let mut add = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    // Enabled boot processor; signature and features as CPUID 1 would give them matter to nobody.
    add(&[CPU, 0, APIC_VERSION, 3, 0, 6, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    add(&[BUS, 0, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = IOAPIC.to_le_bytes();
    add(&[IO_APIC, IO_APIC_ID, APIC_VERSION, 1, a, b, c, d]);
    for irq in 0..ISA_IRQS {
        add(&interrupt(IO_INTERRUPT, INT, irq, IO_APIC_ID, irq));
    }
    add(&interrupt(LOCAL_INTERRUPT, EXT_INT, 0, 0, 0));
    add(&interrupt(LOCAL_INTERRUPT, NMI, 0, 0xff, 1));

    let length = u16::try_from(HEADER + entries.len()).unwrap_or(u16::MAX);
    let mut header = b"PCMP".to_vec();
    header.extend_from_slice(&length.to_le_bytes());
    header.extend_from_slice(&[SPEC, 0]);
    header.extend_from_slice(b"TORPOR  ");
    header.extend_from_slice(b"MICROVM     ");
    header.extend_from_slice(&[0; 6]);
    header.extend_from_slice(&count.to_le_bytes());
    header.extend_from_slice(&LAPIC.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&entries);
    header[7] = checksum(&header);

    let mut floating = b"_MP_".to_vec();
    floating.extend_from_slice(&(at + 16).to_le_bytes());
    floating.extend_from_slice(&[1, SPEC, 0, 0, 0, 0, 0, 0]);
    floating[10] = checksum(&floating);
    debug_assert_eq!(floating.len(), FLOATING);
    floating.extend_from_slice(&header);
    floating
}

/// Writes it.
pub fn write(mem: &Mem) -> Result<(), VmmError> {
    let at = u32::try_from(MP_TABLE).map_err(|_| VmmError::Kernel("the MP table lies above 4 GiB".into()))?;
    mem.write_slice(&table(at), GuestAddress(MP_TABLE)).map_err(VmmError::guest_memory("MP table"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_to_zero_and_says_its_own_size() {
        let bytes = table(0x9_fc00);
        let sum = |part: &[u8]| part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum(&bytes[..FLOATING]), 0);
        assert_eq!(sum(&bytes[FLOATING..]), 0);
        assert_eq!(usize::from(u16::from_le_bytes([bytes[FLOATING + 4], bytes[FLOATING + 5]])), bytes.len() - FLOATING);
        assert_eq!(u16::from_le_bytes([bytes[FLOATING + 34], bytes[FLOATING + 35]]), 21);
        assert!(bytes.len() <= 0x400, "it fits below the legacy hole");
    }
}
