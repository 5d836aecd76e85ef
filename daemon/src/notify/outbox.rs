//! Carries out deliveries that are due: a few at a time, and of those to one server no more than some, so that one that does not answer holds up no other.

use super::send::{self, NotTold};
use super::{Delivery, Told};
use crate::aux::http::tls::Tls;
use crate::fault;
use crate::manifest::AccountName;
use crate::manifest::host::HostPolicy;
use crate::schedule::backoff;
use crate::secrets::Secrets;
use crate::state::id::ExecutionId;
use crate::state::store::Store;
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify as Bell;
use tokio::task::JoinSet;

/// Calls at once, and of these to one server for one account.
const AT_ONCE: (usize, u32) = (32, 4);
/// Longest sleep.
const LOOK: Duration = Duration::from_secs(5);
/// Before the second attempt; doubled for each further one, up to the second figure.
const BACKOFF_MS: (u64, u64) = (5_000, 3_600_000);
/// How long it is tried, and how often at least and at most, whatever the clock does.
const TRIED: (Duration, u32, u32) = (Duration::from_secs(86_400), 12, 60);

/// A delivery that is due.
#[derive(Debug, Clone)]
pub struct Due {
    /// Whose end it tells.
    pub execution: ExecutionId,
    /// Whose that is.
    pub account: AccountName,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The delivery.
    pub delivery: Delivery,
}

/// All deliveries of this host.
pub struct Outbox {
    store: Store,
    caps: Arc<HostPolicy>,
    secrets: Secrets,
    tls: Tls,
    bell: Arc<Bell>,
    on_the_way: Mutex<HashSet<ExecutionId>>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// What follows an attempt.
pub(super) fn after(mut delivery: Delivery, how: Result<(), NotTold>, ended_at: Timestamp, now: Timestamp) -> Delivery {
    delivery.attempts = delivery.attempts.saturating_add(1);
    let settled = |mut delivery: Delivery, state: Told| {
        (delivery.state, delivery.next_at, delivery.settled_at) = (state, None, Some(now));
        delivery
    };
    let not = match how {
        Ok(()) => {
            delivery.last = None;
            return settled(delivery, Told::Delivered);
        }
        Err(not) => not,
    };
    delivery.last = Some(not.why);
    let (time, least, most) = TRIED;
    let old = now.seconds_since(ended_at) >= time.as_secs_f64();
    if not.gone || delivery.attempts >= most || (old && delivery.attempts >= least) {
        return settled(delivery, Told::Failed);
    }
    delivery.next_at = Some(now.after(backoff::fresh(BACKOFF_MS, delivery.attempts)));
    delivery
}

impl Outbox {
    /// Tells nothing yet. `bell` is rung when an execution has ended whose end is to be told.
    #[must_use]
    pub fn new(store: Store, caps: Arc<HostPolicy>, secrets: Secrets, bell: Arc<Bell>) -> Self {
        Self { store, caps, secrets, tls: Tls::default(), bell, on_the_way: Mutex::default() }
    }

    /// The same for servers with this certificate.
    #[cfg(test)]
    pub(super) fn trusting(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    fn on_the_way(&self) -> std::sync::MutexGuard<'_, HashSet<ExecutionId>> {
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deliveries that are due and that nobody carries out, for who asks to carry them out. One at a time may ask.
    pub async fn take(&self, now: Timestamp) -> Vec<Due> {
        let (most, each) = AT_ONCE;
        // From before it is looked: what comes back meanwhile may be found as it was.
        let busy = self.on_the_way().clone();
        // A moment that is further away than any wait is one of a clock that was set back.
        let due = match self.store.due_deliveries(now, now.later(BACKOFF_MS.1 + 1000), each, most * 2).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "can't look for ends of executions that are to be told; trying again");
                return Vec::new();
            }
        };
        let room = most.saturating_sub(busy.len());
        let taken: Vec<Due> = due.into_iter().filter(|due| !busy.contains(&due.execution)).take(room).collect();
        self.on_the_way().extend(taken.iter().map(|due| due.execution.clone()));
        taken
    }

    async fn attempt(&self, due: &Due, now: Timestamp) -> Result<(), NotTold> {
        let Delivery { notify, id, .. } = &due.delivery;
        if !self.caps.allows_notify(&due.account, &notify.url) {
            return Err("the host's policy does not allow it any more".to_owned().into());
        }
        let execution = self.store.execution(&due.execution).await.map_err(|error| error.to_string())?;
        let execution = execution.ok_or_else(|| "its execution is gone".to_owned())?;
        let secret = notify.secret.as_ref().map(|name| self.secrets.get(&due.account, name));
        let secret = secret.transpose().map_err(|error| error.to_string())?;
        let body = send::body(id, &execution).map_err(|error| error.to_string())?;
        send::send(&self.tls, notify, id, body, secret.as_ref().map(|secret| secret.as_str()), now).await
    }

    /// Tries to tell one end, and records what came of it.
    pub async fn deliver(&self, due: Due, now: Timestamp) {
        let how = self.attempt(&due, now).await;
        let _ = fault::at("notify.sent").await;
        if let Err(not) = &how {
            tracing::debug!(execution = %due.execution, error = %not, "an end could not be told");
        }
        let delivery = Arc::new(after(due.delivery, how, due.ended_at, now));
        if delivery.state == Told::Failed {
            let why = delivery.last.as_deref().unwrap_or_default();
            tracing::warn!(execution = %due.execution, why, "the end of an execution was not told and will not be");
        }
        let mark = || Change::MarkDelivery { execution: due.execution.clone(), delivery: Arc::clone(&delivery) };
        if let Err(error) = self.store.commit_accepted(mark).await {
            tracing::warn!(execution = %due.execution, %error, "can't record that an end was told; it is told again");
            tokio::time::sleep(LOOK).await;
        }
        let _ = fault::at("notify.recorded").await;
        self.on_the_way().remove(&due.execution);
        self.bell.notify_one();
    }

    /// For as long as the daemon lives. What is on the way when it is dropped is told again by the next start.
    pub async fn run(self: Arc<Self>) {
        let mut calls = JoinSet::new();
        loop {
            for due in self.take(Timestamp::now()).await {
                let this = Arc::clone(&self);
                calls.spawn(async move { this.deliver(due, Timestamp::now()).await });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.bell.notified() => {}
            }
            while calls.try_join_next().is_some() {}
        }
    }
}
