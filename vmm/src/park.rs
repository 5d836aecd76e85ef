//! Park and resume: a machine that stands at the door is written down as what it changed in its template, and goes on from there in another VM.
//!
//! ```text
//! park:    state of vCPU and devices --> changed pages --> file, synced       whatever fails: the machine is as it was, at the door
//! resume:  file's header and sections --> template mapped --> changed pages laid over, each chunk checked --> vCPU and devices
//! ```
//! Nothing of a parked machine reaches KVM or a device before all of it was checked.

use crate::cpu::state::KvmState;
use crate::error::VmmError;
use crate::machine::{Machine, MachineState, lock};
use crate::memory::GuestMemory;
use std::fs::File;
use std::os::fd::AsRawFd;
use torpor_protocol::monitor::Packing;
use torpor_snapshot::parked::{self, Contents, Parked, Run, Still, Target, Written};

impl Machine {
    /// Writes down what differs from the template and syncs it. The vCPU must stand still with its last exit completed. What the file held is lost;
    /// the machine goes on as it was, also where this fails.
    pub fn park(&self, file: &File, origin: &[u8], packing: Packing) -> Result<Written, VmmError> {
        if !self.from_file {
            return Err(VmmError::Command("a machine that was booted has no template to differ from"));
        }
        let pages =
            self.pages.as_ref().ok_or(VmmError::Command("this process has no /proc/self/pagemap that tells which pages changed"))?;
        let cpuid = self.cpuid.as_ref().ok_or(VmmError::Command("a VM that never ran can't be parked"))?;
        // Held to the end: the event loop must not write to guest memory while it is read.
        let devices = lock(&self.devices);
        let kvm = KvmState::save(&self.kvm, &self.vm, &self.vcpu, cpuid)?;
        let machine = MachineState { ram: self.memory.ram, kvm, devices: devices.save() };
        let changed = pages.changed(self.memory.host_address(), self.memory.size()).map_err(VmmError::io("finding the changed pages"))?;
        let contents = Contents { memory: self.memory.size(), changed: &changed, machine: &machine, origin, packing: packed(packing) };
        let written = parked::write(file, &Standing(&self.memory), &contents)?;
        drop(devices);
        Ok(written)
    }

    /// Makes it ready to go on where it was parked.
    pub fn resume(&mut self, file: &File, template: &File, root: File, code: File) -> Result<(), VmmError> {
        let parked = Parked::read(file)?;
        let state: MachineState = parked.machine()?;
        self.fits(&state)?;
        if parked.memory() != self.memory.size() {
            return Err(VmmError::Incompatible("its memory is not as large as its RAM and the door's window".into()));
        }
        state.kvm.check()?;
        {
            let _devices = lock(&self.devices);
            self.memory.map_file(template)?;
            parked.lay_over(file, &mut Standing(&self.memory))?;
        }
        self.from_file = true;
        self.go_on(state, root, Some(code))
    }
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
}

impl Still for Standing<'_> {
    fn pages(&self, run: Run) -> Option<&[u8]> {
        let (at, len) = self.place(run)?;
        // SAFETY: the range lies in guest memory, a mapping that lasts as long as this process; the pages asked for are private to it, so no change of the
        // file takes them away. Nothing writes to them while the slice lives: see `Standing`.
        Some(unsafe { std::slice::from_raw_parts(at, len) })
    }

    fn begin_writing(&self, file: &File, offset: u64, len: u64) {
        let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
        // SAFETY: the call touches no memory. That it fails is no harm: the sync at the end does it all.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}

impl Target for Standing<'_> {
    fn prepare(&mut self, runs: &[Run]) {
        for (at, len) in runs.iter().filter_map(|run| self.place(*run)) {
            // SAFETY: the range lies in guest memory. It gets its pages at once instead of one fault each; where this fails, they come by faults.
            unsafe { libc::madvise(at.cast(), len, libc::MADV_POPULATE_WRITE) };
        }
    }

    fn pages(&mut self, run: Run) -> Option<&mut [u8]> {
        let (at, len) = self.place(run)?;
        // SAFETY: the range lies in guest memory, a mapping that lasts as long as this process. Nothing else reads or writes it while the slice lives: see
        // `Standing`, of which this is the only one and borrowed mutably.
        Some(unsafe { std::slice::from_raw_parts_mut(at, len) })
    }
}
