//! Submissions: what is refused, what is accepted, and how it becomes durable.

use super::{Dispatcher, Event, Job, Shared};
use crate::manifest::{AccountName, SecretName, TaskName, format_bytes, format_millis};
use crate::notify::Delivery;
use crate::schedule::extras::Extras;
use crate::schedule::job::claim;
use crate::schedule::live::{Cause, Live, Stored};
use crate::schedule::run;
use crate::state::record::{Execution, Happening, Version};
use crate::state::time::{SteadyClock, Timestamp};
use crate::state::writer::Change;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use torpor_protocol::ask::OnLate;
use torpor_scheduler::Action;

/// Why an execution is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The daemon stops.
    #[error("torpord is stopping and takes no new work; try again when it is back")]
    Draining,
    /// It could never run.
    #[error(
        "a VM of task {:?} is charged {}, and torpord's whole memory budget is {}; lower `memory` in the policy by {} and push again, or start torpord with a larger --memory-budget",
        task.as_str(), format_bytes(*needs), format_bytes(*budget), format_bytes((needs - budget).next_multiple_of(1 << 20))
    )]
    OverCapacity {
        /// The task.
        task: TaskName,
        /// What its VM is charged: more than the budget.
        needs: u64,
        /// All there is.
        budget: u64,
    },
    /// It declares a secret that is not there.
    #[error("task {:?} declares secret {:?}, which is not set; `torpor secret set {}` sets it", task.as_str(), secret.as_str(), secret.as_str())]
    UnknownSecret {
        /// The task.
        task: TaskName,
        /// The secret.
        secret: SecretName,
    },
    /// It can't be done when it is needed.
    #[error("task {:?} can't be done when it is needed: {why}; give it more time, or run it late with on_late = \"run\"", task.as_str())]
    Late {
        /// The task.
        task: TaskName,
        /// What is known.
        why: String,
    },
    /// Its account has as many as it may.
    #[error(
        "account {account} has {what} that have not ended, and may have no more; wait until some have ended, cancel some, or have the administrator raise `{key}` in the [limits] of the host's policy"
    )]
    TooMuch {
        /// Whose.
        account: AccountName,
        /// Of what.
        what: String,
        /// Which limit.
        key: &'static str,
    },
    /// Too much is kept of what its account has run.
    #[error(
        "{} of results and logs are kept of executions of account {account} that have ended, and no more may be; they go after torpord's --keep, or the administrator raises `history` in the [limits] of the host's policy",
        about(*kept)
    )]
    History {
        /// Whose.
        account: AccountName,
        /// Bytes.
        kept: u64,
    },
    /// No ids without entropy.
    #[error("the host gives no random bytes: {0}")]
    Entropy(getrandom::Error),
}

/// So many times of what an account may have may be where the last ones are started by executions.
const BELOW: usize = 4;

/// In whole MiB where there are some.
fn about(bytes: u64) -> String {
    format_bytes(if bytes < 1 << 20 { bytes } else { bytes >> 20 << 20 })
}

/// What a child is to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::schedule) enum Ties {
    /// It waits for it: who is called has no more time than who calls.
    Call,
    /// It may outlive it.
    Spawn,
}

impl Dispatcher {
    /// Refuses what could never run.
    pub fn check_capacity(&self, version: &Version) -> Result<u64, SubmitError> {
        let needs = self.runner.vm_bytes(version.policy.memory_mib);
        let shared = self.lock();
        if shared.core.draining() {
            return Err(SubmitError::Draining);
        }
        let budget = shared.core.budget().bytes;
        if shared.core.fits(needs, 0) { Ok(needs) } else { Err(SubmitError::OverCapacity { task: version.task.clone(), needs, budget }) }
    }

    /// Refuses a client what its account has too many of. `input`: bytes of one more.
    pub fn check_open(&self, account: &AccountName, input: u64) -> Result<(), SubmitError> {
        self.may_open(&self.lock(), account, input, false)
    }

    /// `below`: an execution starts it. What was accepted may start others where nothing more is accepted: it could not go on otherwise.
    fn may_open(&self, shared: &Shared, account: &AccountName, input: u64, below: bool) -> Result<(), SubmitError> {
        let (open, limits) = (shared.live.open(account), self.caps.limits(account));
        let times = if below { BELOW } else { 1 };
        if !below {
            let kept = self.history.read().unwrap_or_else(PoisonError::into_inner).get(account).copied().unwrap_or_default();
            if kept > limits.history.unwrap_or_else(|| self.part_of(self.disk_bytes)) {
                return Err(SubmitError::History { account: account.clone(), kept });
            }
        }
        let (what, key) = if open.executions >= limits.executions.saturating_mul(times) {
            (format!("{} executions", open.executions), "executions")
        } else if open.bytes.saturating_add(input) > limits.inputs.saturating_mul(times as u64) {
            (format!("{} of inputs of executions", about(open.bytes)), "inputs")
        } else {
            return Ok(());
        };
        Err(SubmitError::TooMuch { account: account.clone(), what, key })
    }

    /// Takes an execution. It is durable once [`Live::stored`] says so; where there is room its VM starts meanwhile.
    pub fn submit(self: &Arc<Self>, version: Arc<Version>, input: Arc<[u8]>) -> Result<Arc<Live>, SubmitError> {
        self.submit_with(version, input, Extras::default())
    }

    /// The same with more than an input.
    pub fn submit_with(self: &Arc<Self>, version: Arc<Version>, input: Arc<[u8]>, extras: Extras) -> Result<Arc<Live>, SubmitError> {
        self.submit_for(version, input, None, extras)
    }

    /// The same for one that another execution starts.
    pub(in crate::schedule) fn submit_child(
        self: &Arc<Self>,
        version: Arc<Version>,
        input: Arc<[u8]>,
        parent: &Live,
        ties: Ties,
        extras: Extras,
    ) -> Result<Arc<Live>, SubmitError> {
        self.submit_for(version, input, Some((parent, ties)), extras)
    }

    fn submit_for(
        self: &Arc<Self>,
        version: Arc<Version>,
        input: Arc<[u8]>,
        parent: Option<(&Live, Ties)>,
        mut extras: Extras,
    ) -> Result<Arc<Live>, SubmitError> {
        let (bytes, input_bytes) = (self.check_capacity(&version)?, input.len() as u64);
        if let Some(secret) = self.secrets.missing(&version.account, version.rights.all_secrets()) {
            return Err(SubmitError::UnknownSecret { task: version.task.clone(), secret: secret.clone() });
        }
        let caller = parent.map(|(parent, _)| parent);
        let mut random = [0; 10];
        getrandom::fill(&mut random).map_err(SubmitError::Entropy)?;
        let delivery = extras.notify.take().map(Delivery::new).transpose().map_err(SubmitError::Entropy)?;
        let clock = caller.map_or_else(SteadyClock::start, |parent| parent.clock);
        let now = clock.now();
        if let Some(parent) = caller {
            // Nobody needs it after its parent.
            let latest = parent.view().must_end();
            extras.need_by = extras.need_by.map(|need_by| latest.map_or(need_by, |latest| need_by.min(latest)));
        }
        let expected = self.estimates.of(&version);
        let late = extras.need_by.and_then(|need_by| certain(now, need_by, expected.least));
        if let (Some((_, why)), OnLate::Refuse) = (&late, extras.on_late) {
            return Err(SubmitError::Late { task: version.task.clone(), why: why.clone() });
        }
        let (live, inserted, admitted, others) = {
            let mut shared = self.lock();
            if shared.core.draining() {
                return Err(SubmitError::Draining);
            }
            self.may_open(&shared, &version.account, input_bytes, caller.is_some())?;
            let id = shared.ids.next(Timestamp::now(), random);
            let mut execution = Execution::new(id.clone(), &version, now);
            execution.parent = caller.map(|parent| parent.id.clone());
            execution.depth = caller.map_or(0, |parent| parent.depth.saturating_add(1));
            if let Some((parent, Ties::Call)) = parent {
                execution.due = [execution.due, parent.view().due].into_iter().flatten().min();
            }
            execution.need_by = extras.need_by;
            execution.call_key = extras.call_key;
            execution.schedule = extras.fired;
            execution.notify = delivery;
            if let Some((by_ms, _)) = late {
                let _ = execution.apply(now, Happening::Late { by_ms });
            }
            let job = Job::Execution(id.clone());
            let claim = claim((&shared.clock, now), &execution, &version, bytes, expected);
            let mut follows = shared.step(Event::Submit(job.clone(), claim));
            let (before, start) = (follows.len(), Action::Start(job));
            follows.retain(|other| *other != start);
            let admitted = follows.len() < before;
            if admitted {
                run::starting(&mut execution, now);
            }
            let live = Arc::new(Live::fresh(execution, version, (bytes, input_bytes), clock));
            // As it is now: what happens from here on is told to the database after this, whoever is faster.
            let inserted = live.view();
            shared.live.insert(Arc::clone(&live));
            (live, inserted, admitted, follows)
        };
        self.metrics.submitted();
        self.act(others);
        self.watch_deadline(&live);
        let insert = Change::Insert { execution: inserted, input: Arc::clone(&input), key: extras.key };
        let (this, stored) = (Arc::clone(self), Arc::clone(&live));
        tokio::spawn(async move { this.insert(&stored, insert).await });
        if admitted {
            tokio::spawn(run::run(Arc::clone(self), Arc::clone(&live), Some(input)));
        }
        Ok(live)
    }

    async fn insert(self: &Arc<Self>, live: &Arc<Live>, insert: Change) {
        let error = match self.store.commit(insert).await {
            Ok(()) => {
                live.stored.send_replace(Stored::Yes);
                return;
            }
            Err(error) => Arc::new(error),
        };
        let id = live.view().id.clone();
        tracing::warn!(execution = %id, %error, "an execution could not be stored and was refused");
        live.stop(Cause::Unstored);
        let job = Job::Execution(id.clone());
        let follows = {
            let mut shared = self.lock();
            // One that holds a VM is owned by its run, which sees that it is not stored.
            if shared.core.waits(&job) {
                shared.live.remove(&id);
                shared.step(Event::Ended(job))
            } else {
                Vec::new()
            }
        };
        live.stored.send_replace(Stored::Failed(error));
        self.act(follows);
    }

    /// Executions that are queued wait in the queue again: of an earlier daemon, or for the next attempt. None starts before all are there.
    pub(in crate::schedule) fn requeue(self: &Arc<Self>, all: &[Arc<Live>]) {
        let expected: Vec<_> = all.iter().map(|live| self.estimates.of(&live.version)).collect();
        let mut shared = self.lock();
        let claims = all.iter().zip(expected).map(|(live, expected)| (Job::Execution(live.id.clone()), shared.claim(live, expected)));
        let claims = claims.collect();
        let follows = shared.step(Event::SubmitAll(claims));
        drop(shared);
        self.act(follows);
    }
}

/// Whether a result can't be there when it is needed, however fast it is: by how many ms, and why.
fn certain(now: Timestamp, need_by: Timestamp, least: Duration) -> Option<(u64, String)> {
    let by_ms = Some(now.after(least).millis_past(need_by)).filter(|by| *by > 0)?;
    let why = if need_by < now {
        format!("that was {need_by}")
    } else {
        let left = format_millis(need_by.millis().saturating_sub(now.millis()));
        format!(
            "that is in {left}, and it has never taken less than {}",
            format_millis(u64::try_from(least.as_millis()).unwrap_or(u64::MAX))
        )
    };
    Some((by_ms, why))
}
