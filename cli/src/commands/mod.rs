//! One function for each command.

mod account;
mod doctor;
mod events;
mod executions;
mod logs;
mod policy;
mod run;
mod schedule;
mod secret;
mod task;
mod top;
mod transfer;
mod version;
mod waits;

use crate::args::{Args, Command};
use crate::client::{Client, Origin, Payload};
use crate::error::CliError;
use crate::output::Output;
use clap::CommandFactory;
use hyper::Method;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Does what the command line says.
pub(crate) async fn dispatch(args: Args) -> Result<(), CliError> {
    let from = Origin { host: args.host, ca: args.ca, token_file: args.token_file, account: args.account, socket: args.socket };
    // A script for a shell asks nobody.
    let client = match &args.command {
        Command::Completions { .. } => Client::new(PathBuf::new()),
        _ => Client::to(from)?,
    };
    let output = Output::new(args.json);
    match args.command {
        Command::Task(command) => task::task(&client, output, command).await,
        Command::Secret(command) => secret::secret(&client, output, command).await,
        Command::Account(command) => account::account(&client, output, command).await,
        Command::Token(command) => account::token(&client, output, command).await,
        Command::Schedule(command) => schedule::schedule(&client, output, command).await,
        Command::Policy(command) => policy::policy(&client, output, command).await,
        Command::Run(run) => run::run(&client, output, run).await,
        Command::Ps(ps) => executions::ps(&client, output, ps).await,
        Command::Top(top) => top::top(&client, output, top).await,
        Command::Inspect { id } => executions::inspect(&client, output, &id).await,
        Command::Logs { id, follow } => logs::logs(&client, output, &id, follow).await,
        Command::Events { id, from } => events::events(&client, output, &id, from).await,
        Command::Cancel { id } => executions::cancel(&client, output, &id).await,
        Command::Park { id } => waits::park(&client, output, &id).await,
        Command::Resume { id } => waits::resume(&client, output, &id).await,
        Command::Signal(signal) => waits::signal(&client, output, signal).await,
        Command::Export(export) => transfer::export(&client, output, export).await,
        Command::Import { file } => transfer::import(&client, output, &file).await,
        Command::Doctor(doctor) => doctor::doctor(&client, output, doctor).await,
        Command::Version => version::version(&client, output).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "torpor", &mut script);
            output.bytes(&script)
        }
    }
}

/// Removes one of something.
async fn remove(client: &Client, output: Output, path: &str, what: &str) -> Result<(), CliError> {
    client.text(Method::DELETE, path, Payload::None, Duration::ZERO).await?;
    if output.wants_json() { output.json(&json!({ "removed": what }).to_string()) } else { output.line(&format!("removed {what}")) }
}
