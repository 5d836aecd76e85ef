//! `torpor-vmm`: `monitor` serves one VM over its control socket, `boot` runs one VM by hand.

use clap::{Parser, Subcommand};
use std::process::ExitCode;

mod by_hand;

/// Torpor's monitor. One process is one microVM.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve one VM for a daemon, over the socket that is descriptor 3.
    #[command(hide = true)]
    Monitor {
        /// What the daemon started it in, and so what it has to reach.
        #[arg(long, default_value = "none")]
        sandbox: torpor_seccomp::Plan,
    },
    /// Boot one VM by hand and say how it ended.
    Boot(by_hand::Boot),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Action::Monitor { sandbox } => torpor_vmm::process::serve(sandbox).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Action::Boot(boot) => boot.run(),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("torpor-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}
