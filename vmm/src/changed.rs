//! Which pages of guest memory differ from the template's memory file.
//!
//! The kernel's own copy-on-write is the log: guest memory is a private mapping of the file, so a page of it that is not the file's was written,
//! whoever wrote it. Linux 6.7 and newer tell with one `PAGEMAP_SCAN`; older kernels with an entry of `/proc/self/pagemap` for each page. That
//! file is opened before the sandbox closes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use torpor_snapshot::parked::Run;

const PAGE: u64 = 4096;
/// Regions that one scan gives.
const REGIONS: usize = 2048;
/// Bytes of an entry of the page map.
const ENTRY: usize = 8;
/// Entries read at a time.
const ENTRIES: usize = 16 << 10;
const ENTRY_PRESENT: u64 = 1 << 63;
const ENTRY_SWAPPED: u64 = 1 << 62;
/// The page is a file's, or shared.
const ENTRY_FILE: u64 = 1 << 61;
/// `_IOWR('f', 16, struct pm_scan_arg)`, linux/fs.h.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArgs {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// The page map of this process.
#[derive(Debug)]
pub struct PageMap(File);

impl PageMap {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        File::open("/proc/self/pagemap").map(Self)
    }

    /// The changed pages of the `len` bytes from `start` on, both whole pages, as runs counted from `start`. Pages that no one wrote may be among them.
    pub fn changed(&self, start: u64, len: u64) -> io::Result<Vec<Run>> {
        match self.scan(start, len) {
            // A kernel without it: the request is unknown to the file, or to the kernel that knows another size of the arguments.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::E2BIG)) => self.entries(start, len),
            done => done,
        }
    }

    fn scan(&self, start: u64, len: u64) -> io::Result<Vec<Run>> {
        let (mut runs, mut at, end) = (Vec::new(), start, start + len);
        let mut regions = vec![PageRegion::default(); REGIONS];
        while at < end {
            let mut args = ScanArgs {
                size: size_of::<ScanArgs>() as u64,
                start: at,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: REGIONS as u64,
                category_inverted: PAGE_IS_FILE,
                category_mask: PAGE_IS_FILE,
                category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                return_mask: PAGE_IS_FILE,
                ..Default::default()
            };
            // SAFETY: the arguments are of the size that they name, and `vec` is `vec_len` regions that live and are borrowed nowhere else; the kernel writes
            // nothing but these, and changes no page without a flag that asks for it.
            let found = unsafe { libc::ioctl(self.0.as_raw_fd(), PAGEMAP_SCAN, &raw mut args) };
            let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
            for region in regions.get(..found).unwrap_or(&[]) {
                add(&mut runs, (region.start - start) / PAGE, region.end.saturating_sub(region.start) / PAGE);
            }
            if args.walk_end <= at {
                return Err(io::Error::other("the kernel's scan of the page map does not get on"));
            }
            at = args.walk_end;
        }
        Ok(runs)
    }

    fn entries(&self, start: u64, len: u64) -> io::Result<Vec<Run>> {
        let (mut runs, mut page, pages) = (Vec::new(), 0, len / PAGE);
        let mut bytes = vec![0; ENTRIES * ENTRY];
        while page < pages {
            let count = usize::try_from(pages - page).unwrap_or(ENTRIES).min(ENTRIES);
            let part = &mut bytes[..count * ENTRY];
            self.0.read_exact_at(part, (start / PAGE + page) * ENTRY as u64)?;
            for entry in part.as_chunks::<ENTRY>().0.iter().map(|bytes| u64::from_ne_bytes(*bytes)) {
                if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0 {
                    add(&mut runs, page, 1);
                }
                page += 1;
            }
        }
        Ok(runs)
    }
}

/// All pages of two lists of runs, in order and none twice.
pub(crate) fn together(some: &[Run], others: &[Run]) -> Vec<Run> {
    let mut all: Vec<Run> = some.iter().chain(others).copied().collect();
    all.sort_unstable_by_key(|run| run.first);
    let mut runs: Vec<Run> = Vec::with_capacity(all.len());
    for run in all {
        match runs.last_mut() {
            Some(last) if run.first <= last.first + last.pages => last.pages = last.pages.max(run.first + run.pages - last.first),
            _ => runs.push(run),
        }
    }
    runs
}

fn add(runs: &mut Vec<Run>, first: u64, pages: u64) {
    match runs.last_mut() {
        Some(last) if last.first + last.pages == first => last.pages += pages,
        _ => runs.push(Run { first, pages }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::GuestMemory;
    use vm_memory::{Bytes, GuestAddress};

    fn memory() -> GuestMemory {
        let memory = GuestMemory::with_ram(4 << 20).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[5; 3 << 20], 0).unwrap();
        file.set_len(memory.size()).unwrap();
        memory.map_file(&file).unwrap();
        memory
    }

    #[test]
    fn written_pages_are_found_and_read_ones_are_not() {
        let memory = memory();
        let map = PageMap::open().unwrap();
        let mut all = vec![0; usize::try_from(memory.size()).unwrap()];
        memory.mem.read_slice(&mut all, GuestAddress(0)).unwrap();
        let both = || [map.changed(memory.host_address(), memory.size()), map.entries(memory.host_address(), memory.size())];
        for runs in both() {
            assert_eq!(runs.unwrap(), []);
        }
        let mut expected = Vec::new();
        for (first, pages) in [(0, 1), (700, 3), (1023, 1), (memory.size() / PAGE - 1, 1)] {
            expected.push(Run { first, pages });
            for page in first..first + pages {
                memory.mem.write_obj(5u8, GuestAddress(page * PAGE + 17)).unwrap();
            }
        }
        for runs in both() {
            assert_eq!(runs.unwrap(), expected);
        }
    }

    #[test]
    fn lists_of_runs_come_together() {
        let runs = |list: &[(u64, u64)]| list.iter().map(|(first, pages)| Run { first: *first, pages: *pages }).collect::<Vec<_>>();
        let got = together(&runs(&[(3, 2), (10, 5), (40, 1)]), &runs(&[(0, 1), (5, 1), (11, 2), (14, 4), (41, 2)]));
        assert_eq!(got, runs(&[(0, 1), (3, 3), (10, 8), (40, 3)]));
    }

    #[test]
    fn more_regions_than_one_scan_gives_are_all_found() {
        let memory = memory();
        let pages = memory.size() / PAGE;
        for page in (0..pages).step_by(2) {
            memory.mem.write_obj(1u8, GuestAddress(page * PAGE)).unwrap();
        }
        let map = PageMap::open().unwrap();
        let expected: Vec<_> = (0..pages).step_by(2).map(|first| Run { first, pages: 1 }).collect();
        assert!(expected.len() > REGIONS);
        assert_eq!(map.changed(memory.host_address(), memory.size()).unwrap(), expected);
        assert_eq!(map.entries(memory.host_address(), memory.size()).unwrap(), expected);
    }
}
