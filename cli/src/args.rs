//! What may be said on the command line.

use clap::{Args as ClapArgs, Parser, Subcommand};
use std::path::PathBuf;

/// Runs programs in microVMs of their own.
#[derive(Debug, Parser)]
#[command(
    name = "torpor",
    version,
    about = "Runs programs in microVMs of their own, on demand",
    after_help = "Exit codes: 0 ok, 1 the execution failed, 2 usage or refused by the daemon, 3 no daemon."
)]
pub(crate) struct Args {
    /// Socket of torpord
    #[arg(long, global = true, env = "TORPOR_SOCKET", default_value = "/run/torpor/torpord.sock", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// JSON instead of tables and text (the default where the output is not a terminal)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Push, list, inspect and remove tasks
    #[command(subcommand)]
    Task(TaskCommand),
    /// Run a task on one input, wait, and print its result
    Run(RunArgs),
    /// List executions that have not ended
    Ps(PsArgs),
    /// Show one execution: state, figures, result or error
    Inspect {
        /// Execution
        id: String,
    },
    /// Print what a program wrote to its standard output and error
    Logs {
        /// Execution
        id: String,
        /// Go on until the execution ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Cancel an execution
    Cancel {
        /// Execution
        id: String,
    },
    /// Check this host: KVM, kernel, images, disk, limits, daemon
    Doctor(DoctorArgs),
    /// Print the versions of this program and of the daemon
    Version,
    /// Print a completion script for a shell
    Completions {
        /// Shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// Make a new version of a task from a folder with a torpor.toml
    Push {
        /// The folder
        dir: PathBuf,
    },
    /// List tasks
    Ls,
    /// Show one task and its versions
    Inspect {
        /// Task
        name: String,
    },
    /// Remove a task and all its versions
    Rm {
        /// Task
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Task: NAME for its newest version, NAME@HASH for a given one
    pub(crate) task: String,
    /// Input: JSON text, @FILE with JSON, or - for standard input
    #[arg(long, short, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: String,
    /// Do not wait: print the execution's id
    #[arg(long = "async")]
    pub(crate) detach: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PsArgs {
    /// Ended executions too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only executions of this task
    #[arg(long, value_name = "NAME")]
    pub(crate) task: Option<String>,
    /// Only executions in this state
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// At most this many, newest first
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DoctorArgs {
    /// Guest kernel, where no daemon can be asked
    #[arg(long, env = "TORPOR_KERNEL", default_value = "/usr/lib/torpor/vmlinux", value_name = "PATH")]
    pub(crate) kernel: PathBuf,
    /// Folder of the root file system images, where no daemon can be asked
    #[arg(long, env = "TORPOR_IMAGES", default_value = "/usr/lib/torpor/images", value_name = "DIR")]
    pub(crate) images: PathBuf,
    /// State folder, where no daemon can be asked
    #[arg(long, env = "TORPOR_STATE_DIR", default_value = "/var/lib/torpor", value_name = "DIR")]
    pub(crate) state_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn input_may_be_a_dash_or_negative() {
        for input in ["-", "-1", "@in.json", "{\"a\":1}"] {
            let args = Args::try_parse_from(["torpor", "run", "t", "--input", input]).unwrap();
            let Command::Run(run) = args.command else { unreachable!() };
            assert_eq!(run.input, input);
        }
    }

    /// The scripts in packaging/ are what `torpor completions` prints. `TORPOR_BLESS=1 cargo test -p torpor-cli` writes them anew.
    #[test]
    fn packaged_completions_are_current() {
        use clap_complete::Shell;
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/completions");
        for (shell, name) in [(Shell::Bash, "torpor.bash"), (Shell::Zsh, "_torpor"), (Shell::Fish, "torpor.fish")] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "torpor", &mut script);
            if std::env::var_os("TORPOR_BLESS").is_some() {
                std::fs::write(folder.join(name), &script).unwrap();
            }
            let packaged = std::fs::read(folder.join(name)).unwrap_or_default();
            assert!(packaged == script, "packaging/completions/{name} is not what the command line is; TORPOR_BLESS=1 writes it anew");
        }
    }
}
