//! Guest memory: one mapping, one region at guest physical address 0, RAM and then the window of the door.
//!
//! The mapping's place in this process never changes once KVM knows it. It starts as private anonymous memory; a restore maps the template's
//! memory file privately over it, so the guest reads the page cache that all VMs of the template share, and owns only the pages that it writes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use torpor_protocol::door;
use vm_memory::mmap::MmapRegion;
use vm_memory::{GuestAddress, GuestRegionMmap};

/// Guest memory as devices see it.
pub type Mem = vm_memory::GuestMemoryMmap<()>;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("mapping {bytes} bytes of guest memory: {source}")]
    Map {
        /// Size of the mapping.
        bytes: u64,
        /// The host's reason.
        source: io::Error,
    },
    /// The size is not one that a VM can have.
    #[error("guest memory of {0} MiB is not between {min} and {max} MiB", min = torpor_protocol::limits::MIN_MEMORY_MIB, max = torpor_protocol::limits::MAX_MEMORY_MIB)]
    Size(u32),
    /// The memory file does not fit the VM.
    #[error("the snapshot's memory file has {found} bytes, this VM's memory {expected}")]
    FileSize {
        /// Of the file.
        found: u64,
        /// Of the VM.
        expected: u64,
    },
    /// vm-memory refused the region.
    #[error("guest memory region: {0}")]
    Region(String),
}

/// Guest memory and how large its parts are.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    /// All of it.
    pub mem: Mem,
    /// RAM that the guest's kernel manages, in bytes.
    pub ram: u64,
    host: usize,
}

impl GuestMemory {
    /// Fresh memory of zeros.
    pub fn new(memory_mib: u32) -> Result<Self, MemoryError> {
        use torpor_protocol::limits::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
            return Err(MemoryError::Size(memory_mib));
        }
        Self::with_ram(u64::from(memory_mib) << 20)
    }

    pub(crate) fn with_ram(ram: u64) -> Result<Self, MemoryError> {
        let bytes = ram + door::WINDOW_SIZE;
        let failed = |source| MemoryError::Map { bytes, source };
        let len = usize::try_from(bytes).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that is in use.
        let host = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if host == libc::MAP_FAILED {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: the mapping is `len` bytes, made above with these flags, and is never unmapped: the process is the VM.
        let region = unsafe { MmapRegion::build_raw(host.cast(), len, prot, flags) }.map_err(|e| MemoryError::Region(e.to_string()))?;
        let region =
            GuestRegionMmap::new(region, GuestAddress(0)).ok_or_else(|| MemoryError::Region("it ends past the address space".into()))?;
        let mem = Mem::from_regions(vec![region]).map_err(|e| MemoryError::Region(e.to_string()))?;
        Ok(Self { mem, ram, host: host as usize })
    }

    /// RAM and window.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.ram + door::WINDOW_SIZE
    }

    /// Guest physical address of the window.
    #[must_use]
    pub const fn window(&self) -> u64 {
        self.ram
    }

    /// Where the memory is in this process.
    #[must_use]
    pub const fn host_address(&self) -> u64 {
        self.host as u64
    }

    /// Maps a memory file privately over the whole memory. No vCPU may be running.
    pub fn map_file(&self, file: &File) -> Result<(), MemoryError> {
        use std::os::fd::AsRawFd;
        let expected = self.size();
        let failed = |source| MemoryError::Map { bytes: expected, source };
        let found = file.metadata().map_err(failed)?.len();
        if found != expected {
            return Err(MemoryError::FileSize { found, expected });
        }
        let len = usize::try_from(expected).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        // SAFETY: the range is exactly the mapping that `with_ram` made and that this process never unmaps. Nothing holds a
        // Rust reference into it (vm-memory works with raw pointers and volatile accesses), so replacing its pages is seen as
        // guest memory that changed.
        let at = unsafe {
            libc::mmap(
                self.host as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_fd().as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED { Err(failed(io::Error::last_os_error())) } else { Ok(()) }
    }
}
