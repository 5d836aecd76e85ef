//! `logs`: what a program wrote, so far or until it ends.

use crate::api::{LogEntry, Logs};
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::Output;
use crate::sse::Events;
use hyper::Method;
use serde_json::Value;

pub(super) async fn logs(client: &Client, output: Output, id: &str, follow: bool) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/logs", escape(id));
    if follow {
        return follow_logs(client, output, &path).await;
    }
    let reply = client.get::<Logs>(&path).await?;
    if output.json_asked() {
        return output.json(&reply.text);
    }
    for entry in &reply.value.entries {
        output.bytes(entry.text.as_bytes())?;
    }
    if reply.value.truncated {
        eprintln!("torpor: the program wrote more than its policy's log_cap; what came after is not kept");
    }
    Ok(())
}

/// Prints entries as they come. With `--json` one entry a line.
async fn follow_logs(client: &Client, output: Output, path: &str) -> Result<(), CliError> {
    let response = client.open(Method::GET, &format!("{path}?follow=true"), Payload::None).await?;
    let mut events = Events::new(response.into_body());
    while let Some(event) = events.next(client).await? {
        match event.event.as_str() {
            "end" => return Ok(()),
            "log" if output.json_asked() => output.line(&event.data)?,
            "log" => {
                let entry: LogEntry = serde_json::from_str(&event.data).map_err(|error| answer(path, &error))?;
                output.bytes(entry.text.as_bytes())?;
            }
            // Events of a newer daemon say nothing about what was written.
            _ => drop(serde_json::from_str::<Value>(&event.data)),
        }
    }
    Err(client.lost("the stream of logs broke off"))
}

fn answer(path: &str, error: &serde_json::Error) -> CliError {
    CliError::Answer { request: format!("GET {path}"), why: error.to_string() }
}
