//! Measures Torpor: `scripts/bench` builds what this needs and starts it. Nothing here judges but `--check`; it prints a table, or JSON.
#![forbid(unsafe_code)]

mod api;
mod boot;
mod code;
mod hostile;
mod http;
mod park;
mod peer;
mod queue;
mod restore;
mod sandbox;
mod stats;
mod vm;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

pub(crate) type Failed = Box<dyn std::error::Error>;

/// Measures Torpor and prints a table.
#[derive(Parser)]
struct Cli {
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Guest kernel.
    #[arg(long)]
    kernel: PathBuf,
    /// Folder of `python.erofs` and `exec.erofs`.
    #[arg(long)]
    images: PathBuf,
    /// Folder of `torpor-vmm`, `torpord` and `torpor`.
    #[arg(long)]
    bin: PathBuf,
    /// Restores of each kind.
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Cold boots of each kind.
    #[arg(long, default_value_t = 3)]
    boots: usize,
    /// Another monitor to measure in turn with ours: a qemu-system-x86_64 (boots) or a firecracker (boots and restores).
    #[arg(long)]
    peer: Vec<PathBuf>,
    /// Only these runtimes.
    #[arg(long, default_values = ["exec", "python"])]
    runtime: Vec<String>,
    /// Only what the sandbox costs.
    #[arg(long)]
    sandbox: bool,
    /// Only parks and resumes.
    #[arg(long)]
    park: bool,
    /// Only requests beside many queued executions: of one account and wanted now; and of two accounts, with moments by which they are needed.
    #[arg(long)]
    queue: bool,
    /// With --queue: fail where a submission, a list or a cancellation by one client takes more than 50 ms at the 99th percentile, or a queued
    /// execution more than 16 KiB of torpord's memory.
    #[arg(long, requires = "queue")]
    check: bool,
    /// How many those are.
    #[arg(long, default_value_t = 10_000)]
    queued: usize,
    /// Only what hostile guests cost their neighbours.
    #[arg(long)]
    hostile: bool,
}

/// Templates lie on a real file system: a tmpfs has no large page cache mappings.
pub(crate) fn scratch() -> PathBuf {
    PathBuf::from("/var/tmp")
}

fn main() -> ExitCode {
    let done = sandbox::as_monitor().unwrap_or_else(|| run(&Cli::parse()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torpor-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failed> {
    let mut table = stats::Table::new(cli.json);
    let monitor = cli.bin.join("torpor-vmm");
    let monitors = vm::Monitors::open(&monitor)?;
    let paths = vm::Paths { monitor, monitors, kernel: cli.kernel.clone(), images: cli.images.clone() };
    if cli.sandbox {
        for runtime in &cli.runtime {
            sandbox::run(&paths, runtime, 128, cli.runs, &mut table)?;
        }
        return Ok(table.finish()?);
    }
    if cli.hostile {
        hostile::run(&cli.bin, &paths, cli.runs, &mut table)?;
        return Ok(table.finish()?);
    }
    if cli.queue {
        let exceeded = queue::run(&cli.bin, &paths, cli.queued, &mut table)?;
        table.finish()?;
        return if cli.check && !exceeded.is_empty() { Err(exceeded.join("\n").into()) } else { Ok(()) };
    }
    let parks = park::machines(&paths, cli.runs, &mut table)?;
    park::executions(&cli.bin, &paths, &mut table)?;
    if cli.park {
        for peer in cli.peer.iter().filter(|peer| peer.file_name().is_some_and(|name| name.to_string_lossy().starts_with("firecracker"))) {
            let setup = peer::Setup { paths: &paths, bin: &cli.bin, runtimes: &[], memory_mib: 128, boots: 0, runs: cli.runs };
            peer::parks(&setup, peer, &parks, &mut table)?;
        }
        return Ok(table.finish()?);
    }
    for runtime in &cli.runtime {
        boot::run(&paths, runtime, 128, cli.boots, &mut table)?;
        restore::run(&paths, runtime, 128, cli.runs, &mut table)?;
        sandbox::run(&paths, runtime, 128, cli.runs, &mut table)?;
    }
    api::run(&cli.bin, &paths, &cli.runtime, cli.runs, &mut table)?;
    let peers = peer::Setup { paths: &paths, bin: &cli.bin, runtimes: &cli.runtime, memory_mib: 128, boots: cli.boots, runs: cli.runs };
    let mut missing = Vec::new();
    for peer in &cli.peer {
        // The others' figures are worth having all the same.
        if let Err(error) = peer::run(&peers, peer, &mut table) {
            eprintln!("torpor-bench: {}: {error}", peer.display());
            missing.push(peer.display().to_string());
        }
    }
    table.finish()?;
    if missing.is_empty() { Ok(()) } else { Err(format!("not all could be measured of {}", missing.join(", ")).into()) }
}
