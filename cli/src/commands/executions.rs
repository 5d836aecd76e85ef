//! `ps`, `inspect` and `cancel`.

use crate::api::{Delivery, Execution, ExecutionError, Executions, Task};
use crate::args::PsArgs;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, ago, between, pretty, span, table, until};
use crate::timeline;
use hyper::Method;
use serde_json::Value;
use std::time::Duration;

pub(super) async fn ps(client: &Client, output: Output, args: PsArgs) -> Result<(), CliError> {
    let mut query = Vec::new();
    let selected = args.task.is_some() || args.state.is_some() || args.notify.is_some();
    if args.all {
        query.push("all=true".to_owned());
    }
    query.extend(args.task.map(|task| format!("task={}", escape(&task))));
    query.extend(args.state.map(|state| format!("state={}", escape(&state))));
    query.extend(args.notify.map(|notify| format!("notify={}", escape(&notify))));
    query.extend(args.limit.map(|limit| format!("limit={limit}")));
    let path = if query.is_empty() { "/v1/executions".to_owned() } else { format!("/v1/executions?{}", query.join("&")) };
    let reply = client.get::<Executions>(&path).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.executions.is_empty() {
        return output.line(if selected {
            "no such executions"
        } else if args.all {
            "no executions"
        } else {
            "nothing queued, running or parked; `torpor ps -a` lists what has ended"
        });
    }
    let row = |execution: &Execution| {
        vec![
            execution.id.clone(),
            execution.runs(),
            execution.state.0.clone(),
            execution.error.as_ref().map(|error| error.kind.clone()).unwrap_or_default(),
            ago(&execution.created_at),
            ran(execution).unwrap_or_default(),
        ]
    };
    let mut rows: Vec<_> = reply.value.executions.iter().map(row).collect();
    let mut head = vec!["ID", "TASK", "STATE", "ERROR", "CREATED", "RAN"];
    let waiting: Vec<_> = reply.value.executions.iter().map(timeline::waiting).collect();
    if waiting.iter().any(|waits| !waits.is_empty()) {
        head.push("WAITS FOR");
        rows.iter_mut().zip(waiting).for_each(|(row, waits)| row.push(waits));
    }
    output.line(&table(&head, &rows))
}

/// Without the time that it was parked.
fn ran(execution: &Execution) -> Option<String> {
    let whole = between(execution.started_at.as_deref()?, execution.finished_at.as_deref())?;
    // Of an earlier attempt it is not known how much of it was parked.
    let parked = if execution.attempts > 1 { 0 } else { timeline::parked(execution) };
    Some(span(whole.saturating_sub(parked).max(0)))
}

pub(super) async fn inspect(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let reply = client.get::<Execution>(&format!("/v1/executions/{}", escape(id))).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let memory = if reply.value.parks > 0 { memory_mib(client, &reply.value).await? } else { None };
    output.line(&describe(&reply.value, memory))
}

/// Memory of an execution's machine; none where its version is gone.
async fn memory_mib(client: &Client, execution: &Execution) -> Result<Option<u64>, CliError> {
    let task = match client.get::<Task>(&format!("/v1/tasks/{}", escape(&execution.task))).await {
        Ok(reply) => reply.value,
        Err(CliError::Refused(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let version = task.versions.iter().find(|version| version.version == execution.version);
    let policy = version.and_then(|version| match &execution.portion {
        None => Some(&version.policy),
        Some(name) => version.portions.iter().find(|portion| portion.name == *name).map(|portion| &portion.policy),
    });
    let memory = policy.and_then(|policy| policy.get("memory")).and_then(Value::as_str);
    Ok(memory.and_then(|memory| memory.strip_suffix("MiB")).and_then(|mib| mib.parse().ok()))
}

pub(super) async fn cancel(client: &Client, output: Output, id: &str) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/cancel", escape(id));
    let reply = client.json::<Execution>(Method::POST, &path, Payload::None, Duration::ZERO).await?;
    if output.wants_json() { output.json(&reply.text) } else { output.line(&format!("{}  {}", reply.value.id, reply.value.state.0)) }
}

/// `memory`: MiB of its machine, where that is known.
fn describe(execution: &Execution, memory: Option<u64>) -> String {
    let mut rows = vec![
        ("id", execution.id.clone()),
        ("task", execution.runs()),
        ("account", execution.account.clone()),
        ("state", execution.state.0.clone()),
        ("created", format!("{}  ({})", execution.created_at, ago(&execution.created_at))),
    ];
    rows.extend(execution.started_at.clone().map(|at| ("started", at)));
    rows.extend(execution.finished_at.clone().map(|at| ("finished", at)));
    rows.extend(ran(execution).map(|ran| ("ran", ran)));
    rows.push(("attempts", execution.attempts.to_string()));
    rows.extend(execution.parent.clone().map(|parent| ("parent", parent)));
    if execution.parks > 0 {
        let parked = timeline::parked(execution);
        let times = if execution.parks == 1 { "once".to_owned() } else { format!("{} times", execution.parks) };
        rows.push(("parked", format!("{times}, {}", span(parked))));
        rows.extend(memory.map(|memory| ("RAM saved", timeline::saved(memory, parked))));
    }
    rows.extend(execution.need_by.clone().map(|at| ("needed by", if execution.late { format!("{at}  late") } else { at })));
    rows.extend(execution.schedule.as_ref().map(|fired| ("schedule", format!("{}, for {}", fired.id, fired.at))));
    rows.extend(execution.notify.as_ref().map(|notify| ("notify", told(notify))));
    rows.extend(execution.not_before.clone().map(|at| ("not before", at)));
    rows.extend((!execution.waiting.is_empty()).then(|| ("waits for", timeline::waits(&execution.waiting))));
    let mut text: Vec<String> = rows.into_iter().map(|(key, value)| format!("{key:11}{value}")).collect();
    if !execution.timeline.is_empty() {
        text.push(String::new());
        text.push(timeline::lines(&execution.created_at, &execution.timeline));
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

/// Whether an end is told.
fn told(delivery: &Delivery) -> String {
    let attempts = (delivery.attempts > 0)
        .then(|| if delivery.attempts == 1 { "1 attempt".to_owned() } else { format!("{} attempts", delivery.attempts) });
    let next = delivery.next_at.as_deref().filter(|_| delivery.attempts > 0).map(|at| format!("again {}", until(at)));
    let facts: Vec<String> = attempts.into_iter().chain(delivery.last.clone()).chain(next).collect();
    let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
    format!("{}: {}{facts}", delivery.url, delivery.state.as_deref().unwrap_or("?"))
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
