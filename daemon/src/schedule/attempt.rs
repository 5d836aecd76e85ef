//! One VM of an execution: what its program prints, asks for and waits for, until it ends or is parked.
//!
//! ```text
//!  runs --asked, standing--> stands --decided--> being parked --written--> named --committed--> End
//!   ^                          |                     |            |           |
//!   +------- answered ---------+<-- not parked ------+<-----------+-----------+   (an answer came, or a step failed: the machine goes on)
//! ```
//! Invariants: the commit of `parked` is the one point at which the execution is parked; before it every failure leaves the VM as it was, after it nothing
//! is told to the VM any more. Whatever is ready is looked at again after each change of this state, so it does not matter when it came.

mod park;

use super::asks::answer::single;
use super::asks::decide::{Facts, decide};
use super::asks::{Asks, Started, Taken};
use super::dispatch::Dispatcher;
use super::estimates::Kind;
use super::live::{Live, Note};
use super::until;
use crate::aux::broker::{Broker, Next};
use crate::caught::caught;
use crate::engine::{Begin, Order, Outcome, Progress, Reply, RunRequest};
use crate::fault;
use crate::logs::LogWriter;
use crate::manifest::Park;
use crate::state::record::{Happening, Monitor};
use crate::state::waiting;
use park::Parking;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use torpor_protocol::agent::Stream;

/// Pieces of progress between engine and here. Each is at most 64 KiB of output, so this bounds memory; when it is full the guest waits.
const PROGRESS: usize = 16;

/// Who wants to know how an attempt to park ended.
type Wish = oneshot::Sender<Result<(), String>>;

/// Where the guest is.
#[derive(Default)]
struct Standing {
    /// It stands and waits.
    stands: bool,
    /// When it is parked.
    park_at: Option<Instant>,
    /// It is parked at once when others come to wait for memory.
    waits_longer: bool,
    /// Bytes that its machine took the last time that it was written.
    needs: u64,
    /// When there was no room to park it the last time, and for how long others have waited for its VM meanwhile.
    no_room: Option<(Instant, Duration)>,
    /// Somebody wants it to keep its VM while it waits.
    kept: bool,
    /// Who asked for it to be parked.
    wished: Vec<Wish>,
    parking: Option<Parking>,
    /// It is parked: its VM is not told anything more, and what comes is for the time after.
    over: bool,
}

/// See the module.
struct Watch<'a> {
    d: &'a Arc<Dispatcher>,
    live: &'a Arc<Live>,
    log: &'a mut LogWriter,
    asks: &'a mut Asks,
    aux: &'a mut Broker,
    /// Not bounded by itself: each order follows from an ask, or from a machine that stands.
    orders: mpsc::UnboundedSender<Order>,
    starting: mpsc::UnboundedSender<Started>,
    standing: Standing,
    /// What it was resumed from.
    resumed: Option<Arc<waiting::Parked>>,
    /// Its vCPU has run.
    runs: bool,
    /// The queue knows that it stands.
    idle: bool,
}

/// Runs one VM of an execution to its end. A parked machine that it begins with is removed when it runs, or when it never will.
pub(super) async fn attempt(
    d: &Arc<Dispatcher>,
    live: &Arc<Live>,
    request: RunRequest,
    resumed: Option<Arc<waiting::Parked>>,
    (asks, aux): (&mut Asks, &mut Broker),
    log: &mut LogWriter,
) -> Outcome {
    let (progress, happened) = mpsc::channel(PROGRESS);
    let (orders, ordered) = mpsc::unbounded_channel();
    let (starting, started) = mpsc::unbounded_channel();
    // Who is brought back without an answer, and not for a connection, is so because somebody wants it to have its VM.
    let woken = std::mem::take(&mut aux.woken);
    let ahead = std::mem::take(&mut asks.ahead);
    let kept = matches!(&request.begin, Begin::Resume { answers, .. } if answers.answers.is_empty() && !woken && !ahead);
    if let Some(parked) = &resumed {
        aux.resumed(&parked.aux, live.inherited);
    }
    let standing = Standing { kept, ..Standing::default() };
    let watch = Watch { d, live, log, asks, aux, orders, starting, standing, resumed: resumed.clone(), runs: false, idle: false };
    // A fault of the engine must not keep the place in the queue for ever.
    let running = caught(d.runner.run(request, progress, ordered, live.cancel.clone()));
    let (outcome, ran) = tokio::join!(running, watch.watch(happened, started));
    let outcome = outcome.unwrap_or_else(Outcome::Failed);
    if let Some(parked) = resumed.filter(|_| !ran && !matches!(outcome, Outcome::NotResumed { passing: true, .. })) {
        d.parked.remove(&parked.file);
    }
    outcome
}

/// Until somebody waits for memory, or the daemon stops.
async fn pressed(pressure: &mut watch::Receiver<bool>) {
    if pressure.wait_for(|pressed| *pressed).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Watch<'_> {
    /// To the end of its VM. Whether that has run.
    async fn watch(mut self, mut happened: mpsc::Receiver<Progress>, mut started: mpsc::UnboundedReceiver<Started>) -> bool {
        let mut pressure = self.d.pressure();
        loop {
            let (due, park_at) = (self.asks.next_due(), self.standing.park_at);
            let idle = self.standing.parking.is_none() && !self.standing.over;
            tokio::select! {
                progress = happened.recv() => match progress {
                    Some(progress) => self.progress(progress).await,
                    None => break,
                },
                Some(started) = started.recv() => {
                    if let Some((seq, reply)) = self.asks.started(self.d, self.live, started).await {
                        self.answer(single(seq, reply));
                    }
                    self.look().await;
                    self.decide();
                }
                next = self.aux.next(), if idle && self.runs => self.next(next),
                () = self.live.noted(), if !self.standing.over => {
                    self.notes();
                    self.look().await;
                }
                () = until(due), if idle => self.look().await,
                () = until(park_at), if idle => self.park().await,
                () = pressed(&mut pressure), if self.standing.waits_longer => self.decide(),
            }
            self.show();
            self.tell_idle();
        }
        self.granted(&Err("it ended".to_owned()));
        if std::mem::take(&mut self.idle) {
            // The next attempt may have its place.
            self.d.stands(&self.live.id, false);
        }
        self.aux_lines();
        self.runs
    }

    /// What there is of its connections.
    fn next(&mut self, next: Next) {
        match next {
            Next::Log(line) => self.log.push(Stream::Stderr, line.as_bytes(), &self.live.log),
            Next::Tell(told) => {
                let _ = self.orders.send(Order::Aux(told));
                self.goes_on();
            }
        }
    }

    fn aux_lines(&mut self) {
        if let Some(lines) = self.aux.last_lines() {
            self.log.push(Stream::Stderr, lines.as_bytes(), &self.live.log);
        }
    }

    fn granted(&mut self, how: &Result<(), String>) {
        self.standing.wished.drain(..).for_each(|wish| drop(wish.send(how.clone())));
    }

    /// A VM that stands takes no processor: others may have it.
    fn tell_idle(&mut self) {
        let idle = self.standing.stands && self.runs;
        if idle != std::mem::replace(&mut self.idle, idle) {
            self.d.stands(&self.live.id, idle);
        }
    }

    fn show(&self) {
        self.live.waits(self.asks.views());
    }

    async fn progress(&mut self, progress: Progress) {
        let beyond = matches!(progress, Progress::Aux(_) | Progress::Asked { .. });
        if beyond && self.live.stored().await.is_err() {
            // Nobody was told of it, so nothing outside may come of it.
            return;
        }
        match progress {
            Progress::TemplateMade { micros } => self.live.happened(Happening::Template { ms: micros / 1000 }),
            Progress::Reused { micros } => {
                self.runs = true;
                self.aux.reused();
                self.live.happened(Happening::Restored { micros, monitor: Monitor::Kept });
            }
            Progress::Restored { micros, warm } => {
                let monitor = if warm { Monitor::Warm } else { Monitor::New };
                self.runs = true;
                if let Some(parked) = &self.resumed {
                    self.live.happened(Happening::Resumed { micros, monitor });
                    self.d.estimates.note(&self.live.version, Kind::Resume, Duration::from_micros(micros));
                    let _ = fault::at("resume.running").await;
                    self.d.parked.remove(&parked.file);
                    let _ = fault::at("resume.freed").await;
                    self.look().await;
                } else {
                    self.live.happened(Happening::Restored { micros, monitor });
                }
            }
            Progress::Started { micros } => {
                self.d.estimates.note(&self.live.version, Kind::Startup, Duration::from_micros(micros));
                self.live.happened(Happening::Running { micros });
            }
            Progress::Log { stream, bytes } => self.log.push(stream, &bytes, &self.live.log),
            Progress::Asked { ask, payload } => {
                let (seq, standing) = (ask.seq, ask.standing);
                self.standing.stands |= standing;
                self.standing.kept = false;
                match self.asks.take(self.d, self.live, ask, payload).await {
                    Taken::Answer(reply) => self.answer(single(seq, reply)),
                    Taken::Open => self.look().await,
                    Taken::Starting(child, call) => {
                        let tell = self.starting.clone();
                        tokio::spawn(async move {
                            let stored = child.stored().await.map_err(|error| error.to_string());
                            let _ = tell.send(Asks::stored(seq, &child, stored, call));
                        });
                    }
                }
                self.decide();
            }
            Progress::Aux(said) => self.aux.hear(said),
            Progress::Blocked { seqs, aux } => {
                self.standing.stands = true;
                if self.asks.knows(&seqs) && aux.is_none_or(|heard| heard == self.aux.sent()) {
                    self.look().await;
                    self.decide();
                } else {
                    // Something is on its way to it.
                    self.answer(Reply::default());
                }
            }
            Progress::Parked(parked) => self.written(parked).await,
            Progress::NotParked { reason } => self.not_parked(reason),
        }
    }

    fn notes(&mut self) {
        for note in self.live.notes() {
            self.asks.note(&note);
            match note {
                Note::Park(wish) if let Some(why) = self.aux.refuses() => drop(wish.send(Err(why))),
                Note::Park(wish) if self.standing.stands && self.asks.settled() => {
                    self.standing.wished.push(wish);
                    self.standing.park_at = Some(Instant::now());
                }
                Note::Park(wish) => drop(wish.send(Err("it runs; only an execution that waits is parked".into()))),
                Note::Resume(wish) => {
                    self.standing.kept = true;
                    self.standing.park_at = None;
                    let _ = wish.send(Err("it is not parked".into()));
                }
                Note::Hold(wish) => drop(wish.send(Err("it is not parked".into()))),
                Note::Ended(_) | Note::Signalled(_) => {}
            }
        }
    }

    fn answer(&mut self, reply: Reply) {
        self.goes_on();
        let _ = self.orders.send(Order::Answer(reply));
    }

    fn goes_on(&mut self) {
        self.standing.waits_longer = false;
        self.standing.stands = false;
        self.standing.park_at = None;
    }

    /// Answers what can be answered, unless the machine is being written down: then it is looked at afterwards.
    async fn look(&mut self) {
        if self.standing.parking.is_some() || self.standing.over {
            return;
        }
        while self.asks.any_ready() {
            let reply = self.asks.reply(self.d, self.live).await;
            if reply.answers.is_empty() {
                break;
            }
            self.answer(reply);
        }
        if !self.standing.stands {
            self.granted(&Err("what it waited for came first".to_owned()));
        }
    }

    /// Decides when it is parked.
    fn decide(&mut self) {
        self.standing.waits_longer = false;
        let free = self.standing.stands && self.asks.settled() && !self.standing.kept && self.standing.parking.is_none();
        if !free || self.aux.refuses().is_some() {
            return;
        }
        let park = self.live.version.policy.park;
        let pressed = self.d.pressed();
        let facts = Facts { park, expected: self.asks.expected(self.d), cost: self.d.estimates.cost(), pressed };
        self.standing.park_at = decide(facts).map(|after| Instant::now() + after);
        self.standing.waits_longer = park == Park::Auto && !pressed;
    }
}
