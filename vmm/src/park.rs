//! Park and resume: a machine that stands at the door is written down as what it changed in its template, and goes on from there in another VM.
//!
//! ```text
//! park:    state of vCPU and devices --> changed pages --> file, synced       whatever fails: the machine is as it was, at the door
//! resume:  file's header and sections --> template mapped --> changed pages laid over, each chunk checked --> vCPU and devices
//! ```
//! Nothing of a parked machine reaches KVM or a device before all of it was checked.
//!
//! Long runs of changed pages are not copied at resume: the file is mapped privately in their place, as the template is, and the machine copies what
//! it writes. So the file must stay as it is while the machine lives: it is locked, shared, and who would write over it finds the lock. Removing its
//! name does no harm. Such pages count as changed when the machine is parked again.

use crate::changed::together;
use crate::cpu::state::KvmState;
use crate::error::VmmError;
use crate::machine::{Machine, MachineState, lock};
use crate::memory::GuestMemory;
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use torpor_protocol::monitor::{Packing, ParkKey};
use torpor_snapshot::SnapshotError;
use torpor_snapshot::parked::{self, Contents, Parked, ParkedError, Run, SealKey, Still, Target, Written};

/// A shorter run is given its pages by faults.
const POPULATED_PAGES: u64 = 4;

/// The file that a machine was resumed from.
pub(crate) struct Source {
    /// Locked.
    file: File,
    /// Pages that are mapped from it, or that it says are zero.
    laid: Vec<Run>,
}

impl Machine {
    /// Writes down what differs from the template and syncs it. The vCPU must stand still with its last exit completed. What the file held is lost;
    /// the machine goes on as it was, also where this fails.
    pub fn park(&mut self, file: &File, origin: &[u8], packing: Packing, key: Option<&ParkKey>) -> Result<Written, VmmError> {
        self.leave(file)?;
        let template = self.template.as_ref().ok_or(VmmError::Command("a machine that was booted has no template to differ from"))?;
        let pages = self.pages.as_ref().ok_or(VmmError::Command("this process can't see which of its pages changed"))?;
        let cpuid = self.cpuid.as_ref().ok_or(VmmError::Command("a VM that never ran can't be parked"))?;
        // Held to the end: the event loop must not write to guest memory while it is read.
        let devices = lock(&self.devices);
        let kvm = KvmState::save(&self.kvm, &self.vm, &self.vcpu, cpuid)?;
        let machine = MachineState { ram: self.memory.ram, kvm, devices: devices.save() };
        let changed = pages.changed(self.memory.host_address(), self.memory.size()).map_err(VmmError::io("finding the changed pages"))?;
        let changed = together(&changed, self.source.as_ref().map_or(&[], |source| &source.laid));
        let key = key.map(sealing);
        let (memory, packing) = (self.memory.size(), packed(packing));
        let contents = Contents { memory, template, changed: &changed, machine: &machine, origin, packing, key: key.as_ref() };
        let written = parked::write(file, &Standing(&self.memory), &contents)?;
        drop(devices);
        Ok(written)
    }

    /// Makes it ready to go on where it was parked.
    pub fn resume(&mut self, file: File, key: Option<&ParkKey>, template: File, root: File, code: File) -> Result<(), VmmError> {
        if let Err(TryLockError::WouldBlock) = file.try_lock_shared() {
            return Err(SnapshotError::from(ParkedError::InUse).into());
        }
        let parked = Parked::open(&file, key.map(sealing).as_ref())?;
        let state: MachineState = parked.machine()?;
        self.fits(&state)?;
        if parked.memory() != self.memory.size() {
            return Err(VmmError::Incompatible("its memory is not as large as its RAM and the door's window".into()));
        }
        state.kvm.check()?;
        let laid = {
            let _devices = lock(&self.devices);
            self.memory.map_file(&template)?;
            let mut overlay = Overlay { memory: Standing(&self.memory), laid: Vec::new() };
            parked.lay_over(&file, &mut overlay)?;
            overlay.laid
        };
        self.template = Some(template);
        self.source = Some(Source { file, laid });
        self.go_on(state, root, Some(code))
    }

    /// Before a file is written over: a machine that was resumed from it takes copies of what it has mapped from it, and needs it no more.
    fn leave(&mut self, file: &File) -> Result<(), VmmError> {
        let Some(source) = &self.source else { return Ok(()) };
        let id = |file: &File| {
            let meta = file.metadata().map_err(VmmError::io("looking at the parked machine's file"))?;
            Ok::<_, VmmError>((meta.dev(), meta.ino()))
        };
        if id(file)? != id(&source.file)? {
            return Ok(());
        }
        for run in &source.laid {
            Standing(&self.memory).populate(*run).map_err(VmmError::io("copying what was parked"))?;
        }
        // By name: the mappings keep the open file, and with it the lock, after its descriptor is closed.
        source.file.unlock().map_err(VmmError::io("unlocking the parked machine's file"))?;
        self.source = None;
        Ok(())
    }
}

fn sealing(key: &ParkKey) -> SealKey {
    SealKey::new(key.bytes())
}

const fn packed(packing: Packing) -> parked::Packing {
    match packing {
        Packing::None => parked::Packing::None,
        Packing::Fast => parked::Packing::Fast,
        Packing::Small => parked::Packing::Small,
    }
}

/// Guest memory while no vCPU runs and the lock of the devices is held: nobody else reads or writes it.
struct Standing<'a>(&'a GuestMemory);

impl Standing<'_> {
    /// Where a run is in this process, and its bytes.
    fn place(&self, run: Run) -> Option<(*mut u8, usize)> {
        let (offset, len) = run.extent();
        let end = offset.checked_add(len)?;
        let at = self.0.host_address().checked_add(offset)?;
        (end <= self.0.size()).then_some(())?;
        Some((usize::try_from(at).ok()? as *mut u8, usize::try_from(len).ok()?))
    }

    /// Gives a run pages that are its own, at once instead of by a fault each.
    fn populate(&self, run: Run) -> io::Result<()> {
        let (at, len) = self.place(run).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: the range lies in guest memory, and what it holds stays the same.
        match unsafe { libc::madvise(at.cast(), len, libc::MADV_POPULATE_WRITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Still for Standing<'_> {
    fn pages(&self, run: Run) -> Option<&[u8]> {
        let (at, len) = self.place(run)?;
        // SAFETY: the range lies in guest memory, a mapping that lasts as long as this process; the pages asked for are its own or those of a locked file,
        // so no change of a file takes them away. Nothing writes to them while the slice lives: see `Standing`.
        Some(unsafe { std::slice::from_raw_parts(at, len) })
    }

    fn begin_writing(&self, file: &File, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) else { return };
        // SAFETY: the call touches no memory. That it fails is no harm: the sync at the end does it all.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

/// Guest memory that a parked machine is laid over, under the same rules.
struct Overlay<'a> {
    memory: Standing<'a>,
    /// Runs that were mapped.
    laid: Vec<Run>,
}

impl Overlay<'_> {
    /// Maps something privately in place of a run.
    fn replace(&mut self, run: Run, flags: libc::c_int, fd: libc::c_int, offset: u64) -> bool {
        let (Some((at, len)), Ok(offset)) = (self.memory.place(run), libc::off_t::try_from(offset)) else { return false };
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE | flags;
        // SAFETY: the range lies in guest memory, which this process never unmaps and to which nothing holds a Rust reference now: `self` is borrowed
        // mutably, and no slice of its memory outlives that borrow.
        let mapped = unsafe { libc::mmap(at.cast(), len, prot, flags, fd, offset) } != libc::MAP_FAILED;
        if mapped {
            self.laid.push(run);
        }
        mapped
    }
}

impl Target for Overlay<'_> {
    fn pages(&mut self, run: Run) -> Option<&mut [u8]> {
        let (at, len) = self.memory.place(run)?;
        if run.pages >= POPULATED_PAGES {
            // Where this fails, its pages come by faults.
            let _ = self.memory.populate(run);
        }
        // SAFETY: the range lies in guest memory, a mapping that lasts as long as this process. Nothing else reads or writes it while the slice lives:
        // see `Standing`, of which this is the only one and borrowed mutably.
        Some(unsafe { std::slice::from_raw_parts_mut(at, len) })
    }

    fn map(&mut self, file: &File, offset: u64, run: Run) -> bool {
        self.replace(run, 0, file.as_raw_fd(), offset)
    }

    fn map_zeros(&mut self, run: Run) -> bool {
        self.replace(run, libc::MAP_ANONYMOUS, -1, 0)
    }
}
