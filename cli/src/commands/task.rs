//! `task push`, `ls`, `inspect` and `rm`; `task graph` is in [`super::policy`].

use super::remove;
use crate::api::{Task, Tasks, Version};
use crate::args::TaskCommand;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, ago, complain, short, size, span, table};
use crate::pack::pack;
use crate::timeline::plain;
use hyper::{Method, StatusCode};
use std::path::Path;
use std::time::Duration;

pub(super) async fn task(client: &Client, output: Output, command: TaskCommand) -> Result<(), CliError> {
    match command {
        TaskCommand::Push { dir } => push(client, output, &dir).await,
        TaskCommand::Ls => ls(client, output).await,
        TaskCommand::Inspect { name } => inspect(client, output, &name).await,
        TaskCommand::Graph(args) => super::policy::graph(client, output, args).await,
        TaskCommand::Rm { name } => remove(client, output, &format!("/v1/tasks/{}", escape(&name)), &name).await,
    }
}

async fn push(client: &Client, output: Output, dir: &Path) -> Result<(), CliError> {
    let packed = pack(dir)?;
    let reply = client.json::<Version>(Method::POST, "/v1/tasks", Payload::Tar(packed.tar), Duration::ZERO).await?;
    for name in &reply.value.missing_secrets {
        complain(&format!("torpor: secret {name:?} is not set: the task can't run until `torpor secret set {name}`"));
    }
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let version = reply.value;
    let what = if reply.status == StatusCode::CREATED { "new version" } else { "unchanged" };
    let name = format!("{}@{}", version.task, short(&version.version));
    let portions: Vec<&str> = version.portions.iter().map(|portion| portion.name.as_str()).collect();
    let portions = if portions.is_empty() { String::new() } else { format!("; portions main, {}", portions.join(", ")) };
    output.line(&format!("{name}  {what}: {} files, {}{portions}", packed.files, size(packed.bytes)))
}

async fn ls(client: &Client, output: Output) -> Result<(), CliError> {
    let reply = client.get::<Tasks>("/v1/tasks").await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.tasks.is_empty() {
        return output.line("no tasks; `torpor task push DIR` makes one");
    }
    let row = |task: &Task| {
        vec![
            task.name.clone(),
            short(&task.latest).to_owned(),
            task.runtime.clone(),
            task.versions.len().to_string(),
            ago(task.versions.iter().find(|version| version.version == task.latest).map_or(&task.created_at, |v| &v.created_at)),
        ]
    };
    let rows: Vec<_> = reply.value.tasks.iter().map(row).collect();
    output.line(&table(&["NAME", "LATEST", "RUNTIME", "VERSIONS", "PUSHED"], &rows))
}

async fn inspect(client: &Client, output: Output, name: &str) -> Result<(), CliError> {
    let reply = client.get::<Task>(&format!("/v1/tasks/{}", escape(name))).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let task = reply.value;
    output.line(&format!("{}  {}  made {}", task.name, task.runtime, ago(&task.created_at)))?;
    let row = |version: &Version| {
        let policy = version.policy.iter().map(|(key, value)| format!("{key}={}", plain(value)));
        vec![
            format!("{}{}", short(&version.version), if version.version == task.latest { " *" } else { "" }),
            version.runtime.clone(),
            version.entry.clone(),
            version.code_bytes.map(size).unwrap_or_default(),
            version.template.clone(),
            ago(&version.created_at),
            takes(version),
            policy.collect::<Vec<_>>().join(" "),
        ]
    };
    let rows: Vec<_> = task.versions.iter().map(row).collect();
    output.line(&table(&["VERSION", "RUNTIME", "ENTRY", "CODE", "TEMPLATE", "PUSHED", "TAKES", "POLICY"], &rows))
}

/// How long its executions take, from start to end.
fn takes(version: &Version) -> String {
    let whole = version.durations.iter().find(|duration| duration.what == "whole");
    #[allow(clippy::cast_possible_truncation)]
    let ms = |ms: f64| span((ms * 1000.0) as i64);
    whole.map_or_else(String::new, |whole| format!("{}, 9 of 10 within {}", ms(whole.p50_ms), ms(whole.p90_ms)))
}
