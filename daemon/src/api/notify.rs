//! Where callers want the ends of executions told, held against the host's policy.

use super::App;
use super::caller::Caller;
use super::error::{ApiError, ErrorCode};
use crate::accounts::Role;
use crate::manifest::SecretName;
use crate::manifest::notify::Destination;
use crate::notify::Notify;
use crate::secrets::SecretError;
use axum::http::StatusCode;

/// What a caller gives, if it may. Who may not see names of secrets does not try them out here, and has nothing signed.
pub(super) fn wanted(app: &App, caller: &Caller, url: Option<&str>, secret: Option<&str>) -> Result<Option<Notify>, ApiError> {
    let wrong = |message: String| ApiError::request(StatusCode::BAD_REQUEST, message);
    let Some(url) = url else {
        return if secret.is_some() { Err(wrong("notify_secret is for who gives notify".into())) } else { Ok(None) };
    };
    let url = Destination::parse(url).map_err(|why| wrong(format!("notify: {why}")))?;
    if !app.dispatcher.caps.allows_notify(&caller.account, &url) {
        let message = format!(
            "notify: this host's policy does not allow {:?}; its administrator would add it to `notify` in [caps] of the file that torpord's --policy names",
            url.to_string()
        );
        return Err(ApiError::new(ErrorCode::NotAllowed, message));
    }
    if secret.is_some() && caller.role < Role::Owner {
        let message = format!(
            "notify_secret is for role owner of an account, and you are {}; an owner may submit it, or add a schedule for it",
            caller.role.name()
        );
        return Err(ApiError::new(ErrorCode::Forbidden, message));
    }
    let secret = secret.map(|name| SecretName::try_from(name.to_owned()));
    let secret = secret.transpose().map_err(|why| wrong(format!("notify_secret: this is no name of a secret: {why}")))?;
    if let Some(missing) = app.dispatcher.secrets.missing(&caller.account, &secret) {
        return Err(SecretError::Unknown(missing.clone()).into());
    }
    Ok(Some(Notify { url, secret }))
}
