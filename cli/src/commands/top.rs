//! `top`: who has what of the host, and who waits.

use crate::api::{AccountLoad, ExecutionLoad, HostLoad, Load};
use crate::args::TopArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, between, size, span, table};
use std::time::Duration;

/// To the upper left corner, and the rest of the screen cleared.
const AGAIN: &str = "\x1b[H\x1b[J";

pub(super) async fn top(client: &Client, output: Output, args: TopArgs) -> Result<(), CliError> {
    let live = !output.wants_json() && !args.once;
    loop {
        let reply = client.get::<Load>("/v1/load").await?;
        if output.wants_json() {
            return output.json(&reply.text);
        }
        let rows = live.then(terminal_rows);
        let picture = picture(&reply.value, rows);
        if !live {
            return output.line(&picture);
        }
        output.bytes(format!("{AGAIN}{picture}\n").as_bytes())?;
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs_f64(args.every)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Lines of the terminal; 24 where it does not say.
fn terminal_rows() -> usize {
    terminal_size::terminal_size().map_or(24, |(_, rows)| usize::from(rows.0))
}

fn picture(load: &Load, rows: Option<usize>) -> String {
    let mut lines: Vec<String> = load.host.as_ref().map(|host| head(host, &load.at)).into_iter().collect();
    if !load.accounts.is_empty() {
        lines.push(String::new());
        let accounts: Vec<_> = load.accounts.iter().map(account).collect();
        lines.push(table(&["ACCOUNT", "WEIGHT", "QUEUED", "RUNNING", "MEMORY", "CPUS", "OLDEST WAIT"], &accounts));
    }
    lines.push(String::new());
    let used: usize = lines.iter().map(|text| text.lines().count().max(1)).sum();
    let most = rows.map_or(usize::MAX, |rows| rows.saturating_sub(used + 2).max(1));
    let executions: Vec<_> = load.executions.iter().take(most).map(|execution| row(execution, &load.at)).collect();
    lines.push(if executions.is_empty() {
        "nothing is queued, running or parked".to_owned()
    } else {
        table(&["ID", "ACCOUNT", "TASK", "STATE", "FOR", "NEEDED"], &executions)
    });
    lines.join("\n").trim_start().to_owned()
}

fn head(host: &HostLoad, at: &str) -> String {
    let budget = host.cpus_budget.map(|budget| format!(" of {budget}")).unwrap_or_default();
    let draining = if host.draining { "  draining" } else { "" };
    format!(
        "{at}  {} queued, {} running, {} parked  memory {} of {}  cpus {}{budget}{draining}",
        host.queued,
        host.running,
        host.parked,
        size(host.memory_used_bytes),
        size(host.memory_budget_bytes),
        host.cpus_used,
    )
}

fn account(load: &AccountLoad) -> Vec<String> {
    vec![
        load.account.clone(),
        load.weight.to_string(),
        load.queued.to_string(),
        load.running.to_string(),
        size(load.memory_bytes),
        load.cpus.to_string(),
        load.oldest_wait_ms.map(|ms| span(ms.saturating_mul(1000))).unwrap_or_default(),
    ]
}

fn row(execution: &ExecutionLoad, at: &str) -> Vec<String> {
    let needed = execution.need_by.as_deref().map(|need_by| match between(at, Some(need_by)) {
        _ if execution.late => "late".to_owned(),
        Some(left) if left > 0 => format!("in {}", span(left)),
        _ => "now".to_owned(),
    });
    vec![
        execution.id.clone(),
        execution.account.clone(),
        execution.task.clone(),
        execution.state.0.clone(),
        span(execution.for_ms.saturating_mul(1000)),
        needed.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOAD: &str = r#"{"at":"2026-01-01T00:00:00.000000Z",
        "host":{"memory_used_bytes":1073741824,"memory_budget_bytes":4294967296,"cpus_used":1.5,"cpus_budget":16,"queued":2,"running":1,"parked":0,"draining":false},
        "accounts":[{"account":"default","weight":2,"queued":2,"running":1,"memory_bytes":1073741824,"cpus":1.5,"oldest_wait_ms":1500}],
        "executions":[{"id":"ex_1","account":"default","task":"a","state":"running","for_ms":20},
                      {"id":"ex_2","account":"default","task":"b","state":"queued","for_ms":1500,"need_by":"2026-01-01T00:00:30.000000Z"},
                      {"id":"ex_3","account":"default","task":"b","state":"queued","for_ms":1,"need_by":"2026-01-01T00:00:30.000000Z","late":true}]}"#;

    #[test]
    fn a_picture_says_who_has_what_and_who_waits() {
        let load: Load = serde_json::from_str(LOAD).unwrap();
        let expected = "\
2026-01-01T00:00:00.000000Z  2 queued, 1 running, 0 parked  memory 1.0 GiB of 4.0 GiB  cpus 1.5 of 16

ACCOUNT  WEIGHT  QUEUED  RUNNING  MEMORY   CPUS  OLDEST WAIT
default  2       2       1        1.0 GiB  1.5   1.50 s

ID    ACCOUNT  TASK  STATE    FOR      NEEDED
ex_1  default  a     running  20.0 ms
ex_2  default  b     queued   1.50 s   in 30.00 s
ex_3  default  b     queued   1.0 ms   late";
        assert_eq!(picture(&load, None), expected);
        assert_eq!(picture(&load, Some(9)).lines().count(), 8, "as much as there is room for");
        let empty = Load { host: None, accounts: Vec::new(), executions: Vec::new(), ..load };
        assert_eq!(picture(&empty, None), "nothing is queued, running or parked");
    }
}
