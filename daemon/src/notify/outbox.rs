//! Carries out deliveries that are due: a few at a time, shared fairly ([`super::fair`]), and gives up what grew too old ([`super::age`]).

use super::age::Age;
use super::fair::{self, Server, TO_SERVER};
use super::send::{self, MAX_RESULT, NotTold};
use super::{Delivery, Told};
use crate::aux::http::tls::Tls;
use crate::fault;
use crate::manifest::AccountName;
use crate::manifest::host::HostPolicy;
use crate::metrics::Metrics;
use crate::schedule::backoff;
use crate::secrets::{SecretError, Secrets};
use crate::state::id::ExecutionId;
use crate::state::store::{Store, StoreError};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify as Bell;
use tokio::task::JoinSet;

/// Longest sleep.
const LOOK: Duration = Duration::from_secs(5);
/// Before the second attempt; doubled for each further one, up to the second figure.
const BACKOFF_MS: (u64, u64) = (5_000, 3_600_000);
/// How often it is tried at most, whatever the clock does: more than there is time for in a day.
const MOST: u32 = 60;
/// Old ones that are given up at once: while they are, other commits wait.
const GIVEN_UP: u32 = 500;

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
    metrics: Arc<Metrics>,
    tls: Tls,
    bell: Arc<Bell>,
    on_the_way: Mutex<HashMap<String, Server>>,
    age: Mutex<Age>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").finish_non_exhaustive()
    }
}

/// What follows an attempt; `old`: there is to be no other.
pub(super) fn after(mut delivery: Delivery, how: Result<(), NotTold>, old: bool, now: Timestamp) -> Delivery {
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
    if not.gone || old || delivery.attempts >= MOST {
        return settled(delivery, Told::Failed);
    }
    delivery.next_at = Some(now.after(backoff::fresh(BACKOFF_MS, delivery.attempts)));
    delivery
}

impl Outbox {
    /// Tells nothing yet. `bell` is rung when an execution has ended whose end is to be told.
    #[must_use]
    pub fn new(store: Store, caps: Arc<HostPolicy>, secrets: Secrets, metrics: Arc<Metrics>, bell: Arc<Bell>) -> Self {
        Self {
            store,
            caps,
            secrets,
            metrics,
            tls: Tls::default(),
            bell,
            on_the_way: Mutex::default(),
            age: Mutex::new(Age::new(Timestamp::now())),
        }
    }

    /// The same for servers with this certificate.
    #[cfg(test)]
    pub(super) fn trusting(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    /// The same as one that has run since then.
    #[cfg(test)]
    pub(super) fn running(mut self, since: Timestamp, now: Timestamp) -> Self {
        self.age = Mutex::new(Age::running(since, now));
        self
    }

    fn on_the_way(&self) -> MutexGuard<'_, HashMap<String, Server>> {
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What ended by this moment is too old.
    fn limit(&self, now: Timestamp) -> Option<Timestamp> {
        self.age.lock().unwrap_or_else(PoisonError::into_inner).limit(now)
    }

    /// Deliveries that are due and that nobody carries out, for who asks to carry them out. One at a time may ask.
    pub async fn take(&self, now: Timestamp) -> Vec<Due> {
        self.look(now).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "can't look for ends of executions that are to be told; trying again");
            Vec::new()
        })
    }

    async fn look(&self, now: Timestamp) -> Result<Vec<Due>, StoreError> {
        // From before it is looked: what comes back meanwhile may be found as it was.
        let busy = self.on_the_way().clone();
        self.give_up_old(&busy, now).await?;
        // A moment that is further away than any wait is one of a clock that was set back. Those that are on the way are found too.
        let due = self.store.due_deliveries(now, now.later(BACKOFF_MS.1 + 1000), 2 * TO_SERVER).await?;
        let mut chosen: HashMap<String, Server> = fair::choose(due, &busy).into_iter().map(|one| (one.execution, one.server)).collect();
        let (mut taken, mut unreadable) = (Vec::new(), Vec::new());
        for due in self.store.pending_deliveries(chosen.keys().cloned().collect()).await? {
            match due {
                Ok(due) => taken.push(due),
                Err((execution, error)) => {
                    tracing::warn!(execution, %error, "an end can't be told: what is stored of where can't be read");
                    chosen.remove(&execution);
                    unreadable.push(execution);
                }
            }
        }
        self.on_the_way().extend(chosen);
        if let Err(error) = self.give_up(unreadable, "what is stored of where to tell it can't be read", now).await {
            tracing::warn!(%error, "can't record that an end will not be told; trying again");
        }
        Ok(taken)
    }

    async fn give_up(&self, executions: Vec<String>, why: &str, at: Timestamp) -> Result<(), StoreError> {
        if executions.is_empty() {
            return Ok(());
        }
        let (executions, why): (Arc<[String]>, Arc<str>) = (executions.into(), why.into());
        self.store.commit_accepted(|| Change::GiveUp { executions: Arc::clone(&executions), why: Arc::clone(&why), at }).await?;
        self.metrics.webhooks(Told::Failed.name(), executions.len());
        Ok(())
    }

    /// Those whose turn did not come in time; what is on the way is given up when it comes back.
    async fn give_up_old(&self, busy: &HashMap<String, Server>, now: Timestamp) -> Result<(), StoreError> {
        let Some(limit) = self.limit(now) else { return Ok(()) };
        let old = self.store.old_deliveries(limit, GIVEN_UP).await?;
        let more = old.len() == usize::try_from(GIVEN_UP).unwrap_or(usize::MAX);
        let old: Vec<String> = old.into_iter().filter(|execution| !busy.contains_key(execution)).collect();
        if let Some(first) = old.first() {
            tracing::warn!(count = old.len(), first, "ends of executions were not told within 24 h and will not be");
        }
        self.give_up(old, "given up after 24 h", now).await?;
        if more {
            self.bell.notify_one();
        }
        Ok(())
    }

    async fn attempt(&self, due: &Due, now: Timestamp) -> Result<(), NotTold> {
        let Delivery { notify, id, .. } = &due.delivery;
        if !self.caps.allows_notify(&due.account, &notify.url) {
            return Err("the host's policy does not allow it any more".to_owned().into());
        }
        let told = self.store.told(&due.execution, MAX_RESULT).await.map_err(|error| error.to_string())?;
        let (execution, bytes) = told.ok_or_else(|| "its execution is gone".to_owned())?;
        let secret = notify.secret.as_ref().map(|name| self.secrets.get(&due.account, name));
        let secret = secret.transpose().map_err(|error| match error {
            // Its name is not for everybody who sees what this says.
            SecretError::Unknown(_) => "the secret that it is to be signed with is not set".to_owned(),
            _ => "the secret that it is to be signed with can't be decrypted; an owner of the account sets it again".to_owned(),
        })?;
        let body = send::body(id, &execution, bytes).map_err(|error| error.to_string())?;
        send::send(&self.tls, notify, id, body, secret.as_ref().map(|secret| secret.as_str()), now).await
    }

    /// Tries to tell one end, and records what came of it.
    pub async fn deliver(&self, due: Due, clock: impl Fn() -> Timestamp + Send) {
        let how = self.attempt(&due, clock()).await;
        let _ = fault::at("notify.sent").await;
        if let Err(not) = &how {
            tracing::debug!(execution = %due.execution, error = %not, "an end could not be told");
        }
        // A call takes a while, and the next one comes after it.
        let now = clock();
        let old = self.limit(now).is_some_and(|limit| due.ended_at <= limit);
        let delivery = Arc::new(after(due.delivery, how, old, now));
        if delivery.state == Told::Failed {
            let why = delivery.last.as_deref().unwrap_or_default();
            tracing::warn!(execution = %due.execution, why, "the end of an execution was not told and will not be");
        }
        let mark = || Change::MarkDelivery { execution: due.execution.clone(), delivery: Arc::clone(&delivery) };
        if let Err(error) = self.store.commit_accepted(mark).await {
            tracing::warn!(execution = %due.execution, %error, "can't record that an end was told; it is told again");
            tokio::time::sleep(LOOK).await;
        }
        self.metrics.webhooks(delivery.state.name(), 1);
        let _ = fault::at("notify.recorded").await;
        self.on_the_way().remove(due.execution.as_str());
        self.bell.notify_one();
    }

    /// For as long as the daemon lives. What is on the way when it is dropped is told again by the next start.
    pub async fn run(self: Arc<Self>) {
        let mut calls = JoinSet::new();
        loop {
            for due in self.take(Timestamp::now()).await {
                let this = Arc::clone(&self);
                calls.spawn(async move { this.deliver(due, Timestamp::now).await });
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.bell.notified() => {}
            }
            while calls.try_join_next().is_some() {}
        }
    }
}
