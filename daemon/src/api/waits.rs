//! Executions that wait: park, resume, signal.

use super::caller::{Caller, Invoker, Owner};
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::executions::{live, parse_id};
use super::{App, BODY_TIMEOUT};
use crate::manifest::format_bytes;
use crate::schedule::live::Note;
use crate::state::record::Execution;
use crate::state::store::StoreError;
use crate::state::writer::Change;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Most data of a signal.
const MAX_SIGNAL: usize = 1 << 20;
/// How long a wish may take to be granted.
const WISH: Duration = Duration::from_secs(30);

async fn wish(
    app: &App,
    caller: &Caller,
    id: &str,
    note: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Note,
) -> Result<Json<Arc<Execution>>, ApiError> {
    let id = parse_id(id)?;
    let live = live(app, caller, &id, ErrorCode::NotParked).await?;
    let (tell, told) = oneshot::channel();
    live.note(note(tell));
    let not = |why: &str| ApiError::new(ErrorCode::NotParked, format!("execution {id}: {why}"));
    match tokio::time::timeout(WISH, told).await {
        Ok(Ok(Ok(()))) => Ok(Json(live.view())),
        Ok(Ok(Err(why))) => Err(not(&why)),
        Ok(Err(_)) => Err(not("it ended, or waits for a VM")),
        Err(_) => Err(not(&format!("it is {} and has not come to it in {} s", live.view().state.name(), WISH.as_secs()))),
    }
}

/// Park an execution that waits, now. Answers when it is parked.
#[utoipa::path(
    post, path = "/v1/executions/{id}/park", tag = "executions", params(("id" = String, Path)),
    responses(
        (status = 200, body = Execution),
        (status = 404, description = "unknown_execution", body = ErrorBody),
        (status = 409, description = "not_parked: it runs, has ended, or could not be parked", body = ErrorBody),
    )
)]
pub(super) async fn park(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(id): Path<String>,
) -> Result<Json<Arc<Execution>>, ApiError> {
    wish(&app, &caller, &id, Note::Park).await
}

/// Give a parked execution a VM again, although what it waits for is not there; it keeps it until its next wait.
#[utoipa::path(
    post, path = "/v1/executions/{id}/resume", tag = "executions", params(("id" = String, Path)),
    responses(
        (status = 200, description = "It is brought back when there is memory for it", body = Execution),
        (status = 404, description = "unknown_execution", body = ErrorBody),
        (status = 409, description = "not_parked", body = ErrorBody),
    )
)]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(id): Path<String>,
) -> Result<Json<Arc<Execution>>, ApiError> {
    wish(&app, &caller, &id, Note::Resume).await
}

async fn data(body: Body) -> Result<Arc<[u8]>, ApiError> {
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the data took longer than 60 s");
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_SIGNAL).collect()).await.map_err(late)?;
    let most = format_bytes(MAX_SIGNAL as u64);
    let bytes = whole.map_err(|_| ApiError::new(ErrorCode::InputTooLarge, format!("the data of a signal has at most {most}")))?.to_bytes();
    if bytes.is_empty() {
        return Ok(b"null"[..].into());
    }
    match serde_json::from_slice::<&RawValue>(&bytes) {
        Ok(_) => Ok(bytes[..].into()),
        Err(error) => Err(ApiError::new(ErrorCode::InvalidInput, format!("the data of a signal is not JSON: {error}"))),
    }
}

/// Signal an event, once. The body is its data, any JSON; none is `null`. Durable when this answers.
#[utoipa::path(
    post, path = "/v1/events/{token}", tag = "executions", params(("token" = String, Path, description = "What the program got from event()")),
    request_body(content = Option<Object>, content_type = "application/json", description = "Any JSON, at most 1 MiB"),
    responses(
        (status = 204, description = "Signalled; the execution is woken if it waits for it"),
        (status = 404, description = "unknown_event", body = ErrorBody),
        (status = 409, description = "event_used", body = ErrorBody),
        (status = "4XX", description = "invalid_input, input_too_large", body = ErrorBody),
        (status = "5XX", description = "disk_full", body = ErrorBody),
    )
)]
pub(super) async fn signal(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(token): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let data = data(body).await?;
    let unknown =
        || ApiError::new(ErrorCode::UnknownEvent, format!("no event {token:?}; `torpor ps` shows the events that executions wait for"));
    let used = || ApiError::new(ErrorCode::EventUsed, format!("event {token:?} was signalled before; an event is signalled once"));
    let (owner, before) = app.store.event_of(&caller.account, &token).await?.ok_or_else(unknown)?;
    if before.is_some() {
        return Err(used());
    }
    let moved =
        || ApiError::new(ErrorCode::UnknownEvent, format!("execution {owner}, of which event {token:?} is, has moved to another host"));
    if app.dispatcher.has_moved(&owner).await? {
        return Err(moved());
    }
    app.store.check_room()?;
    match app.store.commit(Change::Signal { token: token.as_str().into(), data }).await {
        Ok(()) => {}
        Err(StoreError::Constraint) => {
            return Err(if app.store.event_of(&caller.account, &token).await?.is_some() { used() } else { unknown() });
        }
        Err(error) => return Err(error.into()),
    }
    app.dispatcher.signalled(&owner, &token);
    // What comes while it leaves is not in its file.
    if app.dispatcher.has_moved(&owner).await? {
        return Err(moved());
    }
    Ok(StatusCode::NO_CONTENT)
}
