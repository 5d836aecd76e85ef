//! Auxiliary services: what a program reaches outside of its VM. The guest's agent takes its connections, and here they are made.
//!
//! ```text
//!  program -- agent ==messages over vsock==> [`broker`] --[`pipe`]--> [`connect`] --> TCP, Unix
//!                                              |  one an execution       \--> [`http`] --rules, headers--> HTTP, TLS
//! ```
//!
//! - [`broker`]: the connections of one execution, for as long as it lives: over its VMs, and while it is parked
//! - [`pipe`]: a connection's bytes between broker and service, with credit both ways
//! - [`connect`]: from a service's address to a connection, and its life
//! - [`http`]: requests that a policy allows, with headers that the guest never sees
//! - [`secret`]: where those headers' secrets come from
//! - [`why`]: why a connection is refused or ended, for people
//!
//! Invariant: what is not declared in the manifest, and allowed by the administrator when it is opened, is never connected to; what one execution can make
//! this hold is bounded by its connections and one window each way.

pub mod broker;
pub(crate) mod connect;
pub(crate) mod http;
mod pipe;
pub mod secret;
pub mod why;

use crate::manifest::AccountName;
use crate::manifest::host::HostPolicy;
use crate::metrics::Metrics;
use secret::SecretSource;
use std::sync::Arc;

/// What all brokers of an account share.
pub struct Outside {
    /// Whose services these are.
    pub account: AccountName,
    /// What the administrator allows.
    pub caps: Arc<HostPolicy>,
    /// Secrets of all accounts.
    pub secrets: Arc<dyn SecretSource>,
    /// Figures.
    pub metrics: Arc<Metrics>,
    tls: Arc<http::tls::Tls>,
}

impl Outside {
    /// Connects nothing yet. For the default account; see [`Self::of`].
    #[must_use]
    pub fn new(caps: Arc<HostPolicy>, secrets: Arc<dyn SecretSource>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { account: AccountName::default(), caps, secrets, metrics, tls: Arc::default() })
    }

    /// The same for another account.
    #[must_use]
    pub fn of(self: &Arc<Self>, account: &AccountName) -> Arc<Self> {
        if self.account == *account {
            return Arc::clone(self);
        }
        Arc::new(Self {
            account: account.clone(),
            caps: Arc::clone(&self.caps),
            secrets: Arc::clone(&self.secrets),
            metrics: Arc::clone(&self.metrics),
            tls: Arc::clone(&self.tls),
        })
    }
}

impl std::fmt::Debug for Outside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outside").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
