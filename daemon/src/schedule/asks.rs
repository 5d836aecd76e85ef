//! What one execution has asked for and got no answer to, and the way to its answers.
//!
//! ```text
//!              refused, or answered at once
//!   asked -+--------------------------------------------------> answered
//!          +-- starting (a child's insertion is on its way) --+    ^
//!          +--------------------------------------------------+-> open -- ended, passed, signalled, late
//! ```
//! - [`graph`]: who waits for whom
//! - [`decide`]: whether parking pays
//! - `start`: an ask that starts an execution
//! - `expect`: when the first of them can be answered
//! - [`answer`]: from what happened to the message
//!
//! Invariants: whatever an open ask waits for is registered before its state is looked at, so nothing that happens in between is missed; an ask is
//! answered from the database only, so a result is durable before anybody is told of it; an answer is made once, when the ask is taken out of what is open.

pub mod answer;
pub mod decide;
mod expect;
pub mod graph;
mod start;

use super::dispatch::Dispatcher;
use super::live::{Cause, Live, Note};
use crate::engine;
use crate::manifest::Replay;
use crate::manifest::flow::{self, By};
use crate::state::id::ExecutionId;
use crate::state::record::{Execution, Happening};
use crate::state::waiting::{CallKey, Parked, WaitView, Waiting, WaitsFor};
use answer::Refused;
use start::Start;
pub use start::{MAX_CHILDREN, MAX_DEPTH};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use torpor_protocol::ask::{Ask, MAX_ASKS, MAX_TARGETS, MAX_WAIT_MS, OnLate, Refusal, Reply, What};

/// Most events of one execution.
const MAX_EVENTS: u64 = 1000;

/// An ask without an answer.
#[derive(Debug)]
struct Open {
    waiting: Waiting,
    /// Executions that have not ended.
    pending: HashSet<ExecutionId>,
    /// How many different ones there are.
    targets: usize,
    due: Option<Instant>,
    signalled: bool,
    /// Its time had passed before what it waited for, when it was to be answered first.
    timed_out: bool,
}

impl Open {
    fn ready(&self, now: Instant) -> bool {
        let there = match &self.waiting.what {
            WaitsFor::Executions { any: true, .. } => self.pending.len() < self.targets || self.targets == 0,
            WaitsFor::Executions { .. } => self.pending.is_empty(),
            WaitsFor::Timer => false,
            WaitsFor::Event { .. } => self.signalled,
        };
        there || self.due.is_some_and(|due| due <= now)
    }
}

/// An ask that is to be answered.
#[derive(Debug)]
pub struct Ready {
    /// As it was.
    pub waiting: Waiting,
    /// Its time passed before what it waited for.
    pub timed_out: bool,
}

/// What becomes of an ask that starts an execution, once that is durable.
#[derive(Debug)]
pub struct Started {
    seq: u64,
    child: Result<ExecutionId, Refused>,
    /// Waits for its end: until when.
    call: Option<Option<Duration>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Asks {
    open: BTreeMap<u64, Open>,
    starting: BTreeSet<u64>,
    /// Executions that it has started.
    pub children: u32,
    /// The calls that it has made.
    pub calls: Option<CallKey>,
    /// It is brought back ahead of what it waits for, which may come later than is thought: it may be parked again.
    pub ahead: bool,
    /// What earlier attempts had called and no later one wanted is ended with it.
    leaves: bool,
    /// What earlier attempts had called, where that succeeded or still goes on.
    done: HashMap<CallKey, ExecutionId>,
}

/// What follows an ask at once.
#[derive(Debug)]
pub enum Taken {
    /// An answer.
    Answer(Reply),
    /// Nothing yet.
    Open,
    /// A child is being stored; [`Asks::started`] is to be told.
    Starting(Arc<Live>, Option<Option<Duration>>),
}

fn within(ms: Option<u64>) -> Result<Option<Duration>, Refused> {
    match ms {
        Some(ms) if ms > MAX_WAIT_MS => Err(Refused::new(Refusal::Invalid, format!("{ms} ms is longer than the longest wait, a year"))),
        ms => Ok(ms.map(Duration::from_millis)),
    }
}

/// Executions that all outstanding waits of one execution may name together.
const MAX_ALL_TARGETS: usize = 4 * MAX_TARGETS;

/// Who may know how an execution ended: who started it, and who might have.
fn may_know(d: &Dispatcher, live: &Live, target: &Execution) -> bool {
    if target.account != live.account {
        return false;
    }
    if target.parent.as_ref() == Some(&live.id) {
        return true;
    }
    let version = d.catalog.portion(&target.account, &target.task, &target.version, &target.portion);
    version.is_some_and(|version| flow::allowed(By::Portion(live.version.end()), version.end()).is_ok())
}

impl Asks {
    /// Those of a new attempt.
    pub async fn begin(d: &Arc<Dispatcher>, live: &Live) -> Self {
        let done = done(d, live).await;
        if !done.is_empty() {
            live.happened(Happening::Replaying { calls: u32::try_from(done.len()).unwrap_or(u32::MAX) });
        }
        Self { done, leaves: true, ..Self::default() }
    }

    /// Those of a parked execution. What they wait for is registered again.
    pub async fn restore(d: &Arc<Dispatcher>, live: &Live, parked: &Parked) -> Self {
        let mut this = Self { children: parked.children, calls: parked.calls.clone(), done: done(d, live).await, ..Self::default() };
        for waiting in &parked.asks {
            if let Err(error) = this.register(d, live, waiting.clone()).await {
                // Its children may be gone from the database: it is woken, and told what is known.
                tracing::warn!(execution = %live.id, ?error, "what a parked execution waits for can't be looked at");
                this.put_back(vec![Ready { waiting: waiting.clone(), timed_out: true }]);
            }
        }
        this
    }

    /// Its execution is over: what an earlier attempt had called and no later one wanted is nobody's.
    pub fn leave(&mut self, d: &Arc<Dispatcher>) {
        // One that was parked meanwhile can't tell them from what it has started itself.
        for child in self.done.drain().map(|(_, child)| child).filter(|_| self.leaves) {
            d.abandon(&child, Cause::Parent);
        }
    }

    /// Takes an ask.
    pub async fn take(&mut self, d: &Arc<Dispatcher>, live: &Arc<Live>, ask: Ask, payload: Vec<u8>) -> Taken {
        let Ask { seq, what, .. } = ask;
        let outstanding = self.open.len() + self.starting.len();
        if self.open.contains_key(&seq) || self.starting.contains(&seq) {
            return Taken::Answer(Refused::new(Refusal::Invalid, format!("ask {seq} is outstanding already")).into());
        }
        if outstanding >= MAX_ASKS {
            return Taken::Answer(Refused::new(Refusal::TooMany, format!("at most {MAX_ASKS} asks may be outstanding")).into());
        }
        let taken = match what {
            What::Spawn { task, need_by, on_late } => {
                self.start(d, live, Start { seq, task: &task, call: None, need_by, on_late }, payload).await
            }
            What::Call { task, timeout_ms } => match within(timeout_ms) {
                Ok(timeout) => {
                    let start = Start { seq, task: &task, call: Some(timeout), need_by: None, on_late: OnLate::Run };
                    self.start(d, live, start, payload).await
                }
                Err(refused) => Err(refused),
            },
            What::Wait { executions, any, results, timeout_ms } => self.wait(d, live, seq, &executions, (any, results), timeout_ms).await,
            What::Sleep { ms } => self.sleep(d, live, seq, ms).await,
            What::Event {} => answer::event(d, live, MAX_EVENTS).await.map(Taken::Answer),
            What::EventWait { token, timeout_ms } => self.event_wait(d, live, seq, token, timeout_ms).await,
        };
        taken.unwrap_or_else(|refused| Taken::Answer(refused.into()))
    }

    /// A child is durable, or is not.
    #[must_use]
    pub fn stored(seq: u64, child: &Live, stored: Result<(), String>, call: Option<Option<Duration>>) -> Started {
        let child = stored.map(|()| child.id.clone()).map_err(|error| Refused::new(Refusal::Host, error));
        Started { seq, child, call }
    }

    /// Goes on with an ask whose child is durable. The answer, where there is one now.
    pub async fn started(&mut self, d: &Arc<Dispatcher>, live: &Live, started: Started) -> Option<(u64, Reply)> {
        let Started { seq, child, call } = started;
        self.starting.remove(&seq);
        let child = match child {
            Ok(child) => child,
            Err(refused) => return Some((seq, refused.into())),
        };
        let Some(timeout) = call else { return Some((seq, Reply::Spawned { execution: child.to_string() })) };
        let what = WaitsFor::Executions { ids: vec![child], any: false, results: true, call: true };
        let refused = self.register(d, live, waiting(live, seq, what, timeout)).await.err()?;
        Some((seq, refused.into()))
    }

    async fn wait(
        &mut self,
        d: &Arc<Dispatcher>,
        live: &Live,
        seq: u64,
        executions: &[String],
        (any, results): (bool, bool),
        timeout_ms: Option<u64>,
    ) -> Result<Taken, Refused> {
        let waited_for: usize = self.open.values().map(|open| open.waiting.targets().len()).sum();
        if executions.len() > MAX_TARGETS || waited_for + executions.len() > MAX_ALL_TARGETS {
            let most = format!("one ask may wait for at most {MAX_TARGETS} executions, all together for {MAX_ALL_TARGETS}");
            return Err(Refused::new(Refusal::TooMany, most));
        }
        let unknown = |id: &str| Refused::new(Refusal::UnknownExecution, format!("no execution {id:?}"));
        let ids = executions.iter().map(|id| ExecutionId::parse(id).ok_or_else(|| unknown(id))).collect::<Result<Vec<_>, _>>()?;
        let what = WaitsFor::Executions { ids, any, results, call: false };
        self.register(d, live, waiting(live, seq, what, within(timeout_ms)?)).await?;
        Ok(Taken::Open)
    }

    async fn sleep(&mut self, d: &Arc<Dispatcher>, live: &Live, seq: u64, ms: u64) -> Result<Taken, Refused> {
        self.register(d, live, waiting(live, seq, WaitsFor::Timer, within(Some(ms))?)).await?;
        Ok(Taken::Open)
    }

    async fn event_wait(
        &mut self,
        d: &Arc<Dispatcher>,
        live: &Live,
        seq: u64,
        token: String,
        timeout_ms: Option<u64>,
    ) -> Result<Taken, Refused> {
        self.register(d, live, waiting(live, seq, WaitsFor::Event { token }, within(timeout_ms)?)).await?;
        Ok(Taken::Open)
    }

    /// Opens an ask: first registered, then looked at.
    async fn register(&mut self, d: &Arc<Dispatcher>, live: &Live, waiting: Waiting) -> Result<(), Refused> {
        let now = live.clock.now();
        let due = waiting.until.map(|until| Instant::now() + until.since(now));
        let targets = waiting.targets().iter().collect::<HashSet<_>>().len();
        let mut open = Open { pending: HashSet::new(), targets, due, signalled: false, timed_out: false, waiting };
        match &open.waiting.what {
            WaitsFor::Executions { ids, .. } => {
                d.graph().add(&live.id, open.waiting.seq, ids).map_err(|chain| Refused::cycle(&chain))?;
                let pending = self.pending(d, live, ids).await;
                match pending {
                    Ok(pending) => open.pending = pending,
                    Err(refused) => {
                        d.graph().remove(&live.id, open.waiting.seq);
                        return Err(refused);
                    }
                }
            }
            WaitsFor::Timer => {}
            WaitsFor::Event { token } => match d.store.event(token).await {
                Ok(Some((owner, data))) if owner == live.id => open.signalled = data.is_some(),
                Ok(_) => return Err(Refused::new(Refusal::UnknownEvent, format!("this execution has made no event {token:?}"))),
                Err(error) => return Err(Refused::new(Refusal::Host, error.to_string())),
            },
        }
        if !open.pending.is_empty() && open.due.is_none_or(|due| due > Instant::now()) {
            d.lift(&live.id, &open.pending);
        }
        self.open.insert(open.waiting.seq, open);
        Ok(())
    }

    /// Those that have not ended. Others must be in the database.
    async fn pending(&self, d: &Arc<Dispatcher>, live: &Live, ids: &[ExecutionId]) -> Result<HashSet<ExecutionId>, Refused> {
        let unknown = |id: &ExecutionId| Refused::new(Refusal::UnknownExecution, format!("no execution \"{id}\""));
        let (mut pending, mut others) = (HashSet::new(), HashSet::new());
        for id in ids {
            match d.live(id) {
                Some(target) if may_know(d, live, &target.view()) => drop(pending.insert(id.clone())),
                Some(_) => return Err(unknown(id)),
                None => drop(others.insert(id.clone())),
            }
        }
        let others: Vec<ExecutionId> = others.into_iter().collect();
        let ended = d.store.ends(&others).await.map_err(|error| Refused::new(Refusal::Host, error.to_string()))?;
        let ended: HashSet<&ExecutionId> = ended.iter().filter(|target| may_know(d, live, target)).map(|execution| &execution.id).collect();
        match others.iter().find(|id| !ended.contains(id)) {
            Some(id) => Err(unknown(id)),
            None => Ok(pending),
        }
    }

    /// Takes in what happened.
    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Ended(id) => self.open.values_mut().for_each(|open| {
                open.pending.remove(id);
            }),
            Note::Signalled(token) => {
                for open in self.open.values_mut() {
                    open.signalled |= matches!(&open.waiting.what, WaitsFor::Event { token: own } if *own == **token);
                }
            }
            Note::Park(_) | Note::Resume(_) | Note::Hold(_) => {}
        }
    }

    /// One of them could be answered.
    #[must_use]
    pub fn any_ready(&self) -> bool {
        let now = Instant::now();
        self.open.values().any(|open| open.ready(now))
    }

    /// Answers those that can be answered, as far as they fit one message. Calls whose time passed are ended: nobody else knows of them.
    pub async fn reply(&mut self, d: &Arc<Dispatcher>, live: &Live) -> engine::Reply {
        let ready = self.take_ready(d, live);
        let abandoned = answer::abandoned(&ready);
        let (reply, rest) = answer::build(d, live, ready).await;
        self.put_back(rest);
        for child in abandoned {
            d.abandon(&child, Cause::Parent);
        }
        reply
    }

    /// Takes out those that can be answered, lowest number first.
    fn take_ready(&mut self, d: &Arc<Dispatcher>, live: &Live) -> Vec<Ready> {
        let now = Instant::now();
        let (mut ready, mut let_go) = (Vec::new(), Vec::new());
        for (seq, open) in self.open.extract_if(.., |_, open| open.ready(now)) {
            if !open.waiting.targets().is_empty() {
                let_go.extend(d.graph().remove(&live.id, seq));
            }
            let late = Open { due: None, ..open };
            let timed_out = late.timed_out || !late.ready(now);
            ready.push(Ready { waiting: late.waiting, timed_out });
        }
        if !let_go.is_empty() {
            d.lower(&live.id, let_go);
        }
        ready
    }

    /// Puts back what did not fit an answer.
    fn put_back(&mut self, ready: Vec<Ready>) {
        for Ready { waiting, timed_out } in ready {
            let open = Open { pending: HashSet::new(), targets: 1, due: Some(Instant::now()), signalled: true, timed_out, waiting };
            self.open.insert(open.waiting.seq, open);
        }
    }

    /// When the next one's time is over.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.open.values().filter_map(|open| open.due).min()
    }

    /// Nothing is on its way: it may be parked.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.starting.is_empty() && !self.open.is_empty()
    }

    /// All of these are known and not answered.
    #[must_use]
    pub fn knows(&self, seqs: &[u64]) -> bool {
        seqs.iter().all(|seq| self.open.contains_key(seq) || self.starting.contains(seq))
    }

    /// For the database.
    #[must_use]
    pub fn saved(&self) -> Vec<Waiting> {
        self.open.values().map(|open| open.waiting.clone()).collect()
    }

    /// For people.
    #[must_use]
    pub fn views(&self) -> Vec<WaitView> {
        self.open.values().map(|open| open.waiting.view()).collect()
    }
}

/// What earlier attempts had called, and what succeeded or still goes on; nothing where it can't be known, or is not wanted.
async fn done(d: &Arc<Dispatcher>, live: &Live) -> HashMap<CallKey, ExecutionId> {
    if live.version.policy.replay == Replay::None || live.view().attempts < 2 {
        return HashMap::new();
    }
    // Those that go on first: one that ends meanwhile is then in the database.
    let mut calls = d.calls_of(&live.account, &live.id);
    match d.store.done_calls(&live.account, &live.id).await {
        Ok(done) => calls.extend(done),
        Err(error) => tracing::warn!(execution = %live.id, %error, "what earlier attempts have called can't be read and is run anew"),
    }
    calls
}

fn waiting(live: &Live, seq: u64, what: WaitsFor, timeout: Option<Duration>) -> Waiting {
    let since = live.clock.now();
    Waiting { seq, what, since, until: timeout.map(|timeout| since.after(timeout)) }
}
