//! Server-sent events, read from an answer piece by piece. Invariant: at most [`MAX_EVENT`] bytes are held.

use crate::client::Client;
use crate::error::CliError;
use http_body_util::BodyExt;
use hyper::body::Incoming;

const MAX_EVENT: usize = 8 << 20;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    pub(crate) event: String,
    pub(crate) data: String,
    pub(crate) id: Option<String>,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    current: SseEvent,
    has_data: bool,
}

impl Parser {
    fn push(&mut self, byte: u8) -> Option<SseEvent> {
        if byte != b'\n' {
            self.line.push(byte);
            return None;
        }
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
        if line.is_empty() {
            let event = std::mem::take(&mut self.current);
            let whole = std::mem::take(&mut self.has_data) || !event.event.is_empty();
            return whole.then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.current.event = value.to_owned(),
            "id" => self.current.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.current.data.push('\n');
                }
                self.has_data = true;
                self.current.data.push_str(value);
            }
            _ => {}
        }
        None
    }

    fn held(&self) -> usize {
        self.line.len() + self.current.data.len()
    }
}

/// The events of one answer.
pub(crate) struct Events {
    body: Incoming,
    parser: Parser,
    ready: std::collections::VecDeque<SseEvent>,
}

impl Events {
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body, parser: Parser::default(), ready: std::collections::VecDeque::new() }
    }

    /// The next event; `None` when the stream is over.
    pub(crate) async fn next(&mut self, client: &Client) -> Result<Option<SseEvent>, CliError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| client.lost(error))?;
            let Some(bytes) = frame.data_ref() else { continue };
            for byte in bytes {
                self.ready.extend(self.parser.push(*byte));
            }
            if self.parser.held() > MAX_EVENT {
                let limit = u64::try_from(MAX_EVENT).unwrap_or(u64::MAX);
                return Err(CliError::TooLarge { request: "a request for events".into(), limit });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<SseEvent> {
        let mut parser = Parser::default();
        text.bytes().filter_map(|byte| parser.push(byte)).collect()
    }

    #[test]
    fn events_have_names_data_and_cursors() {
        let events = parse(": hi\n\nevent: log\nid: 7\ndata: {\"a\":1}\n\ndata: x\r\ndata: y\r\n\r\nevent: end\n\nevent: cut");
        let event = |event: &str, data: &str, id: Option<&str>| SseEvent { event: event.into(), data: data.into(), id: id.map(Into::into) };
        assert_eq!(events, [event("log", "{\"a\":1}", Some("7")), event("", "x\ny", None), event("end", "", None)]);
    }
}
