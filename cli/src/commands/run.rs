//! `run`: one input in, one result out.
//!
//! The execution's id is asked for before anything is waited for, so that an interrupted wait can say how to go on.

use super::executions::{failure, wait_for_end};
use crate::api::Execution;
use crate::args::RunArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::input;
use crate::output::{Output, complain, visible_json};
use hyper::Method;
use std::time::Duration;

/// Largest input, as the daemon has it.
const MAX_INPUT: u64 = 6 << 20;

pub(super) async fn run(client: &Client, output: Output, args: RunArgs) -> Result<(), CliError> {
    let input = input::read(args.input, "input", MAX_INPUT).await?;
    let on_late = args.need_by.is_some().then_some(args.on_late);
    let query = [("need_by", args.need_by), ("on_late", on_late), ("notify", args.notify), ("notify_secret", args.notify_secret)];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", escape(&value?)))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("/v1/tasks/{}/executions{mark}{}", escape(&args.task), query.join("&"));
    let created = client.json::<Execution>(Method::POST, &path, Payload::Keyed(input, args.idempotency_key), Duration::ZERO).await?;
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
