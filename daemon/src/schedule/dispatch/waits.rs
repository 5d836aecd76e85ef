//! The scheduler's side of waits: memory for who was parked, who waits for whom, and what becomes of those that nobody waits for.

use super::{Dispatcher, Event, Job};
use crate::manifest::{AccountName, Replay};
use crate::parked::ParkError;
use crate::schedule::asks::graph::Graph;
use crate::schedule::estimates::Kind;
use crate::schedule::live::{Cause, Live, Note};
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::waiting::CallKey;
use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{oneshot, watch};

/// Between two that end since they can't be parked, in microseconds of the queue's clock: the first may be enough.
const GIVE_WAY: u64 = 5_000_000;

impl Dispatcher {
    /// Whether anybody waits for memory, or the daemon stops.
    pub(in crate::schedule) fn pressure(&self) -> watch::Receiver<bool> {
        self.pressure.subscribe()
    }

    /// The same now.
    pub(in crate::schedule) fn pressed(&self) -> bool {
        *self.pressure.borrow()
    }

    /// Takes room for a parked machine of an account.
    pub fn room_to_park(&self, account: &AccountName, bytes: u64) -> Result<(), ParkError> {
        let part = self.caps.limits(account).parked.unwrap_or_else(|| self.part_of(self.parked.quota()));
        self.parked.reserve(account, bytes, part)
    }

    /// Whether there is so much room.
    pub(in crate::schedule) fn has_room_to_park(&self, account: &AccountName, bytes: u64) -> Result<(), ParkError> {
        self.room_to_park(account, bytes)?;
        self.parked.unreserve(account, bytes);
        Ok(())
    }

    /// What an account may have of something of which nothing else is said.
    pub(super) fn part_of(&self, all: u64) -> u64 {
        if self.accounts.one() { all } else { all / 2 }
    }

    /// Whether others, who are wanted now, wait for the VMs of those that wait themselves.
    pub(in crate::schedule) fn holds_up(&self) -> bool {
        let shared = self.lock();
        shared.core.holds_up() && !shared.core.draining()
    }

    /// Whether one that keeps a VM that others wait for is to end now: one at a time, as each may be enough.
    pub(in crate::schedule) fn gives_way(&self) -> bool {
        let mut shared = self.lock();
        let now = shared.clock.now();
        let again = shared.gave_way.is_none_or(|last| now.since(last) >= GIVE_WAY);
        if again {
            shared.gave_way = Some(now);
        }
        again
    }

    /// Who waits for whom.
    pub(in crate::schedule) fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An execution waits for these too: they are as urgent as itself from now on.
    pub(in crate::schedule) fn lift<'a>(self: &Arc<Self>, waiter: &ExecutionId, targets: impl IntoIterator<Item = &'a ExecutionId>) {
        let follows = {
            let mut shared = self.lock();
            // One that ended meanwhile would never be forgotten again.
            let live = targets.into_iter().filter(|target| shared.live.contains_key(target));
            let on = live.cloned().map(Job::Execution).collect();
            shared.step(Event::Wait { waiter: Job::Execution(waiter.clone()), on })
        };
        self.act(follows);
    }

    /// An execution waits for these no more, by none of its asks: they are not urgent on its account.
    pub(in crate::schedule) fn lower(self: &Arc<Self>, waiter: &ExecutionId, targets: Vec<ExecutionId>) {
        let on = targets.into_iter().map(Job::Execution).collect();
        self.step(Event::Answered { waiter: Job::Execution(waiter.clone()), on });
    }

    /// An execution waits for nobody any more.
    pub(in crate::schedule) fn waits_no_more(self: &Arc<Self>, waiter: &ExecutionId) {
        self.graph().forget(waiter);
        self.step(Event::Unwait(Job::Execution(waiter.clone())));
    }

    /// The VM of an execution stands at the door, or goes on.
    pub(in crate::schedule) fn stands(self: &Arc<Self>, id: &ExecutionId, stands: bool) {
        let job = Job::Execution(id.clone());
        self.step(if stands { Event::Idle(job) } else { Event::Busy(job) });
    }

    /// Ends an execution when it must have ended, wherever it is then.
    pub(in crate::schedule) fn watch_deadline(self: &Arc<Self>, live: &Arc<Live>) {
        let Some(due) = live.view().due else { return };
        let left = due.since(live.clock.now());
        let (this, live) = (Arc::clone(self), Arc::clone(live));
        tokio::spawn(async move {
            if tokio::time::timeout(left, live.ended()).await.is_err() {
                this.cancel_as(&live.id, Cause::Deadline).await;
            }
        });
    }

    /// Waits for memory. When this is dropped before, [`Self::withdraw`] is to be called.
    pub(in crate::schedule) async fn admitted(self: &Arc<Self>, live: &Live) {
        let (tell, told) = oneshot::channel();
        let expected = self.estimates.of(&live.version);
        let follows = {
            let mut shared = self.lock();
            shared.resuming.insert(live.id.clone(), tell);
            let claim = shared.claim(live, expected);
            shared.step(Event::Submit(Job::Execution(live.id.clone()), claim))
        };
        self.act(follows);
        if told.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A job wants no memory any more, whether it has it by now or not.
    pub(in crate::schedule) fn withdraw(self: &Arc<Self>, job: &Job) {
        let follows = {
            let mut shared = self.lock();
            if let Job::Execution(id) = job {
                shared.resuming.remove(id);
            }
            let mut follows = shared.step(Event::Withdraw(job.clone()));
            follows.extend(shared.step(Event::Release(job.clone())));
            follows
        };
        self.act(follows);
        self.changed.send_replace(());
    }

    /// An execution of an earlier daemon, or of another host. If it is parked, what it waits for is as urgent as it is.
    pub fn adopt(self: &Arc<Self>, live: &Arc<Live>) {
        let expected = self.estimates.of(&live.version);
        let follows = {
            let mut shared = self.lock();
            shared.live.insert(Arc::clone(live));
            let claim = shared.claim(live, expected);
            shared.step(Event::Known(Job::Execution(live.id.clone()), claim))
        };
        self.act(follows);
    }

    /// An execution ended, and its end is durable: tells who waits for it, and ends what only it waited for.
    pub(in crate::schedule) fn ended(self: &Arc<Self>, execution: &Execution, live: &Live) {
        let waiters = {
            let mut graph = self.graph();
            graph.forget(&execution.id);
            graph.waiters(&execution.id)
        };
        for waiter in waiters.into_iter().filter_map(|id| self.live(&id)) {
            waiter.note(Note::Ended(execution.id.clone()));
        }
        if let Some(finished) = execution.finished_at
            && execution.state == State::Succeeded
        {
            let begun = execution.begun_at().unwrap_or(execution.created_at);
            self.estimates.note(&live.version, Kind::Whole, finished.since(begun));
        } else {
            self.abandon_children(&live.account, &execution.id);
        }
    }

    /// An attempt ended without a result, and another follows: what it waited for is nobody's, unless that makes the same calls again.
    pub(in crate::schedule) fn leave_asks(self: &Arc<Self>, live: &Live) {
        self.waits_no_more(&live.id);
        if live.version.policy.replay == Replay::None {
            self.abandon_children(&live.account, &live.id);
        }
    }

    /// Executions that an execution has called and that have not ended, by what was called before them.
    pub(in crate::schedule) fn calls_of(&self, account: &AccountName, parent: &ExecutionId) -> HashMap<CallKey, ExecutionId> {
        let shared = self.lock();
        let children = shared.live.children(account, parent).filter(|live| live.cause().is_none());
        children.filter_map(|live| Some((live.view().call_key.clone()?, live.id.clone()))).collect()
    }

    /// What an execution has started and what has not ended, oldest first.
    pub(in crate::schedule) fn children_of(&self, account: &AccountName, parent: &ExecutionId) -> Vec<ExecutionId> {
        self.lock().live.children(account, parent).map(|live| live.id.clone()).collect()
    }

    fn abandon_children(self: &Arc<Self>, account: &AccountName, parent: &ExecutionId) {
        for child in self.children_of(account, parent) {
            self.abandon(&child, Cause::Parent);
        }
    }

    /// Ends an execution that nobody waits for.
    pub(in crate::schedule) fn abandon(self: &Arc<Self>, id: &ExecutionId, cause: Cause) {
        if self.graph().waiters(id).is_empty() {
            let (this, id) = (Arc::clone(self), id.clone());
            tokio::spawn(async move { this.cancel_as(&id, cause).await });
        }
    }

    /// How long an execution will take from now on, as far as that is known.
    pub(in crate::schedule) fn expected_end(&self, id: &ExecutionId) -> Option<Duration> {
        let Some(live) = self.live(id) else { return Some(Duration::ZERO) };
        let begun = live.view().begun_at()?;
        self.estimates.expected(&live.version)?.checked_sub(live.clock.now().since(begun))
    }

    /// When an execution that has begun will end, where those of its version always take about as long.
    pub(in crate::schedule) fn steady_end(&self, id: &ExecutionId) -> Option<Instant> {
        let live = self.live(id)?;
        let view = live.view();
        let begun = view.begun_at().filter(|_| view.state != State::Queued)?;
        let left = self.estimates.steady(&live.version)?.checked_sub(live.clock.now().since(begun))?;
        Some(Instant::now() + left)
    }

    /// Signals an event of an execution, durably.
    pub fn signalled(&self, owner: &ExecutionId, token: &str) {
        if let Some(live) = self.live(owner) {
            live.note(Note::Signalled(token.into()));
        }
    }
}
