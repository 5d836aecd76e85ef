//! Logs: as they are, or followed to the execution's end.
//!
//! A follower reads the file, not a channel: however slow it is, it costs the daemon one page of entries, and it sees every entry.

use super::caller::{Caller, Invoker};
use super::error::{ApiError, ErrorBody};
use super::executions::{parse_id, stored};
use super::types::{LogBody, LogParams, Params};
use super::{App, broken};
use crate::logs::{Logs, Page, Tail};
use crate::state::id::ExecutionId;
use crate::state::record::{Execution, Happening};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;

/// What is known of an execution's log: a tail that moves, or what is left in the file.
struct Source {
    tail: watch::Receiver<Tail>,
    /// Keeps the sender of a tail that does not move.
    _still: Option<watch::Sender<Tail>>,
}

fn dropped(execution: &Execution) -> u64 {
    let last = execution.timeline.last().map(|entry| &entry.what);
    if let Some(Happening::Finished { log_dropped_bytes, .. }) = last { *log_dropped_bytes } else { 0 }
}

async fn source(app: &App, caller: &Caller, id: &ExecutionId) -> Result<Source, ApiError> {
    if let Some(live) = app.dispatcher.live_of(&caller.account, id) {
        live.stored().await?;
        return Ok(Source { tail: live.log.subscribe(), _still: None });
    }
    let execution = stored(app, caller, id).await?;
    let still = watch::Sender::new(Tail { bytes: u64::MAX, kept: 0, dropped: dropped(&execution), ended: true });
    Ok(Source { tail: still.subscribe(), _still: Some(still) })
}

async fn page(logs: &Logs, id: &ExecutionId, from: u64, end: u64) -> Result<Page, ApiError> {
    let (logs, id) = (logs.clone(), id.clone());
    let read = tokio::task::spawn_blocking(move || logs.read(&id, from, end)).await;
    read.map_err(broken)?.map_err(|error| ApiError::io("can't read the log", &error))
}

/// What a program printed. With `follow`: `event: log` for each entry, with its cursor as `id`; `event: end` when the execution has ended.
#[utoipa::path(
    get, path = "/v1/executions/{id}/logs", tag = "executions", params(("id" = String, Path), LogParams),
    responses((status = 200, body = LogBody), (status = 404, description = "unknown_execution", body = ErrorBody))
)]
pub(super) async fn read(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(id): Path<String>,
    Params(params): Params<LogParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    let source = source(&app, &caller, &id).await?;
    if params.follow {
        // A client that lost its connection says where it was.
        let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        return Ok(follow(app, id, source, resumed.unwrap_or(params.from)));
    }
    Ok(whole(app, id, *source.tail.borrow(), params.from))
}

/// A [`LogBody`], written page by page: a log may be larger than what the daemon wants to hold of it.
fn whole(app: Arc<App>, id: ExecutionId, tail: Tail, from: u64) -> Response {
    /// Where the next page begins, and what stands before its first entry.
    struct Next(u64, &'static str);
    let pages = stream::try_unfold(Some(Next(from, "{\"entries\":[")), move |next| {
        let (app, id) = (Arc::clone(&app), id.clone());
        async move {
            let Some(Next(cursor, mut before)) = next else { return Ok(None) };
            let page = page(&app.logs, &id, cursor, tail.bytes).await.map_err(std::io::Error::other)?;
            let mut text = String::new();
            for (entry, _) in &page.entries {
                text.push_str(before);
                text.push_str(&serde_json::to_string(entry)?);
                before = ",";
            }
            if page.next > cursor {
                return Ok(Some((text, Some(Next(page.next, before)))));
            }
            text.push_str(if before == "," { "" } else { before });
            text.push_str(&format!("],\"truncated\":{},\"next\":{cursor}}}", tail.dropped > 0));
            Ok::<_, std::io::Error>(Some((text, None)))
        }
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(pages)).into_response()
}

struct Follow {
    app: Arc<App>,
    id: ExecutionId,
    source: Source,
    cursor: u64,
    ready: std::vec::IntoIter<Event>,
    over: bool,
}

impl Follow {
    /// The next event; none when all has been said.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.next() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let tail = *self.source.tail.borrow_and_update();
            let page = page(&self.app.logs, &self.id, self.cursor, tail.bytes).await.unwrap_or_default();
            if page.next > self.cursor {
                self.cursor = page.next;
                let events = page
                    .entries
                    .into_iter()
                    .filter_map(|(entry, cursor)| Event::default().event("log").id(cursor.to_string()).json_data(entry).ok());
                self.ready = events.collect::<Vec<_>>().into_iter();
            } else if tail.ended {
                self.over = true;
                let end = serde_json::json!({ "truncated": tail.dropped > 0 });
                return Event::default().event("end").json_data(end).ok();
            } else {
                tokio::select! {
                    changed = self.source.tail.changed() => changed.ok()?,
                    () = self.app.stopping.cancelled() => return None,
                }
            }
        }
    }
}

fn follow(app: Arc<App>, id: ExecutionId, source: Source, from: u64) -> Response {
    let state = Follow { app, id, source, cursor: from, ready: Vec::new().into_iter(), over: false };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
