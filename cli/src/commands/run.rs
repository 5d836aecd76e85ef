//! `run`: one input in, one result out.
//!
//! The execution's id is asked for before anything is waited for, so that an interrupted wait can say how to go on.

use super::executions::{failure, wait_for_end};
use crate::api::Execution;
use crate::args::RunArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, complain, size, visible_json};
use hyper::Method;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

/// Largest input, as the daemon has it.
const MAX_INPUT: u64 = 6 << 20;

pub(super) async fn run(client: &Client, output: Output, args: RunArgs) -> Result<(), CliError> {
    let input = read_input(args.input).await?;
    let path = format!("/v1/tasks/{}/executions", escape(&args.task));
    let created = client.json::<Execution>(Method::POST, &path, Payload::Json(input), Duration::ZERO).await?;
    let id = created.value.id;
    if args.detach {
        return if output.json_asked() { output.json(&created.text) } else { output.line(&id) };
    }
    let (execution, text) = wait(client, &id).await?;
    if execution.state.succeeded() {
        let result = execution.result.as_ref().map_or("null", |result| result.get());
        return output.json(result);
    }
    if output.json_asked() {
        complain(&visible_json(text.trim_end()));
    } else {
        complain(&format!("torpor: {id} {}", execution.state.0.replace('_', " ")));
        if let Some(error) = &execution.error {
            complain(&failure(error));
        }
        if execution.printed() {
            eprintln!("what it printed: torpor logs {id}");
        }
    }
    Err(CliError::Failed)
}

/// Waits for the end. The first Ctrl-C says how to go on, the second one quits.
async fn wait(client: &Client, id: &str) -> Result<(Execution, String), CliError> {
    let end = wait_for_end(client, id);
    tokio::pin!(end);
    let mut interrupts = 0;
    loop {
        tokio::select! {
            result = &mut end => {
                if let Err(CliError::Lost { .. } | CliError::NoDaemon { .. } | CliError::Denied { .. }) = &result {
                    eprintln!("torpor: {id} was accepted and is kept: `torpor inspect {id}` once torpord is back");
                }
                return result;
            }
            Ok(()) = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts > 1 {
                    return Err(CliError::Interrupted);
                }
                eprintln!(
                    "\ntorpor: still waiting for {id}; Ctrl-C again leaves it running\n  \
                     its state: torpor inspect {id}\n  its output: torpor logs -f {id}\n  to stop it: torpor cancel {id}"
                );
            }
        }
    }
}

async fn read_input(argument: String) -> Result<Vec<u8>, CliError> {
    let (what, bytes) = if argument == "-" {
        let read = tokio::task::spawn_blocking(|| read_capped(io::stdin().lock()));
        let bytes = tokio::select! {
            read = read => read.unwrap_or_else(|error| Err(io::Error::other(error))),
            Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
        };
        let bytes = bytes.map_err(|source| CliError::File { what: "can't read", path: "standard input".into(), source })?;
        ("standard input".to_owned(), bytes)
    } else if let Some(path) = argument.strip_prefix('@') {
        let path = Path::new(path);
        let bytes = std::fs::File::open(path).and_then(read_capped);
        let bytes = bytes.map_err(|source| CliError::File { what: "can't read the input", path: path.to_owned(), source })?;
        (path.display().to_string(), bytes)
    } else {
        ("the input".to_owned(), argument.into_bytes())
    };
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_INPUT {
        return Err(CliError::Usage(format!("{what} is larger than {}, the most that an input may be", size(MAX_INPUT))));
    }
    Ok(bytes)
}

/// At most one byte more than an input may have.
fn read_capped(source: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_INPUT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
