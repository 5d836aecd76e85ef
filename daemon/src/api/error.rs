//! What a client gets when it gets a no: a status, a code of a closed list, a message that says what to do.

use crate::catalog::LookupError;
use crate::code::CodeError;
use crate::cron::timer::ScheduleError;
use crate::manifest;
use crate::manifest::aux::Aux;
use crate::manifest::flow::Denied;
use crate::schedule::dispatch::SubmitError;
use crate::secrets::SecretError;
use crate::state::store::StoreError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;

/// All codes of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: `torpor.toml` is missing or wrong; `file` and `line` say where.
    InvalidManifest,
    /// 400: the folder holds what it may not, or lacks the entry.
    InvalidCode,
    /// 413: too many bytes or files.
    CodeTooLarge,
    /// 400: the input is not JSON.
    InvalidInput,
    /// 413: the input is too large.
    InputTooLarge,
    /// 400, 404, 405, 408: the request itself is wrong: its path, method, parameters or body.
    InvalidRequest,
    /// 404.
    UnknownTask,
    /// 404: no such version, or the digits stand for more than one.
    UnknownVersion,
    /// 404.
    UnknownExecution,
    /// 404: no execution has made such an event, or what it was of is gone.
    UnknownEvent,
    /// 404: no schedule of that name or id.
    UnknownSchedule,
    /// 409: there is a schedule of that name.
    ScheduleKnown,
    /// 404: for administrators; also of a user id that has none.
    UnknownAccount,
    /// 404: for administrators.
    UnknownToken,
    /// 409: something belongs to the account, or it is `default`.
    AccountBusy,
    /// 401: no token, or none that is good.
    Unauthenticated,
    /// 403: the caller's role in its account does not allow it.
    Forbidden,
    /// 404: no secret of that name is set.
    UnknownSecret,
    /// 400, 413: the value of a secret is empty, too long or no text.
    InvalidSecret,
    /// 409: the event was signalled before.
    EventUsed,
    /// 409: it does not wait, is not parked, or could not be parked.
    NotParked,
    /// 409: it is not parked, or others on this host have to do with it.
    NotMovable,
    /// 400: the file is no exported execution, is damaged or cut off, or of another format version.
    InvalidTransfer,
    /// 409: the execution is known here already.
    ExecutionKnown,
    /// 422: this host is not like the one that the execution was parked on; the message names each difference.
    WrongHost,
    /// 422: its template is neither here nor in the file.
    NoTemplate,
    /// 507: parked executions take all that they may.
    ParkedQuota,
    /// 409: it has ended.
    NotCancellable,
    /// 409: executions of the task are queued, running or parked, or schedules run it.
    TaskBusy,
    /// 403: a policy does not allow it; the message names the policy and what it would have to hold.
    NotAllowed,
    /// 422: its VM would need more than the whole memory budget.
    OverCapacity,
    /// 422: its result can't be there when it is needed.
    Late,
    /// 422: the key came before, with another request.
    KeyReused,
    /// 429: the account has as many of these as it may.
    TooMany,
    /// 503: as much is being received as may be at once; the same request may come again.
    Busy,
    /// 503: the daemon is stopping.
    Draining,
    /// 507: nothing was stored.
    DiskFull,
    /// 503: another process has locked the database; nothing was stored.
    Locked,
    /// 500: a fault of the host or of torpord; its log has more.
    Internal,
}

impl ErrorCode {
    const fn status(self) -> StatusCode {
        match self {
            Self::InvalidManifest
            | Self::InvalidCode
            | Self::InvalidInput
            | Self::InvalidRequest
            | Self::InvalidTransfer
            | Self::InvalidSecret => StatusCode::BAD_REQUEST,
            Self::CodeTooLarge | Self::InputTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownTask
            | Self::UnknownVersion
            | Self::UnknownExecution
            | Self::UnknownEvent
            | Self::UnknownSchedule
            | Self::UnknownSecret
            | Self::UnknownAccount
            | Self::UnknownToken => StatusCode::NOT_FOUND,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NotCancellable
            | Self::TaskBusy
            | Self::EventUsed
            | Self::NotParked
            | Self::NotMovable
            | Self::ExecutionKnown
            | Self::ScheduleKnown
            | Self::AccountBusy => StatusCode::CONFLICT,
            Self::NotAllowed | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::OverCapacity | Self::Late | Self::WrongHost | Self::NoTemplate | Self::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Draining | Self::Locked | Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::DiskFull | Self::ParkedQuota => StatusCode::INSUFFICIENT_STORAGE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// What went wrong.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ErrorDetail {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what is wrong, and what to do.
    pub message: String,
    /// File of the task's folder that is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of that file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// A refusal on its way to a client.
#[derive(Debug, Clone)]
pub struct ApiError {
    status: StatusCode,
    detail: ErrorDetail,
}

impl ApiError {
    /// A refusal without a place in a file.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: code.status(), detail: ErrorDetail { code, message: message.into(), file: None, line: None } }
    }

    /// The same with another status.
    #[must_use]
    pub const fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// For programs.
    pub(super) const fn code(&self) -> ErrorCode {
        self.detail.code
    }

    /// A wrong request, with a status of its own.
    pub fn request(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, ..Self::new(ErrorCode::InvalidRequest, message) }
    }

    /// No such execution.
    pub fn unknown_execution(id: &str) -> Self {
        Self::new(
            ErrorCode::UnknownExecution,
            format!("no execution {id:?}: `torpor ps -a` lists them; one that ended is kept for a time, see torpord's --keep"),
        )
    }

    fn at(mut self, file: &str, line: Option<usize>) -> Self {
        self.detail.file = Some(file.to_owned());
        self.detail.line = line;
        self
    }

    /// A failure of the disk under an upload or a log.
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        if matches!(error.kind(), E::StorageFull | E::QuotaExceeded) {
            return Self::from(StoreError::DiskFull);
        }
        tracing::error!(%error, what, "an operation on the state folder failed");
        Self::new(ErrorCode::Internal, format!("{what}: {error}"))
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ErrorBody { error: self.detail })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        Self::new(ErrorCode::NotAllowed, denied.to_string())
    }
}

impl ApiError {
    /// A manifest declares a service that the administrator does not allow.
    pub(super) fn denied_aux(aux: &Aux) -> Self {
        let message = format!(
            "auxiliary service {:?} is {:?}, which this host's policy does not allow; its administrator would add it to `aux` in [caps] of the file that torpord's --policy names",
            aux.name.as_str(),
            aux.target.to_string()
        );
        Self::new(ErrorCode::NotAllowed, message).at(manifest::FILE, usize::try_from(aux.line).ok())
    }
}

impl From<CodeError> for ApiError {
    fn from(error: CodeError) -> Self {
        let message = error.to_string();
        match error {
            CodeError::Manifest(error) => Self::new(ErrorCode::InvalidManifest, error.message).at(manifest::FILE, Some(error.line)),
            CodeError::NoManifest => Self::new(ErrorCode::InvalidManifest, message).at(manifest::FILE, None),
            CodeError::Program { line, message } => Self::new(ErrorCode::InvalidCode, message).at(manifest::FILE, Some(line)),
            CodeError::Entry { path, .. } => Self::new(ErrorCode::InvalidCode, message).at(&path, None),
            CodeError::Tar(_) | CodeError::Image(_) => Self::new(ErrorCode::InvalidCode, message),
            CodeError::TooLarge | CodeError::TooMany => Self::new(ErrorCode::CodeTooLarge, message),
            CodeError::Io { what, source } => Self::io(what, &source),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for ApiError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::new(ErrorCode::DiskFull, error.to_string()),
            StoreError::Busy => Self::new(ErrorCode::Locked, error.to_string()),
            StoreError::Closed => Self::new(ErrorCode::Draining, error.to_string()),
            other => {
                tracing::error!(error = %other, "the store failed");
                Self::new(ErrorCode::Internal, other.to_string())
            }
        }
    }
}

impl From<Arc<StoreError>> for ApiError {
    fn from(error: Arc<StoreError>) -> Self {
        Self::from(&*error)
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        let code = match error {
            SubmitError::Draining => ErrorCode::Draining,
            SubmitError::OverCapacity { .. } => ErrorCode::OverCapacity,
            SubmitError::Late { .. } => ErrorCode::Late,
            SubmitError::UnknownSecret { .. } => ErrorCode::UnknownSecret,
            SubmitError::TooMuch { .. } | SubmitError::History { .. } => ErrorCode::TooMany,
            SubmitError::Entropy(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        let code = match error {
            SecretError::Unknown(_) => ErrorCode::UnknownSecret,
            SecretError::Value(_) => ErrorCode::InvalidSecret,
            SecretError::TooMany | SecretError::Together => ErrorCode::InvalidRequest,
            SecretError::Store(error) => return Self::from(error),
            SecretError::Key(_) | SecretError::Seal { .. } | SecretError::Encrypt(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ScheduleError> for ApiError {
    fn from(error: ScheduleError) -> Self {
        let message = error.to_string();
        match error {
            ScheduleError::Known(_) => Self::new(ErrorCode::ScheduleKnown, message),
            ScheduleError::TooMany => Self::new(ErrorCode::TooMany, message),
            ScheduleError::Store(error) => Self::from(error),
        }
    }
}

impl From<LookupError> for ApiError {
    fn from(error: LookupError) -> Self {
        let code = if matches!(error, LookupError::Task(_)) { ErrorCode::UnknownTask } else { ErrorCode::UnknownVersion };
        Self::new(code, error.to_string())
    }
}
