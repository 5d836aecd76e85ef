//! Shapes of answers that are not records of the store, and of parameters.

use super::error::ApiError;
use crate::engine::TemplateState;
use crate::logs::LogEntry;
use crate::manifest::{self, Policy};
use crate::notify::Told;
use crate::schedule::estimates::Kind;
use crate::state::machine::State;
use crate::state::record::{Execution, Version};
use crate::state::sketch::Sketch;
use crate::state::time::Timestamp;
use axum::extract::FromRequestParts;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use torpor_protocol::ask::OnLate;
use utoipa::{IntoParams, ToSchema};

/// Longest wait that a client may ask for.
const MAX_WAIT: f64 = 86_400.0;

/// Query parameters; what does not parse is an `invalid_request`.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| ApiError::request(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// How long to wait.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    /// Answer when the execution has ended, or after so many seconds (at most 86400).
    pub wait: Option<f64>,
}

/// How to submit.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SubmitParams {
    /// Answer when the execution has ended, or after so many seconds (at most 86400).
    pub wait: Option<f64>,
    /// When its result is needed: a number of seconds from now on, or a moment (RFC 3339). While the host is busy it may be put off, and is done by then.
    pub need_by: Option<String>,
    /// What to do where that is already certain to be missed: `run` it all the same (the default), or `refuse` it.
    #[param(value_type = Option<String>)]
    #[serde(default)]
    pub on_late: OnLate,
    /// Where its end is told, with a POST: a URL that the host's policy allows.
    pub notify: Option<String>,
    /// The secret that what is told is signed with; for owners.
    pub notify_secret: Option<String>,
}

/// Longest time from now on at which a result may be needed, in seconds: a year.
pub(super) const MAX_NEED_BY: f64 = 366.0 * 86_400.0;

impl SubmitParams {
    pub(super) fn duration(&self) -> Result<Option<Duration>, ApiError> {
        WaitParams { wait: self.wait }.duration()
    }

    /// When its result is needed.
    pub(super) fn need_by(&self) -> Result<Option<Timestamp>, ApiError> {
        let Some(text) = &self.need_by else { return Ok(None) };
        let wrong = || {
            let message =
                format!("need_by {text:?} is neither a number of seconds from 0 to 31622400 nor a moment such as 2027-01-01T12:00:00Z");
            ApiError::request(StatusCode::BAD_REQUEST, message)
        };
        let now = Timestamp::now();
        if let Ok(seconds) = text.parse::<f64>() {
            if !(0.0..=MAX_NEED_BY).contains(&seconds) {
                return Err(wrong());
            }
            return Ok(Some(now.later(u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX))));
        }
        let moment = Timestamp::parse(text).ok_or_else(wrong)?;
        if moment.seconds_since(now) > MAX_NEED_BY { Err(wrong()) } else { Ok(Some(moment)) }
    }
}

impl WaitParams {
    pub(super) fn duration(&self) -> Result<Option<Duration>, ApiError> {
        match self.wait {
            None => Ok(None),
            Some(seconds) if (0.0..=MAX_WAIT).contains(&seconds) => Ok(Some(Duration::from_secs_f64(seconds))),
            Some(_) => Err(ApiError::request(StatusCode::BAD_REQUEST, "wait is a number of seconds from 0 to 86400")),
        }
    }
}

/// What goes into an export.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ExportParams {
    /// Its template too (the default); without it, only a host that has the template can import the file.
    pub template: Option<bool>,
}

/// Which executions to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// Those that have ended too.
    #[serde(default)]
    pub all: bool,
    /// Of this task only.
    pub task: Option<String>,
    /// In this state only; a state that ends an execution includes `all`.
    pub state: Option<State>,
    /// Whose end is told so far only: `waiting`, `pending`, `delivered`, `failed`; all but the first include `all`.
    pub notify: Option<Told>,
    /// At most so many, 1 to 1000; 100 where it is not given.
    pub limit: Option<u32>,
}

/// Which part of a log, and how.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogParams {
    /// Server-sent events, until the execution has ended.
    #[serde(default)]
    pub follow: bool,
    /// The cursor of an entry: begins after it.
    #[serde(default)]
    pub from: u64,
}

/// What of an account to remove.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct HistoryParams {
    /// Its executions that ended too: an account is removed only when it has none.
    #[serde(default)]
    pub history: bool,
}

/// From where on.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EventParams {
    /// The cursor of an entry (its place in the timeline, from 1): begins after it.
    #[serde(default)]
    pub from: usize,
}

/// The rules of a version, as a manifest writes them.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyBody {
    /// RAM of its VMs.
    #[schema(example = "128MiB")]
    pub memory: String,
    /// How long its program may run.
    #[schema(example = "30s")]
    pub timeout: String,
    /// How often an execution that failed is run again.
    pub retries: u32,
    /// How long the first of these waits; each further one waits twice as long.
    #[schema(example = "1s")]
    pub backoff: String,
    /// The longest of these waits.
    #[schema(example = "5m")]
    pub backoff_max: String,
    /// Most output that is kept.
    #[schema(example = "1MiB")]
    pub log_cap: String,
    /// What happens while it waits: `auto`, `always` or `never`.
    #[schema(example = "auto")]
    pub park: &'static str,
    /// How long after its submission it must have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "1h")]
    pub deadline: Option<String>,
    /// Share of one processor.
    #[schema(example = 1)]
    pub vcpus: f64,
    /// Most executions that have a VM at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// What executions share a VM: none (`execution`), or those of the same task (`task`).
    #[schema(example = "execution")]
    pub isolation: &'static str,
    /// The higher goes first among those of the account that wait: -10 to 10.
    pub priority: i32,
    /// What a retry gets of the calls that were done: their `results`, or `none`.
    #[schema(example = "results")]
    pub replay: &'static str,
}

/// A portion of a version, beside main.
#[derive(Debug, Serialize, ToSchema)]
pub struct PortionBody {
    /// Its name.
    pub name: String,
    /// `untrusted`, `limited` or `trusted`.
    pub trust: &'static str,
    /// Its language host.
    pub runtime: &'static str,
    /// Where its program begins.
    pub entry: String,
    /// The rules that its executions run under.
    pub policy: PolicyBody,
    /// Bytes of its files.
    pub code_bytes: u64,
    /// Whether its template is there.
    pub template: TemplateState,
}

impl From<Policy> for PolicyBody {
    fn from(policy: Policy) -> Self {
        Self {
            memory: format!("{}MiB", policy.memory_mib),
            timeout: manifest::format_millis(policy.timeout_ms),
            retries: policy.retries,
            backoff: manifest::format_millis(policy.backoff_ms),
            backoff_max: manifest::format_millis(policy.backoff_max_ms),
            log_cap: manifest::format_bytes(policy.log_cap),
            park: policy.park.name(),
            deadline: policy.deadline_ms.map(manifest::format_millis),
            vcpus: f64::from(policy.vcpus_permille) / 1000.0,
            max_parallel: policy.max_parallel,
            isolation: policy.isolation.name(),
            priority: policy.priority,
            replay: policy.replay.name(),
        }
    }
}

/// One immutable version of a task.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionBody {
    /// Name of the task.
    pub task: String,
    /// Content hash, 64 hex digits.
    #[schema(value_type = String)]
    pub version: Arc<str>,
    /// When it was pushed first.
    pub created_at: Timestamp,
    /// What it is made of; for owners.
    #[serde(flatten)]
    pub inside: Option<VersionInside>,
}

/// How long something takes, by what was seen lately.
#[derive(Debug, Serialize, ToSchema)]
pub struct DurationBody {
    /// `startup`: until the program has its input; `run`: with a VM at a time; `whole`: from its start to its end; `park`; `resume`.
    pub what: &'static str,
    /// How many were seen; old ones fade.
    pub seen: u32,
    /// Half of them took no longer, in ms.
    pub p50_ms: f64,
    /// Nine of ten took no longer, in ms.
    pub p90_ms: f64,
}

impl DurationBody {
    fn new((kind, sketch): &(Kind, Sketch)) -> Self {
        let ms = |percent| sketch.percentile(percent).map_or(0.0, |time| (time.as_secs_f64() * 1e4).round() / 10.0);
        Self { what: kind.name(), seen: sketch.weight(), p50_ms: ms(50), p90_ms: ms(90) }
    }
}

/// What a version is made of.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionInside {
    /// Its language host.
    #[schema(example = "python")]
    pub runtime: &'static str,
    /// Where the program begins.
    pub entry: String,
    /// The rules that its executions run under.
    pub policy: PolicyBody,
    /// Bytes of all its files.
    pub code_bytes: u64,
    /// Whether its template is there.
    pub template: TemplateState,
    /// How long it takes, by what was seen lately.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub durations: Vec<DurationBody>,
    /// Secrets that it declares and that are not set: it can't be run until they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_secrets: Vec<String>,
    /// Its other portions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub portions: Vec<PortionBody>,
}

impl VersionBody {
    /// What those see who may run it.
    pub(super) fn closed(version: &Version) -> Self {
        Self { task: version.task.to_string(), version: Arc::clone(&version.version), created_at: version.created_at, inside: None }
    }

    /// `template`: whether the template of a portion is there.
    pub(super) fn open(
        version: &Version,
        template: impl Fn(&Version) -> TemplateState,
        durations: &[(Kind, Sketch)],
        missing_secrets: Vec<String>,
    ) -> Self {
        let portion = |portion: &Arc<Version>| PortionBody {
            name: portion.portion.to_string(),
            trust: portion.rights.trust.name(),
            runtime: portion.entry.runtime().name(),
            entry: portion.entry.to_string(),
            policy: portion.policy.into(),
            code_bytes: portion.code_bytes,
            template: template(portion),
        };
        let inside = VersionInside {
            runtime: version.entry.runtime().name(),
            entry: version.entry.to_string(),
            policy: version.policy.into(),
            code_bytes: version.code_bytes,
            template: template(version),
            durations: durations.iter().map(DurationBody::new).collect(),
            missing_secrets,
            portions: version.portions.iter().map(portion).collect(),
        };
        Self { inside: Some(inside), ..Self::closed(version) }
    }
}

/// One task.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskBody {
    /// Its name.
    pub name: String,
    /// The version that was pushed last.
    #[schema(value_type = String)]
    pub latest: Arc<str>,
    /// Language host of that version; for owners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub runtime: Option<&'static str>,
    /// When it was pushed first.
    pub created_at: Timestamp,
    /// Its versions, newest first.
    pub versions: Vec<VersionBody>,
}

/// All tasks.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskList {
    /// By name.
    pub tasks: Vec<TaskBody>,
}

/// A secret, as far as anybody is told of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretBody {
    /// Its name.
    pub name: String,
    /// When it was set first.
    pub created_at: Timestamp,
    /// When it was set last.
    pub changed_at: Timestamp,
}

/// All secrets.
#[derive(Debug, Serialize, ToSchema)]
pub struct SecretList {
    /// By name.
    pub secrets: Vec<SecretBody>,
}

/// Some executions.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionList {
    /// Newest first, without their results.
    #[schema(value_type = Vec<Execution>)]
    pub executions: Vec<Arc<Execution>>,
}

/// A log, or the part after a cursor.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogBody {
    /// In the order in which they came.
    pub entries: Vec<LogEntry>,
    /// Output over the policy's cap was dropped.
    pub truncated: bool,
    /// Cursor of the last entry, for `from`.
    pub next: u64,
}
