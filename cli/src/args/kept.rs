//! What may be said about what an account keeps beside its tasks: secrets and schedules.

use super::values::{schedule, secret, task, within};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Set a secret to what is typed, or to what comes on standard input: text of at most 16 KiB, without the line end at its end
    Set {
        /// Secret
        #[arg(value_parser = secret)]
        name: String,
        /// Keep the line end at the end of standard input
        #[arg(long)]
        keep_line_end: bool,
    },
    /// List secrets: their names, and when they were set; nobody can read their values
    Ls,
    /// Remove a secret: tasks that declare it can't be run until it is set again
    Rm {
        /// Secret
        #[arg(value_parser = secret)]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScheduleCommand {
    /// Add a schedule
    Add(Box<ScheduleArgs>),
    /// List schedules
    Ls,
    /// Show one schedule: its next times, its last execution, what it left out
    Inspect {
        /// Schedule: its name or its id
        #[arg(value_parser = schedule)]
        name: String,
    },
    /// Run nothing until it is resumed
    Pause {
        /// Schedule: its name or its id
        #[arg(value_parser = schedule)]
        name: String,
    },
    /// Go on, from now on: what would have been meanwhile is not missed
    Resume {
        /// Schedule: its name or its id
        #[arg(value_parser = schedule)]
        name: String,
    },
    /// Remove a schedule; its executions stay
    Rm {
        /// Schedule: its name or its id
        #[arg(value_parser = schedule)]
        name: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArgs {
    /// Task: NAME for the version that is its newest at the time, NAME@HASH for a given one
    #[arg(value_parser = task)]
    pub(crate) task: String,
    /// When: minute, hour, day of the month, month, day of the week, such as "0 3 * * *"; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "CRON")]
    pub(crate) cron: String,
    /// Time zone of these times, such as Europe/Berlin
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub(crate) timezone: String,
    /// Input: JSON text, @FILE with JSON, or - for standard input
    #[arg(long, short, default_value = "null", value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) input: String,
    /// Times that passed while torpord was away: leave them out, run one execution for all of them, or one for each (the newest 100)
    #[arg(long, default_value = "once", value_parser = ["skip", "once", "all"], value_name = "skip|once|all")]
    pub(crate) missed: String,
    /// A time at which the execution before has not ended: leave it out, or run it all the same [default: skip; with --missed all: allow]
    #[arg(long, value_parser = ["skip", "allow"], value_name = "skip|allow")]
    pub(crate) overlap: Option<String>,
    /// When a result is needed, after the time that it is for (30s, 5m, 12h). A busy host may put it off, and has it done by then
    #[arg(long, value_name = "TIME", value_parser = within)]
    pub(crate) need_by: Option<u64>,
    /// What to do where that is already certain to be missed: run it all the same, or leave it out
    #[arg(long, value_name = "run|refuse", value_parser = ["run", "refuse"], default_value = "run", requires = "need_by")]
    pub(crate) on_late: String,
    /// Name of the schedule [default: the task's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where to tell the end of it, with a POST: a URL that the host's policy allows
    #[arg(long, value_name = "URL")]
    pub(crate) notify: Option<String>,
    /// Secret that what is told is signed with
    #[arg(long, value_name = "SECRET", requires = "notify", value_parser = secret)]
    pub(crate) notify_secret: Option<String>,
}
