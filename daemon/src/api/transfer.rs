//! Executions that move from host to host: export and import.

use super::caller::Owner;
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::executions::{live, parse_id};
use super::types::{ExportParams, Params};
use super::{App, Patience, whole};
use crate::schedule::dispatch::SubmitError;
use crate::state::record::Execution;
use crate::state::store::StoreError;
use crate::transfer::container;
use crate::transfer::export::{self, DEPTH, ExportError};
use crate::transfer::import::{self, ImportError};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Largest file: the largest machine on the largest template, and all else.
const MAX_FILE: u64 = 10 << 30;
/// A client that sends nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(60);
/// Bytes of the disk that an upload leaves free, and how often it looks.
const MARGIN: u64 = 64 << 20;
const LOOK: u64 = 1 << 20;

impl From<ExportError> for ApiError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Stays(why) => Self::new(ErrorCode::NotMovable, why),
            ExportError::Store(error) => error.into(),
            ExportError::Io { what, source } => Self::io(what, &source),
            other => Self::new(ErrorCode::Internal, other.to_string()),
        }
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        use crate::parked::ParkError;
        let code = match error {
            ImportError::Submit(error) => return error.into(),
            ImportError::Store(error) => return error.into(),
            ImportError::Io { what, source } | ImportError::Parked(ParkError::Io { what, source }) => return Self::io(what, &source),
            ImportError::File(_) | ImportError::Code(_) | ImportError::Machine(_) | ImportError::Foreign(_) => ErrorCode::InvalidTransfer,
            ImportError::Known(_) => ErrorCode::ExecutionKnown,
            ImportError::Differs(_) => ErrorCode::WrongHost,
            ImportError::NoTemplate(_) => ErrorCode::NoTemplate,
            ImportError::Parked(ParkError::Quota { .. } | ParkError::Part { .. }) => ErrorCode::ParkedQuota,
            ImportError::Parked(ParkError::Key(_) | ParkError::Record(_) | ParkError::Other | ParkError::Size { .. })
            | ImportError::Template(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// Move a parked execution into a file, for `POST /v1/executions/import` of another host. It ends here as `cancelled`, error `moved`, right before the last bytes
/// of the file; a client that goes away earlier leaves it parked.
#[utoipa::path(
    post, path = "/v1/executions/{id}/export", tag = "executions", params(("id" = String, Path), ExportParams),
    responses(
        (status = 200, description = "The file; whole only if the answer ends as it should", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, description = "unknown_execution", body = ErrorBody),
        (status = 409, description = "not_movable: it is not parked, or others here wait for it, or it waits for others that have not ended", body = ErrorBody),
    )
)]
pub(super) async fn export(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(id): Path<String>,
    Params(params): Params<ExportParams>,
) -> Result<Response, ApiError> {
    let id = parse_id(&id)?;
    if app.dispatcher.draining() {
        return Err(SubmitError::Draining.into());
    }
    let live = live(&app, &caller, &id, ErrorCode::NotMovable).await?;
    let prepared = export::prepare(&app.dispatcher, &live, params.template.unwrap_or(true)).await?;
    let (to, sent) = mpsc::channel(DEPTH);
    // Of its own: what is given up must not be half given up when the client goes away.
    tokio::spawn(export::send(Arc::clone(&app.dispatcher), prepared, to));
    let pieces = stream::unfold(sent, |mut sent| async move { sent.recv().await.map(|piece| (piece, sent)) });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(pieces)).into_response())
}

/// The body into a file without a name. What does not begin like an export is refused at once.
async fn spool(app: &App, body: Body) -> Result<File, ApiError> {
    let (mut begin, mut looked) = (Vec::new(), None);
    let accept = |size, piece: &[u8]| {
        if begin.len() < container::HEAD {
            begin.extend(piece.iter().take(container::HEAD));
            container::begins(&begin).map_err(ImportError::from)?;
        }
        if size > MAX_FILE {
            return Err(ApiError::new(ErrorCode::InvalidTransfer, "the file is larger than an exported execution can be"));
        }
        if looked.is_none_or(|at| size >= at + LOOK) {
            looked = Some(size);
            let free = app.images.free().map_err(|error| ApiError::io("can't see how full the disk is", &error))?;
            if free < MARGIN {
                return Err(StoreError::DiskFull.into());
            }
        }
        Ok(())
    };
    let late = || ApiError::request(StatusCode::REQUEST_TIMEOUT, "nothing of the file came for 60 s");
    super::spool(app, body, Patience::Piece(STALLED), late, accept).await
}

/// Take in an execution that another host has exported. It goes on here when what it waits for is there.
#[utoipa::path(
    post, path = "/v1/executions/import", tag = "executions",
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Durable here, parked", body = Execution),
        (status = 409, description = "execution_known: it is here already, or was", body = ErrorBody),
        (status = 422, description = "wrong_host: a part of this host is not like that of its source; no_template; over_capacity", body = ErrorBody),
        (status = "4XX", description = "invalid_transfer: damaged, cut off, or of another format version", body = ErrorBody),
        (status = "5XX", description = "draining, busy, disk_full, parked_quota", body = ErrorBody),
    )
)]
pub(super) async fn import(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    body: Body,
) -> Result<(StatusCode, Json<Arc<Execution>>), ApiError> {
    if app.dispatcher.draining() {
        return Err(SubmitError::Draining.into());
    }
    app.store.check_room()?;
    let file = {
        let mut place = app.arrivals.of(&caller.account);
        if let Err(error) = place.grow(1).await {
            super::discard(body.into_data_stream()).await;
            return Err(error);
        }
        spool(&app, body).await?
    };
    let taken = whole(async move {
        let _one = app.imports.lock().await;
        Ok(import::take(&app.dispatcher, &app.tasks, &caller.account, file).await?)
    });
    Ok((StatusCode::CREATED, Json(taken.await?)))
}
