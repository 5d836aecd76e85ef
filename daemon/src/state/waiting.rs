//! What an execution waits for, and where its machine is meanwhile: as the store keeps it and as people see it.

use super::id::ExecutionId;
use super::time::Timestamp;
use crate::engine::Base;
use crate::secrets::seal::Sealed;
use serde::{Deserialize, Serialize};

/// Most executions that are named to people.
const SHOWN: usize = 8;

/// One ask that is not answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Number of the ask.
    pub seq: u64,
    /// What it waits for.
    #[serde(flatten)]
    pub what: WaitsFor,
    /// Since when.
    pub since: Timestamp,
    /// Until when at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What an ask waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum WaitsFor {
    /// The ends of executions.
    Executions {
        /// Which.
        ids: Vec<ExecutionId>,
        /// One of them is enough.
        #[serde(default)]
        any: bool,
        /// Their results are wanted.
        #[serde(default)]
        results: bool,
        /// They were started by this very ask: nobody else knows of them.
        #[serde(default)]
        call: bool,
    },
    /// A moment.
    Timer,
    /// An event.
    Event {
        /// Its token.
        token: String,
    },
}

/// A parked machine, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Name of its file in the folder of parked machines.
    pub file: String,
    /// Hash of that file's header, see [`crate::parked::mark`].
    pub mark: String,
    /// Its file's key, where that is encrypted: as unreadable as a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Sealed>,
    /// What it is a difference to.
    pub base: Base,
    /// Bytes of its file that count.
    pub stored_bytes: u64,
    /// Bytes of the agent's connection that are no whole message, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unread: String,
    /// Since when it is parked.
    pub since: Timestamp,
    /// How much of its timeout it has used.
    pub ran_micros: u64,
    /// How many executions it has started.
    #[serde(default)]
    pub children: u32,
    /// Its asks without an answer.
    pub asks: Vec<Waiting>,
}

/// What an execution waits for, as people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitView {
    /// `executions`, `timer` or `event`.
    #[serde(rename = "for")]
    pub what: WaitKind,
    /// Since when.
    pub since: Timestamp,
    /// Until when at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Some of the executions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub executions: Vec<ExecutionId>,
    /// How many executions there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Token of the event: what `torpor signal` takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Kinds of waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    /// Other executions.
    Executions,
    /// A moment.
    Timer,
    /// A signal.
    Event,
}

impl Waiting {
    /// For people.
    #[must_use]
    pub fn view(&self) -> WaitView {
        let view = |what| WaitView { what, since: self.since, until: self.until, executions: Vec::new(), count: None, token: None };
        match &self.what {
            WaitsFor::Executions { ids, .. } => {
                WaitView { executions: ids.iter().take(SHOWN).cloned().collect(), count: Some(ids.len()), ..view(WaitKind::Executions) }
            }
            WaitsFor::Timer => view(WaitKind::Timer),
            WaitsFor::Event { token } => WaitView { token: Some(token.clone()), ..view(WaitKind::Event) },
        }
    }

    /// The executions that it waits for.
    #[must_use]
    pub fn targets(&self) -> &[ExecutionId] {
        match &self.what {
            WaitsFor::Executions { ids, .. } => ids,
            WaitsFor::Timer | WaitsFor::Event { .. } => &[],
        }
    }
}
