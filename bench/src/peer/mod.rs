//! Other monitors, measured in turn with ours, run by run: the same kernel, root image, memory size and agent, on the same machine at the same time.
//!
//! - [`qemu`]: `qemu-system-x86_64 -M microvm`. It has no vsock device without the host's kernel module for it, so what both boot to is the first
//!   line that init writes on the console.
//! - [`firecracker`]: boots, and restores of a snapshot, to the agent's first frame. It has no door: its agent says Hello over vsock and no more
//!   (guest-agent/src/main.rs), so what it is compared by is less work than what ours does.

mod firecracker;
mod qemu;

use crate::api::{self, Daemon, ROUNDS};
use crate::http::Http;
use crate::restore::{self, Lives};
use crate::stats::{Samples, Table};
use crate::vm::{self, Paths, Template};
use crate::{Failed, boot, code};
use firecracker::{Machine, Snapshot};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use torpor_vmm::boot::cmdline;

/// What is measured, and with what.
pub(crate) struct Setup<'a> {
    pub(crate) paths: &'a Paths,
    /// Folder of torpord.
    pub(crate) bin: &'a Path,
    /// Runtimes whose no-ops are compared.
    pub(crate) runtimes: &'a [String],
    pub(crate) memory_mib: u32,
    pub(crate) boots: usize,
    pub(crate) runs: usize,
}

impl Setup<'_> {
    /// The root image: the runtime with the least in it.
    fn root(&self) -> PathBuf {
        self.paths.images.join("exec.erofs")
    }
}

/// The kernel command line for a peer's guest, on this host.
fn line(extra: &str) -> Result<String, Failed> {
    line_on(torpor_vmm::cpu::host::probe()?, extra)
}

/// What torpor-vmm gives its guests, less the door, which peers do not have. Where kernel mode is emulated they also can't do XSAVE for the guest
/// (vmm/src/cpu/vector.rs); its one process can do without.
fn line_on(emulated: bool, extra: &str) -> Result<String, Failed> {
    let ours = cmdline::compose(emulated, 0, "")?.as_cstring()?.into_string()?;
    let words = ours.split_whitespace().filter(|word| !word.starts_with("torpor_door="));
    // Last, as torpor-vmm has it: init's arguments are there.
    let words = words.chain(emulated.then_some("noxsave")).chain(extra.split_whitespace());
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// All figures of one peer, which its file's name tells.
pub(crate) fn run(setup: &Setup<'_>, peer: &Path, table: &mut Table) -> Result<(), Failed> {
    let program = fs::canonicalize(peer)?;
    let name = peer.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("qemu-system") {
        qemu::run(setup, &program, table)
    } else if name.starts_with("firecracker") {
        boots(setup, &program, table)?;
        restores(setup, &program, table)
    } else {
        Err("neither a qemu-system-x86_64 nor a firecracker, by its name".into())
    }
}

/// Firecracker's park: pause, a diff snapshot by its dirty log, the process's end; of a restored machine after its first frame, whose pages that it has
/// changed since are fewer than those of `ours`. It does not sync what it writes; with the syncs is a figure of its own.
pub(crate) fn parks(setup: &Setup<'_>, peer: &Path, ours: &Samples, table: &mut Table) -> Result<(), Failed> {
    let program = fs::canonicalize(peer)?;
    let snapshot = Machine::boot(&program, setup)?.snapshot(&program)?.tracked();
    let (mut bare, mut synced, mut mib) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..setup.runs {
        let park = snapshot.restore()?.park()?;
        bare.add_ms(park.bare);
        synced.add_ms(park.synced);
        mib.add(park.mib);
    }
    table.add("park: firecracker, pause, diff and end of process, not synced", "ms", &bare);
    table.add("park: firecracker, the same and synced", "ms", &synced);
    table.add("park: firecracker, on disk", "MiB", &mib);
    table.ratio("park: torpor, 4 MiB changed, synced / firecracker, not synced", ours, &bare);
    table.ratio("park: torpor, 4 MiB changed, synced / firecracker, synced", ours, &synced);
    Ok(())
}

fn boots(setup: &Setup<'_>, program: &Path, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..setup.boots {
        ours.add_ms(boot::once(setup.paths, &kvm, &setup.root(), setup.memory_mib)?);
        theirs.add_ms(Machine::boot(program, setup)?.first_frame);
    }
    table.add("cold boot to the agent's first frame: torpor", "ms", &ours);
    table.add("cold boot to the agent's first frame: firecracker", "ms", &theirs);
    table.ratio("cold boot to the agent's first frame: torpor / firecracker", &ours, &theirs);
    Ok(())
}

/// A task's template and a peer's snapshot, at about the same age: that a guest finds time gone when it is restored is work for its kernel.
fn snapshots(setup: &Setup<'_>, kvm: &File, program: &Path, dir: &Path) -> Result<(Template, Snapshot), Failed> {
    let peer = Machine::boot(program, setup)?;
    let code = code::image("exec", dir)?;
    let runtime = vm::runtime_template(setup.paths, kvm, &setup.root(), setup.memory_mib, dir)?;
    let task = vm::task_template(setup.paths, kvm, &runtime, &code.image, code.entry, dir)?;
    Ok((task, peer.snapshot(program)?))
}

fn restores(setup: &Setup<'_>, program: &Path, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let (template, snapshot) = snapshots(setup, &kvm, program, dir.path())?;
    let (mut warm, mut new) = (Lives::default(), Lives::default());
    let (mut running, mut first_frame, mut private) = (Samples::default(), Samples::default(), Samples::default());
    restore::once(setup.paths, &kvm, &template, true, &mut Lives::default())?;
    snapshot.restore()?;
    for _ in 0..setup.runs {
        restore::once(setup.paths, &kvm, &template, false, &mut warm)?;
        let machine = snapshot.restore()?;
        running.add_ms(machine.running);
        first_frame.add_ms(machine.first_frame);
        private.add(restore::private_mib(machine.id())?);
        drop(machine);
        restore::once(setup.paths, &kvm, &template, true, &mut new)?;
    }
    for (what, warm, new, theirs) in [
        ("restore to vCPU running", &warm.running, &new.running, &running),
        ("restore to the agent's first frame", &warm.first_frame, &new.first_frame, &first_frame),
    ] {
        table.add(&format!("{what}: torpor, warm monitor"), "ms", warm);
        table.add(&format!("{what}: torpor, new monitor"), "ms", new);
        table.add(&format!("{what}: firecracker, new process"), "ms", theirs);
        table.ratio(&format!("{what}: torpor, warm / firecracker"), warm, theirs);
        table.ratio(&format!("{what}: torpor, new / firecracker"), new, theirs);
    }
    table.add("private memory: torpor, after a no-op", "MiB", &warm.private);
    table.add("private memory: firecracker, after the first frame", "MiB", &private);
    table.ratio("private memory: torpor / firecracker", &warm.private, &private);
    rates(setup, &kvm, &template, &snapshot, table)
}

/// No-op executions a second through torpord, and both sides' restores to the first frame a second: each a new process, which is killed and waited for.
fn rates(setup: &Setup<'_>, kvm: &File, template: &Template, snapshot: &Snapshot, table: &mut Table) -> Result<(), Failed> {
    let daemon = Daemon::start(setup.bin, setup.paths)?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let push = |runtime: &String| api::push(&mut Http::connect(&daemon.socket())?, runtime, dir.path());
    let tasks: Vec<String> = setup.runtimes.iter().map(push).collect::<Result<_, Failed>>()?;
    let mut ours = vec![Samples::default(); tasks.len()];
    let (mut own, mut theirs) = (<[Samples; 2]>::default(), <[Samples; 2]>::default());
    for _ in 0..ROUNDS {
        for (workers, (own, theirs)) in (1..).zip(own.iter_mut().zip(&mut theirs)) {
            let restores = || (0..setup.runs).try_for_each(|_| restore::to_first_frame(setup.paths, kvm, template));
            own.add(api::a_second(workers, setup.runs, restores)?);
            let restores = || (0..setup.runs).try_for_each(|_| snapshot.restore().map(drop));
            theirs.add(api::a_second(workers, setup.runs, restores)?);
        }
        for (task, rate) in tasks.iter().zip(&mut ours) {
            rate.add(api::round(&daemon.socket(), task, 2, setup.runs)?);
        }
    }
    for (workers, own, theirs) in [("1 worker", &own[0], &theirs[0]), ("2 workers", &own[1], &theirs[1])] {
        table.add(&format!("restores to the first frame a second, {workers}: torpor"), "1/s", own);
        table.add(&format!("restores to the first frame a second, {workers}: firecracker"), "1/s", theirs);
        table.ratio(&format!("restores to the first frame a second, {workers}: torpor / firecracker"), own, theirs);
    }
    for (runtime, rate) in setup.runtimes.iter().zip(&ours) {
        table.add(&format!("no-ops a second, 2 clients: torpor, {runtime}"), "1/s", rate);
        table.ratio(&format!("no-ops a second / restores a second: torpor, {runtime} / firecracker"), rate, &theirs[1]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peers_guest_is_told_of_no_door() {
        for emulated in [false, true] {
            let line = line_on(emulated, "init=/bin/echo up").unwrap();
            assert!(!line.contains("torpor_door"), "{line}");
            assert!(line.contains("root=/dev/vda") && line.contains("init=/bin/echo up"), "{line}");
            assert_eq!(line.contains("noxsave"), emulated, "{line}");
        }
    }
}
