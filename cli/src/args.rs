//! What may be said on the command line.

mod accounts;
mod kept;
mod values;

pub(crate) use accounts::{AccountCommand, TokenArgs, TokenCommand};
use clap::error::{ContextKind, ContextValue};
use clap::{Args as ClapArgs, Command as Definition, CommandFactory, FromArgMatches, Parser, Subcommand};
pub(crate) use kept::{ScheduleArgs, ScheduleCommand, SecretCommand};
use std::ffi::OsString;
use std::path::PathBuf;
use values::{every, execution, key, need_by, secret, task, task_name, token};

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
    /// Another host's torpord, https://HOST:PORT, in place of the socket; needs a token
    #[arg(long, global = true, env = "TORPOR_HOST", value_name = "URL")]
    pub(crate) host: Option<String>,
    /// Certificates, PEM, one of which --host's must be of [default: those that this host trusts]
    #[arg(long, global = true, env = "TORPOR_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// File with a token of torpord; TORPOR_TOKEN has the token itself and comes first
    #[arg(long, global = true, env = "TORPOR_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Account to act in; for administrators [default: the caller's own]
    #[arg(long, global = true, env = "TORPOR_ACCOUNT", value_name = "NAME")]
    pub(crate) account: Option<String>,
    /// JSON instead of tables and text (the default where the output is not a terminal)
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line; says what is wrong with it, or the help asked for, and exits.
pub(crate) fn parse() -> Args {
    let words: Vec<OsString> = std::env::args_os().collect();
    let matches = matches(Args::command(), words).unwrap_or_else(|error| error.exit());
    Args::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// The usage that clap puts into an error names options with a value from the environment as if they were needed; the one of the help
/// takes its place.
fn matches(mut definition: Definition, words: Vec<OsString>) -> Result<clap::ArgMatches, clap::Error> {
    definition.try_get_matches_from_mut(&words).map_err(|mut error| {
        definition.build();
        let words = words.iter().skip(1).filter_map(|word| word.to_str());
        let named = words.fold(&definition, |named, word| named.find_subcommand(word).unwrap_or(named));
        if error.get(ContextKind::Usage).is_some() {
            error.insert(ContextKind::Usage, ContextValue::StyledStr(named.clone().render_usage()));
        }
        error
    })
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Push, list, inspect and remove tasks
    #[command(subcommand)]
    Task(TaskCommand),
    /// Set, list and remove secrets
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Add, list and remove accounts, and say which users of this host belong to them; for administrators
    #[command(subcommand)]
    Account(AccountCommand),
    /// Create, list and remove tokens of callers; for administrators
    #[command(subcommand)]
    Token(TokenCommand),
    /// Run tasks at the times of cron expressions
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Show what a task may do, and where each rule comes from
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Run a task on one input, wait, and print its result
    Run(RunArgs),
    /// List executions that have not ended
    Ps(PsArgs),
    /// Show who has what of the host and who waits, as it changes; once, as JSON, where the output is no terminal
    Top(TopArgs),
    /// Show one execution: state, figures, result or error
    Inspect {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
    },
    /// Print what a program wrote to its standard output and error
    Logs {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
        /// Go on until the execution ends
        #[arg(short, long)]
        follow: bool,
    },
    /// Print what happens to an execution, as it happens, until it ends
    Events {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
        /// Begin after this many entries of its timeline
        #[arg(long, default_value_t = 0, value_name = "N")]
        from: usize,
    },
    /// Cancel an execution
    Cancel {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
    },
    /// Park an execution that waits, now, whatever its policy says
    Park {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
    },
    /// Give a parked execution its machine back; it keeps it until its next wait
    Resume {
        /// Execution
        #[arg(value_parser = execution)]
        id: String,
    },
    /// Signal an event that an execution waits for
    Signal(SignalArgs),
    /// Move a parked execution into a file, for another host: it ends here
    Export(ExportArgs),
    /// Take in an execution that another host has exported
    Import {
        /// The file
        file: PathBuf,
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
        #[arg(value_parser = task_name)]
        name: String,
    },
    /// Draw the portions of a task, who calls whom, and what each may use
    Graph(GraphArgs),
    /// Remove a task and all its versions
    Rm {
        /// Task
        #[arg(value_parser = task_name)]
        name: String,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct GraphArgs {
    /// Task: NAME for its newest version, NAME@HASH for a given one
    #[arg(value_parser = task)]
    pub(crate) name: String,
    /// For Graphviz: `torpor task graph NAME --dot | dot -Tsvg`
    #[arg(long)]
    pub(crate) dot: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Print the effective policy of a task, and where each line comes from
    Explain {
        /// Task: NAME for its newest version, NAME@HASH for a given one
        #[arg(value_parser = task)]
        name: String,
        /// This portion only
        #[arg(long, value_name = "NAME")]
        portion: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RunArgs {
    /// Task: NAME for its newest version, NAME@HASH for a given one
    #[arg(value_parser = task)]
    pub(crate) task: String,
    /// Input: JSON text, @FILE with JSON, or - for standard input
    #[arg(long, short, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: String,
    /// Do not wait: print the execution's id
    #[arg(long = "async")]
    pub(crate) detach: bool,
    /// When its result is needed: in a time (seconds, or 500ms, 30s, 5m, 12h, 7d) or at a moment (2027-01-01T12:00:00Z). A busy host may put it off, and has it done by then
    #[arg(long, value_name = "TIME", value_parser = need_by)]
    pub(crate) need_by: Option<String>,
    /// What to do where that is already certain to be missed: run it all the same, or refuse it
    #[arg(long, value_name = "WHAT", value_parser = ["run", "refuse"], default_value = "run", requires = "need_by")]
    pub(crate) on_late: String,
    /// Run it once, however often this command is given with this key and the same input within 24 h: later ones get the first one's execution
    #[arg(long, value_name = "KEY", value_parser = key)]
    pub(crate) idempotency_key: Option<String>,
    /// Where to tell the end of it, with a POST: a URL that the host's policy allows
    #[arg(long, value_name = "URL")]
    pub(crate) notify: Option<String>,
    /// Secret that what is told is signed with
    #[arg(long, value_name = "SECRET", requires = "notify", value_parser = secret)]
    pub(crate) notify_secret: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct SignalArgs {
    /// The event's token, as the program got it and `torpor ps` shows it
    #[arg(value_parser = token)]
    pub(crate) token: String,
    /// What the program gets: JSON text, @FILE with JSON, or - for standard input
    #[arg(long, short, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) data: String,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ExportArgs {
    /// Execution
    #[arg(value_parser = execution)]
    pub(crate) id: String,
    /// The file; one that is there is not written over
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Leave out what its machine has in common with others of its task: much smaller, for hosts that have that already
    #[arg(long)]
    pub(crate) without_template: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct PsArgs {
    /// Ended executions too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only executions of this task
    #[arg(long, value_name = "NAME", value_parser = task_name)]
    pub(crate) task: Option<String>,
    /// Only executions in this state
    #[arg(long)]
    pub(crate) state: Option<String>,
    /// Only executions whose end is told so far; all but the first stand for ended ones
    #[arg(long, value_name = "WHAT", value_parser = ["waiting", "pending", "delivered", "failed"])]
    pub(crate) notify: Option<String>,
    /// At most this many, newest first
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u32>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct TopArgs {
    /// Seconds between two pictures
    #[arg(short, long, value_name = "SECONDS", default_value_t = 1.0, value_parser = every)]
    pub(crate) every: f64,
    /// One picture, then end
    #[arg(short = '1', long)]
    pub(crate) once: bool,
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

    fn said(words: &[&str]) -> clap::Error {
        Args::try_parse_from(words).unwrap_err()
    }

    #[test]
    fn empty_names_are_refused() {
        for words in [["inspect", ""], ["logs", ""], ["events", ""], ["cancel", ""], ["park", ""], ["resume", ""]] {
            let error = said(&["torpor", words[0], words[1]]);
            assert!(error.exit_code() == 2 && error.to_string().contains("an execution's id is wanted"), "{error}");
        }
        let error = said(&["torpor", "signal", ""]);
        assert!(error.exit_code() == 2 && error.to_string().contains("an event's token is wanted"), "{error}");
        for words in [&["torpor", "task", "inspect", ""][..], &["torpor", "task", "rm", ""], &["torpor", "run", ""]] {
            let error = said(words);
            assert!(error.exit_code() == 2 && error.to_string().contains("a task's name is wanted"), "{error}");
        }
    }

    #[test]
    fn versions_are_refused_where_a_name_is_wanted() {
        for command in ["inspect", "rm"] {
            let error = said(&["torpor", "task", command, "bake@0123"]);
            assert!(error.exit_code() == 2 && error.to_string().contains("without @ is wanted here"), "{error}");
        }
        Args::try_parse_from(["torpor", "run", "bake@0123"]).unwrap();
    }

    #[test]
    fn usage_does_not_ask_for_what_the_environment_gives() {
        // Any variable that is set will do.
        let definition = || Args::command().mut_arg("socket", |arg| arg.env("PATH"));
        let usage = |words: &[&str]| matches(definition(), words.iter().map(OsString::from).collect()).unwrap_err().to_string();
        for (words, usage_line) in [
            (&["torpor", "inspect"][..], "Usage: torpor inspect [OPTIONS] <ID>"),
            (&["torpor", "task", "rm"], "Usage: torpor task rm [OPTIONS] <NAME>"),
        ] {
            let text = usage(words);
            assert!(text.contains(usage_line) && !text.contains("--socket"), "{text}");
        }
        assert!(usage(&["torpor", "ps", "--help"]).contains("[env: PATH="));
    }

    #[test]
    fn keys_are_sent_in_quotes() {
        for (given, sent) in [("a b", r#""a b""#), (r#"a"b\c"#, r#""a\"b\\c""#)] {
            let args = Args::try_parse_from(["torpor", "run", "t", "--idempotency-key", given]).unwrap();
            let Command::Run(run) = args.command else { unreachable!() };
            assert_eq!(run.idempotency_key.as_deref(), Some(sent));
        }
        for wrong in [String::new(), "x".repeat(256), "\u{e9}".into()] {
            assert_eq!(said(&["torpor", "run", "t", "--idempotency-key", &wrong]).exit_code(), 2);
        }
    }

    #[test]
    fn times_are_sent_in_seconds_and_moments_as_they_are() {
        for (given, sent) in [
            ("30", "30"),
            ("1.5", "1.5"),
            ("0", "0"),
            (".5", "0.5"),
            ("500ms", "0.5"),
            ("30s", "30"),
            ("1.5s", "1.5"),
            ("5m", "300"),
            ("0.5h", "1800"),
            ("7d", "604800"),
            ("2027-01-01T12:00:00Z", "2027-01-01T12:00:00Z"),
            ("2027-01-01T12:00:00.5+02:00", "2027-01-01T12:00:00.5+02:00"),
        ] {
            let args = Args::try_parse_from(["torpor", "run", "t", "--need-by", given]).unwrap();
            let Command::Run(run) = args.command else { unreachable!() };
            assert_eq!(run.need_by.as_deref(), Some(sent), "{given}");
        }
        let wrong = [
            "",
            "s",
            ".",
            "-1",
            "-1s",
            "+1",
            "1e3",
            "1e3s",
            "inf",
            "nan",
            "1.2.3",
            "5 m",
            "5M",
            "5w",
            "soon",
            "2027-01-01",
            "2027-01-01T12:00:00",
        ];
        for wrong in wrong {
            let error = said(&["torpor", "run", "t", &format!("--need-by={wrong}")]);
            assert!(error.exit_code() == 2 && error.to_string().contains("neither a number of seconds"), "{wrong}: {error}");
        }
    }

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
            let args = Args::try_parse_from(["torpor", "signal", "ev", "--data", input]).unwrap();
            let Command::Signal(signal) = args.command else { unreachable!() };
            assert_eq!(signal.data, input);
        }
    }

    #[test]
    fn a_schedules_results_are_needed_after_whole_seconds() {
        let add = |time| Args::try_parse_from(["torpor", "schedule", "add", "t", "--cron", "@daily", "--need-by", time]);
        for (given, seconds) in [("30", 30), ("30s", 30), ("10m", 600), ("12h", 43_200), ("7d", 604_800)] {
            let Command::Schedule(ScheduleCommand::Add(args)) = add(given).unwrap().command else { unreachable!() };
            assert_eq!(args.need_by, Some(seconds));
        }
        for wrong in ["1.5", "500ms", "-1s", "2027-01-01T12:00:00Z", ""] {
            assert!(add(wrong).is_err(), "{wrong}");
        }
        assert!(Args::try_parse_from(["torpor", "schedule", "add", "t", "--cron", "@daily", "--on-late", "refuse"]).is_err());
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

    /// The pages in packaging/man are made from the command line. `TORPOR_BLESS=1 cargo test -p torpor-cli` writes them anew.
    #[test]
    fn packaged_manual_is_current() {
        let made = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Args::command(), made.path()).unwrap();
        let packaged = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/man");
        for page in std::fs::read_dir(made.path()).unwrap().map(Result::unwrap) {
            let name = page.file_name().into_string().unwrap();
            if std::env::var_os("TORPOR_BLESS").is_some() {
                std::fs::copy(page.path(), packaged.join(&name)).unwrap();
            }
            let (made, packaged) = (std::fs::read(page.path()).unwrap(), std::fs::read(packaged.join(&name)).unwrap_or_default());
            assert!(made == packaged, "packaging/man/{name} is not what the command line is; TORPOR_BLESS=1 writes it anew");
        }
    }
}
