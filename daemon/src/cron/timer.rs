//! All schedules, and what runs them.

use super::plan::plan;
use super::{Fired, MAX_SCHEDULES, Missed, Overlap, Schedule, Skipped};
use crate::catalog::{Catalog, LookupError};
use crate::fault;
use crate::manifest::AccountName;
use crate::manifest::flow::Denied;
use crate::schedule::dispatch::{Dispatcher, SubmitError};
use crate::schedule::extras::Extras;
use crate::state::id::ExecutionId;
use crate::state::store::{Store, StoreError, Unreadable};
use crate::state::time::Timestamp;
use crate::state::writer::Change;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};

/// Longest sleep: a clock that was set is noticed after that.
const LOOK: Duration = Duration::from_secs(5);

/// Why a schedule is not made.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// Its name is taken.
    #[error("there is a schedule {0:?} already; give this one another name with --name, or remove that one with `torpor schedule rm {0}`")]
    Known(String),
    /// There are many.
    #[error("the account has {MAX_SCHEDULES} schedules, and no more may be; `torpor schedule rm` removes one")]
    TooMany,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a time is not run.
#[derive(Debug, thiserror::Error)]
enum NotRun {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Stored(Arc<StoreError>),
}

/// What a time has become.
enum Ran {
    New(ExecutionId),
    /// It was run before, by all that the database knows.
    Known,
    /// It was left out: the execution before has not ended.
    Overlaps,
}

impl NotRun {
    /// It may be run a little later.
    const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Store(_) | Self::Stored(_) | Self::Submit(SubmitError::Draining | SubmitError::TooMuch { .. } | SubmitError::Entropy(_))
        )
    }
}

struct Entry {
    schedule: Schedule,
    /// The next time that is not decided.
    next: Option<Timestamp>,
}

impl Entry {
    fn new(schedule: Schedule) -> Self {
        let next = schedule.next();
        Self { schedule, next }
    }
}

/// Account and name.
type Key = (AccountName, String);

/// All schedules of this host.
pub struct Schedules {
    store: Store,
    catalog: Arc<Catalog>,
    dispatcher: Arc<Dispatcher>,
    all: Mutex<BTreeMap<Key, Entry>>,
    /// What can't be read, and so is not run: it can only be removed.
    unreadable: Mutex<Vec<Unreadable>>,
    changed: Notify,
}

impl std::fmt::Debug for Schedules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedules").finish_non_exhaustive()
    }
}

fn key(schedule: &Schedule) -> Key {
    (schedule.account.clone(), schedule.name.to_string())
}

impl Schedules {
    /// As the database has them.
    pub async fn open(store: Store, catalog: Arc<Catalog>, dispatcher: Arc<Dispatcher>) -> Result<Self, StoreError> {
        let (mut all, mut unreadable) = (BTreeMap::new(), Vec::new());
        for schedule in store.schedules().await? {
            match schedule {
                Ok(schedule) => drop(all.insert(key(&schedule), Entry::new(schedule))),
                Err(one) => {
                    let (account, schedule, error) = (&one.account, &one.name, &one.why);
                    tracing::error!(account, schedule, %error, "this schedule can't be read and is not run; remove it with `torpor schedule rm`, and add it anew");
                    unreadable.push(one);
                }
            }
        }
        Ok(Self { store, catalog, dispatcher, all: Mutex::new(all), unreadable: Mutex::new(unreadable), changed: Notify::new() })
    }

    /// All of an account, by name.
    pub async fn list(&self, account: &AccountName) -> Vec<Schedule> {
        let all = self.all.lock().await;
        all.values().filter(|entry| entry.schedule.account == *account).map(|entry| entry.schedule.clone()).collect()
    }

    /// One of an account, by its name or its id.
    pub async fn get(&self, account: &AccountName, name: &str) -> Option<Schedule> {
        let all = self.all.lock().await;
        Some(all.get(&find(&all, account, name)?)?.schedule.clone())
    }

    /// The names of those of an account that run a task.
    pub async fn of_task(&self, account: &AccountName, task: &str) -> Vec<String> {
        let all = self.list(account).await;
        all.into_iter().filter(|schedule| schedule.task_name() == task).map(|schedule| schedule.name.to_string()).collect()
    }

    /// Makes a schedule; durable when it returns.
    pub async fn add(&self, schedule: Schedule, input: Arc<[u8]>) -> Result<(), ScheduleError> {
        let mut all = self.all.lock().await;
        let key = key(&schedule);
        let unreadable = self.unreadable.lock().await;
        if all.contains_key(&key) || unreadable.iter().any(|one| one.account == key.0.as_str() && one.name == key.1) {
            return Err(ScheduleError::Known(key.1));
        }
        if all.values().filter(|entry| entry.schedule.account == schedule.account).count() >= MAX_SCHEDULES {
            return Err(ScheduleError::TooMany);
        }
        self.store.commit(Change::PutSchedule { schedule: Arc::new(schedule.clone()), input }).await?;
        all.insert(key, Entry::new(schedule));
        self.changed.notify_one();
        Ok(())
    }

    /// Removes one; false where there is none. Nothing of it is run after that.
    pub async fn remove(&self, account: &AccountName, name: &str) -> Result<bool, StoreError> {
        let mut all = self.all.lock().await;
        let Some(key) = find(&all, account, name) else { return self.remove_unreadable(account, name).await };
        if let Some(entry) = all.get(&key) {
            self.store.commit(Change::RemoveSchedule(Arc::clone(&entry.schedule.id))).await?;
        }
        all.remove(&key);
        Ok(true)
    }

    async fn remove_unreadable(&self, account: &AccountName, name: &str) -> Result<bool, StoreError> {
        let mut unreadable = self.unreadable.lock().await;
        let wanted = |one: &Unreadable| one.account == account.as_str() && (one.name == name || *one.id == *name);
        let Some(id) = unreadable.iter().find(|one| wanted(one)).map(|one| Arc::clone(&one.id)) else { return Ok(false) };
        self.store.commit(Change::RemoveSchedule(Arc::clone(&id))).await?;
        unreadable.retain(|one| one.id != id);
        Ok(true)
    }

    /// Stops one from running, or lets it go on: from now on, whatever it has run or missed.
    pub async fn pause(&self, account: &AccountName, name: &str, paused: bool) -> Result<Option<Schedule>, StoreError> {
        let mut all = self.all.lock().await;
        let Some(entry) = find(&all, account, name).and_then(|key| all.get_mut(&key)) else { return Ok(None) };
        let now = Timestamp::now();
        let mut schedule = Schedule { paused, ..entry.schedule.clone() };
        if !paused && (entry.schedule.paused || schedule.fired_to > now) {
            schedule.fired_to = now;
        }
        self.store.commit(Change::MarkSchedule(Arc::new(schedule.clone()))).await?;
        *entry = Entry::new(schedule.clone());
        self.changed.notify_one();
        Ok(Some(schedule))
    }

    /// For as long as the daemon lives.
    pub async fn run(&self) {
        loop {
            let now = Timestamp::now();
            let next = self.fire(now).await;
            let sleep = next.map_or(LOOK, |next| next.since(now).clamp(Duration::from_millis(1), LOOK));
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Decides every time up to `now`. The next one.
    pub async fn fire(&self, now: Timestamp) -> Option<Timestamp> {
        let due: Vec<Key> = {
            let all = self.all.lock().await;
            all.iter().filter(|(_, entry)| entry.next.is_some_and(|next| next <= now)).map(|(key, _)| key.clone()).collect()
        };
        for key in due {
            // One at a time, so that others may come in between.
            while self.fire_one(&key, now).await {}
        }
        let next = self.all.lock().await.values().filter_map(|entry| entry.next).min();
        // What could not be run now is tried again soon.
        next.map(|next| if next <= now { now.later(1000) } else { next })
    }

    /// Decides the first of a schedule's times, at least. True: there may be more.
    async fn fire_one(&self, key: &Key, now: Timestamp) -> bool {
        let mut all = self.all.lock().await;
        let Some(entry) = all.get_mut(key).filter(|entry| entry.next.is_some_and(|next| next <= now)) else { return false };
        let schedule = &entry.schedule;
        let plan = plan(&schedule.rule, schedule.fired_to, now, schedule.missed);
        // What was missed before is not forgotten over what became of this time.
        let skip = |time: Timestamp, messages: [Option<String>; 2]| {
            let message = messages.into_iter().flatten().collect::<Vec<_>>().join("; ");
            Schedule { fired_to: time, skipped: Some(Skipped { at: now, message }), ..schedule.clone() }
        };
        let after = match (plan.run.first(), plan.decided) {
            (Some(time), _) => match self.run_one(schedule, *time).await {
                Ok(Ran::New(id)) => {
                    let mut after = Schedule { fired_to: *time, last: Some(id), ..schedule.clone() };
                    if let Some(message) = plan.skipped {
                        tracing::warn!(schedule = %schedule.name, message, "a schedule has missed some of its times");
                        after.skipped = Some(Skipped { at: now, message });
                    }
                    if after.skipped != schedule.skipped && !self.mark(&after).await {
                        // It is only not said.
                        after.skipped.clone_from(&schedule.skipped);
                    }
                    *entry = Entry::new(after);
                    return true;
                }
                Ok(Ran::Known) => {
                    *entry = Entry::new(Schedule { fired_to: *time, ..schedule.clone() });
                    return true;
                }
                Ok(Ran::Overlaps) => {
                    skip(*time, [plan.skipped, Some(format!("the time {time} was left out: the execution before it had not ended"))])
                }
                Err(error) if error.passes() => {
                    tracing::warn!(schedule = %schedule.name, %error, "a schedule's time can't be run now; trying again");
                    return false;
                }
                Err(error) => {
                    tracing::warn!(schedule = %schedule.name, %error, "a schedule's time was not run");
                    skip(*time, [plan.skipped, Some(format!("the time {time} was not run: {error}"))])
                }
            },
            (None, Some(decided)) => {
                let message = plan.skipped.unwrap_or_default();
                tracing::warn!(schedule = %schedule.name, message, "a schedule has missed some of its times");
                skip(decided, [Some(message), None])
            }
            // The clock was set back meanwhile.
            (None, None) => return false,
        };
        if !self.mark(&after).await {
            return false;
        }
        *entry = Entry::new(after);
        true
    }

    async fn mark(&self, schedule: &Schedule) -> bool {
        let marked = self.store.commit_accepted(|| Change::MarkSchedule(Arc::new(schedule.clone()))).await;
        if let Err(error) = &marked {
            tracing::warn!(schedule = %schedule.name, %error, "can't record what became of a schedule's time; trying again");
        }
        marked.is_ok()
    }

    /// Makes the execution of one time, durably.
    async fn run_one(&self, schedule: &Schedule, time: Timestamp) -> Result<Ran, NotRun> {
        let busy = || schedule.last.as_ref().is_some_and(|last| self.dispatcher.live(last).is_some());
        if schedule.overlap == Overlap::Skip && busy() {
            return Ok(Ran::Overlaps);
        }
        self.store.check_room()?;
        let input: Arc<[u8]> = self.store.schedule_input(&schedule.id).await?.into();
        let _ = fault::at("cron.due").await;
        let extras = Extras {
            need_by: schedule.need.map(|need| time.later(u64::from(need.by_s) * 1000)),
            on_late: schedule.need.map(|need| need.on_late).unwrap_or_default(),
            fired: Some(Fired { id: Arc::clone(&schedule.id), at: time }),
            notify: schedule.notify.clone(),
            ..Extras::default()
        };
        let live = self.catalog.with_version_for_client(&schedule.account, &schedule.task, |version| {
            Ok::<_, NotRun>(self.dispatcher.submit_with(version, input, extras)?)
        })??;
        match live.stored().await {
            Ok(()) => {
                let _ = fault::at("cron.committed").await;
                Ok(Ran::New(live.id.clone()))
            }
            Err(error) if matches!(*error, StoreError::Conflict { .. }) => Ok(Ran::Known),
            Err(error) => Err(NotRun::Stored(error)),
        }
    }
}

fn find(all: &BTreeMap<Key, Entry>, account: &AccountName, name: &str) -> Option<Key> {
    let wanted = |(key, entry): &(&Key, &Entry)| key.0 == *account && (key.1 == name || *entry.schedule.id == *name);
    all.iter().find(wanted).map(|(key, _)| key.clone())
}

/// Whether two ways go together: each missed time is run, and none that overlaps, which all but the first would.
#[must_use]
pub const fn fits(missed: Missed, overlap: Overlap) -> bool {
    !matches!((missed, overlap), (Missed::All, Overlap::Skip))
}
