//! Restore, no-op, private memory and teardown of single VMs, without the daemon.

use crate::Failed;
use crate::stats::{Samples, Table};
use crate::vm::{self, Paths, Said, Template, Vm};
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};
use torpor_protocol::agent::GuestMessage;

/// What one restored VM's life took.
#[derive(Default)]
pub(crate) struct Lives {
    pub(crate) running: Samples,
    pub(crate) first_frame: Samples,
    pub(crate) result: Samples,
    pub(crate) private: Samples,
    pub(crate) teardown: Samples,
}

/// Restores once and runs a no-op. `new`: the monitor's start counts.
pub(crate) fn once(paths: &Paths, kvm: &File, template: &Template, new: bool, lives: &mut Lives) -> Result<(), Failed> {
    let frame = vm::start_frame(b"null")?;
    let mut start = Instant::now();
    let mut vm = Vm::prepare(&paths.monitors, kvm, template.memory_mib)?;
    if !new {
        vm.prepared()?;
        // A warm monitor has been idle for a while.
        std::thread::sleep(Duration::from_millis(5));
        start = Instant::now();
    }
    vm.restore(template, Some(frame))?;
    vm.until(|said| matches!(said, Said::Running))?;
    lives.running.add_ms(start.elapsed());
    vm.until(|said| matches!(said, Said::Message(GuestMessage::Started)))?;
    lives.first_frame.add_ms(start.elapsed());
    vm.until(|said| matches!(said, Said::Message(GuestMessage::Result { .. })))?;
    lives.result.add_ms(start.elapsed());
    lives.private.add(private_mib(vm.child.id())?);
    lives.teardown.add_ms(vm.kill()?);
    Ok(())
}

/// Restores in a new monitor, to the first frame and no further.
pub(crate) fn to_first_frame(paths: &Paths, kvm: &File, template: &Template) -> Result<(), Failed> {
    let mut vm = Vm::prepare(&paths.monitors, kvm, template.memory_mib)?;
    vm.restore(template, Some(vm::start_frame(b"null")?))?;
    vm.until(|said| matches!(said, Said::Message(GuestMessage::Started)))?;
    vm.kill().map(drop)
}

/// Memory that a process alone has written, from its smaps, in MiB: its anonymous pages, the copies that it made of a file's pages among them. Pages of
/// the template's page cache and of the monitor's text are not counted: every other VM shares them (smaps calls them private while no other VM
/// happens to run, and dirty until the file is written back).
pub(crate) fn private_mib(pid: u32) -> Result<f64, Failed> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let of = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0.0)
    };
    Ok(of("Anonymous:") / 1024.0)
}

/// All of a runtime's figures.
pub(crate) fn run(paths: &Paths, runtime: &str, memory_mib: u32, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let root = paths.images.join(format!("{runtime}.erofs"));
    let code = crate::code::image(runtime, dir.path())?;
    let (mut boot, mut load) = (Samples::default(), Samples::default());
    let template = boot.time(|| vm::runtime_template(paths, &kvm, &root, memory_mib, dir.path()))?;
    let task = load.time(|| vm::task_template(paths, &kvm, &template, &code.image, code.entry, dir.path()))?;
    table.add(&format!("{runtime}: boot and save of the runtime's template"), "ms", &boot);
    table.add(&format!("{runtime}: load of the code and save of the task's template"), "ms", &load);
    let (mut warm, mut new) = (Lives::default(), Lives::default());
    once(paths, &kvm, &task, true, &mut Lives::default())?;
    for _ in 0..runs {
        once(paths, &kvm, &task, false, &mut warm)?;
        once(paths, &kvm, &task, true, &mut new)?;
    }
    for (kind, lives) in [("warm monitor", &warm), ("new monitor", &new)] {
        table.add(&format!("{runtime}: restore to vCPU running, {kind}"), "ms", &lives.running);
        table.add(&format!("{runtime}: restore to first frame, {kind}"), "ms", &lives.first_frame);
        table.add(&format!("{runtime}: restore to a no-op's result, {kind}"), "ms", &lives.result);
    }
    table.add(&format!("{runtime}: private memory after a no-op"), "MiB", &warm.private);
    table.add(&format!("{runtime}: teardown (kill to reaped)"), "ms", &warm.teardown);
    sizes(runtime, dir.path(), table)
}

fn sizes(runtime: &str, dir: &Path, table: &mut Table) -> Result<(), Failed> {
    use std::os::unix::fs::MetadataExt;
    let mut disk = Samples::default();
    #[expect(clippy::cast_precision_loss, reason = "a file's size in MiB")]
    disk.add(fs::metadata(dir.join("task.memory"))?.blocks() as f64 / 2048.0);
    table.add(&format!("{runtime}: task template on disk"), "MiB", &disk);
    Ok(())
}
