//! Tasks: push, list, inspect, remove.
//!
//! The commit point of a push is the row of its version: the image is on disk before it, and an image without a row is swept at the next
//! start.

use super::caller::{Caller, Invoker, Owner};
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::types::{TaskBody, TaskList, VersionBody};
use super::{App, BODY_TIMEOUT, Patience, broken, whole};
use crate::accounts::Role;
use crate::catalog::Task;
use crate::code::check::{Checked, check};
use crate::code::{CodeError, MAX_TAR, intake};
use crate::manifest::TaskName;
use crate::schedule::live::task_version;
use crate::state::record::Version;
use crate::state::writer::Change;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use hyper::body::Body as _;
use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

fn version_body(app: &App, version: &Version) -> VersionBody {
    let portions = std::iter::once(version).chain(version.portions.iter().map(|other| &**other));
    let declared: BTreeSet<_> = portions.flat_map(|portion| portion.rights.all_secrets()).collect();
    let missing = declared.into_iter().filter(|name| app.dispatcher.secrets.missing(&version.account, [*name]).is_some());
    let missing = missing.map(ToString::to_string).collect();
    let template = |portion: &Version| app.runner().template_state(&task_version(portion, &app.images));
    VersionBody::open(version, template, &app.dispatcher.estimates.seen(version), missing)
}

fn task_body(app: &App, caller: &Caller, name: &TaskName, task: &Task) -> TaskBody {
    let owns = caller.role >= Role::Owner;
    let version = |version: &Arc<Version>| if owns { version_body(app, version) } else { VersionBody::closed(version) };
    TaskBody {
        name: name.to_string(),
        latest: Arc::clone(&task.latest.version),
        runtime: owns.then(|| task.latest.entry.runtime().name()),
        created_at: task.created_at,
        versions: task.versions.iter().rev().map(version).collect(),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CodeError> + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(broken)??)
}

/// The body into a file without a name; memory holds a piece of it at a time.
async fn spool(app: &App, body: Body) -> Result<File, ApiError> {
    if body.size_hint().lower() > MAX_TAR {
        super::discard(body.into_data_stream()).await;
        return Err(CodeError::TooLarge.into());
    }
    let late = || ApiError::request(StatusCode::REQUEST_TIMEOUT, "the upload took longer than 60 s");
    let accept = |size, _: &[u8]| if size > MAX_TAR { Err(CodeError::TooLarge.into()) } else { Ok(()) };
    super::spool(app, body, Patience::Whole(BODY_TIMEOUT), late, accept).await
}

/// Push a task's folder: an uncompressed tar with torpor.toml at its top. Its content becomes the task's newest version.
#[utoipa::path(
    post, path = "/v1/tasks", tag = "tasks",
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses(
        (status = 201, description = "A new version", body = VersionBody),
        (status = 200, description = "The same content as a version before; it is the newest again", body = VersionBody),
        (status = 403, description = "not_allowed: an auxiliary service that the host's policy does not allow", body = ErrorBody),
        (status = 422, description = "over_capacity: its VM would never fit the memory budget", body = ErrorBody),
        (status = "4XX", description = "invalid_manifest, invalid_code, code_too_large", body = ErrorBody),
        (status = "5XX", description = "draining, busy, disk_full", body = ErrorBody),
    )
)]
pub(super) async fn push(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    body: Body,
) -> Result<(StatusCode, Json<VersionBody>), ApiError> {
    if app.dispatcher.draining() {
        return Err(crate::schedule::dispatch::SubmitError::Draining.into());
    }
    let spool = spool(&app, body).await?;
    // Who sends slowly keeps nobody from it.
    let mut place = app.pushes.of(&caller.account);
    place.grow(1).await?;
    let (spool, code) = blocking(move || {
        let tree = intake::read(&spool)?;
        let code = check(&spool, tree)?;
        Ok((spool, code))
    })
    .await?;
    keep(&app, &caller, spool, code).await
}

/// Removes images of a version that no task has any more.
fn remove_images(app: &App, version: &Arc<Version>) {
    let names: BTreeSet<&str> = std::iter::once(&*version.version).chain(version.all().map(|portion| &*portion.code)).collect();
    for name in names.into_iter().filter(|name| !app.catalog.knows(name)) {
        if let Err(error) = app.images.remove(name) {
            tracing::warn!(image = name, %error, "an image could not be removed; the next start sweeps it");
        }
    }
}

async fn keep(app: &Arc<App>, caller: &Caller, spool: File, code: Checked) -> Result<(StatusCode, Json<VersionBody>), ApiError> {
    let before = app.catalog.exact(&caller.account, &code.manifest.name, &code.version);
    let known = before.is_some();
    let version = before.unwrap_or_else(|| Arc::new(code.version(&caller.account, &app.dispatcher.caps)));
    // A version that can't run here now is not kept for a day on which it might: who pushes should hear it, not who runs it.
    for portion in version.all() {
        app.dispatcher.check_capacity(portion)?;
        if let Some(aux) = app.dispatcher.caps.denied(&caller.account, &portion.rights.aux) {
            return Err(ApiError::denied_aux(aux));
        }
    }
    let (app, stored) = (Arc::clone(app), Arc::clone(&version));
    let keep = whole(async move {
        let _one = app.tasks.lock().await;
        let images = app.images.clone();
        blocking(move || images.keep(&code, &spool, known)).await?;
        if let Err(error) = app.store.commit(Change::PutVersion(Arc::clone(&stored))).await {
            remove_images(&app, &stored);
            return Err(ApiError::from(error));
        }
        app.catalog.put(Arc::clone(&stored));
        stored.all().for_each(|portion| app.dispatcher.prepare(Arc::clone(portion)));
        Ok(version_body(&app, &stored))
    });
    let body = keep.await?;
    tracing::info!(account = %version.account, task = %version.task, version = &*version.version, new = !known, "pushed");
    Ok((if known { StatusCode::OK } else { StatusCode::CREATED }, Json(body)))
}

/// All tasks of the account; for invokers their names and versions only.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", responses((status = 200, body = TaskList)))]
pub(super) async fn list(State(app): State<Arc<App>>, Invoker(caller): Invoker) -> Json<TaskList> {
    Json(TaskList { tasks: app.catalog.of(&caller.account).iter().map(|(name, task)| task_body(&app, &caller, name, task)).collect() })
}

/// One task and its versions; for invokers their names only.
#[utoipa::path(
    get, path = "/v1/tasks/{name}", tag = "tasks", params(("name" = String, Path)),
    responses((status = 200, body = TaskBody), (status = 404, description = "unknown_task", body = ErrorBody))
)]
pub(super) async fn inspect(
    State(app): State<Arc<App>>,
    Invoker(caller): Invoker,
    Path(name): Path<String>,
) -> Result<Json<TaskBody>, ApiError> {
    let task = app.catalog.task(&caller.account, &name)?;
    Ok(Json(task_body(&app, &caller, &task.latest.task, &task)))
}

/// Remove a task with all its versions. Its executions stay known.
#[utoipa::path(
    delete, path = "/v1/tasks/{name}", tag = "tasks", params(("name" = String, Path)),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "unknown_task", body = ErrorBody),
        (status = 409, description = "task_busy", body = ErrorBody),
    )
)]
pub(super) async fn remove(State(app): State<Arc<App>>, Owner(caller): Owner, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    whole(async move {
        let _one = app.tasks.lock().await;
        let account = caller.account;
        let name = app.catalog.task(&account, &name)?.latest.task.clone();
        let schedules = app.schedules.of_task(&account, name.as_str()).await;
        if !schedules.is_empty() {
            let what = format!(
                "task {:?} is run by schedules ({}); remove them first with `torpor schedule rm`",
                name.as_str(),
                schedules.join(", ")
            );
            return Err(ApiError::new(ErrorCode::TaskBusy, what));
        }
        let task = app.catalog.remove_unless(&account, &name, || app.dispatcher.busy(&account, &name)).map_err(|busy| {
            let what = format!("{busy} executions of task {:?} are queued, running or parked; cancel them or wait", name.as_str());
            ApiError::new(ErrorCode::TaskBusy, what)
        })?;
        let Some(task) = task else { return Ok(StatusCode::NO_CONTENT) };
        if let Err(error) = app.store.commit(Change::RemoveTask(account.clone(), name.clone())).await {
            app.catalog.put_back(task);
            return Err(ApiError::from(error));
        }
        app.dispatcher.estimates.forget(account.as_str(), name.as_str());
        for version in &task.versions {
            app.dispatcher.unprepare(version);
            version.all().for_each(|portion| app.runner().forget(&task_version(portion, &app.images)));
            remove_images(&app, version);
        }
        tracing::info!(%account, task = %name, versions = task.versions.len(), "removed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
