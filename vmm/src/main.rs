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
            // In one write: torpord logs a line for each.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("torpor-vmm: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    /// The pages in packaging/man are made from the command line. `TORPOR_BLESS=1 cargo test -p torpor-vmm` writes them anew.
    #[test]
    fn packaged_manual_is_current() {
        let packaged = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/man");
        let mut all = Cli::command().disable_help_subcommand(true);
        all.build();
        let shown: Vec<_> = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
        for command in shown.into_iter().chain([all]) {
            let page = clap_mangen::Man::new(command).section("8");
            let mut made = Vec::new();
            page.render(&mut made).unwrap();
            let path = packaged.join(page.get_filename());
            if std::env::var_os("TORPOR_BLESS").is_some() {
                std::fs::write(&path, &made).unwrap();
            }
            let same = std::fs::read(&path).unwrap_or_default() == made;
            assert!(same, "{} is not what the command line is; TORPOR_BLESS=1 writes it anew", path.display());
        }
    }
}
