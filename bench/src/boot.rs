//! Cold boots: to the agent's first frame, and, beside other monitors in turn, to init's first line on the console.
//!
//! Peers get the same kernel, image, memory size and command line, less the door, which they do not have; so what both boot
//! to is the first line that a shell prints as init.

use crate::Failed;
use crate::stats::{Samples, Table};
use crate::vm::{self, Paths, Said, Vm};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use torpor_protocol::agent::GuestMessage;

const MARK: &str = "init-is-up";
/// What torpor-vmm gives a guest on a host that emulates kernel mode and on others, see vmm/src/boot/cmdline.rs.
const COMMON: &str = "console=ttyS0 reboot=k panic=-1 tsc=reliable no_timer_check root=/dev/vda rootfstype=erofs ro";

/// Torpor alone.
pub(crate) fn run(paths: &Paths, runtime: &str, memory_mib: u32, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let kvm = vm::kvm()?;
    let root = paths.images.join(format!("{runtime}.erofs"));
    let mut hello = Samples::default();
    for _ in 0..runs {
        let start = Instant::now();
        let mut vm = Vm::prepare(&paths.monitor, &kvm, memory_mib)?;
        vm.boot(paths, &root)?;
        vm.until(|said| matches!(said, Said::Message(GuestMessage::Hello(_))))?;
        hello.add_ms(start.elapsed());
        vm.kill()?;
    }
    table.add(&format!("{runtime}: cold boot to the agent's first frame"), "ms", &hello);
    Ok(())
}

/// A peer's way to boot.
enum Peer {
    Qemu(PathBuf),
    Firecracker(PathBuf),
}

impl Peer {
    fn of(path: &Path) -> Result<Self, Failed> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("qemu-system") {
            Ok(Self::Qemu(path.into()))
        } else if name.starts_with("firecracker") {
            Ok(Self::Firecracker(path.into()))
        } else {
            Err(format!("{}: neither qemu-system-x86_64 nor firecracker", path.display()).into())
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Qemu(_) => "qemu -M microvm",
            Self::Firecracker(_) => "firecracker",
        }
    }

    fn command(&self, paths: &Paths, root: &Path, memory_mib: u32, line: &str, dir: &Path) -> Result<Command, Failed> {
        match self {
            Self::Qemu(path) => {
                let mut command = Command::new(path);
                command
                    .args(["-M", "microvm,accel=kvm,pic=on,pit=off,rtc=off,isa-serial=on,auto-kernel-cmdline=on,acpi=off", "-cpu", "host"])
                    .args([
                        "-m",
                        &format!("{memory_mib}M"),
                        "-nodefaults",
                        "-no-user-config",
                        "-nographic",
                        "-no-reboot",
                        "-serial",
                        "stdio",
                    ])
                    .arg("-kernel")
                    .arg(&paths.kernel)
                    .args(["-append", line])
                    .args(["-drive", &format!("id=root,file={},format=raw,if=none,readonly=on", root.display())])
                    .args(["-device", "virtio-blk-device,drive=root"]);
                Ok(command)
            }
            Self::Firecracker(path) => {
                let config = serde_json::json!({
                    "boot-source": { "kernel_image_path": paths.kernel, "boot_args": line },
                    "drives": [{ "drive_id": "root", "path_on_host": root, "is_root_device": false, "is_read_only": true }],
                    "machine-config": { "vcpu_count": 1, "mem_size_mib": memory_mib },
                });
                let file = dir.join("firecracker.json");
                fs::write(&file, config.to_string())?;
                let mut command = Command::new(path);
                command.arg("--no-api").arg("--config-file").arg(file);
                Ok(command)
            }
        }
    }
}

/// Time from a process's start to the mark on its standard output.
fn to_mark(command: &mut Command) -> Result<std::time::Duration, Failed> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut out = child.stdout.take().ok_or("no standard output")?;
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    let found = loop {
        let n = out.read(&mut buffer)?;
        seen.extend_from_slice(&buffer[..n]);
        if seen.windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            break Ok(start.elapsed());
        }
        if n == 0 {
            break Err(format!("{command:?} ended before init was up; it printed {:?}", String::from_utf8_lossy(&seen)).into());
        }
    };
    child.kill()?;
    child.wait()?;
    found
}

/// Torpor and a peer in turn.
pub(crate) fn beside(paths: &Paths, peer: &Path, memory_mib: u32, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let peer = Peer::of(peer)?;
    let dir = tempfile::tempdir()?;
    let root = paths.images.join("exec.erofs");
    let kvm = kvm_is_emulated()?;
    let extra = if kvm { "loglevel=4 ring0_emul mitigations=off rodata=off" } else { "quiet random.trust_cpu=on" };
    let init = format!("init=/bin/sh -- -c \"echo {MARK}\"");
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for _ in 0..runs {
        let mut torpor = Command::new(&paths.monitor);
        torpor.arg("boot").arg("--kernel").arg(&paths.kernel).arg("--rootfs").arg(&root);
        torpor.args(["--memory", &format!("{memory_mib}MiB"), "--console", "--cmdline", &init]);
        ours.add_ms(to_mark(&mut torpor)?);
        let line = format!("{COMMON} {extra} {init}");
        theirs.add_ms(to_mark(&mut peer.command(paths, &root, memory_mib, &line, dir.path())?)?);
    }
    table.add("torpor-vmm: cold boot to init's first line", "ms", &ours);
    table.add(&format!("{}: cold boot to init's first line", peer.name()), "ms", &theirs);
    table.ratio(&format!("torpor-vmm / {}", peer.name()), &ours, &theirs);
    Ok(())
}

fn kvm_is_emulated() -> Result<bool, Failed> {
    Ok(torpor_vmm::cpu::host::probe()?)
}
