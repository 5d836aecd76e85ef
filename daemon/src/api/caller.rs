//! Who calls: the account that a request is for, and what its caller may do there. A handler names the least role that may call it by what it takes:
//! [`Invoker`], [`Owner`] or [`Admin`]; without one of these it has no account to ask anything for.
//!
//! Invariant: every request is told whom it is from by [`identify`] before anything else looks at it; what was not told has no caller, and is refused.

use super::App;
use super::error::{ApiError, ErrorCode};
use super::places::Place;
use crate::accounts::{Identity, Role};
use crate::manifest::AccountName;
use crate::state::time::Timestamp;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, HeaderValue};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// Names another account than the caller's own; for administrators.
pub const ACCOUNT_HEADER: HeaderName = HeaderName::from_static("x-torpor-account");
/// The one path that needs no caller: it tells whether the daemon takes work, and nothing else.
pub(super) const OPEN: &str = "/healthz";

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process of this host, by its user id.
    Local(u32),
    /// Anybody, over TLS.
    Remote,
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The account that the request is for.
    pub account: AccountName,
    /// What the caller may do there.
    pub role: Role,
}

fn unauthenticated(why: &str) -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, why)
}

fn forbidden(why: String) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, why)
}

/// The token of a request; none where it brings none.
fn token(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let wrong = || unauthenticated("the Authorization header is not `Bearer` and a token of this host");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
    if values.next().is_some() || !scheme.eq_ignore_ascii_case("bearer") { Err(wrong()) } else { Ok(Some(token.trim())) }
}

/// Whoever brings a token is who it stands for, also on the Unix socket.
fn identity(app: &App, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Identity, ApiError> {
    let accounts = &app.dispatcher.accounts;
    match (token(headers)?, peer) {
        (Some(token), _) => {
            let found = accounts.by_token(token, Timestamp::now());
            found.ok_or_else(|| {
                unauthenticated("this is no token of this host, or it has expired or was removed; `torpor token create` makes one")
            })
        }
        (None, Some(Peer::Local(uid))) => accounts.by_uid(*uid).ok_or_else(|| {
            forbidden(format!(
                "user id {uid} has no account on this host; its administrator gives it one: `torpor account allow NAME --uid {uid}`"
            ))
        }),
        (None, Some(Peer::Remote)) => Err(unauthenticated("a token is needed: give it with TORPOR_TOKEN; `torpor token create` makes one")),
        (None, None) => Err(unauthenticated("it is not known whom this request is from")),
    }
}

/// One connection more of an account, unless it has as many as it may.
fn has_place(place: Option<&Arc<Place>>, known: Identity) -> Result<Identity, ApiError> {
    if place.is_none_or(|place| place.belongs(&known.account)) {
        return Ok(known);
    }
    let why = format!("account {:?} has as many connections as it may; close some, and try again", known.account.as_str());
    Err(ApiError::new(ErrorCode::Busy, why))
}

fn caller(app: &App, Identity { account, role }: Identity, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let mut values = headers.get_all(ACCOUNT_HEADER).iter();
    let Some(value) = values.next() else { return Ok(Caller { account, role }) };
    let wanted = value.to_str().ok().filter(|_| values.next().is_none());
    let wanted = wanted.ok_or_else(|| ApiError::request(StatusCode::BAD_REQUEST, "X-Torpor-Account is the name of one account"))?;
    if wanted == account.as_str() {
        return Ok(Caller { account, role });
    }
    if role < Role::Admin {
        return Err(forbidden(format!("only an administrator acts in another account than its own, which is {:?}", account.as_str())));
    }
    Ok(Caller { account: app.dispatcher.accounts.account(wanted)?.name, role })
}

/// Finds out whom a request is from. For all paths, those that are not there too.
pub(super) async fn identify(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let known = identity(&app, request.extensions().get(), request.headers());
    let known = known.and_then(|known| has_place(request.extensions().get(), known));
    match known.and_then(|known| caller(&app, known, request.headers())) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => {
            let leaves = request.extensions().get() == Some(&Peer::Remote) || error.code() == ErrorCode::Busy;
            let mut response = if request.uri().path() == OPEN {
                next.run(request).await
            } else {
                // So that a client that writes before it reads sees the answer.
                super::discard(request.into_body().into_data_stream()).await;
                error.into_response()
            };
            if leaves {
                // Whoever is nobody, or is one too many, does not stay.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

impl Caller {
    fn at_least(parts: &Parts, role: Role) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().ok_or_else(|| unauthenticated("it is not known whom this request is from"))?;
        if caller.role >= role {
            return Ok(caller.clone());
        }
        Err(forbidden(format!("this is for role {} of an account, and you are {}", role.name(), caller.role.name())))
    }
}

macro_rules! least {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub Caller);

        impl FromRequestParts<Arc<App>> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, _app: &Arc<App>) -> Result<Self, ApiError> {
                Caller::at_least(parts, Role::$name).map(Self)
            }
        }
    };
}

least! {
    /// Anybody who may run the account's tasks.
    Invoker
}
least! {
    /// Who owns the account, or an administrator.
    Owner
}
least! {
    /// An administrator of the host.
    Admin
}
