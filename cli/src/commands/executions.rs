//! `ps`, `inspect` and `cancel`.

use super::task::plain;
use crate::api::{Event, Execution, ExecutionError, Executions};
use crate::args::PsArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, ago, between, pretty, short, span, table};
use hyper::Method;
use serde_json::Value;
use std::time::Duration;

pub(super) async fn ps(client: &Client, output: Output, args: PsArgs) -> Result<(), CliError> {
    let mut query = Vec::new();
    if args.all {
        query.push("all=true".to_owned());
    }
    query.extend(args.task.map(|task| format!("task={}", escape(&task))));
    query.extend(args.state.map(|state| format!("state={}", escape(&state))));
    query.extend(args.limit.map(|limit| format!("limit={limit}")));
    let path = if query.is_empty() { "/v1/executions".to_owned() } else { format!("/v1/executions?{}", query.join("&")) };
    let reply = client.get::<Executions>(&path).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.executions.is_empty() {
        return output.line(if args.all { "no executions" } else { "nothing queued or running; `torpor ps -a` lists what has ended" });
    }
    let row = |execution: &Execution| {
        vec![
            execution.id.clone(),
            format!("{}@{}", execution.task, short(&execution.version)),
            execution.state.0.clone(),
            execution.error.as_ref().map(|error| error.kind.clone()).unwrap_or_default(),
            ago(&execution.created_at),
            ran(execution).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = reply.value.executions.iter().map(row).collect();
    output.line(&table(&["ID", "TASK", "STATE", "ERROR", "CREATED", "RAN"], &rows))
}

fn ran(execution: &Execution) -> Option<String> {
    between(execution.started_at.as_deref()?, execution.finished_at.as_deref()).map(span)
}

pub(super) async fn inspect(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let reply = client.get::<Execution>(&format!("/v1/executions/{}", escape(id))).await?;
    if output.wants_json() { output.json(&reply.text) } else { output.line(&describe(&reply.value)) }
}

pub(super) async fn cancel(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/cancel", escape(id));
    let reply = client.json::<Execution>(Method::POST, &path, Payload::None, Duration::ZERO).await?;
    if output.wants_json() { output.json(&reply.text) } else { output.line(&format!("{}  {}", reply.value.id, reply.value.state.0)) }
}

fn describe(execution: &Execution) -> String {
    let mut rows = vec![
        ("id", execution.id.clone()),
        ("task", format!("{}@{}", execution.task, short(&execution.version))),
        ("state", execution.state.0.clone()),
        ("created", format!("{}  ({})", execution.created_at, ago(&execution.created_at))),
    ];
    rows.extend(execution.started_at.clone().map(|at| ("started", at)));
    rows.extend(execution.finished_at.clone().map(|at| ("finished", at)));
    rows.extend(ran(execution).map(|ran| ("ran", ran)));
    rows.push(("attempts", execution.attempts.to_string()));
    let mut text: Vec<String> = rows.into_iter().map(|(key, value)| format!("{key:10}{value}")).collect();
    if !execution.timeline.is_empty() {
        text.push(String::new());
        text.push(timeline(&execution.created_at, &execution.timeline));
    }
    if let Some(error) = &execution.error {
        text.push(String::new());
        text.push(failure(error));
    }
    if let Some(result) = &execution.result {
        text.push(String::new());
        text.push(pretty(result.get()));
    }
    text.join("\n")
}

fn timeline(created: &str, events: &[Event]) -> String {
    let figure = |(name, value): (&String, &Value)| format!("{name}={}", plain(value));
    let row = |event: &Event| {
        let at = between(created, Some(&event.at)).map_or_else(|| event.at.clone(), span);
        vec![at, event.event.clone(), event.figures.iter().map(figure).collect::<Vec<_>>().join(" ")]
    };
    table(&["AFTER", "EVENT", ""], &events.iter().map(row).collect::<Vec<_>>())
}

/// A failure as people read it: kind and message first, then what the kind adds.
pub(super) fn failure(error: &ExecutionError) -> String {
    let mut text = vec![format!("{}: {}", error.kind, error.message)];
    let mut facts = Vec::new();
    facts.extend(error.exception.as_ref().map(|exception| format!("exception {exception}")));
    facts.extend(error.exit_code.map(|code| format!("exit code {code}")));
    facts.extend(error.signal.map(|signal| format!("signal {signal}")));
    facts.extend(error.limit.as_ref().map(|limit| format!("limit {limit}")));
    if !facts.is_empty() {
        text.push(format!("({})", facts.join(", ")));
    }
    text.extend(error.traceback.as_ref().map(|traceback| traceback.trim_end().to_owned()));
    if let Some(console) = &error.console {
        text.push("last lines of the guest's console:".into());
        text.extend(console.lines().map(|line| format!("  {line}")));
    }
    text.join("\n")
}

/// How long one request waits for an end; the caller asks again.
pub(super) const WAIT: Duration = Duration::from_secs(30);

/// The execution once it has ended, however long that takes.
pub(super) async fn wait_for_end(client: &Client, id: &str) -> Result<(Execution, String), CliError> {
    let path = format!("/v1/executions/{}?wait={}", escape(id), WAIT.as_secs());
    loop {
        let reply = client.json::<Execution>(Method::GET, &path, Payload::None, WAIT).await?;
        if reply.value.state.ended() {
            return Ok((reply.value, reply.text));
        }
    }
}
