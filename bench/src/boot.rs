//! Cold boots to the agent's first frame.

use crate::Failed;
use crate::stats::{Samples, Table};
use crate::vm::{self, Paths, Said, Vm};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};
use torpor_protocol::agent::GuestMessage;

/// One boot, the monitor's start included.
pub(crate) fn once(paths: &Paths, kvm: &File, root: &Path, memory_mib: u32) -> Result<Duration, Failed> {
    let start = Instant::now();
    let mut vm = Vm::prepare(&paths.monitors, kvm, memory_mib)?;
    vm.boot(paths, root)?;
    vm.until(|said| matches!(said, Said::Message(GuestMessage::Hello(_))))?;
    let took = start.elapsed();
    vm.kill()?;
    Ok(took)
}

/// Torpor alone.
pub(crate) fn run(paths: &Paths, runtime: &str, memory_mib: u32, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let root = paths.images.join(format!("{runtime}.erofs"));
    let mut hello = Samples::default();
    for _ in 0..runs {
        hello.add_ms(once(paths, &kvm, &root, memory_mib)?);
    }
    table.add(&format!("{runtime}: cold boot to the agent's first frame"), "ms", &hello);
    Ok(())
}
