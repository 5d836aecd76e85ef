//! Schedules: add, list, inspect, pause, resume, remove.

use super::caller::{Caller, Invoker, Owner};
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::executions::check;
use super::types::MAX_NEED_BY;
use super::{App, BODY_TIMEOUT, notify, whole};
use crate::accounts::Role;
use crate::cron::rule::Rule;
use crate::cron::timer::fits;
use crate::cron::{self, MAX_INPUT, Missed, Need, Overlap, Schedule, Skipped};
use crate::manifest::{AccountName, TaskName, format_bytes};
use crate::notify::Notify;
use crate::state::id::ExecutionId;
use crate::state::store::StoreError;
use crate::state::time::Timestamp;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use torpor_protocol::ask::OnLate;
use utoipa::ToSchema;

/// Most bytes of a request: an input, and what is said beside it.
const MAX_BODY: usize = MAX_INPUT + (16 << 10);
/// Times that are told ahead.
const AHEAD: usize = 5;

/// A schedule that is wanted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSchedule {
    /// Its name; that of the task where it is not given.
    name: Option<String>,
    /// What it runs: NAME for the newest version of its time, or NAME@HASH.
    task: String,
    /// Minute, hour, day of the month, month, day of the week; or a name such as `@daily`.
    #[schema(example = "0 3 * * *")]
    cron: String,
    /// Zone of the IANA database; UTC where it is not given.
    #[schema(example = "Europe/Berlin")]
    timezone: Option<String>,
    /// Input of its executions: any JSON, at most 64 KiB; null where it is not given.
    #[schema(value_type = Option<Object>)]
    input: Option<Box<RawValue>>,
    /// When the result of an execution is needed, in seconds after its time, at most a year. While the host is busy it may be put off, and is done by then.
    need_by_s: Option<u32>,
    /// What to do where that is already certain to be missed: `run` it all the same (the default), or leave it out (`refuse`).
    #[schema(value_type = Option<String>)]
    on_late: Option<OnLate>,
    /// Where the ends of its executions are told, with a POST: a URL that the host's policy allows.
    notify: Option<String>,
    /// The secret that what is told is signed with.
    notify_secret: Option<String>,
    /// What becomes of times that passed while nothing could run: left out (`skip`), one execution for all of them (`once`, the default), or one for each (`all`; of
    /// the newest 100).
    #[serde(default)]
    missed: Missed,
    /// What becomes of a time at which the execution before has not ended: left out (`skip`), or run all the same (`allow`, the default with `missed` `all`).
    overlap: Option<Overlap>,
}

/// A schedule.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScheduleBody {
    /// Its name.
    name: String,
    /// Unlike that of any other, of those that are gone too: what its executions show.
    id: String,
    /// What it runs.
    task: String,
    /// When.
    cron: String,
    /// Where that time is told.
    timezone: &'static str,
    /// What becomes of times that were missed.
    missed: Missed,
    /// What becomes of times at which the execution before has not ended.
    overlap: Overlap,
    /// When the result of an execution is needed, in seconds after its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    need_by_s: Option<u32>,
    /// What to do where that is already certain to be missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    on_late: Option<OnLate>,
    /// Where the ends of its executions are told, and with which secret that is signed; of that and of the URL's query an invoker sees nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    notify: Option<Notify>,
    /// Input of its executions; for owners, where one schedule is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    input: Option<Box<RawValue>>,
    /// It runs nothing until it is resumed.
    paused: bool,
    /// When it was made.
    created_at: Timestamp,
    /// Its next times.
    next: Vec<Timestamp>,
    /// Its last execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last: Option<ExecutionId>,
    /// What it did not run lately, and why; for owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<Skipped>,
}

/// All schedules.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ScheduleList {
    /// By name.
    schedules: Vec<ScheduleBody>,
}

impl ScheduleBody {
    /// Names of secrets, which are in what it did not run too, are for those who may set them.
    fn seen(caller: &Caller, schedule: &Schedule, ahead: usize) -> Self {
        let mut body = Self::new(schedule, ahead);
        if caller.role < Role::Owner {
            body.notify.iter_mut().for_each(Notify::hide);
            body.skipped = None;
        }
        body
    }

    fn new(schedule: &Schedule, ahead: usize) -> Self {
        let next = std::iter::successors(schedule.next(), |time| schedule.rule.next(*time)).take(ahead).collect();
        Self {
            name: schedule.name.to_string(),
            id: schedule.id.to_string(),
            task: schedule.task.clone(),
            cron: schedule.rule.text().to_owned(),
            timezone: schedule.rule.zone(),
            missed: schedule.missed,
            overlap: schedule.overlap,
            need_by_s: schedule.need.map(|need| need.by_s),
            on_late: schedule.need.map(|need| need.on_late),
            notify: schedule.notify.clone(),
            input: None,
            paused: schedule.paused,
            created_at: schedule.created_at,
            next,
            last: schedule.last.clone(),
            skipped: schedule.skipped.clone(),
        }
    }
}

fn wrong(message: impl Into<String>) -> ApiError {
    ApiError::request(StatusCode::BAD_REQUEST, message)
}

fn unknown(name: &str) -> ApiError {
    ApiError::new(ErrorCode::UnknownSchedule, format!("no schedule {name:?}; `torpor schedule ls` lists them"))
}

async fn wanted(body: Body) -> Result<NewSchedule, ApiError> {
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the schedule took longer than 60 s");
    let whole = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await.map_err(late)?;
    let too_large =
        |_| ApiError::new(ErrorCode::InputTooLarge, format!("the input of a schedule has at most {}", format_bytes(MAX_INPUT as u64)));
    let wanted: NewSchedule =
        serde_json::from_slice(&whole.map_err(too_large)?.to_bytes()).map_err(|error| wrong(format!("this is no schedule: {error}")))?;
    match &wanted.input {
        Some(input) if input.get().len() > MAX_INPUT => Err(too_large("".into())),
        _ => Ok(wanted),
    }
}

impl NewSchedule {
    fn need(&self) -> Result<Option<Need>, ApiError> {
        let Some(by_s) = self.need_by_s else {
            return if self.on_late.is_some() { Err(wrong("on_late is for who gives need_by_s")) } else { Ok(None) };
        };
        if f64::from(by_s) > MAX_NEED_BY {
            return Err(wrong("need_by_s is a number of seconds from 0 to 31622400"));
        }
        Ok(Some(Need { by_s, on_late: self.on_late.unwrap_or_default() }))
    }

    fn schedule(&self, account: AccountName, notify: Option<Notify>) -> Result<Schedule, ApiError> {
        let name = self.name.as_deref().unwrap_or_else(|| self.task.split('@').next().unwrap_or_default());
        let name = TaskName::try_from(name.to_owned()).map_err(|why| wrong(format!("{name:?} is no name of a schedule: {why}")))?;
        let rule = Rule::parse(&self.cron, self.timezone.as_deref().unwrap_or("UTC")).map_err(wrong)?;
        let overlap = self.overlap.unwrap_or(if self.missed == Missed::All { Overlap::Allow } else { Overlap::Skip });
        if !fits(self.missed, overlap) {
            return Err(wrong(
                "missed \"all\" runs several executions at once, of which overlap \"skip\" would leave all but the first out; give overlap \"allow\"",
            ));
        }
        let now = Timestamp::now();
        if rule.next(now).is_none() {
            return Err(wrong(format!("there is no time of {:?}", rule.text())));
        }
        Ok(Schedule {
            id: cron::new_id().map_err(|error| ApiError::new(ErrorCode::Internal, format!("the host gives no random bytes: {error}")))?,
            account,
            name,
            task: self.task.clone(),
            rule,
            missed: self.missed,
            overlap,
            need: self.need()?,
            notify,
            paused: false,
            created_at: now,
            fired_to: now,
            last: None,
            skipped: None,
        })
    }
}

/// Add a schedule.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules", request_body = NewSchedule,
    responses(
        (status = 201, description = "Durable", body = ScheduleBody),
        (
            status = "4XX", body = ErrorBody,
            description = "invalid_request, input_too_large, unknown_task, unknown_version, not_allowed, schedule_known, too_many",
        ),
        (status = "5XX", description = "disk_full", body = ErrorBody),
    )
)]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    body: Body,
) -> Result<(StatusCode, Json<ScheduleBody>), ApiError> {
    let wanted = wanted(body).await?;
    let notify = notify::wanted(&app, &caller, wanted.notify.as_deref(), wanted.notify_secret.as_deref())?;
    let schedule = wanted.schedule(caller.account, notify)?;
    app.store.check_room()?;
    let schedule = whole(async move {
        // Its task must not go away meanwhile.
        let _one = app.tasks.lock().await;
        check(&app, &schedule.account, &schedule.task)?;
        let input = wanted.input.as_ref().map_or("null", |input| input.get());
        app.schedules.add(schedule.clone(), input.as_bytes().into()).await?;
        Ok(schedule)
    })
    .await?;
    tracing::info!(schedule = %schedule.name, task = schedule.task, cron = schedule.rule.text(), "a schedule was added");
    Ok((StatusCode::CREATED, Json(ScheduleBody::new(&schedule, AHEAD))))
}

/// All schedules.
#[utoipa::path(get, path = "/v1/schedules", tag = "schedules", responses((status = 200, body = ScheduleList)))]
pub(super) async fn list(State(app): State<Arc<App>>, Invoker(caller): Invoker) -> Json<ScheduleList> {
    let schedules = app.schedules.list(&caller.account).await;
    Json(ScheduleList { schedules: schedules.iter().map(|schedule| ScheduleBody::seen(&caller, schedule, 1)).collect() })
}

async fn input(app: &App, schedule: &Schedule) -> Result<Box<RawValue>, ApiError> {
    let input = app.store.schedule_input(&schedule.id).await?;
    serde_json::from_slice(&input).map_err(|error| ApiError::from(StoreError::damaged("schedule")(error)))
}

/// One schedule, by its name or its id.
#[utoipa::path(
    get, path = "/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, body = ScheduleBody), (status = 404, description = "unknown_schedule", body = ErrorBody))
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(name): Path<String>,
) -> Result<Json<ScheduleBody>, ApiError> {
    let schedule = app.schedules.get(&caller.account, &name).await.ok_or_else(|| unknown(&name))?;
    let mut body = ScheduleBody::seen(&caller, &schedule, AHEAD);
    if caller.role >= Role::Owner {
        body.input = Some(input(&app, &schedule).await?);
    }
    Ok(Json(body))
}

/// Remove a schedule. Its executions stay.
#[utoipa::path(
    delete, path = "/v1/schedules/{name}", tag = "schedules", params(("name" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "unknown_schedule", body = ErrorBody))
)]
pub(super) async fn remove(State(app): State<Arc<App>>, Owner(caller): Owner, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let wanted = name.clone();
    let removed = whole(async move { Ok(app.schedules.remove(&caller.account, &wanted).await?) });
    if removed.await? { Ok(StatusCode::NO_CONTENT) } else { Err(unknown(&name)) }
}

async fn set_paused(app: Arc<App>, account: AccountName, name: String, paused: bool) -> Result<Json<ScheduleBody>, ApiError> {
    let wanted = name.clone();
    let set = whole(async move { Ok(app.schedules.pause(&account, &wanted, paused).await?) });
    Ok(Json(ScheduleBody::new(&set.await?.ok_or_else(|| unknown(&name))?, AHEAD)))
}

/// Pause a schedule: it runs nothing until it is resumed.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/pause", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, body = ScheduleBody), (status = 404, description = "unknown_schedule", body = ErrorBody))
)]
pub(super) async fn pause(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(name): Path<String>,
) -> Result<Json<ScheduleBody>, ApiError> {
    set_paused(app, caller.account, name, true).await
}

/// Let a schedule go on, from now on: what would have been meanwhile is not missed.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/resume", tag = "schedules", params(("name" = String, Path)),
    responses((status = 200, body = ScheduleBody), (status = 404, description = "unknown_schedule", body = ErrorBody))
)]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(name): Path<String>,
) -> Result<Json<ScheduleBody>, ApiError> {
    set_paused(app, caller.account, name, false).await
}
