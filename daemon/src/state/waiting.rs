//! What an execution waits for, and where its machine is meanwhile: as the store keeps it and as people see it.

use super::id::ExecutionId;
use super::record::Version;
use super::time::Timestamp;
use crate::engine::Base;
use crate::secrets::seal::Sealed;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most executions that are named to people.
const SHOWN: usize = 8;

/// Names a sequence of calls with their inputs: a hash over the one before and the last call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallKey(Arc<str>);

impl CallKey {
    /// The calls up to `before` (none at the beginning) and then one of this version's portion on this input.
    #[must_use]
    pub fn after(before: Option<&Self>, version: &Version, input: &[u8]) -> Self {
        let mut hash = blake3::Hasher::new_derive_key("torpor 2026 a call after others");
        let parts = [before.map_or("", Self::as_str), version.task.as_str(), &*version.version, version.portion.as_str()];
        // None of them holds a zero.
        for part in parts {
            hash.update(part.as_bytes()).update(&[0]);
        }
        Self(hash.update(input).finalize().to_hex().as_str().into())
    }

    /// As the database has it.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(text.into())
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

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
    /// The calls that it has made so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<CallKey>,
    /// Its asks without an answer.
    pub asks: Vec<Waiting>,
    /// Auxiliary services whose connections are held for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aux: Vec<String>,
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
