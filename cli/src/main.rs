//! `torpor`: the command line of a Torpor host. It speaks HTTP to torpord's Unix socket, or over TLS to another host's, and knows nothing else of the daemon.
//!
//! - [`args`]: what may be said on the command line
//! - [`connect`]: the socket, or TLS to another host
//! - [`client`]: requests, answers and refusals; [`sse`]: streams of events; [`pieces`]: a log of any length
//! - [`api`]: the part of the answers that tables show; JSON output is the daemon's own text
//! - [`commands`]: one file for each group of commands; [`pack`]: a folder as a tar; [`input`]: JSON from a file or standard input
//! - [`timeline`]: what happened to an execution, in words
//! - [`upload`]: a file as the body of a request; how far it is, for people
//! - [`output`]: tables, JSON, sizes and times; [`error`]: every way to fail and its exit code
#![forbid(unsafe_code)]

mod api;
mod args;
mod client;
mod commands;
mod connect;
mod error;
mod input;
mod output;
mod pack;
mod pieces;
mod sse;
mod timeline;
mod upload;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("torpor: can't start: {error}");
            return ExitCode::from(2);
        }
    };
    let result = runtime.block_on(commands::dispatch(args));
    // A read of stdin that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(text) = error.text() {
                output::complain(&format!("torpor: {text}"));
            }
            ExitCode::from(error.exit_code())
        }
    }
}
