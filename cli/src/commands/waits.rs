//! `park`, `resume` and `signal`: executions that wait.

use crate::api::Execution;
use crate::args::SignalArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::input;
use crate::output::Output;
use hyper::Method;
use serde_json::json;
use std::time::Duration;

/// Most data of a signal, as the daemon has it.
const MAX_DATA: u64 = 1 << 20;
/// How long the daemon tries to grant a wish.
const WISH: Duration = Duration::from_secs(30);

pub(super) async fn park(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/park", escape(id));
    let reply = client.json::<Execution>(Method::POST, &path, Payload::None, WISH).await?;
    if output.wants_json() { output.json(&reply.text) } else { output.line(&format!("{}  {}", reply.value.id, reply.value.state.0)) }
}

pub(super) async fn resume(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/resume", escape(id));
    let reply = client.json::<Execution>(Method::POST, &path, Payload::None, WISH).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let execution = reply.value;
    // The daemon answers before there is memory for it.
    let state = if execution.state.0 == "parked" { "resuming when there is memory for it" } else { &execution.state.0 };
    output.line(&format!("{}  {state}", execution.id))
}

pub(super) async fn signal(client: &Client, output: Output, args: SignalArgs) -> Result<(), CliError> {
    let data = input::read(args.data, "the data of a signal", MAX_DATA).await?;
    let path = format!("/v1/events/{}", escape(&args.token));
    client.text(Method::POST, &path, Payload::Json(data), Duration::ZERO).await?;
    if output.wants_json() {
        return output.json(&json!({ "signalled": args.token }).to_string());
    }
    output.line(&format!("signalled {}", args.token))
}
