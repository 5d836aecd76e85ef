//! `torpor-sim`: replays a trace in one or all orders and prints figures: a table on a terminal, JSON elsewhere.
#![forbid(unsafe_code)]

use clap::{Parser, ValueEnum};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use torpor_scheduler::{Budget, Order};
use torpor_sim::trace::{Trace, TraceError};
use torpor_sim::{azure, engine, file, report};

/// Replays a trace of executions through Torpor's scheduler, on many hosts, and prints how many dues were met, how much of the hosts was used, and how long executions
/// waited: for its own order (least slack), first in first out, and plain earliest deadline first.
///
/// Without --trace the executions are made in the shape of the Azure Functions trace of 2019, from its published percentiles; they are not that trace.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Executions, with those that others start; of a file at most so many.
    #[arg(long, default_value_t = 100_000)]
    executions: u64,
    /// Hosts.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    hosts: u32,
    /// The same seed gives the same figures.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The part of all processors that the executions need on average; not of a file.
    #[arg(long, default_value_t = 0.9)]
    load: f64,
    /// Which orders.
    #[arg(long, value_enum, default_value_t = Which::All)]
    order: Which,
    /// Processors of a host.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    processors: u32,
    /// MiB of a host for VMs.
    #[arg(long, default_value_t = 4_096)]
    memory: u64,
    /// Functions to make.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(6..=1_000_000))]
    functions: u32,
    /// Accounts to make.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    accounts: u32,
    /// A CSV file instead, with a header and sorted by arrival: arrival,account,task,duration[,memory,cpu,need_by,priority]. Times are seconds (need_by from the arrival),
    /// memory is MiB, cpu is processors.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// JSON on a terminal too.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    /// All three, on the same trace.
    All,
    /// Torpor's own.
    LeastSlack,
    /// By arrival.
    Fifo,
    /// By due.
    EarliestDeadline,
}

impl Which {
    fn orders(self) -> Vec<Order> {
        match self {
            Self::All => vec![Order::LeastSlack, Order::Fifo, Order::EarliestDeadline],
            Self::LeastSlack => vec![Order::LeastSlack],
            Self::Fifo => vec![Order::Fifo],
            Self::EarliestDeadline => vec![Order::EarliestDeadline],
        }
    }
}

impl Cli {
    fn trace(&self) -> Result<Trace, TraceError> {
        if let Some(path) = &self.trace {
            return file::trace(path, self.executions);
        }
        Ok(azure::trace(azure::Shape {
            executions: self.executions,
            functions: usize::try_from(self.functions).unwrap_or(usize::MAX),
            accounts: self.accounts,
            processors: self.load * f64::from(self.hosts) * f64::from(self.processors),
            seed: self.seed,
        }))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !(cli.load > 0.0 && cli.load <= 10.0) {
        eprintln!("torpor-sim: --load is {}; it must be above 0 and at most 10", cli.load);
        return ExitCode::from(2);
    }
    match simulate(&cli) {
        Ok(figures) => print(&figures, cli.json || !std::io::stdout().is_terminal()),
        Err(cause) => {
            eprintln!("torpor-sim: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// Prints; a reader that went away is no error.
fn print(figures: &[report::Figures], json: bool) -> ExitCode {
    let text = if json { serde_json::to_string_pretty(figures).map(|text| text + "\n") } else { Ok(report::table(figures)) };
    match text.map(|text| std::io::stdout().write_all(text.as_bytes())) {
        Ok(_) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("torpor-sim: the figures can't be written as JSON: {cause}");
            ExitCode::FAILURE
        }
    }
}

/// All orders at once, each with its own copy of the trace.
fn simulate(cli: &Cli) -> Result<Vec<report::Figures>, TraceError> {
    let count = usize::try_from(cli.hosts).unwrap_or(usize::MAX);
    let cpu = cli.processors * 1_000;
    let budget = Budget { bytes: cli.memory.saturating_mul(1 << 20), vms: None, cpu: Some(cpu) };
    let hosts = engine::Hosts { count, budget, seed: cli.seed };
    let orders = cli.order.orders();
    let traces = orders.iter().map(|_| cli.trace()).collect::<Result<Vec<Trace>, TraceError>>()?;
    let progress: Vec<AtomicU64> = orders.iter().map(|_| AtomicU64::new(0)).collect();
    let ended = AtomicU64::new(0);
    let stats = thread::scope(|scope| {
        let runs: Vec<_> = orders
            .iter()
            .zip(traces)
            .zip(&progress)
            .map(|((order, trace), progress)| {
                let ended = &ended;
                scope.spawn(move || {
                    let stats = engine::run(trace, *order, hosts, progress);
                    ended.fetch_add(1, Ordering::Release);
                    stats
                })
            })
            .collect();
        show_progress(cli.executions, &orders, &progress, &ended);
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, TraceError>>()
    })?;
    Ok(orders.iter().zip(&stats).map(|(order, stats)| report::figures(*order, stats, count, cpu)).collect())
}

/// How far it is, on a terminal, when it takes more than a second.
fn show_progress(executions: u64, orders: &[Order], progress: &[AtomicU64], ended: &AtomicU64) {
    let terminal = std::io::stderr().is_terminal();
    let mut passed = 0u32;
    while ended.load(Ordering::Acquire) < u64::try_from(orders.len()).unwrap_or(u64::MAX) {
        thread::sleep(Duration::from_millis(50));
        passed += 1;
        if terminal && passed.is_multiple_of(20) {
            let part = |(order, done): (&Order, &AtomicU64)| {
                format!("{} {}%", report::name(*order), done.load(Ordering::Relaxed) * 100 / executions.max(1))
            };
            let parts: Vec<String> = orders.iter().zip(progress).map(part).collect();
            eprint!("\r\x1b[K{}", parts.join(", "));
        }
    }
    if terminal && passed >= 20 {
        eprint!("\r\x1b[K");
    }
}
