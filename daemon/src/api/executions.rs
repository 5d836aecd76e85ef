//! Executions: submit, list, inspect, cancel.

use super::caller::{Caller, Invoker};
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::rooms::Room;
use super::types::{ExecutionList, ListParams, Params, SubmitParams, WaitParams};
use super::{App, BODY_TIMEOUT, notify, whole};
use crate::accounts::Role;
use crate::idempotency::{self, Key, NewKey};
use crate::manifest::{AccountName, format_bytes};
use crate::notify::Told;
use crate::schedule::dispatch::SubmitError;
use crate::schedule::extras::Extras;
use crate::schedule::live::Live;
use crate::state::id::ExecutionId;
use crate::state::record::{Execution, Happening};
use crate::state::store::Filter;
use crate::state::time::Timestamp;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use torpor_protocol::limits::MAX_INPUT;

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;

/// The whole body, if it is JSON, and the room that it takes until it is stored: taken as its bytes come.
async fn input<'a>(app: &'a App, caller: &Caller, mut body: Body) -> Result<(Arc<[u8]>, Room<'a>), ApiError> {
    let too_large = || ApiError::new(ErrorCode::InputTooLarge, format!("an input has at most {}", format_bytes(MAX_INPUT as u64)));
    if body.size_hint().lower() > MAX_INPUT as u64 {
        super::discard(body.into_data_stream()).await;
        return Err(too_large());
    }
    let (mut room, mut bytes) = (app.inputs.of(&caller.account), Vec::new());
    let whole = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ApiError::request(StatusCode::BAD_REQUEST, format!("the input broke off: {error}")))?;
            let Ok(piece) = frame.into_data() else { continue };
            let len = bytes.len() + piece.len();
            if len > MAX_INPUT {
                return Err(too_large());
            }
            room.grow(len.div_ceil(1024)).await?;
            bytes.extend_from_slice(&piece);
        }
        Ok(())
    };
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the input took longer than 60 s");
    if let Err(error) = tokio::time::timeout(BODY_TIMEOUT, whole).await.map_err(late).flatten() {
        drop((room, bytes));
        super::discard(body.into_data_stream()).await;
        return Err(error);
    }
    match serde_json::from_slice::<&RawValue>(&bytes) {
        Ok(_) => Ok((Arc::from(&bytes[..]), room)),
        Err(error) => Err(ApiError::new(ErrorCode::InvalidInput, format!("the input is not JSON: {error}"))),
    }
}

/// Until the end, or the time has passed, or the daemon stops; as it is now where there is no time.
async fn wait(app: &App, live: &Live, time: Option<Duration>) -> Arc<Execution> {
    let Some(time) = time else { return live.view() };
    tokio::select! {
        ended = live.ended() => ended,
        () = tokio::time::sleep(time) => live.view(),
        () = app.stopping.cancelled() => live.view(),
    }
}

/// The request's idempotency key.
fn key(headers: &HeaderMap) -> Result<Option<Key>, ApiError> {
    let wrong = |why| ApiError::request(StatusCode::BAD_REQUEST, format!("Idempotency-Key: {why}"));
    let mut values = headers.get_all(idempotency::HEADER).iter();
    let key = values.next().map(|value| Key::parse(value.as_bytes()).map_err(wrong)).transpose()?;
    if values.next().is_some() { Err(wrong("there is more than one")) } else { Ok(key) }
}

/// Refuses what nobody may run.
pub(super) fn check(app: &App, account: &AccountName, name: &str) -> Result<(), ApiError> {
    app.catalog.with_version_for_client(account, name, |_| Ok::<_, ApiError>(()))?
}

/// Names of secrets are for those who may set them.
fn refused(caller: &Caller, error: SubmitError) -> ApiError {
    match error {
        SubmitError::UnknownSecret { task, .. } if caller.role < Role::Owner => {
            let message = format!("task {:?} declares a secret that is not set; an owner of the account sets it", task.as_str());
            ApiError::new(ErrorCode::UnknownSecret, message)
        }
        error => error.into(),
    }
}

/// Takes an execution; it is durable when this returns.
async fn accept(app: &App, caller: &Caller, name: &str, input: Arc<[u8]>, extras: Extras) -> Result<Arc<Live>, ApiError> {
    app.store.check_room()?;
    let live = app.catalog.with_version_for_client(&caller.account, name, |version| {
        app.dispatcher.submit_with(version, input, extras).map_err(|error| refused(caller, error))
    })??;
    live.stored().await?;
    Ok(live)
}

/// What became of a submission with a key.
enum Once {
    New(Arc<Live>),
    Known(ExecutionId),
}

/// Takes an execution, unless the key is known. Not to be dropped half-way: the next one with this key may begin when this is over.
async fn accept_once(
    app: &App,
    caller: &Caller,
    (name, input): (&str, Arc<[u8]>),
    (key, request): (Key, String),
    extras: Result<Extras, ApiError>,
) -> Result<Once, ApiError> {
    let account = caller.account.as_str();
    let _one = app.keys.one(account, &key).await;
    let at = Timestamp::now();
    if let Some(known) = app.store.key(account, &key, at).await? {
        if known.request == request {
            return Ok(Once::Known(known.execution));
        }
        let message = format!("this Idempotency-Key came with another request before, which became execution {}", known.execution);
        return Err(ApiError::new(ErrorCode::KeyReused, message));
    }
    let extras = extras?;
    if !app.keys.admit(account) {
        let message = format!("the account has {} idempotency keys, and no more may be; each is kept for 24 h", idempotency::MAX_KEYS);
        return Err(ApiError::new(ErrorCode::TooMany, message));
    }
    let key = NewKey { account: account.into(), key, request, at };
    accept(app, caller, name, input, Extras { key: Some(key), ..extras }).await.map(Once::New)
}

/// As it is now, or once it has ended.
async fn seen(app: &App, caller: &Caller, id: &ExecutionId, time: Option<Duration>) -> Result<Arc<Execution>, ApiError> {
    if let Some(live) = app.dispatcher.live_of(&caller.account, id) {
        // Nobody may learn of an execution before it is durable.
        live.stored().await?;
        return Ok(wait(app, &live, time).await);
    }
    stored(app, caller, id).await.map(Arc::new)
}

/// Takes out what not everybody sees who may run a task: who may not see its code does not see lines of it either, may not signal in the name of
/// whom its program gave an event to, and sees no name of a secret.
pub(super) fn hide(caller: &Caller, execution: &mut Arc<Execution>) {
    if caller.role >= Role::Owner {
        return;
    }
    let execution = Arc::make_mut(execution);
    execution.error.iter_mut().for_each(|error| error.traceback = None);
    execution.waiting.iter_mut().for_each(|wait| wait.token = None);
    execution.notify.iter_mut().for_each(|delivery| delivery.notify.hide());
    for entry in &mut execution.timeline {
        if let Happening::Parked { waiting, .. } = &mut entry.what {
            waiting.iter_mut().for_each(|wait| wait.token = None);
        }
    }
}

/// What a caller sees of an execution.
pub(super) fn shown(caller: &Caller, mut execution: Arc<Execution>) -> Json<Arc<Execution>> {
    hide(caller, &mut execution);
    Json(execution)
}

/// As the database has it.
pub(super) async fn stored(app: &App, caller: &Caller, id: &ExecutionId) -> Result<Execution, ApiError> {
    app.store.execution_of(&caller.account, id).await?.ok_or_else(|| ApiError::unknown_execution(id.as_str()))
}

/// Run a task (`NAME`, or `NAME@` and at least 8 digits of a version) on the JSON of the body. A request that comes again with its `Idempotency-Key` within
/// 24 h gets the execution of the first one.
#[utoipa::path(
    post, path = "/v1/tasks/{name}/executions", tag = "executions",
    params(
        ("name" = String, Path, description = "NAME or NAME@HASH"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 printable ASCII characters, plain or in quotes"),
        SubmitParams,
    ),
    request_body(content = Object, content_type = "application/json", description = "The input: any JSON, at most 6 MiB"),
    responses(
        (status = 201, description = "Durable; ended if `wait` was long enough", body = Execution),
        (status = 200, description = "It was there already, by its key", body = Execution),
        (
            status = "4XX", body = ErrorBody,
            description = "unknown_task, unknown_version, not_allowed, forbidden, invalid_input, input_too_large, over_capacity, late, key_reused, too_many",
        ),
        (status = "5XX", description = "draining, busy, disk_full", body = ErrorBody),
    )
)]
pub(super) async fn submit(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(name): Path<String>,
    Params(params): Params<SubmitParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Arc<Execution>>), ApiError> {
    let (time, key) = (params.duration()?, key(&headers)?);
    let extras = Extras { need_by: params.need_by()?, on_late: params.on_late, ..Extras::default() };
    let notify = || notify::wanted(&app, &caller, params.notify.as_deref(), params.notify_secret.as_deref());
    // Before the body, so that a client does not send it in vain.
    if let Err(refused) = check(&app, &caller.account, &name).and_then(|()| notify().map(drop)) {
        // What it ran may be gone since then.
        match &key {
            Some(key) if app.store.key(caller.account.as_str(), key, Timestamp::now()).await?.is_some() => {}
            _ => return Err(refused),
        }
    }
    let (input, room) = input(&app, &caller, body).await?;
    // Once more: what is not allowed any more is of no matter where the key is known.
    let extras = notify().map(|notify| Extras { notify, ..extras });
    let once = match key {
        None => Once::New(accept(&app, &caller, &name, input, extras?).await?),
        Some(key) => {
            // As they were asked for: a time from now on is another moment each time.
            let on_late = format!("{:?}", params.on_late);
            let need_by = params.need_by.unwrap_or_default();
            let (notify, secret) = (params.notify.unwrap_or_default(), params.notify_secret.unwrap_or_default());
            let parts: [(&str, &[u8]); 6] = [
                ("task", name.as_bytes()),
                ("input", &input),
                ("need_by", need_by.as_bytes()),
                ("on_late", on_late.as_bytes()),
                ("notify", notify.as_bytes()),
                ("notify_secret", secret.as_bytes()),
            ];
            let request = idempotency::fingerprint(&parts);
            let (app, caller) = (Arc::clone(&app), caller.clone());
            whole(async move { accept_once(&app, &caller, (&name, input), (key, request), extras).await }).await?
        }
    };
    drop(room);
    let (status, live) = match once {
        Once::New(live) => (StatusCode::CREATED, live),
        Once::Known(id) => return Ok((StatusCode::OK, shown(&caller, seen(&app, &caller, &id, time).await?))),
    };
    Ok((status, shown(&caller, wait(&app, &live, time).await)))
}

/// Executions, newest first, without their results.
#[utoipa::path(
    get, path = "/v1/executions", tag = "executions", params(ListParams),
    responses((status = 200, body = ExecutionList), (status = 400, description = "invalid_request", body = ErrorBody))
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Params(params): Params<ListParams>,
) -> Result<Json<ExecutionList>, ApiError> {
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(ApiError::request(StatusCode::BAD_REQUEST, format!("limit is from 1 to {LIMIT_MAX}")));
    }
    let wanted = |execution: &Execution| {
        execution.account == caller.account
            && params.task.as_deref().is_none_or(|task| task == execution.task.as_str())
            && params.state.is_none_or(|state| state == execution.state)
            && params.notify.is_none_or(|told| execution.notify.as_ref().is_some_and(|delivery| delivery.state == told))
    };
    let cap = usize::try_from(limit).unwrap_or(usize::MAX);
    // The live ones first: one that ends meanwhile is then found twice, not missed.
    let mut executions: Vec<Arc<Execution>> =
        app.dispatcher.all_live().iter().map(|live| live.view()).filter(|view| wanted(view)).take(cap).collect();
    let ended = params.state.is_some_and(crate::state::machine::State::ended) || params.notify.is_some_and(|told| told != Told::Waiting);
    if params.all || ended {
        let filter =
            Filter { account: caller.account.clone(), task: params.task.clone(), state: params.state, notify: params.notify, limit };
        executions.extend(app.store.ended(&filter).await?.into_iter().map(Arc::new));
        executions.sort_by(|a, b| b.id.cmp(&a.id).then(b.state.ended().cmp(&a.state.ended())));
        executions.dedup_by(|later, first| later.id == first.id);
        executions.truncate(cap);
    }
    for execution in &mut executions {
        if execution.result.is_some() {
            Arc::make_mut(execution).result = None;
        }
        hide(&caller, execution);
    }
    Ok(Json(ExecutionList { executions }))
}

pub(super) fn parse_id(id: &str) -> Result<ExecutionId, ApiError> {
    ExecutionId::parse(id).ok_or_else(|| ApiError::unknown_execution(id))
}

/// An execution that has not ended; `ended`: the code for one that has.
pub(super) async fn live(app: &App, caller: &Caller, id: &ExecutionId, ended: ErrorCode) -> Result<Arc<Live>, ApiError> {
    let Some(live) = app.dispatcher.live_of(&caller.account, id) else {
        let execution = stored(app, caller, id).await?;
        return Err(ApiError::new(ended, format!("execution {id} has ended as {}", execution.state.name())));
    };
    live.stored().await?;
    Ok(live)
}

/// One execution.
#[utoipa::path(
    get, path = "/v1/executions/{id}", tag = "executions", params(("id" = String, Path), WaitParams),
    responses((status = 200, body = Execution), (status = 404, description = "unknown_execution", body = ErrorBody))
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(id): Path<String>,
    Params(params): Params<WaitParams>,
) -> Result<Json<Arc<Execution>>, ApiError> {
    let (time, id) = (params.duration()?, parse_id(&id)?);
    Ok(shown(&caller, seen(&app, &caller, &id, time).await?))
}

fn not_cancellable(execution: &Execution) -> ApiError {
    let message = format!("execution {} has already ended as {}", execution.id, execution.state.name());
    ApiError::new(ErrorCode::NotCancellable, message)
}

/// Cancel an execution. Answers when its VM is gone.
#[utoipa::path(
    post, path = "/v1/executions/{id}/cancel", tag = "executions", params(("id" = String, Path)),
    responses(
        (status = 200, body = Execution),
        (status = 404, description = "unknown_execution", body = ErrorBody),
        (status = 409, description = "not_cancellable: it has ended", body = ErrorBody),
    )
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(id): Path<String>,
) -> Result<Json<Arc<Execution>>, ApiError> {
    use crate::state::machine::State as S;
    let id = parse_id(&id)?;
    let cancelled = match app.dispatcher.live_of(&caller.account, &id) {
        Some(_) => app.dispatcher.cancel(&id).await,
        None => None,
    };
    let execution = match cancelled {
        Some(cancelled) => cancelled?,
        None => return Err(not_cancellable(&stored(&app, &caller, &id).await?)),
    };
    match execution.state {
        S::Succeeded | S::Failed | S::TimedOut => Err(not_cancellable(&execution)),
        _ => Ok(shown(&caller, execution)),
    }
}
