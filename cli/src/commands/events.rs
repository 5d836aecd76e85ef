//! `events`: the timeline of an execution as it grows, until its end.
//!
//! The daemon numbers what is durable. A stream that breaks off is asked for again after the last number; what was printed beyond that and comes once
//! more is not printed twice.

use crate::api::{Change, Event};
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, complain};
use crate::sse::Events;
use crate::timeline;
use hyper::Method;
use std::time::{Duration, Instant};

/// How long to ask a daemon again that went away, and how often.
const AGAIN: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(500));

/// Where in a timeline the stream is.
#[derive(Debug, Default)]
struct Place {
    /// Entries that are durable.
    durable: usize,
    /// What was printed beyond them.
    told: Vec<String>,
    /// How many of those the current stream has sent.
    sent: usize,
}

impl Place {
    /// A stream begins, after what is durable.
    const fn begin(&mut self) {
        self.sent = 0;
    }

    /// Takes an entry in. False: it was printed before.
    fn take(&mut self, entry: &str, id: Option<&str>) -> bool {
        let new = self.told.get(self.sent).is_none_or(|told| told != entry);
        if new {
            // After a crash of the daemon it may go on otherwise than it was told.
            self.told.truncate(self.sent);
            self.told.push(entry.to_owned());
        }
        self.sent += 1;
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            self.durable = id;
            self.told.drain(..self.sent);
            self.sent = 0;
        }
        new
    }
}

pub(super) async fn events(client: &Client, output: Output, id: &str, from: usize) -> Result<(), CliError> {
    let path = format!("/v1/executions/{}/events", escape(id));
    let mut place = Place { durable: from, ..Place::default() };
    let mut last = None;
    loop {
        place.begin();
        let error = match follow(client, output, &path, &mut place, &mut last).await {
            Ok(()) => return Ok(()),
            Err(error @ (CliError::Lost { .. } | CliError::NoDaemon { .. })) => error,
            Err(error) => return Err(error),
        };
        // One that was never there is not waited for.
        let Some(heard) = last else { return Err(error) };
        if Instant::now().duration_since(heard) > AGAIN.0 {
            return Err(error);
        }
        tokio::time::sleep(AGAIN.1).await;
    }
}

/// One stream, to the execution's end. `last`: when the daemon was heard of.
async fn follow(client: &Client, output: Output, path: &str, place: &mut Place, last: &mut Option<Instant>) -> Result<(), CliError> {
    let answer = |error: &serde_json::Error| CliError::Answer { request: format!("GET {path}"), why: error.to_string() };
    let response = client.in_time(client.open(Method::GET, &format!("{path}?from={}", place.durable), Payload::None)).await??;
    if last.is_some() && !output.wants_json() {
        complain("torpor: torpord is back");
    }
    *last = Some(Instant::now());
    let mut events = Events::new(response.into_body());
    let broken = loop {
        let event = match events.next(client).await {
            Ok(Some(event)) => event,
            Ok(None) => break client.lost("the stream of events broke off"),
            Err(error) => break error,
        };
        match event.event.as_str() {
            "end" => return Ok(()),
            "state" => {
                let change: Change = serde_json::from_str(&event.data).map_err(|error| answer(&error))?;
                if !place.take(change.entry.get(), event.id.as_deref()) {
                    continue;
                }
                if output.wants_json() {
                    output.json_line(&event.data)?;
                } else {
                    let entry: Event = serde_json::from_str(change.entry.get()).map_err(|error| answer(&error))?;
                    output.line(&timeline::line(&entry))?;
                }
            }
            // What a newer daemon tells beside.
            _ => {}
        }
    };
    *last = Some(Instant::now());
    if matches!(broken, CliError::Lost { .. }) && !output.wants_json() {
        complain(&format!("torpor: {broken}; asking again for {} s", AGAIN.0.as_secs()));
    }
    Err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_printed_twice_and_nothing_left_out() {
        let mut place = Place::default();
        assert!(place.take("a", Some("1")) && place.take("b", None) && place.take("c", None));
        assert_eq!((place.durable, place.told.len()), (1, 2));
        // The stream broke off: what is not durable comes again.
        place.begin();
        assert!(!place.take("b", Some("2")) && !place.take("c", Some("3")) && place.take("d", Some("4")));
        assert_eq!((place.durable, place.told.len()), (4, 0));
    }

    #[test]
    fn a_timeline_that_went_another_way_is_told() {
        let mut place = Place::default();
        assert!(place.take("a", Some("1")) && place.take("b", None) && place.take("c", None));
        place.begin();
        assert!(place.take("x", Some("2")) && place.take("c", Some("3")), "the crash undid b and c; this c came after x");
    }
}
