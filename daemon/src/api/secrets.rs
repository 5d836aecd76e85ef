//! Secrets: set, list, remove. No answer ever holds a value.

use super::caller::Owner;
use super::error::{ApiError, ErrorBody, ErrorCode};
use super::types::{SecretBody, SecretList};
use super::{App, BODY_TIMEOUT, whole};
use crate::manifest::SecretName;
use crate::secrets::{SecretError, StoredSecret};
use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures_util::StreamExt;
use std::sync::Arc;
use torpor_protocol::limits::MAX_SECRET;
use zeroize::{Zeroize, Zeroizing};

fn named(name: String) -> Result<SecretName, ApiError> {
    let named = SecretName::try_from(name);
    named.map_err(|why| ApiError::request(StatusCode::BAD_REQUEST, format!("this is no name of a secret: {why}")))
}

fn too_long() -> ApiError {
    let message = format!("a secret has at most {} KiB", MAX_SECRET >> 10);
    ApiError::new(ErrorCode::InvalidSecret, message).with_status(StatusCode::PAYLOAD_TOO_LARGE)
}

/// The whole body in memory that is wiped. What the connection read it into is not this program's to wipe.
async fn value(body: Body) -> Result<Zeroizing<String>, ApiError> {
    if body.size_hint().lower() > MAX_SECRET as u64 {
        super::discard(body.into_data_stream()).await;
        return Err(too_long());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET));
    let mut pieces = body.into_data_stream();
    let receive = async {
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| ApiError::request(StatusCode::BAD_REQUEST, format!("the value broke off: {error}")))?;
            if bytes.len() + piece.len() > MAX_SECRET {
                return Err(too_long());
            }
            bytes.extend_from_slice(&piece);
            if let Ok(mut piece) = piece.try_into_mut() {
                piece.as_mut().zeroize();
            }
        }
        Ok(())
    };
    let late = |_| ApiError::request(StatusCode::REQUEST_TIMEOUT, "the value took longer than 60 s");
    tokio::time::timeout(BODY_TIMEOUT, receive).await.map_err(late)??;
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(SecretError::Value("this one is not UTF-8; encode binary values, as base64 for instance").into())
        }
    }
}

fn body(stored: &StoredSecret) -> SecretBody {
    SecretBody { name: stored.name.to_string(), created_at: stored.created_at, changed_at: stored.changed_at }
}

/// Set a secret. The body is its value: text of 1 byte to 16 KiB, kept byte for byte, a line end at its end included. What runs already keeps the value that it got.
#[utoipa::path(
    put, path = "/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path)),
    request_body(content = String, content_type = "text/plain"),
    responses(
        (status = 201, description = "New, and durable", body = SecretBody),
        (status = 200, description = "Its value is another now, durably", body = SecretBody),
        (status = "4XX", description = "invalid_secret, invalid_request", body = ErrorBody),
        (status = "5XX", description = "disk_full, internal: the master key", body = ErrorBody),
    )
)]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(name): Path<String>,
    value: Body,
) -> Result<(StatusCode, Json<SecretBody>), ApiError> {
    let name = named(name)?;
    let value = self::value(value).await?;
    app.store.check_room()?;
    let secrets = app.dispatcher.secrets.clone();
    let (stored, new) = whole(async move { Ok(secrets.set(&caller.account, name, value).await?) }).await?;
    tracing::info!(account = %stored.account, secret = %stored.name, new, "a secret was set");
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(body(&stored))))
}

/// All secrets: their names, and when they were set. Never their values.
#[utoipa::path(get, path = "/v1/secrets", tag = "secrets", responses((status = 200, body = SecretList)))]
pub(super) async fn list(State(app): State<Arc<App>>, Owner(caller): Owner) -> Json<SecretList> {
    Json(SecretList { secrets: app.dispatcher.secrets.list(&caller.account).iter().map(|stored| body(stored)).collect() })
}

/// Remove a secret. Tasks that declare it can't be run until it is set again.
#[utoipa::path(
    delete, path = "/v1/secrets/{name}", tag = "secrets", params(("name" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "unknown_secret", body = ErrorBody))
)]
pub(super) async fn remove(State(app): State<Arc<App>>, Owner(caller): Owner, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    let (name, secrets) = (named(name)?, app.dispatcher.secrets.clone());
    let removed = {
        let (account, name) = (caller.account.clone(), name.clone());
        whole(async move { Ok(secrets.remove(&account, &name).await?) })
    };
    if !removed.await? {
        return Err(SecretError::Unknown(name).into());
    }
    tracing::info!(account = %caller.account, secret = %name, "a secret was removed");
    Ok(StatusCode::NO_CONTENT)
}
