//! What happened to an execution, in words; the same for a timeline that is over and for one that goes on.

use crate::api::{Event, Execution, Wait};
use crate::output::{ago, between, left, size, span, table};
use serde_json::{Map, Value};

/// A JSON value without quotes.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Most waits that are named one by one.
const NAMED: usize = 3;

/// What an execution waits for.
pub(crate) fn waits(waiting: &[Wait]) -> String {
    let mut text: Vec<String> = waiting.iter().take(NAMED).map(wait).collect();
    if waiting.len() > NAMED {
        text.push(format!("{} more", waiting.len() - NAMED));
    }
    text.join(", ")
}

fn wait(wait: &Wait) -> String {
    let limit = wait.until.as_ref().map(|until| match left(until) {
        Some(left) if left > 0 => format!("{} left", span(left)),
        _ => format!("until {until}"),
    });
    let what = match (wait.what.as_str(), wait.executions.as_slice(), wait.count) {
        ("executions", [one], None | Some(1)) => one.clone(),
        ("executions", all, count) => format!("{} executions", count.unwrap_or(all.len())),
        ("event", ..) => format!("event {}", wait.token.as_deref().unwrap_or("?")),
        (other, ..) => other.to_owned(),
    };
    limit.map_or_else(|| what.clone(), |limit| format!("{what} ({limit})"))
}

/// What an execution waits for as it was told at some moment: whatever is left of a time then is not what is left now.
fn waited(figures: &Map<String, Value>) -> String {
    let waiting: Vec<Wait> = figures.get("waiting").and_then(|waiting| serde_json::from_value(waiting.clone()).ok()).unwrap_or_default();
    waits(&waiting.into_iter().map(|wait| Wait { until: None, ..wait }).collect::<Vec<_>>())
}

/// What an event's figures say.
fn detail(event: &Event) -> String {
    let figures = &event.figures;
    let number = |name: &str| figures.get(name).and_then(Value::as_u64);
    let text = |name: &str| figures.get(name).map_or_else(|| "?".to_owned(), plain);
    let took = |name: &str, scale: u64| {
        number(name).map_or_else(|| "?".to_owned(), |n| span(i64::try_from(n.saturating_mul(scale)).unwrap_or(i64::MAX)))
    };
    let bytes = |name: &str| number(name).map_or_else(|| "?".to_owned(), size);
    match event.event.as_str() {
        "queued" | "imported" | "resuming" | "cancelled" if figures.is_empty() => String::new(),
        "starting" => format!("attempt {}", text("attempt")),
        "template" => format!("made in {}", took("ms", 1000)),
        "restored" | "resumed" => format!("in {}, {} monitor", took("micros", 1), text("monitor")),
        "running" => format!("the program has its input after {}", took("micros", 1)),
        "late" => format!("by {} or more", took("by_ms", 1000)),
        "replaying" => format!("{} calls of earlier attempts are known", text("calls")),
        "parked" => {
            let (changed, stored) = (bytes("changed_bytes"), bytes("stored_bytes"));
            format!("for {}; {changed} changed, {stored} on disk, in {}", waited(figures), took("micros", 1))
        }
        "not_parked" | "not_resumed" => text("reason"),
        "retrying" => {
            let wait = number("delay_ms").filter(|ms| *ms > 0).map(|_| format!("; again in {}", took("delay_ms", 1000)));
            format!("{}: {}{}", text("kind"), text("message"), wait.unwrap_or_default())
        }
        "finished" => {
            let dropped = number("log_dropped_bytes").filter(|dropped| *dropped > 0);
            let dropped = dropped.map(|dropped| format!(", {} over log_cap dropped", size(dropped)));
            format!("{}, {} of output{}", text("state"), bytes("log_bytes"), dropped.unwrap_or_default())
        }
        // What a newer daemon tells is shown as it comes.
        _ => figures.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(" "),
    }
}

/// How long after `created` an event came, for people.
fn after(created: &str, event: &Event) -> String {
    between(created, Some(&event.at)).map_or_else(|| event.at.clone(), span)
}

/// A whole timeline.
pub(crate) fn lines(created: &str, events: &[Event]) -> String {
    let mut parked = None;
    let row = |event: &Event| {
        let mut detail = detail(event);
        match event.event.as_str() {
            "parked" | "not_resumed" => parked = Some(event.at.clone()),
            _ => {
                if let Some(since) = parked.take().and_then(|since| between(&since, Some(&event.at))) {
                    let separate = if detail.is_empty() { "" } else { ", " };
                    detail = format!("{detail}{separate}after {} without a machine", span(since));
                }
            }
        }
        vec![after(created, event), event.event.clone(), detail]
    };
    table(&["AFTER", "EVENT", ""], &events.iter().map(row).collect::<Vec<_>>())
}

/// One event by itself.
pub(crate) fn line(event: &Event) -> String {
    format!("{}  {:12}{}", event.at, event.event, detail(event)).trim_end().to_owned()
}

/// How long an execution has been parked, all times together, in microseconds.
pub(crate) fn parked(execution: &Execution) -> i64 {
    let before = i64::try_from(execution.parked_ms.saturating_mul(1000)).unwrap_or(i64::MAX);
    let now = execution.parked_since.as_deref().and_then(|since| between(since, None)).unwrap_or(0);
    before.saturating_add(now.max(0))
}

/// What `ps` says of an execution that waits.
pub(crate) fn waiting(execution: &Execution) -> String {
    let since = execution.parked_since.as_ref().map(|since| format!("parked {}", ago(since)));
    let again = execution.not_before.as_deref().filter(|_| execution.state.0 == "queued").map(again);
    let parts = (!execution.waiting.is_empty()).then(|| waits(&execution.waiting)).into_iter().chain(since).chain(again);
    parts.collect::<Vec<_>>().join(", ")
}

/// What an execution waits for that has failed.
fn again(not_before: &str) -> String {
    match left(not_before) {
        Some(left) if left > 0 => format!("attempt after a failure (in {})", span(left)),
        _ => "attempt after a failure".to_owned(),
    }
}

/// Memory times time, for people: `128 MiB x 12.3 s = 1.5 GiB s`.
pub(crate) fn saved(memory_mib: u64, micros: i64) -> String {
    let tenths = u64::try_from(micros.max(0) / 100_000).unwrap_or(0);
    // In MiB and tenths of a second: no product of what there is comes near the end of 64 bits.
    let product = memory_mib.saturating_mul(tenths).saturating_mul((1 << 20) / 10);
    format!("{} x {} = {} s", whole_size(memory_mib), seconds(micros), size(product))
}

fn whole_size(mib: u64) -> String {
    format!("{mib} MiB")
}

/// Seconds with a tenth.
fn seconds(micros: i64) -> String {
    let tenths = micros.max(0) / 100_000;
    format!("{}.{} s", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn events(text: &str) -> Vec<Event> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn parks_are_told_in_words() {
        let text = lines(
            "2026-01-01T00:00:00.000000Z",
            &events(
                r#"[{"at":"2026-01-01T00:00:00.000000Z","event":"queued"},
                {"at":"2026-01-01T00:00:01.000000Z","event":"parked","waiting":[{"for":"event","token":"tok","since":"x"},{"for":"executions","count":9,"executions":["ex_1"]}],
                 "changed_bytes":2097152,"stored_bytes":1024,"micros":8100},
                {"at":"2026-01-01T00:00:03.500000Z","event":"resuming"},
                {"at":"2026-01-01T00:00:03.502000Z","event":"resumed","micros":1900,"monitor":"warm"},
                {"at":"2026-01-01T00:00:04.000000Z","event":"finished","state":"succeeded","log_bytes":0,"log_dropped_bytes":0},
                {"at":"2026-01-01T00:00:04.000000Z","event":"retrying","kind":"exit","message":"no","delay_ms":1500},
                {"at":"2026-01-01T00:00:04.000000Z","event":"baked","crumbs":3}]"#,
            ),
        );
        let expected = "\
AFTER   EVENT
0 us    queued
1.00 s  parked    for event tok, 9 executions; 2.0 MiB changed, 1.0 KiB on disk, in 8.1 ms
3.50 s  resuming  after 2.50 s without a machine
3.50 s  resumed   in 1.9 ms, warm monitor
4.00 s  finished  succeeded, 0 B of output
4.00 s  retrying  exit: no; again in 1.50 s
4.00 s  baked     crumbs=3";
        assert_eq!(text, expected);
    }

    #[test]
    fn waits_are_named_and_bounded() {
        let waiting: Vec<Wait> = serde_json::from_str(
            r#"[{"for":"executions","executions":["ex_1"],"count":1},{"for":"timer","until":"2026-01-01T00:00:00Z"},{"for":"moonrise"},{"for":"timer"},{"for":"timer"}]"#,
        )
        .unwrap();
        assert_eq!(waits(&waiting), "ex_1, timer (until 2026-01-01T00:00:00Z), moonrise, 2 more");
    }

    #[test]
    fn memory_times_time_reads_well() {
        assert_eq!(saved(128, 12_345_000), "128 MiB x 12.3 s = 1.5 GiB s");
        assert_eq!(saved(64, 0), "64 MiB x 0.0 s = 0 B s");
        assert!(saved(2048, i64::MAX).contains("TiB"));
    }
}
