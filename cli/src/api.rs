//! The part of the daemon's answers that tables and decisions need. Fields that are not named here are kept in the raw text, which is what
//! `--json` prints.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::fmt;

/// Body of every answer that is not a success.
#[derive(Debug, Deserialize)]
pub(crate) struct RefusalBody {
    pub(crate) error: Refusal,
}

/// Why the daemon said no.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u64>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            _ => String::new(),
        };
        // The daemon may have put the place into the message as well.
        let place = if self.message.starts_with(&place) { "" } else { &place };
        write!(f, "{place}{} [{}]", self.message, self.code)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tasks {
    pub(crate) tasks: Vec<Task>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) latest: String,
    /// Empty where the caller may not see it; so are what follows of a version.
    #[serde(default)]
    pub(crate) runtime: String,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) versions: Vec<Version>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Version {
    pub(crate) task: String,
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) runtime: String,
    #[serde(default)]
    pub(crate) entry: String,
    #[serde(default)]
    pub(crate) policy: Map<String, Value>,
    pub(crate) code_bytes: Option<u64>,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) template: String,
    #[serde(default)]
    pub(crate) durations: Vec<Duration>,
    #[serde(default)]
    pub(crate) missing_secrets: Vec<String>,
    #[serde(default)]
    pub(crate) portions: Vec<Portion>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Duration {
    pub(crate) what: String,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Portion {
    pub(crate) name: String,
    pub(crate) policy: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Accounts {
    pub(crate) accounts: Vec<Account>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) weight: u64,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) uids: Vec<Uid>,
    #[serde(default)]
    pub(crate) tokens: u64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Uid {
    pub(crate) uid: u64,
    pub(crate) account: String,
    pub(crate) role: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Tokens {
    pub(crate) tokens: Vec<Token>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) role: String,
    pub(crate) note: String,
    pub(crate) created_at: String,
    pub(crate) expires_at: Option<String>,
    #[serde(default)]
    pub(crate) expired: bool,
}

/// No `Debug`: it is a secret.
#[derive(Deserialize)]
pub(crate) struct NewToken {
    pub(crate) token: String,
    #[serde(flatten)]
    pub(crate) about: Token,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Secrets {
    pub(crate) secrets: Vec<Secret>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    pub(crate) created_at: String,
    pub(crate) changed_at: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Schedules {
    pub(crate) schedules: Vec<Schedule>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) cron: String,
    pub(crate) timezone: String,
    pub(crate) missed: String,
    pub(crate) overlap: String,
    pub(crate) need_by_s: Option<u64>,
    pub(crate) on_late: Option<String>,
    pub(crate) input: Option<Box<RawValue>>,
    pub(crate) paused: bool,
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) next: Vec<String>,
    pub(crate) last: Option<String>,
    pub(crate) skipped: Option<Skipped>,
    pub(crate) notify: Option<Delivery>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) at: String,
    pub(crate) message: String,
}

/// Where an end is told, and of an execution whether it is.
#[derive(Debug, Deserialize)]
pub(crate) struct Delivery {
    pub(crate) url: String,
    pub(crate) state: Option<String>,
    #[serde(default)]
    pub(crate) attempts: u64,
    pub(crate) next_at: Option<String>,
    pub(crate) last: Option<String>,
}

/// The schedule that made an execution.
#[derive(Debug, Deserialize)]
pub(crate) struct Fired {
    pub(crate) id: String,
    pub(crate) at: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Executions {
    pub(crate) executions: Vec<Execution>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Execution {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) account: String,
    pub(crate) task: String,
    pub(crate) version: String,
    pub(crate) portion: Option<String>,
    pub(crate) state: State,
    pub(crate) created_at: String,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: Option<String>,
    pub(crate) result: Option<Box<RawValue>>,
    pub(crate) error: Option<ExecutionError>,
    #[serde(default)]
    pub(crate) attempts: u64,
    pub(crate) parent: Option<String>,
    #[serde(default)]
    pub(crate) waiting: Vec<Wait>,
    #[serde(default)]
    pub(crate) parks: u64,
    #[serde(default)]
    pub(crate) parked_ms: u64,
    pub(crate) parked_since: Option<String>,
    pub(crate) not_before: Option<String>,
    pub(crate) need_by: Option<String>,
    #[serde(default)]
    pub(crate) late: bool,
    pub(crate) schedule: Option<Fired>,
    pub(crate) notify: Option<Delivery>,
    #[serde(default)]
    pub(crate) timeline: Vec<Event>,
}

impl Execution {
    /// What it runs, for people: `TASK@HASH`, and the portion where that is another than main.
    pub(crate) fn runs(&self) -> String {
        let portion = self.portion.as_ref().map(|portion| format!(":{portion}")).unwrap_or_default();
        format!("{}@{}{portion}", self.task, crate::output::short(&self.version))
    }

    /// Whether there is a log to read. True where the daemon does not say.
    pub(crate) fn printed(&self) -> bool {
        let finished = self.timeline.iter().rev().find(|event| event.event == "finished");
        finished.and_then(|event| event.figures.get("log_bytes")?.as_u64()).is_none_or(|bytes| bytes > 0)
    }
}

/// The daemon's enum; one from a newer daemon counts as not ended.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) struct State(pub(crate) String);

impl From<String> for State {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl State {
    pub(crate) fn succeeded(&self) -> bool {
        self.0 == "succeeded"
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.0.as_str(), "succeeded" | "failed" | "timed_out" | "cancelled")
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExecutionError {
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) exception: Option<String>,
    pub(crate) traceback: Option<String>,
    pub(crate) exit_code: Option<i64>,
    pub(crate) signal: Option<i64>,
    pub(crate) console: Option<String>,
    pub(crate) limit: Option<String>,
}

/// Something that an execution waits for: `executions`, `timer`, `event`, or what a newer daemon knows.
#[derive(Debug, Deserialize)]
pub(crate) struct Wait {
    #[serde(rename = "for")]
    pub(crate) what: String,
    pub(crate) until: Option<String>,
    #[serde(default)]
    pub(crate) executions: Vec<String>,
    pub(crate) count: Option<usize>,
    pub(crate) token: Option<String>,
}

/// One message of a stream of state changes.
#[derive(Debug, Deserialize)]
pub(crate) struct Change {
    pub(crate) entry: Box<RawValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) at: String,
    pub(crate) event: String,
    #[serde(flatten)]
    pub(crate) figures: Map<String, Value>,
}

/// What is going on.
#[derive(Debug, Deserialize)]
pub(crate) struct Load {
    pub(crate) at: String,
    pub(crate) host: Option<HostLoad>,
    pub(crate) accounts: Vec<AccountLoad>,
    pub(crate) executions: Vec<ExecutionLoad>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct HostLoad {
    pub(crate) memory_used_bytes: u64,
    pub(crate) memory_budget_bytes: u64,
    pub(crate) cpus_used: f64,
    pub(crate) cpus_budget: Option<f64>,
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) parked: u64,
    #[serde(default)]
    pub(crate) draining: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AccountLoad {
    pub(crate) account: String,
    pub(crate) weight: u32,
    pub(crate) queued: u64,
    pub(crate) running: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: f64,
    pub(crate) oldest_wait_ms: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ExecutionLoad {
    pub(crate) id: String,
    pub(crate) account: String,
    pub(crate) task: String,
    pub(crate) state: State,
    pub(crate) for_ms: i64,
    pub(crate) need_by: Option<String>,
    #[serde(default)]
    pub(crate) late: bool,
}

/// What follows a log's entries.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct LogEnd {
    #[serde(default)]
    pub(crate) truncated: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogEntry {
    pub(crate) text: String,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn silent_executions_have_no_log() {
        let printed = |timeline: &str| {
            let head = r#""id":"ex_1","task":"t","version":"0","state":"failed","created_at":"x""#;
            serde_json::from_str::<Execution>(&format!("{{{head},\"timeline\":{timeline}}}")).unwrap().printed()
        };
        assert!(printed(r#"[{"at":"x","event":"finished","log_bytes":1}]"#));
        assert!(!printed(r#"[{"at":"x","event":"queued"},{"at":"x","event":"finished","log_bytes":0}]"#));
        assert!(printed(r#"[{"at":"x","event":"finished"}]"#) && printed("[]"));
    }
}
