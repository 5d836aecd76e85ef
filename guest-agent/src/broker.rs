//! The socket at which any program of the machine asks for what it waits for (docs/waits.md), and the way of it to the host and back.
//!
//! ```text
//!  client                    agent                            host
//!  request line  ->          Ask            --vsock-->
//!                            (unknown yet)  <--vsock--        Taken
//!                            (taken)        <--vsock--        Answers  ->  answer line
//!                               |  all are taken, nothing can run (see [`crate::idle`])
//!                               v
//!                            at the door    --door: Blocked-->        (the machine may be parked here)
//!                                           <--door: Answers--
//! ```
//!
//! All descriptors are in one epoll set, which is one descriptor more for a runtime to wait for. Where nothing is asked for there is no timer, and nothing
//! to do.
//!
//! Invariant: what a client does harms its own answers only, and holds no more memory than is fixed: [`MAX_CLIENTS`] short lines, one long one, and
//! [`MAX_UNSENT`] of answers beyond the last.

use crate::aux::{self, Aux};
use crate::clients::{Client, Input};
use crate::door::{self, Door};
use crate::error::AgentError;
use crate::idle::Idle;
use crate::link::Link;
use crate::request::{self, MAX_LINE, Said, Wrong};
use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use torpor_protocol::agent::{AuxPlace, GuestMessage, HostMessage};
use torpor_protocol::ask::{AGENT_SEQ, Answers, Ask, Blocked, MAX_ASKS, Refusal, What};

/// Where the socket is.
pub(crate) const SOCKET: &str = "/run/torpor.sock";
/// Name of the variable that says so to programs.
pub(crate) const SOCKET_VARIABLE: &str = "TORPOR_WAIT_SOCKET";
/// Most connections at a time.
const MAX_CLIENTS: usize = 256;
/// Answers that clients have not taken; while there are more the host is not listened to.
const MAX_UNSENT: usize = 4 << 20;
/// Time until the first look at whether anything can run, after the host has said that it knows of an ask: others get the processor meanwhile.
const SOON: u16 = 1;
/// Time until the next one, in ms: doubled each time that something can.
const FIRST_LOOK: u16 = 2;
const LAST_LOOK: u16 = 500;
/// At least this many times as long as a look took, up to a limit.
const SHARE: u16 = 4;
const LONGEST: u16 = 10_000;

const LISTENER: u64 = 0;
const HOST: u64 = 1;
const FIRST_CLIENT: u64 = 2;

/// An ask that the host has not answered.
#[derive(Debug)]
struct Pending {
    client: u64,
    /// Answered as a call is.
    call: bool,
    /// It asks for what did not fit the first time.
    again: bool,
    taken: bool,
}

/// The socket, its clients, and their asks.
#[derive(Debug)]
pub(crate) struct Broker {
    epoll: Epoll,
    listener: UnixListener,
    clients: BTreeMap<u64, Client>,
    /// What each client is watched for.
    watched: BTreeMap<u64, EpollFlags>,
    /// Who collects a long line.
    collects: Option<u64>,
    asks: BTreeMap<u64, Pending>,
    next_client: u64,
    next_seq: u64,
    /// There is an execution: before, nothing can be asked for.
    open: bool,
    /// What the host's connection is watched for, once it is.
    host: Option<EpollFlags>,
    parks: u64,
    idle: Idle,
    delay: u16,
    /// How long the last look took.
    looked: Duration,
    aux: Aux,
}

fn sys(what: &'static str) -> impl FnOnce(Errno) -> AgentError {
    AgentError::sys(what)
}

impl Broker {
    /// Makes the socket.
    pub(crate) fn listen(path: &str) -> Result<Self, AgentError> {
        let io = |what| move |source| AgentError::io(what, path, source);
        let listener = UnixListener::bind(path).map_err(io("listen at"))?;
        listener.set_nonblocking(true).map_err(io("listen at"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(io("open to all"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(sys("make an epoll set"))?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER)).map_err(sys("fill an epoll set"))?;
        let mut idle = Idle::default();
        // The kernel's threads are known from here on, and the way is warm.
        idle.look();
        Ok(Self {
            epoll,
            listener,
            clients: BTreeMap::new(),
            watched: BTreeMap::new(),
            collects: None,
            asks: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            next_seq: AGENT_SEQ,
            open: false,
            host: None,
            parks: 0,
            idle,
            delay: FIRST_LOOK,
            looked: Duration::ZERO,
            aux: Aux::default(),
        })
    }

    /// Makes the places of auxiliary services.
    pub(crate) fn aux(&mut self, places: &[AuxPlace], door: &Door) -> Result<(), AgentError> {
        self.aux = Aux::make(places, door, &self.epoll)?;
        Ok(())
    }

    /// Passes on what the program, which has ended, sent to auxiliary services; true where it had to do with any.
    pub(crate) fn finish(&mut self, door: &Door, link: &mut Link) -> Result<bool, AgentError> {
        self.aux.finish(door, link)?;
        Ok(self.aux.used())
    }

    /// From here on there is an execution that asks.
    pub(crate) fn open(&mut self) {
        self.open = true;
    }

    /// How long to wait for anything before [`Broker::quiet`] is called.
    pub(crate) fn patience(&self) -> PollTimeout {
        if self.may_block() { PollTimeout::from(self.delay) } else { PollTimeout::NONE }
    }

    /// Somebody waits, and all that is asked for is known to the host.
    fn may_block(&self) -> bool {
        self.asks.values().any(|ask| self.clients.contains_key(&ask.client))
            && self.asks.values().all(|ask| ask.taken)
            && self.clients.values().all(|client| client.unsent() == 0)
    }

    /// Something happened, here or elsewhere: what could not be looked at a moment ago is looked at soon.
    pub(crate) fn stirred(&mut self) {
        self.delay = self.delay.min(FIRST_LOOK);
    }

    /// Nothing has happened for as long as was wanted: looks whether anything can. `true`: nothing can, [`Broker::stand`] is next.
    pub(crate) fn quiet(&mut self, link: &Link) -> bool {
        if !self.may_block() {
            return false;
        }
        if link.in_a_message() {
            self.delay = self.delay.saturating_mul(2).clamp(FIRST_LOOK, LAST_LOOK);
            return false;
        }
        let start = Instant::now();
        let blocked = self.idle.look();
        // Where there is a lot to look at it is looked at less often. One look may take long since the host was busy: two in a row count.
        let took = start.elapsed();
        let cost = std::mem::replace(&mut self.looked, took).min(took);
        let cost = u16::try_from(cost.as_millis()).unwrap_or(u16::MAX).saturating_mul(SHARE).min(LONGEST);
        self.delay = if blocked { FIRST_LOOK } else { self.delay.saturating_mul(2).clamp(FIRST_LOOK, LAST_LOOK).max(cost) };
        blocked
    }

    /// Says that nothing can run here but what waits, and stands at the door until there are answers. Nobody is in the middle of a message there: all
    /// are asleep in system calls.
    pub(crate) fn stand(&mut self, door: &mut Door, link: &mut Link) -> Result<(), AgentError> {
        door.take_over();
        door.send(&GuestMessage::Blocked(Blocked { seqs: self.asks.keys().copied().collect(), aux: self.aux.heard() }))?;
        door.wait();
        match door.message()? {
            HostMessage::Answers { answers, payload } => self.answers(&answers, &payload, door, link),
            other => Err(AgentError::Order { got: door::name(&other), want: "Answers" }),
        }?;
        self.hear(door, link)?;
        self.watch_all(link)
    }

    /// Serves whoever has something to say.
    pub(crate) fn turn(&mut self, door: &Door, link: &mut Link) -> Result<(), AgentError> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(source) => return Err(AgentError::Sys { what: "ask who has something to say", source }),
        };
        for event in events.iter().take(count) {
            match event.data() {
                LISTENER => self.accept()?,
                HOST => {}
                mine if mine & aux::MINE != 0 => self.aux.event(mine, event.events(), door, link)?,
                id => self.client(id, event.events(), link)?,
            }
        }
        self.hear(door, link)?;
        self.watch_all(link)
    }

    /// Takes what the host has said over vsock.
    fn hear(&mut self, door: &Door, link: &mut Link) -> Result<(), AgentError> {
        while self.host.is_some() && !self.full() {
            match link.receive()? {
                None => break,
                Some(HostMessage::Taken(taken)) => {
                    if let Some(ask) = self.asks.get_mut(&taken.seq) {
                        ask.taken = true;
                        // Most programs are not more than the one who asked, and he is about to sleep.
                        self.delay = SOON;
                    }
                }
                Some(HostMessage::Answers { answers, payload }) => self.answers(&answers, &payload, door, link)?,
                Some(HostMessage::Aux(said)) => self.aux.hear(said, link)?,
                Some(other) => return Err(AgentError::Order { got: door::name(&other), want: "Answers" }),
            }
        }
        Ok(())
    }

    fn full(&self) -> bool {
        self.clients.values().map(Client::unsent).sum::<usize>() > MAX_UNSENT
    }

    /// Sets what everybody is watched for, where it is not.
    fn watch_all(&mut self, link: &Link) -> Result<(), AgentError> {
        for (id, client) in &self.clients {
            let want = client.interest(self.collects.is_none_or(|who| who == *id));
            if self.watched.insert(*id, want) != Some(want) {
                self.epoll.modify(client, &mut EpollEvent::new(want, *id)).map_err(sys("watch a client"))?;
            }
        }
        self.aux.watch(&self.epoll)?;
        if self.host.is_some() || !self.asks.is_empty() || self.aux.used() {
            let want = if self.full() { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
            match self.host.replace(want) {
                None => self.epoll.add(link, EpollEvent::new(want, HOST)),
                Some(old) if old != want => self.epoll.modify(link, &mut EpollEvent::new(want, HOST)),
                Some(_) => Ok(()),
            }
            .map_err(sys("watch the host's connection"))?;
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<(), AgentError> {
        // One who did not wait, or no descriptor left for him: he is tried again, or has gone.
        let Ok((stream, _)) = self.listener.accept() else { return Ok(()) };
        let Ok(mut client) = Client::new(stream, self.parks) else { return Ok(()) };
        if self.clients.len() >= MAX_CLIENTS {
            let wrong = Wrong::too_many(format!("more than {MAX_CLIENTS} connections to the agent"));
            let _ = client.say(request::refused(&wrong));
            return Ok(());
        }
        let id = self.next_client;
        self.next_client += 1;
        self.epoll.add(&client, EpollEvent::new(EpollFlags::EPOLLIN, id)).map_err(sys("watch a client"))?;
        self.watched.insert(id, EpollFlags::EPOLLIN);
        self.clients.insert(id, client);
        Ok(())
    }

    /// Its answer is dropped when it comes.
    fn drop_client(&mut self, id: u64) {
        self.clients.remove(&id);
        self.watched.remove(&id);
        if self.collects == Some(id) {
            self.collects = None;
        }
    }

    fn client(&mut self, id: u64, events: EpollFlags, link: &mut Link) -> Result<(), AgentError> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        // Both ways are closed: nobody is there to read an answer. What it sent before may still be wanted of it, where it waits for nothing.
        let gone =
            events.contains(EpollFlags::EPOLLERR) || (events.contains(EpollFlags::EPOLLHUP) && !events.contains(EpollFlags::EPOLLIN));
        if gone || client.write().is_err() {
            self.drop_client(id);
            return Ok(());
        }
        self.serve(id, link)
    }

    /// Takes a client's requests as long as it has to wait for none.
    fn serve(&mut self, id: u64, link: &mut Link) -> Result<(), AgentError> {
        loop {
            let turn = self.collects.is_none_or(|who| who == id);
            let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
            if client.done() {
                self.drop_client(id);
                return Ok(());
            }
            if client.waiting || client.unsent() > 0 || client.last {
                return Ok(());
            }
            let read = client.read(turn);
            let collects = turn && client.large() && read.as_ref().is_ok_and(|input| *input == Input::Part);
            if turn {
                self.collects = collects.then_some(id);
            }
            match read {
                Ok(Input::Line(line)) => self.request(id, line, link)?,
                Ok(Input::Part) => return Ok(()),
                Ok(Input::TooLong) => {
                    client.last = true;
                    self.refuse(id, &Wrong::invalid(format!("the request is longer than {MAX_LINE} bytes")));
                }
                Ok(Input::End) | Err(_) => self.drop_client(id),
            }
        }
    }

    fn refuse(&mut self, id: u64, wrong: &Wrong) {
        self.say(id, request::refused(wrong));
    }

    fn say(&mut self, id: u64, line: Vec<u8>) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.waiting = false;
        if client.say(line).is_err() {
            self.drop_client(id);
        }
    }

    fn request(&mut self, id: u64, line: Vec<u8>, link: &mut Link) -> Result<(), AgentError> {
        if !self.open {
            self.refuse(id, &Wrong::invalid("nothing can be asked for while the task's code is being loaded: there is no execution yet"));
            return Ok(());
        }
        match request::parse(&line) {
            Ok((what, input)) => {
                let input = input.to_vec();
                // It may be the largest thing in the machine.
                drop(line);
                self.ask(id, what, input, false, link)
            }
            Err(wrong) => {
                self.refuse(id, &wrong);
                Ok(())
            }
        }
    }

    fn ask(&mut self, id: u64, what: What, payload: Vec<u8>, again: bool, link: &mut Link) -> Result<(), AgentError> {
        if self.asks.len() >= MAX_ASKS {
            self.refuse(id, &Wrong::too_many(format!("more than {MAX_ASKS} requests of this execution wait for their answers")));
            return Ok(());
        }
        let call = again || matches!(what, What::Call { .. });
        let seq = self.next_seq;
        match link.send(&GuestMessage::Ask { ask: Ask { seq, standing: false, what }, payload }) {
            Ok(()) => {}
            // It does not fit into a message: nothing was sent.
            Err(error @ (AgentError::Message(_) | AgentError::Frame(_))) => {
                self.refuse(id, &Wrong::invalid(error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.next_seq += 1;
        self.asks.insert(seq, Pending { client: id, call, again, taken: false });
        if let Some(client) = self.clients.get_mut(&id) {
            client.waiting = true;
        }
        Ok(())
    }

    fn answers(&mut self, answers: &Answers, payload: &[u8], door: &Door, link: &mut Link) -> Result<(), AgentError> {
        if answers.resumed {
            door.sync_clock()?;
            self.parks += 1;
        }
        let mut rest = payload;
        for answer in &answers.answers {
            let (mine, after) = rest.split_at_checked(answer.reply.payload()).unwrap_or((rest, &[]));
            rest = after;
            let Some(ask) = self.asks.remove(&answer.seq) else { continue };
            let Some(client) = self.clients.get_mut(&ask.client) else { continue };
            match request::answer(ask.call, &answer.reply, mine, client.parks != self.parks) {
                Said::Line(line) => {
                    client.parks = self.parks;
                    self.say(ask.client, line);
                }
                Said::Again(_) if ask.again => {
                    self.refuse(ask.client, &Wrong { kind: Refusal::Host, message: "the host does not give the result".to_owned() });
                }
                Said::Again(execution) => {
                    let what = What::Wait { executions: vec![execution], any: false, results: true, timeout_ms: None };
                    self.ask(ask.client, what, Vec::new(), true, link)?;
                }
            }
            self.serve(ask.client, link)?;
        }
        Ok(())
    }
}

impl AsFd for Broker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
#[path = "broker/tests.rs"]
mod tests;
