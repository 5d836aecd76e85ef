//! Accounts, user ids and tokens: for administrators.

use super::caller::Admin;
use super::error::{ApiError, ErrorBody};
use super::types::{HistoryParams, Params};
use super::{App, Input, whole};
use crate::accounts::token::Token;
use crate::accounts::{Account, AccountError, Known, Role, Uid};
use crate::manifest::AccountName;
use crate::retention::remove_logs;
use crate::state::id::ExecutionId;
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// What an account is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountInput {
    /// Its share of a busy host, against those of others: 1 to 1000000; 1, or what it has, where it is not given.
    #[serde(default)]
    weight: Option<u32>,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountBody {
    /// Its name.
    name: String,
    /// Its share of a busy host, against those of others.
    weight: u32,
    /// When it was made.
    created_at: Timestamp,
    /// User ids of this host that belong to it.
    uids: Vec<UidBody>,
    /// How many tokens it has, expired ones included.
    tokens: usize,
}

/// All accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountList {
    /// By name.
    accounts: Vec<AccountBody>,
}

/// What a user id is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UidInput {
    /// Its account.
    account: String,
    /// What it may do there.
    role: Role,
}

/// A user id with an account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UidBody {
    /// The user id.
    uid: u32,
    /// Its account.
    account: String,
    /// What it may do there.
    role: Role,
    /// Since when.
    created_at: Timestamp,
}

/// What a token is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenInput {
    /// Whom whoever brings it belongs to; the account that the request is for where it is not given.
    #[serde(default)]
    account: Option<String>,
    /// What they may do there.
    role: Role,
    /// For how many seconds it is good, at most ten years; for ever where it is not given.
    #[serde(default)]
    expires_in_s: Option<u64>,
    /// What it is for; for people. One line of at most 256 bytes.
    #[serde(default)]
    note: String,
}

/// A token, as far as anybody is told of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenBody {
    /// Names it, and opens nothing.
    id: String,
    /// Whom whoever brings it belongs to.
    account: String,
    /// What they may do there.
    role: Role,
    /// What it is for.
    note: String,
    /// When it was made.
    created_at: Timestamp,
    /// From when on it is good no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
    /// It is good no longer.
    expired: bool,
}

/// A new token. Its text is told here and never again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewTokenBody {
    /// What callers bring: `Authorization: Bearer TOKEN`.
    #[schema(value_type = String)]
    token: zeroize::Zeroizing<String>,
    /// All else.
    #[serde(flatten)]
    about: TokenBody,
}

/// All tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenList {
    /// Oldest first.
    tokens: Vec<TokenBody>,
}

fn uid_body(uid: &Uid) -> UidBody {
    UidBody { uid: uid.uid, account: uid.account.to_string(), role: uid.role, created_at: uid.created_at }
}

fn token_body(token: &Token) -> TokenBody {
    TokenBody {
        id: token.id.to_string(),
        account: token.account.to_string(),
        role: token.role,
        note: token.note.clone(),
        created_at: token.created_at,
        expires_at: token.expires_at,
        expired: token.is_over(Timestamp::now()),
    }
}

fn account_body(known: &Known, account: &Account) -> AccountBody {
    AccountBody {
        name: account.name.to_string(),
        weight: account.weight,
        created_at: account.created_at,
        uids: known.uids.values().filter(|uid| uid.account == account.name).map(uid_body).collect(),
        tokens: known.tokens.values().filter(|token| token.account == account.name).count(),
    }
}

fn named(name: String) -> Result<AccountName, ApiError> {
    let named = AccountName::try_from(name);
    named.map_err(|why| ApiError::request(StatusCode::BAD_REQUEST, format!("this is no name of an account: {why}")))
}

fn user(uid: &str) -> Result<u32, ApiError> {
    uid.parse().map_err(|_| ApiError::request(StatusCode::BAD_REQUEST, format!("{uid:?} is no user id: a whole number below 4294967296")))
}

/// All accounts, with the user ids that belong to them.
#[utoipa::path(
    get, path = "/v1/accounts", tag = "accounts",
    responses((status = 200, body = AccountList), (status = 403, description = "forbidden", body = ErrorBody))
)]
pub(super) async fn list(State(app): State<Arc<App>>, Admin(_caller): Admin) -> Json<AccountList> {
    let known = app.dispatcher.accounts.known();
    Json(AccountList { accounts: known.accounts.values().map(|account| account_body(&known, account)).collect() })
}

/// Make an account, or change its weight.
#[utoipa::path(
    put, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path)), request_body = AccountInput,
    responses(
        (status = 201, description = "New, and durable", body = AccountBody),
        (status = 200, description = "It was there; its weight is this now, durably", body = AccountBody),
        (status = "4XX", description = "invalid_request, forbidden, too_many", body = ErrorBody),
    )
)]
pub(super) async fn put(
    State(app): State<Arc<App>>,
    Admin(_caller): Admin,
    Path(name): Path<String>,
    Input(input): Input<AccountInput>,
) -> Result<(StatusCode, Json<AccountBody>), ApiError> {
    let name = named(name)?;
    app.store.check_room()?;
    let (account, new, app) = whole(async move {
        let (account, new) = app.dispatcher.accounts.put(name, input.weight).await?;
        app.dispatcher.weigh(&account);
        Ok((account, new, app))
    })
    .await?;
    tracing::info!(account = %account.name, weight = account.weight, new, "an account was put");
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(account_body(&app.dispatcher.accounts.known(), &account))))
}

/// A little at a time, and only where nothing else is left of the account. What comes meanwhile keeps the account, not its history.
async fn remove_history(app: &App, account: &AccountName) -> Result<(), ApiError> {
    app.dispatcher.accounts.check_history_only(account).await?;
    while app.catalog.of(account).is_empty() && app.dispatcher.load_of(account).all() == 0 {
        let begin = Instant::now();
        let ended: Arc<[ExecutionId]> = app.store.history(account).await?.into();
        if ended.is_empty() {
            break;
        }
        app.store.commit(Change::RemoveEnded(Arc::clone(&ended))).await?;
        if let Err(error) = remove_logs(&app.logs, ended).await {
            tracing::warn!(%account, %error, "logs could not be removed; the next start does");
        }
        // Half of the time at most is ours.
        tokio::time::sleep(begin.elapsed()).await;
    }
    Ok(())
}

/// Remove an account that nothing belongs to: no task, no secret, no schedule, no execution. Its tokens and user ids go with it.
#[utoipa::path(
    delete, path = "/v1/accounts/{name}", tag = "accounts", params(("name" = String, Path), HistoryParams),
    responses(
        (status = 204, description = "Removed"),
        (status = 404, description = "unknown_account", body = ErrorBody),
        (status = 409, description = "account_busy: something belongs to it, or it is `default`", body = ErrorBody),
    )
)]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Admin(_caller): Admin,
    Path(name): Path<String>,
    Params(params): Params<HistoryParams>,
) -> Result<StatusCode, ApiError> {
    let account = app.dispatcher.accounts.account(&name)?;
    whole(async move {
        if params.history {
            remove_history(&app, &account.name).await?;
        }
        // No push and no import meanwhile.
        let _one = app.tasks.lock().await;
        app.dispatcher.accounts.remove(&account.name).await?;
        app.dispatcher.weigh(&Account { weight: 1, ..account.clone() });
        app.dispatcher.estimates.forget_account(account.name.as_str());
        tracing::info!(account = %account.name, "an account was removed");
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Give a user id of this host an account, and a role there.
#[utoipa::path(
    put, path = "/v1/uids/{uid}", tag = "accounts", params(("uid" = u32, Path)), request_body = UidInput,
    responses(
        (status = 200, description = "Durable", body = UidBody),
        (status = "4XX", description = "invalid_request, forbidden, unknown_account, too_many", body = ErrorBody),
    )
)]
pub(super) async fn allow(
    State(app): State<Arc<App>>,
    Admin(_caller): Admin,
    Path(uid): Path<String>,
    Input(input): Input<UidInput>,
) -> Result<Json<UidBody>, ApiError> {
    let uid = user(&uid)?;
    app.store.check_room()?;
    let entry = whole(async move { Ok(app.dispatcher.accounts.allow(uid, &input.account, input.role).await?) }).await?;
    tracing::info!(uid, account = %entry.account, role = entry.role.name(), "a user id has an account");
    Ok(Json(uid_body(&entry)))
}

/// Take its account from a user id.
#[utoipa::path(
    delete, path = "/v1/uids/{uid}", tag = "accounts", params(("uid" = u32, Path)),
    responses((status = 204, description = "It has none"), (status = 404, description = "unknown_account", body = ErrorBody))
)]
pub(super) async fn deny(State(app): State<Arc<App>>, Admin(_caller): Admin, Path(uid): Path<String>) -> Result<StatusCode, ApiError> {
    let uid = user(&uid)?;
    whole(async move { Ok(app.dispatcher.accounts.deny(uid).await?) }).await?;
    tracing::info!(uid, "a user id has no account any more");
    Ok(StatusCode::NO_CONTENT)
}

/// Make a token. Its text is in the answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "accounts", request_body = TokenInput,
    responses(
        (status = 201, description = "Durable", body = NewTokenBody),
        (status = "4XX", description = "invalid_request, forbidden, unknown_account, too_many", body = ErrorBody),
    )
)]
pub(super) async fn create_token(
    State(app): State<Arc<App>>,
    Admin(caller): Admin,
    Input(input): Input<TokenInput>,
) -> Result<(StatusCode, Json<NewTokenBody>), ApiError> {
    app.store.check_room()?;
    let lasts = input.expires_in_s.map(Duration::from_secs);
    let account = input.account.unwrap_or_else(|| caller.account.to_string());
    let made = whole(async move { Ok(app.dispatcher.accounts.create_token(&account, input.role, lasts, input.note).await?) });
    let (token, text) = made.await?;
    tracing::info!(token = %token.id, account = %token.account, role = token.role.name(), "a token was made");
    Ok((StatusCode::CREATED, Json(NewTokenBody { token: text, about: token_body(&token) })))
}

/// All tokens, without their text.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "accounts",
    responses((status = 200, body = TokenList), (status = 403, description = "forbidden", body = ErrorBody))
)]
pub(super) async fn tokens(State(app): State<Arc<App>>, Admin(_caller): Admin) -> Json<TokenList> {
    let mut tokens: Vec<TokenBody> = app.dispatcher.accounts.known().tokens.values().map(|token| token_body(token)).collect();
    tokens.sort_by_key(|token| token.created_at);
    Json(TokenList { tokens })
}

/// Remove a token: whoever brings it from now on is nobody. What was answered before, such as a log that is followed, goes on.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "accounts", params(("id" = String, Path)),
    responses((status = 204, description = "Removed"), (status = 404, description = "unknown_token", body = ErrorBody))
)]
pub(super) async fn remove_token(
    State(app): State<Arc<App>>,
    Admin(_caller): Admin,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let removed = id.clone();
    whole(async move { Ok(app.dispatcher.accounts.remove_token(&id).await?) }).await?;
    tracing::info!(token = removed, "a token was removed");
    Ok(StatusCode::NO_CONTENT)
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> Self {
        use super::error::ErrorCode as C;
        let code = match error {
            AccountError::Unknown(_) | AccountError::UnknownUid(_) => C::UnknownAccount,
            AccountError::UnknownToken(_) => C::UnknownToken,
            AccountError::Default | AccountError::Busy { .. } => C::AccountBusy,
            AccountError::Fixed(_) | AccountError::Weight | AccountError::Note | AccountError::Expiry => C::InvalidRequest,
            AccountError::TooMany { .. } => C::TooMany,
            AccountError::Entropy(_) => C::Internal,
            AccountError::Store(error) => return Self::from(error),
        };
        Self::new(code, error.to_string())
    }
}
