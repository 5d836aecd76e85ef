//! What a hostile guest costs its neighbours: the p99 of no-ops while another VM, under a torpord of its own, attacks without end with a kernel of its
//! own (`tests/kernels/hostile.c`), against the p99 of a calm time just before and just after it.
//!
//! Neighbours are as many as there are processors but for one, which the attacker's VM may take: what is measured is the attack, not that a
//! processor has to be shared. One that only computes is measured too, for comparison.

use crate::api::{Daemon, noop, push};
use crate::http::Http;
use crate::stats::{Samples, Table};
use crate::vm::Paths;
use crate::{Failed, code};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// What `hostile.c` can do for ever.
const ATTACKS: [&str; 6] = ["COMPUTE", "PORTS", "HOLES", "MSRS", "STORM", "DOORBELL"];
/// From the submission to the attack: a monitor, a VM, a kernel of some KiB.
const UNTIL_ATTACK: Duration = Duration::from_secs(2);

fn kernel(attack: &str, dir: &Path) -> Result<PathBuf, Failed> {
    let path = dir.join(attack);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/kernels/hostile.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-ffreestanding", "-fno-pic", "-no-pie", "-static", "-nostdlib", "-mgeneral-regs-only", "-mno-red-zone"]);
    gcc.args(["-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"]);
    gcc.args(["-Wl,-Ttext-segment=0x100000", "-Wl,-e,start", "-Wl,-n", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]);
    // Of the door's attacks the one that goes on: rings without end.
    gcc.args(["-DFOREVER", "-DCASE=3"]).arg(format!("-DATTACK={attack}")).arg("-o").arg(&path).arg(source);
    if gcc.status()?.success() { Ok(path) } else { Err(format!("the kernel of attack {attack} does not compile").into()) }
}

/// Starts the attack; it lasts until the daemon is dropped.
fn attacker(bin: &Path, paths: &Paths, attack: &str, dir: &Path) -> Result<Daemon, Failed> {
    let own = Paths { kernel: kernel(attack, dir)?, ..paths.clone() };
    let daemon = Daemon::start(bin, &own)?;
    let mut http = Http::connect(&daemon.socket())?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let (folder, _) = code::folder("exec", dir.path())?;
    let packed = Command::new("tar").arg("-C").arg(&folder).args(["-c", "."]).output()?;
    http.ok("POST", "/v1/tasks", "application/x-tar", &packed.stdout)?;
    http.ok("POST", "/v1/tasks/noop-exec/executions", "application/json", b"null")?;
    std::thread::sleep(UNTIL_ATTACK);
    Ok(daemon)
}

/// Latencies of `runs` no-ops of each of `clients`.
fn latencies(socket: &Path, task: &str, clients: usize, runs: usize) -> Result<Samples, Failed> {
    let client = || -> Result<Samples, Failed> {
        let mut http = Http::connect(socket)?;
        let mut samples = Samples::default();
        for _ in 0..runs {
            samples.time(|| noop(&mut http, task))?;
        }
        Ok(samples)
    };
    let all: Result<Vec<Samples>, String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(|| client().map_err(|error| error.to_string()))).collect();
        clients.into_iter().map(|one| one.join().map_err(|_| "a client panicked".to_owned())?).collect()
    });
    let mut together = Samples::default();
    all?.iter().for_each(|samples| together.append(samples));
    Ok(together)
}

/// All attacks.
pub(crate) fn run(bin: &Path, paths: &Paths, runs: usize, table: &mut Table) -> Result<(), Failed> {
    let daemon = Daemon::start(bin, paths)?;
    let dir = tempfile::tempdir_in(crate::scratch())?;
    let task = push(&mut Http::connect(&daemon.socket())?, "exec", dir.path())?;
    let clients = std::thread::available_parallelism().map_or(1, |processors| processors.get().saturating_sub(1).max(1));
    let measure = || latencies(&daemon.socket(), &task, clients, runs);
    for attack in ATTACKS {
        let mut calm = measure()?;
        let attacking = attacker(bin, paths, attack, dir.path())?;
        let attacked = measure()?;
        drop(attacking);
        calm.append(&measure()?);
        let name = attack.to_lowercase();
        table.add(&format!("no-op of {clients} neighbours, calm, before and after {name}"), "ms", &calm);
        table.add(&format!("no-op of {clients} neighbours of an attacker: {name}"), "ms", &attacked);
        table.one(&format!("p99 of the neighbours, calm ({name})"), "ms", calm.p99());
        table.one(&format!("p99 of the neighbours, attacked ({name})"), "ms", attacked.p99());
        table.one(&format!("p99, attacked against calm ({name})"), "x", attacked.p99() / calm.p99());
    }
    Ok(())
}
