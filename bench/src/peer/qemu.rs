//! `qemu-system-x86_64 -M microvm`: cold boots to init's first line on the console.

use super::Setup;
use crate::Failed;
use crate::stats::{Samples, Table};
use std::io::Read;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const MARK: &str = "init-is-up";
/// Longest time that a boot may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Reads until the mark was there, and gives the time of that.
fn read_to_mark(mut out: ChildStdout) -> Result<Instant, String> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = out.read(&mut buffer).map_err(|error| error.to_string())?;
        seen.extend_from_slice(&buffer[..n]);
        if seen.windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            return Ok(Instant::now());
        }
        if n == 0 {
            return Err(format!("ended before init was up; it printed {:?}", String::from_utf8_lossy(&seen)));
        }
    }
}

/// Time from a process's start to the mark on its standard output.
fn to_mark(mut command: Command) -> Result<Duration, Failed> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or("no standard output")?;
    let (to, from) = mpsc::channel();
    // It ends with the child's output, which ends below.
    let reader = std::thread::spawn(move || to.send(read_to_mark(out)));
    let found = from.recv_timeout(DEADLINE);
    child.kill()?;
    child.wait()?;
    let _ = reader.join();
    match found {
        Ok(Ok(at)) => Ok(at.duration_since(start)),
        Ok(Err(why)) => Err(format!("{}: {why}", command.get_program().display()).into()),
        Err(_) => Err(format!("{}: init was not up after {} s", command.get_program().display(), DEADLINE.as_secs()).into()),
    }
}

fn ours(setup: &Setup<'_>, init: &str) -> Command {
    let mut command = Command::new(&setup.paths.monitor);
    command.arg("boot").arg("--kernel").arg(&setup.paths.kernel).arg("--rootfs").arg(setup.root());
    command.args(["--memory", &format!("{}MiB", setup.memory_mib), "--console", "--cmdline", init]);
    // It says there what became of the VM.
    command.stderr(Stdio::null());
    command
}

/// No device that the guest does not use. Without the processor's own word on which attacks it withstands, a register that KVM can't set everywhere.
fn theirs(setup: &Setup<'_>, program: &Path, init: &str) -> Result<Command, Failed> {
    let mut command = Command::new(program);
    command.args(["-M", "microvm,accel=kvm,acpi=off,pic=on,pit=off,rtc=off,isa-serial=on,auto-kernel-cmdline=on"]);
    command.args(["-cpu", "host,-arch-capabilities", "-m", &format!("{}M", setup.memory_mib)]);
    command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio"]);
    command.arg("-kernel").arg(&setup.paths.kernel).args(["-append", &super::line(init)?]);
    command.args(["-drive", &format!("id=root,file={},format=raw,if=none,readonly=on", setup.root().display())]);
    command.args(["-device", "virtio-blk-device,drive=root"]);
    Ok(command)
}

pub(super) fn run(setup: &Setup<'_>, program: &Path, table: &mut Table) -> Result<(), Failed> {
    // A word that the kernel does not know is an argument of init.
    let init = format!("init=/bin/echo {MARK}");
    let (mut torpor, mut qemu) = (Samples::default(), Samples::default());
    for _ in 0..setup.boots {
        torpor.add_ms(to_mark(ours(setup, &init))?);
        qemu.add_ms(to_mark(theirs(setup, program, &init)?)?);
    }
    table.add("cold boot to init's first line: torpor", "ms", &torpor);
    table.add("cold boot to init's first line: qemu microvm", "ms", &qemu);
    table.ratio("cold boot to init's first line: torpor / qemu microvm", &torpor, &qemu);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_mark_is_waited_for_and_its_lack_is_told() {
        let mut late = Command::new("sh");
        late.args(["-c", "echo booting; sleep 0.1; echo init-is-up; sleep 60"]);
        let took = to_mark(late).unwrap();
        assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(30), "{took:?}");
        let mut never = Command::new("echo");
        never.arg("no such machine");
        let error = to_mark(never).unwrap_err().to_string();
        assert!(error.contains("no such machine"), "{error}");
    }
}
