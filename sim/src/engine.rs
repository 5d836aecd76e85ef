//! The simulation: events in time, hosts that do what their schedulers say.
//!
//! ```text
//! waiting -- Start --> first half -- nothing called --------------------> second half -- nothing spawned is under way --> ended
//!                          |                                                ^   |                                          ^
//!                          +-- calls --> at the door (short) or parking     |   +-- spawned ones are under way --> as left-+
//!                                            |    +---- all have ended -----+
//!                                            +--> parked -- all have ended --> waiting (resume)
//! ```

use crate::estimate::Estimate;
use crate::stats::Stats;
use crate::trace::{Job, Request, Trace, TraceError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use torpor_scheduler::{Action, Budget, Claim, Event, Kind, Order, Scheduler, Time};

/// Microseconds from a place to a program that runs: docs/performance.md.
const START: u64 = 15_000;
/// Microseconds to save a machine, and to have it go on.
const PARK: u64 = 30_000;
const RESUME: u64 = 15_000;
/// What is expected to wait less stands still at the door, for this long at most.
const DOOR: u64 = 100_000;
/// What is assumed of a task that has not ended yet, to place it.
const UNKNOWN: u64 = 1_000_000;

/// The hosts of a simulation.
#[derive(Debug, Clone, Copy)]
pub struct Hosts {
    /// How many.
    pub count: usize,
    /// What each of them has.
    pub budget: Budget,
    /// Where arrivals are placed depends on it.
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// A half is done.
    Done(u64),
    /// It has stood at the door for long.
    Stood(u64),
    /// Its machine is saved.
    Saved(u64),
    /// A scheduler wants to be told the time.
    Tick(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Computing,
    AtDoor,
    Parking,
    Parked,
}

#[derive(Debug)]
struct Execution {
    host: usize,
    account: u32,
    job: Job,
    parent: Option<u64>,
    /// It is called, not spawned.
    called: bool,
    state: State,
    /// Halves that are done.
    done: u8,
    calls: usize,
    spawns: usize,
    /// All that it has spawned.
    spawned: Vec<u64>,
    due: Option<u64>,
    asked: u64,
    started: Option<u64>,
    held: Option<u64>,
    placed: u64,
}

struct Host {
    scheduler: Scheduler<u64>,
    /// Work that is expected to be done, in microseconds.
    expected: u64,
    tick: Option<u64>,
}

struct Engine<'a> {
    order: Order,
    now: u64,
    hosts: Vec<Host>,
    executions: HashMap<u64, Execution>,
    events: BinaryHeap<Reverse<(u64, u64, What)>>,
    happened: u64,
    keys: u64,
    estimates: Vec<Estimate>,
    names: Vec<Arc<str>>,
    random: ChaCha8Rng,
    computing: u64,
    arriving: bool,
    stats: Stats,
    progress: &'a AtomicU64,
}

/// Replays a trace; `progress` is how many executions have ended.
///
/// # Errors
///
/// The trace can't be read.
pub fn run(trace: Trace, order: Order, hosts: Hosts, progress: &AtomicU64) -> Result<Stats, TraceError> {
    let host = |_| Host { scheduler: Scheduler::with_order(hosts.budget, order), expected: 0, tick: None };
    let mut engine = Engine {
        order,
        now: 0,
        hosts: (0..hosts.count.max(1)).map(host).collect(),
        executions: HashMap::new(),
        events: BinaryHeap::new(),
        happened: 0,
        keys: 0,
        estimates: Vec::new(),
        names: Vec::new(),
        random: ChaCha8Rng::seed_from_u64(hosts.seed),
        computing: 0,
        arriving: true,
        stats: Stats::default(),
        progress,
    };
    for request in trace {
        let request = request?;
        engine.until(request.at);
        engine.arrive(request);
    }
    engine.arriving = false;
    engine.stats.span = engine.now;
    engine.until(u64::MAX);
    Ok(engine.stats)
}

impl Engine<'_> {
    /// All that happens before a moment, and up to it.
    fn until(&mut self, moment: u64) {
        while let Some(Reverse((at, _, what))) = self.events.peek().copied()
            && at <= moment
        {
            self.events.pop();
            self.pass(at);
            match what {
                What::Done(key) => self.done(key),
                What::Stood(key) => self.stood(key),
                What::Saved(key) => self.saved(key),
                // One that an earlier one has replaced is stale.
                What::Tick(host) if self.hosts[host].tick == Some(at) => {
                    self.hosts[host].tick = None;
                    self.step(host, Event::Tick);
                }
                What::Tick(_) => {}
            }
        }
        if moment != u64::MAX {
            self.pass(moment);
        }
    }

    fn pass(&mut self, moment: u64) {
        let passed = moment.saturating_sub(self.now);
        if self.arriving {
            self.stats.computed += u128::from(self.computing) * u128::from(passed);
        }
        self.now = self.now.max(moment);
    }

    fn at(&mut self, moment: u64, what: What) {
        self.happened += 1;
        self.events.push(Reverse((moment, self.happened, what)));
    }

    /// Of two hosts the one with less to do, as far as is known.
    fn place(&mut self) -> usize {
        let one = self.random.random_range(0..self.hosts.len());
        let other = self.random.random_range(0..self.hosts.len());
        if self.hosts[other].expected < self.hosts[one].expected { other } else { one }
    }

    fn arrive(&mut self, request: Request) {
        let host = self.place();
        self.submit(host, request.account, request.job, None, false);
    }

    fn submit(&mut self, host: usize, account: u32, mut job: Job, parent: Option<u64>, called: bool) {
        self.keys += 1;
        let key = self.keys;
        let budget = self.hosts[host].scheduler.budget();
        job.bytes = job.bytes.min(budget.bytes);
        let own = job.need_by.map(|need_by| self.now.saturating_add(need_by));
        let of_parent = parent.and_then(|parent| self.executions.get(&parent)).and_then(|parent| parent.due);
        let due = own.map(|own| of_parent.map_or(own, |of_parent| own.min(of_parent)));
        let (holds, _) = self.estimate(job.task).told();
        let placed = if holds == 0 { UNKNOWN } else { holds };
        self.hosts[host].expected += placed;
        let execution = Execution {
            host,
            account,
            job,
            parent,
            called,
            state: State::Waiting,
            done: 0,
            calls: 0,
            spawns: 0,
            spawned: Vec::new(),
            due,
            asked: self.now,
            started: None,
            held: None,
            placed,
        };
        self.stats.submitted += 1;
        let claim = self.claim(&execution, Kind::New);
        self.executions.insert(key, execution);
        self.step(host, Event::Submit(key, claim));
    }

    fn estimate(&mut self, task: u32) -> &mut Estimate {
        let at = usize::try_from(task).unwrap_or(usize::MAX);
        if self.estimates.len() <= at {
            self.estimates.resize_with(at + 1, Estimate::default);
        }
        &mut self.estimates[at]
    }

    fn claim(&mut self, execution: &Execution, kind: Kind) -> Claim {
        let (holds, takes) = self.estimate(execution.job.task).told();
        // What was done since its start is done.
        let takes = takes.saturating_sub(execution.started.map_or(0, |started| self.now - started)).max(holds);
        let account = usize::try_from(execution.account).unwrap_or(0);
        while self.names.len() <= account {
            self.names.push(Arc::from(self.names.len().to_string()));
        }
        Claim {
            bytes: execution.job.bytes,
            cpu: execution.job.cpu,
            account: Arc::clone(&self.names[account]),
            group: None,
            kind,
            priority: execution.job.priority,
            due: execution.due.map(Time),
            deferrable: execution.due.is_some() && kind == Kind::New,
            holds,
            takes,
        }
    }

    /// Tells a scheduler, and does what it says.
    fn step(&mut self, host: usize, event: Event<u64>) {
        for action in self.hosts[host].scheduler.step(Time(self.now), event) {
            match action {
                Action::Start(key) => self.start(key),
                Action::Late(_) => self.stats.told_late += 1,
            }
        }
        if self.order != Order::LeastSlack {
            return;
        }
        let alarm = self.hosts[host].scheduler.alarm().map(|alarm| alarm.0);
        if let Some(alarm) = alarm.filter(|alarm| self.hosts[host].tick.is_none_or(|tick| *alarm < tick)) {
            self.hosts[host].tick = Some(alarm);
            self.at(alarm, What::Tick(host));
        }
    }

    fn start(&mut self, key: u64) {
        let now = self.now;
        let Some(execution) = self.executions.get_mut(&key) else { return };
        let waited = now - execution.asked;
        let resumed = execution.started.is_some();
        let cost = if resumed { RESUME } else { START };
        if resumed {
            self.stats.resumes.add(waited);
        } else {
            execution.started = Some(now);
            if execution.due.is_some() {
                self.stats.put_off.add(waited);
            } else {
                self.stats.wanted_now.add(waited);
                self.stats.accounts.entry(execution.account).or_default().add(waited);
            }
        }
        self.compute(key, cost);
    }

    /// The next half of its work begins.
    fn compute(&mut self, key: u64, cost: u64) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        execution.state = State::Computing;
        self.computing += u64::from(execution.job.cpu);
        let half = execution.job.work / 2;
        let left = match execution.done {
            0 => half,
            1 => execution.job.work - half,
            _ => 0,
        };
        let end = self.now.saturating_add(cost).saturating_add(left);
        self.at(end, What::Done(key));
    }

    fn done(&mut self, key: u64) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        self.computing -= u64::from(execution.job.cpu);
        execution.done += 1;
        if execution.done == 1 {
            let (calls, spawns) = (std::mem::take(&mut execution.job.calls), std::mem::take(&mut execution.job.spawns));
            (execution.calls, execution.spawns) = (calls.len(), spawns.len());
            let (host, account) = (execution.host, execution.account);
            let first = self.keys + 1;
            for (job, called) in calls.into_iter().map(|job| (job, true)).chain(spawns.into_iter().map(|job| (job, false))) {
                self.submit(host, account, job, Some(key), called);
            }
            let mut children: Vec<u64> = (first..=self.keys).collect();
            if let Some(execution) = self.executions.get_mut(&key) {
                execution.spawned = children.split_off(execution.calls);
            }
            self.wait_or_go_on(key, children);
        } else {
            let mut children = std::mem::take(&mut execution.spawned);
            children.retain(|child| self.executions.contains_key(child));
            self.wait_or_go_on(key, children);
        }
    }

    fn wait_or_go_on(&mut self, key: u64, children: Vec<u64>) {
        if children.is_empty() {
            return self.go_on(key);
        }
        let Some(execution) = self.executions.get_mut(&key) else { return };
        execution.state = State::AtDoor;
        let host = execution.host;
        self.step(host, Event::Wait { waiter: key, on: children.clone() });
        let tasks: Vec<u32> = children.iter().filter_map(|child| self.executions.get(child)).map(|child| child.job.task).collect();
        let expected = tasks.into_iter().map(|task| self.estimate(task).told().0).max().unwrap_or(0);
        if expected > 0 && expected < DOOR {
            self.stats.stood += 1;
            self.step(host, Event::Idle(key));
            self.at(self.now + DOOR, What::Stood(key));
        } else {
            self.park(key);
        }
    }

    /// It stood at the door for long: it is parked. One that went on meanwhile, and waits there again, is parked a little early.
    fn stood(&mut self, key: u64) {
        if self.executions.get(&key).is_some_and(|execution| execution.state == State::AtDoor) {
            self.park(key);
        }
    }

    fn park(&mut self, key: u64) {
        if let Some(execution) = self.executions.get_mut(&key) {
            execution.state = State::Parking;
            self.at(self.now + PARK, What::Saved(key));
        }
    }

    fn saved(&mut self, key: u64) {
        let now = self.now;
        let Some(execution) = self.executions.get_mut(&key) else { return };
        execution.state = State::Parked;
        execution.held = execution.held.or(execution.started.map(|started| now - started));
        let host = execution.host;
        self.stats.parks += 1;
        self.step(host, Event::Release(key));
        self.wake(key);
    }

    /// What it waits for has ended, perhaps: it wants to go on.
    fn wake(&mut self, key: u64) {
        let Some(execution) = self.executions.get_mut(&key) else { return };
        let open = if execution.done == 1 { execution.calls } else { execution.spawns };
        if open > 0 || !matches!(execution.state, State::AtDoor | State::Parked) {
            return;
        }
        let (host, state) = (execution.host, execution.state);
        execution.state = State::Waiting;
        execution.asked = self.now;
        self.step(host, Event::Unwait(key));
        if state == State::AtDoor {
            self.step(host, Event::Busy(key));
            self.go_on(key);
        } else if let Some(execution) = self.executions.remove(&key) {
            let claim = self.claim(&execution, Kind::Resume);
            self.executions.insert(key, execution);
            self.step(host, Event::Submit(key, claim));
        }
    }

    /// It holds its VM, and waits for nothing.
    fn go_on(&mut self, key: u64) {
        match self.executions.get(&key).map(|execution| execution.done) {
            Some(1) => self.compute(key, 0),
            Some(_) => self.end(key),
            None => {}
        }
    }

    fn end(&mut self, key: u64) {
        let Some(execution) = self.executions.remove(&key) else { return };
        let took = self.now - execution.started.unwrap_or(self.now);
        self.estimate(execution.job.task).learn(execution.held.unwrap_or(took), took);
        self.stats.ended += 1;
        self.progress.store(self.stats.ended, Ordering::Relaxed);
        if let Some(due) = execution.due {
            self.stats.with_due += 1;
            self.stats.met += u64::from(self.now <= due);
        }
        let host = &mut self.hosts[execution.host];
        host.expected = host.expected.saturating_sub(execution.placed);
        self.step(execution.host, Event::Release(key));
        self.step(execution.host, Event::Ended(key));
        if let Some(parent) = execution.parent {
            if let Some(parent) = self.executions.get_mut(&parent) {
                let open = if execution.called { &mut parent.calls } else { &mut parent.spawns };
                *open -= 1;
            }
            self.wake(parent);
        }
    }
}
