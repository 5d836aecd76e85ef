//! Telling the end of an execution to a URL that its caller gave.
//!
//! ```text
//! submission --with the execution--> waiting --with its end--> pending --[`outbox`]: POST, [`send`]--> 2xx: delivered
//!                                                               ^    |
//!                                                               +----+ anything else: again later, for 24 h; then failed
//! ```
//! Invariants: a delivery is pending exactly from the commit of its execution's end on, so none is lost and none told early. It is told at least once: a crash between an
//! answer and its commit tells it again, under the same id. Nothing is called that the host's policy does not allow, neither when it is given nor when it is called;
//! redirections are not followed.

mod age;
pub mod fair;
pub mod outbox;
pub mod send;

#[cfg(test)]
mod tests;

use crate::hex;
use crate::manifest::SecretName;
use crate::manifest::notify::Destination;
use crate::state::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where to tell it, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// The URL.
    pub url: Destination,
    /// The account's secret that what is sent is signed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
}

impl Notify {
    /// For who may not see names of secrets: without one, and without what may be a secret itself.
    pub fn hide(&mut self) {
        self.secret = None;
        self.url.query.clear();
    }
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    /// The execution has not ended.
    Waiting,
    /// It has ended, and that is not told yet.
    Pending,
    /// It is told.
    Delivered,
    /// It was tried for 24 h, or the other side is gone for good.
    Failed,
}

impl Told {
    /// Its name in JSON and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Waiting, Self::Pending, Self::Delivered, Self::Failed].into_iter().find(|told| told.name() == name)
    }
}

/// The delivery of an execution's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Delivery {
    /// The same in each attempt: header `Torpor-Delivery`.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// Where to, and how it is signed.
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub notify: Notify,
    /// How far it is.
    pub state: Told,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What came of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// When it was over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<Timestamp>,
}

impl Delivery {
    /// Of an execution that has not ended.
    pub fn new(notify: Notify) -> Result<Self, getrandom::Error> {
        let mut random = [0; 10];
        getrandom::fill(&mut random)?;
        let id = format!("dl_{}", hex::encode(&random)).into();
        Ok(Self { id, notify, state: Told::Waiting, attempts: 0, next_at: None, last: None, settled_at: None })
    }

    /// The execution has ended.
    pub fn ended(&mut self, at: Timestamp) {
        if self.state == Told::Waiting {
            (self.state, self.next_at) = (Told::Pending, Some(at));
        }
    }
}
