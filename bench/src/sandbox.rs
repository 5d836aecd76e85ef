//! What the sandbox costs: the same monitor, this program itself, locked in and not, in turn.
//!
//! The bare one is started by nothing of Torpor's but this bench: torpord and torpor-vmm have no way to leave the sandbox out.

use crate::Failed;
use crate::restore::{self, Lives};
use crate::stats::{Samples, Table};
use crate::vm::{self, Monitors, Paths, Template, Vm};
use std::fs::File;
use std::time::{Duration, Instant};
use torpor_vmm::monitor::{self, Options};
use torpor_vmm::process;

/// First argument of this program as a monitor that is not locked in.
pub(crate) const BARE: &str = "bare-monitor";

/// What this program does where it was started as a monitor: none, where it was not.
pub(crate) fn as_monitor() -> Option<Result<(), Failed>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [BARE] => Some(bare()),
        ["monitor", "--sandbox", plan] => Some(locked_in(plan)),
        _ => None,
    }
}

fn bare() -> Result<(), Failed> {
    Ok(monitor::run(process::begin()?, Options::default())?)
}

fn locked_in(plan: &str) -> Result<(), Failed> {
    Ok(process::serve(plan.parse()?)?)
}

#[derive(Default)]
struct Way {
    ready: Samples,
    warm: Lives,
    new: Lives,
}

/// Measures one runtime both ways and prints the ratios.
pub(crate) fn run(paths: &Paths, runtime: &str, memory_mib: u32, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let root = paths.images.join(format!("{runtime}.erofs"));
    let code = crate::code::image(runtime, dir.path())?;
    let template = vm::runtime_template(paths, &kvm, &root, memory_mib, dir.path())?;
    let task = vm::task_template(paths, &kvm, &template, &code.image, code.entry, dir.path())?;
    let own = std::env::current_exe()?;
    let ways = [Monitors::open(&own)?, Monitors::bare(&own)].map(|monitors| Paths { monitors, ..paths.clone() });
    let mut measured = [Way::default(), Way::default()];
    for (way, paths) in measured.iter_mut().zip(&ways) {
        // The first of its kind reads its program from disk.
        once(paths, &kvm, &task, way)?;
        *way = Way::default();
    }
    for run in 0..runs {
        // Whoever comes second finds warmer caches: each does in turn.
        for turn in [run % 2, 1 - run % 2] {
            once(&ways[turn], &kvm, &task, &mut measured[turn])?;
        }
    }
    let [inside, outside] = &measured;
    let figures = [
        ("process start to VM made", &inside.ready, &outside.ready),
        ("restore to first frame, warm monitor", &inside.warm.first_frame, &outside.warm.first_frame),
        ("restore to first frame, new monitor", &inside.new.first_frame, &outside.new.first_frame),
        ("restore to a no-op's result, warm monitor", &inside.warm.result, &outside.warm.result),
    ];
    for (what, inside, outside) in figures {
        table.add(&format!("{runtime}: {what}, in the sandbox"), "ms", inside);
        table.add(&format!("{runtime}: {what}, without"), "ms", outside);
        table.ratio(&format!("{runtime}: {what}, in the sandbox to without"), inside, outside);
    }
    Ok(())
}

fn once(paths: &Paths, kvm: &File, task: &Template, way: &mut Way) -> Result<(), Failed> {
    let start = Instant::now();
    let vm = Vm::prepare(&paths.monitors, kvm, task.memory_mib)?;
    vm.prepared()?;
    way.ready.add_ms(start.elapsed());
    vm.kill()?;
    restore::once(paths, kvm, task, false, &mut way.warm)?;
    restore::once(paths, kvm, task, true, &mut way.new)?;
    // What a torn down VM leaves to the kernel is not to be in the other's figures.
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}
