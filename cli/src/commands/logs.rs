//! `logs`: what a program wrote, so far or until it ends. Both ways print as it comes: a log may be larger than memory.

use crate::api::{LogEnd, LogEntry};
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, complain, pretty, visible_json};
use crate::pieces::{MAX_ENTRY, Pieces};
use crate::sse::Events;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use serde_json::{Map, Value};

pub(super) async fn logs(client: &Client, output: Output, id: &str, follow: bool) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/logs", escape(id));
    if follow {
        return follow_logs(client, output, &path).await;
    }
    let response = client.in_time(client.open(Method::GET, &path, Payload::None)).await??;
    let mut body = response.into_body();
    if output.json_asked() && !output.terminal() {
        while let Some(bytes) = piece(client, &mut body).await? {
            output.bytes(&bytes)?;
        }
        return output.bytes(b"\n");
    }
    let mut pieces = Pieces::default();
    let mut first = true;
    while let Some(bytes) = piece(client, &mut body).await? {
        // One write for what came together.
        let mut text = String::new();
        for byte in bytes {
            let Some(entry) = pieces.push(byte) else { continue };
            if output.json_asked() {
                text.push_str(&indented(&String::from_utf8_lossy(&entry), first));
            } else {
                let entry: LogEntry = serde_json::from_slice(&entry).map_err(|error| answer(&path, &error))?;
                text.push_str(&entry.text);
            }
            first = false;
        }
        if pieces.held() > MAX_ENTRY {
            let limit = u64::try_from(MAX_ENTRY).unwrap_or(u64::MAX);
            return Err(CliError::TooLarge { request: format!("GET {path}"), limit });
        }
        if output.json_asked() { output.bytes(visible_json(&text).as_bytes())? } else { output.printed(&text)? }
    }
    let rest = pieces.rest();
    if output.json_asked() {
        let rest = serde_json::from_slice(&rest).map_err(|error| answer(&path, &error))?;
        return output.line(&visible_json(&closed(&rest, first)));
    }
    let end: LogEnd = serde_json::from_slice(&rest).map_err(|error| answer(&path, &error))?;
    say_truncated(&end);
    Ok(())
}

/// What comes next of a body; none at its end.
async fn piece(client: &Client, body: &mut Incoming) -> Result<Option<Bytes>, CliError> {
    let Some(frame) = client.in_time(body.frame()).await? else { return Ok(None) };
    let frame = frame.map_err(|error| client.lost(error))?;
    Ok(Some(frame.into_data().unwrap_or_default()))
}

/// An entry as it stands in an indented body, with what goes before it.
fn indented(entry: &str, first: bool) -> String {
    let before = if first { "{\n  \"entries\": [" } else { "," };
    format!("{before}\n    {}", pretty(entry).replace('\n', "\n    "))
}

/// What follows the entries of an indented body.
fn closed(rest: &Map<String, Value>, none: bool) -> String {
    let fields = rest.iter().filter(|(name, _)| *name != "entries").map(|(name, value)| {
        let field = format!("{}:{value}", Value::from(name.as_str()));
        format!(",\n  {}", pretty(&field).replace('\n', "\n  "))
    });
    let before = if none { "{\n  \"entries\": []" } else { "\n  ]" };
    format!("{before}{}\n}}", fields.collect::<String>())
}

/// Says that a log is not all that was written, where it is so.
fn say_truncated(end: &LogEnd) {
    if end.truncated {
        complain("torpor: the program wrote more than its policy's log_cap; what came after is not kept");
    }
}

/// Prints entries as they come. With `--json` one entry a line.
async fn follow_logs(client: &Client, output: Output, path: &str) -> Result<(), CliError> {
    let response = client.open(Method::GET, &format!("{path}?follow=true"), Payload::None).await?;
    let mut events = Events::new(response.into_body());
    while let Some(event) = events.next(client).await? {
        match event.event.as_str() {
            "end" => {
                if !output.json_asked() {
                    say_truncated(&end(&event.data));
                }
                return Ok(());
            }
            "log" if output.json_asked() => output.json_line(&event.data)?,
            "log" => {
                let entry: LogEntry = serde_json::from_str(&event.data).map_err(|error| answer(path, &error))?;
                output.printed(&entry.text)?;
            }
            // Events of a newer daemon say nothing about what was written.
            _ => {}
        }
    }
    Err(client.lost("the stream of logs broke off"))
}

/// What the last event says; one that says nothing is an end all the same.
fn end(data: &str) -> LogEnd {
    serde_json::from_str(data).unwrap_or_default()
}

fn answer(path: &str, error: &serde_json::Error) -> CliError {
    CliError::Answer { request: format!("GET {path}"), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn indented_piece_by_piece_is_indented_at_once() {
        for body in [
            r#"{"entries":[{"at":"x","text":"a\n"},{"at":"y","text":"[{,"}],"next":7,"truncated":true}"#,
            r#"{"entries":[],"next":7,"truncated":false}"#,
        ] {
            let mut pieces = Pieces::default();
            let mut text = String::new();
            for entry in body.bytes().filter_map(|byte| pieces.push(byte)) {
                text.push_str(&indented(&String::from_utf8_lossy(&entry), text.is_empty()));
            }
            let none = text.is_empty();
            text.push_str(&closed(&serde_json::from_slice(&pieces.rest()).unwrap(), none));
            assert_eq!(text, pretty(body));
        }
    }

    #[test]
    fn an_end_says_whether_the_log_is_whole() {
        assert!(end(r#"{"truncated":true}"#).truncated);
        assert!(!end(r#"{"truncated":false}"#).truncated);
        assert!(!end("").truncated);
    }
}
