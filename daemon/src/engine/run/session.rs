//! A guest that runs: what it says is told, what is ordered is carried out, and its time is counted.
//!
//! ```text
//!             Ask (standing), Blocked                       Park
//!   running ---------------------------> standing, at door ------> parking --Parked--> written --End--> over
//!      ^                                    |    ^                    |                   |
//!      +------------- answers --------------+    +---- NotParked -----+                   |
//!      ^                                                                                  |
//!      +------------------------------------- answers ------------------------------------+
//! ```
//! The guest says that it stands before its vCPU arrives at the door; answers and orders wait for that. Invariant: nothing goes to the guest over vsock
//! while it stands, so what is written down has no bytes on their way.

use super::super::guest::{Broken, Conversation, Said};
use super::super::stats::{Stats, micros};
use super::super::template::Ground;
use super::super::types::{ExecutionError, Order, Parked, Progress, Reply};
use super::super::verdict;
use super::super::vm::{Vm, VmState};
use super::answers_frame;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use torpor_protocol::agent::HostMessage;
use torpor_protocol::ask::{AGENT_SEQ, Taken};
use torpor_protocol::monitor::{Command, Event, Packing, ParkKey};

/// After the agent's connection closed: for the kernel to say why, or for an answer through the door.
const AGENT_GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes that wait for a guest to stand still.
const MAX_HELD_BACK: usize = 64 << 20;
/// About what an answer takes, without its payload.
const ANSWER: usize = 1 << 10;
/// For a monitor to take what is sent to it while its guest's time stands still.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// What a guest answered.
pub(super) struct Answer {
    pub(super) outcome: Answered,
    pub(super) drain: bool,
}

pub(super) enum Answered {
    Result(Vec<u8>),
    Failed(ExecutionError),
}

/// How listening ended.
pub(super) enum End {
    Answered(Answer),
    TimedOut,
    Parked,
}

/// The guest's time: it runs, or it stands and waits.
#[derive(Debug)]
pub(super) struct Clock {
    all: Duration,
    left: Duration,
    since: Option<Instant>,
    waits_count: bool,
}

impl Clock {
    /// Runs from now on. `waits_count`: standing takes time as well.
    pub(super) fn new(left: Duration, waits_count: bool) -> Self {
        Self { all: left, left, since: Some(Instant::now()), waits_count }
    }

    fn stand(&mut self) {
        if !self.waits_count
            && let Some(since) = self.since.take()
        {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }

    fn run(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn used(&self) -> Duration {
        let left = self.left.saturating_sub(self.since.map_or(Duration::ZERO, |since| since.elapsed()));
        self.all.saturating_sub(left)
    }

    /// By when what is being sent to the guest must have been taken: it may run meanwhile.
    fn send_until(&self) -> tokio::time::Instant {
        self.since.map_or_else(|| Instant::now() + self.left.max(SEND_TIMEOUT), |since| since + self.left).into()
    }

    /// Until the time is over; for ever while it stands still.
    async fn over(&self) {
        match self.since {
            Some(since) => tokio::time::sleep_until((since + self.left).into()).await,
            None => std::future::pending().await,
        }
    }
}

/// See the module.
pub(super) struct Session<'a> {
    vm: Vm,
    talk: Conversation,
    ground: Arc<Ground>,
    stats: Arc<Stats>,
    clock: Clock,
    progress: &'a mpsc::Sender<Progress>,
    since: Instant,
    /// It has said that it stands.
    standing: bool,
    /// It got a message without an answer: if it comes to the door again and says nothing, it stands on.
    hollow: bool,
    /// For the door, when it is there.
    reply: Option<Reply>,
    /// For the agent, after that.
    behind: Vec<u8>,
    /// About so many bytes of both.
    held_back: usize,
    /// To be carried out at the door.
    park: Option<(std::fs::File, Packing, Option<ParkKey>)>,
}

enum Heard {
    Nothing,
    Answer(Answer),
    Late,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        vm: Vm,
        talk: Conversation,
        (ground, stats): (Arc<Ground>, Arc<Stats>),
        clock: Clock,
        progress: &'a mpsc::Sender<Progress>,
        since: Instant,
    ) -> Self {
        Self {
            vm,
            talk,
            ground,
            stats,
            clock,
            progress,
            since,
            standing: false,
            hollow: false,
            reply: None,
            behind: Vec::new(),
            held_back: 0,
            park: None,
        }
    }

    /// It was resumed without an answer.
    pub(super) fn hollow(mut self) -> Self {
        self.hollow = true;
        self
    }

    /// Until the guest answers, goes down, is late or is parked.
    pub(super) async fn listen(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Result<End, ExecutionError> {
        let mut agent_gone: Option<tokio::time::Instant> = None;
        loop {
            while let Some(said) = self.talk.next_said()? {
                match self.hear(said).await? {
                    Heard::Nothing => {}
                    Heard::Answer(answer) => return Ok(End::Answered(answer)),
                    Heard::Late => return Ok(End::TimedOut),
                }
                // Answers first: who asks and asks is not heard faster than it is answered.
                while let Ok(order) = orders.try_recv() {
                    if let Some(end) = self.carry_out(order).await? {
                        return Ok(end);
                    }
                }
            }
            if in_time(self.clock.send_until(), self.at_door()).await?.is_none() {
                return Ok(End::TimedOut);
            }
            let event = tokio::select! {
                biased;
                () = self.clock.over() => return Ok(End::TimedOut),
                Some(order) = orders.recv() => match self.carry_out(order).await? {
                    Some(end) => return Ok(end),
                    None => continue,
                },
                event = self.vm.recv() => event?,
                () = sleep_until(agent_gone) => return Err(verdict::agent_gone()),
            };
            match event {
                Event::Outbox { frame } => {
                    let said = self.talk.outbox(&frame)?;
                    match self.hear(said).await? {
                        Heard::Nothing => {}
                        Heard::Answer(answer) => return Ok(End::Answered(answer)),
                        Heard::Late => return Ok(End::TimedOut),
                    }
                }
                Event::Vsock { bytes } => self.talk.vsock(&bytes),
                Event::Stopped { reason, console } => return Err(verdict::stopped(&reason, console, self.vm.memory_mib)),
                Event::VsockClosed => agent_gone = Some(tokio::time::Instant::now() + AGENT_GONE_TIMEOUT),
                Event::Parked { changed_bytes, stored_bytes, micros } => {
                    self.stats.parked(micros, stored_bytes);
                    let (base, unread) = (self.ground.base.clone(), self.talk.unread().to_vec());
                    let parked = Parked { base, changed_bytes, stored_bytes, micros, unread, ran: self.clock.used() };
                    let _ = self.progress.send(Progress::Parked(parked)).await;
                }
                Event::NotParked { reason } => {
                    let _ = self.progress.send(Progress::NotParked { reason }).await;
                }
                Event::AtDoor if self.hollow && !self.standing => {
                    self.stand()?;
                    // With an answer it goes on at once.
                    if self.reply.is_none() {
                        let _ = self.progress.send(Progress::Blocked { seqs: Vec::new(), aux: None }).await;
                    }
                }
                Event::AtDoor if self.standing => self.clock.stand(),
                Event::AtDoor | Event::VsockOpen | Event::Prepared | Event::Running { .. } | Event::Saved { .. } => {}
            }
        }
    }

    /// Tells of progress, within the guest's time.
    async fn tell(&self, progress: Progress) -> bool {
        tokio::select! {
            biased;
            _ = self.progress.send(progress) => true,
            () = self.clock.over() => false,
        }
    }

    async fn hear(&mut self, said: Said) -> Result<Heard, ExecutionError> {
        let progress = match said {
            Said::Started => Progress::Started { micros: micros(self.since.elapsed()) },
            Said::Log { stream, bytes } => Progress::Log { stream, bytes },
            Said::Result { drain, json } => return Ok(Heard::Answer(Answer { outcome: Answered::Result(json), drain })),
            Said::Failed(failure) => {
                let drain = failure.drain;
                return Ok(Heard::Answer(Answer { outcome: Answered::Failed(verdict::failure(failure, self.vm.memory_mib)), drain }));
            }
            Said::Drained => return Ok(Heard::Nothing),
            Said::Ask { ask, payload, vsock } => {
                if vsock {
                    let taken = HostMessage::Taken(Taken { seq: ask.seq });
                    if in_time(self.clock.send_until(), self.tell_agent(&taken)).await?.is_none() {
                        return Ok(Heard::Late);
                    }
                } else {
                    self.stand()?;
                }
                Progress::Asked { ask, payload }
            }
            Said::Blocked(seqs, aux) => {
                self.stand()?;
                Progress::Blocked { seqs, aux: Some(aux) }
            }
            Said::Aux(aux) => Progress::Aux(aux),
        };
        Ok(if self.tell(progress).await { Heard::Nothing } else { Heard::Late })
    }

    /// It says that it stands, or will in a moment.
    fn stand(&mut self) -> Result<(), Broken> {
        self.hollow = false;
        if std::mem::replace(&mut self.standing, true) {
            return Err(Broken::Turn("a second ask while it stands"));
        }
        // Saying so costs a guest nothing: its time stands still when its vCPU does.
        if self.vm.state() == VmState::AtDoor {
            self.clock.stand();
        }
        Ok(())
    }

    async fn tell_agent(&mut self, message: &HostMessage) -> Result<(), ExecutionError> {
        let bytes = super::frame(message, "a message to the agent")?;
        if matches!(self.vm.state(), VmState::Running | VmState::AtDoor) {
            self.vm.send(&Command::Vsock { bytes }, &[]).await?;
        }
        Ok(())
    }

    /// What asks on and on, says that it stands and never does gets no more.
    fn hold_back(&mut self, bytes: usize) -> Result<(), Broken> {
        self.held_back = self.held_back.saturating_add(bytes);
        if self.held_back > MAX_HELD_BACK { Err(Broken::Turn("more asks while it says that it stands")) } else { Ok(()) }
    }

    async fn carry_out(&mut self, order: Order) -> Result<Option<End>, ExecutionError> {
        if matches!(order, Order::End) {
            return Ok(Some(End::Parked));
        }
        let done = in_time(self.clock.send_until(), self.order(order)).await?;
        Ok(if done.is_some() { None } else { Some(End::TimedOut) })
    }

    async fn order(&mut self, order: Order) -> Result<(), ExecutionError> {
        match order {
            // Who was resumed without an answer and asked at the door listens only there, where it is again in a moment.
            Order::Answer(reply) if self.standing || self.hollow && reply.answers.iter().any(|answer| answer.seq < AGENT_SEQ) => {
                self.park = None;
                self.hold_back(reply.payload.len() + reply.answers.len() * ANSWER)?;
                let waiting = self.reply.get_or_insert_default();
                waiting.answers.extend(reply.answers);
                waiting.payload.extend(reply.payload);
            }
            Order::Answer(reply) => {
                let bytes = answers_frame(&reply, false)?;
                self.vm.send(&Command::Vsock { bytes }, &[]).await?;
            }
            Order::Aux(aux) => {
                let bytes = super::frame(&HostMessage::Aux(aux), "a message about a connection")?;
                if self.standing {
                    self.park = None;
                    self.hold_back(bytes.len())?;
                    self.reply.get_or_insert_default();
                    self.behind.extend(bytes);
                } else {
                    self.vm.send(&Command::Vsock { bytes }, &[]).await?;
                }
            }
            Order::Park { file, packing, key } if self.standing && self.reply.is_none() => self.park = Some((file, packing, key)),
            Order::Park { .. } => {
                let _ = self.progress.send(Progress::NotParked { reason: "it runs again".into() }).await;
            }
            Order::End => {}
        }
        Ok(())
    }

    /// What waited for the guest to be at the door.
    async fn at_door(&mut self) -> Result<(), ExecutionError> {
        if !self.standing || self.vm.state() != VmState::AtDoor {
            return Ok(());
        }
        if let Some(reply) = self.reply.take() {
            self.standing = false;
            self.held_back = 0;
            self.hollow = reply.answers.is_empty();
            self.clock.run();
            let frame = answers_frame(&reply, false)?;
            self.vm.send(&Command::Inbox { frame }, &[]).await?;
            if !self.behind.is_empty() {
                let bytes = std::mem::take(&mut self.behind);
                self.vm.send(&Command::Vsock { bytes }, &[]).await?;
            }
        } else if let Some((file, packing, key)) = self.park.take() {
            let origin = self.ground.origin.clone();
            self.vm.send(&Command::Park { origin, packing, key }, &[std::os::fd::AsFd::as_fd(&file)]).await?;
        }
        Ok(())
    }

    /// Until the guest that has answered is at the door. False: it says something more, or is gone.
    pub(super) async fn settle(&mut self) -> bool {
        while self.vm.state() != VmState::AtDoor {
            match self.vm.recv().await {
                Ok(Event::AtDoor) => {}
                Ok(Event::Vsock { bytes }) => {
                    self.talk.vsock(&bytes);
                    while let Ok(Some(Said::Log { stream, bytes })) = self.talk.next_said() {
                        let _ = self.progress.send(Progress::Log { stream, bytes }).await;
                    }
                }
                _ => return false,
            }
        }
        self.talk.unread().is_empty()
    }

    /// Its machine, and what that is a difference to.
    pub(super) fn into_vm(self) -> (Vm, Arc<Ground>) {
        (self.vm, self.ground)
    }

    /// Output after the answer, as long as there is some and the guest keeps to the rules; and what connections need to take all that was sent.
    pub(super) async fn drain(&mut self, orders: &mut mpsc::UnboundedReceiver<Order>) -> Result<(), ExecutionError> {
        loop {
            while let Some(said) = self.talk.next_said()? {
                if self.drained(said).await {
                    return Ok(());
                }
            }
            let event = tokio::select! {
                event = self.vm.recv() => event?,
                Some(order) = orders.recv() => {
                    if let Order::Aux(aux) = order {
                        self.tell_agent(&HostMessage::Aux(aux)).await?;
                    }
                    continue;
                }
            };
            match event {
                Event::Outbox { frame } => {
                    let said = self.talk.outbox(&frame)?;
                    if self.drained(said).await {
                        return Ok(());
                    }
                }
                Event::Vsock { bytes } => self.talk.vsock(&bytes),
                Event::Stopped { .. } | Event::VsockClosed => return Ok(()),
                _ => {}
            }
        }
    }

    async fn drained(&mut self, said: Said) -> bool {
        match said {
            Said::Log { stream, bytes } => drop(self.progress.send(Progress::Log { stream, bytes }).await),
            Said::Aux(aux) => drop(self.progress.send(Progress::Aux(aux)).await),
            Said::Drained => return true,
            _ => {}
        }
        false
    }
}

/// None where it takes longer.
async fn in_time<T>(
    until: tokio::time::Instant,
    work: impl Future<Output = Result<T, ExecutionError>>,
) -> Result<Option<T>, ExecutionError> {
    timeout_at(until, work).await.ok().transpose()
}

async fn sleep_until(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
