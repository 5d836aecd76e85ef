//! `schedule add`, `ls`, `inspect`, `pause`, `resume` and `rm`.

use super::remove;
use crate::api::{Schedule, Schedules};
use crate::args::{ScheduleArgs, ScheduleCommand};
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::input;
use crate::output::{Output, ago, span, table, until, visible_json};
use hyper::Method;
use serde_json::json;
use serde_json::value::RawValue;
use std::time::Duration;

/// Largest input, as the daemon has it.
const MAX_INPUT: u64 = 64 << 10;

pub(super) async fn schedule(client: &Client, output: Output, command: ScheduleCommand) -> Result<(), CliError> {
    match command {
        ScheduleCommand::Add(args) => add(client, output, *args).await,
        ScheduleCommand::Ls => ls(client, output).await,
        ScheduleCommand::Inspect { name } => {
            show(client, output, Method::GET, &format!("/v1/schedules/{}", escape(&name)), Payload::None).await
        }
        ScheduleCommand::Pause { name } => {
            show(client, output, Method::POST, &format!("/v1/schedules/{}/pause", escape(&name)), Payload::None).await
        }
        ScheduleCommand::Resume { name } => {
            show(client, output, Method::POST, &format!("/v1/schedules/{}/resume", escape(&name)), Payload::None).await
        }
        ScheduleCommand::Rm { name } => remove(client, output, &format!("/v1/schedules/{}", escape(&name)), &name).await,
    }
}

async fn show(client: &Client, output: Output, method: Method, path: &str, payload: Payload) -> Result<(), CliError> {
    let reply = client.json::<Schedule>(method, path, payload, Duration::ZERO).await?;
    if output.wants_json() { output.json(&reply.text) } else { output.line(&describe(&reply.value)) }
}

async fn add(client: &Client, output: Output, args: ScheduleArgs) -> Result<(), CliError> {
    let input = input::read(args.input, "input", MAX_INPUT).await?;
    let input: Box<RawValue> =
        serde_json::from_slice(&input).map_err(|error| CliError::Usage(format!("the input is not JSON: {error}")))?;
    let mut wanted = json!({
        "name": args.name, "task": args.task, "cron": args.cron, "timezone": args.timezone, "missed": args.missed, "overlap": args.overlap,
        "notify": args.notify, "notify_secret": args.notify_secret,
    });
    // A torpord that does not know of it takes what is without it.
    if let Some(seconds) = args.need_by {
        wanted["need_by_s"] = seconds.into();
        wanted["on_late"] = args.on_late.into();
    }
    // Numbers of the input stay as they were written.
    let wanted = wanted.to_string();
    let body = format!("{},\"input\":{}}}", wanted.trim_end_matches('}'), input.get());
    show(client, output, Method::POST, "/v1/schedules", Payload::Json(body.into_bytes())).await
}

async fn ls(client: &Client, output: Output) -> Result<(), CliError> {
    let reply = client.get::<Schedules>("/v1/schedules").await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.schedules.is_empty() {
        return output.line("no schedules; `torpor schedule add TASK --cron \"0 3 * * *\"` adds one");
    }
    let row = |schedule: &Schedule| {
        let next =
            if schedule.paused { "paused".to_owned() } else { schedule.next.first().map_or_else(|| "never".to_owned(), |at| until(at)) };
        vec![
            schedule.name.clone(),
            schedule.task.clone(),
            schedule.cron.clone(),
            schedule.timezone.clone(),
            next,
            schedule.last.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = reply.value.schedules.iter().map(row).collect();
    output.line(&table(&["NAME", "TASK", "CRON", "ZONE", "NEXT", "LAST"], &rows))
}

fn describe(schedule: &Schedule) -> String {
    let mut rows = vec![
        ("name", schedule.name.clone()),
        ("id", schedule.id.clone()),
        ("task", schedule.task.clone()),
        ("cron", format!("{}  ({})", schedule.cron, schedule.timezone)),
        ("missed", schedule.missed.clone()),
        ("overlap", schedule.overlap.clone()),
        ("added", format!("{}  ({})", schedule.created_at, ago(&schedule.created_at))),
    ];
    let late = schedule.on_late.as_deref().filter(|on_late| *on_late != "run").map(|_| ", or left out").unwrap_or_default();
    let micros = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(i64::MAX);
    rows.extend(schedule.need_by_s.map(|seconds| ("needed", format!("{} after its time{late}", span(micros(seconds))))));
    rows.extend(schedule.input.as_ref().map(|input| ("input", visible_json(input.get()).into_owned())));
    rows.extend(schedule.notify.as_ref().map(|notify| ("notify", notify.url.clone())));
    if schedule.paused {
        rows.push(("paused", "`torpor schedule resume` lets it go on".into()));
    }
    rows.extend(schedule.next.iter().enumerate().map(|(n, at)| (if n == 0 { "next" } else { "" }, format!("{at}  ({})", until(at)))));
    rows.extend(schedule.last.clone().map(|last| ("last", last)));
    rows.extend(schedule.skipped.as_ref().map(|skipped| ("skipped", format!("{}: {}", skipped.at, skipped.message))));
    rows.into_iter().map(|(key, value)| format!("{key:11}{value}")).collect::<Vec<_>>().join("\n")
}
