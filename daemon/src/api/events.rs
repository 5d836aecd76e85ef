//! What happens to an execution, as it happens: its timeline as server-sent events.
//!
//! An entry's cursor is its place in the timeline, from 1, and is sent as the event's `id` once the entry is durable; what is told before that is told again
//! after a reconnection. So a client that comes back with the last cursor misses nothing, also over a restart of the daemon.

use super::App;
use super::caller::{Caller, Invoker};
use super::error::{ApiError, ErrorBody};
use super::executions::{hide, parse_id, stored};
use super::types::{EventParams, Params};
use crate::schedule::live::Live;
use crate::state::record::Execution;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

struct Follow {
    app: Arc<App>,
    caller: Caller,
    live: Option<(Arc<Live>, watch::Receiver<Arc<Execution>>)>,
    execution: Arc<Execution>,
    at: usize,
    ready: VecDeque<Event>,
    over: bool,
}

impl Follow {
    fn fill(&mut self) {
        let durable = self.live.as_ref().map_or(usize::MAX, |(live, _)| live.durable());
        hide(&self.caller, &mut self.execution);
        for (place, entry) in self.execution.timeline.iter().enumerate().skip(self.at) {
            let event = Event::default().event("state");
            let event = if place < durable { event.id((place + 1).to_string()) } else { event };
            let body = serde_json::json!({ "state": self.execution.state, "entry": entry });
            self.ready.extend(event.json_data(body));
        }
        self.at = self.at.max(self.execution.timeline.len());
        if self.execution.state.ended() && !self.over {
            self.over = true;
            self.ready.extend(Event::default().event("end").json_data(serde_json::json!({ "state": self.execution.state })));
        }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            self.fill();
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let (_, view) = self.live.as_mut()?;
            tokio::select! {
                changed = view.changed() => changed.ok()?,
                () = self.app.stopping.cancelled() => return None,
            }
            self.execution = Arc::clone(&view.borrow_and_update());
        }
    }
}

/// State changes of an execution as server-sent events, to its end: `event: state` for each entry of its timeline, with its cursor as `id`; `event: end`.
#[utoipa::path(
    get, path = "/v1/executions/{id}/events", tag = "executions", params(("id" = String, Path), EventParams),
    responses(
        (status = 200, description = "text/event-stream", content_type = "text/event-stream", body = String),
        (status = 404, description = "unknown_execution", body = ErrorBody),
    )
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(id): Path<String>,
    Params(params): Params<EventParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let at = resumed.unwrap_or(params.from);
    let (live, execution) = match app.dispatcher.live_of(&caller.account, &id) {
        Some(live) => {
            live.stored().await?;
            let mut view = live.watch();
            let now = Arc::clone(&view.borrow_and_update());
            (Some((live, view)), now)
        }
        None => (None, Arc::new(stored(&app, &caller, &id).await?)),
    };
    let state = Follow { app, caller, live, execution, at, ready: VecDeque::new(), over: false };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}
