//! The connections of one execution.
//!
//! ```text
//!  Open --allowed, room--> connecting, open (two ways, each ends by itself) --both ended--> (gone)
//!     \--else--> Reset         |        \--Reset by the guest, a failure, a limit--> (gone)
//!                              parked: hold: stays | close: gone, and the guest is told when it goes on
//! ```
//! It outlives the execution's VMs: the guest's side of each connection is in its machine, parked or not, this one is in the daemon. After a park the first
//! message says which are still there; a broker that is new, as after a restart of the daemon, knows of none.
//!
//! Invariant: what the guest says of a connection that is not known is passed over; nobody but [`Broker::next`] numbers what is told to the guest.

use super::pipe::{Out, Pipe};
use super::why::Why;
use super::{Outside, connect};
use crate::manifest::aux::{Aux, OnPark};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;
use torpor_protocol::aux::{FromGuest, MAX_CONNECTIONS, Relay, ToGuest};

/// Most lines in an execution's log, so that a program that goes on and on does not fill it with them.
const MAX_LINES: usize = 32;

/// Lines for the execution's log.
#[derive(Debug, Clone)]
pub(super) struct Say {
    lines: Arc<Mutex<Vec<String>>>,
    said: Arc<AtomicUsize>,
    execution: Arc<str>,
    changed: Arc<Notify>,
}

impl Say {
    pub(super) fn line(&self, service: &str, what: &dyn std::fmt::Display) {
        let said = self.said.fetch_add(1, Ordering::Relaxed);
        if said < MAX_LINES {
            tracing::info!(execution = &*self.execution, service, "aux: {what}");
        } else {
            tracing::debug!(execution = &*self.execution, service, "aux: {what}");
        }
        let line = match said {
            0..MAX_LINES => format!("torpor: aux {service}: {what}\n"),
            MAX_LINES => "torpor: aux: more of this is not logged\n".to_owned(),
            _ => return,
        };
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.changed.notify_one();
    }
}

/// Connections of a service that pass on what was sent before the guest gave them up, beside those that it has.
const FINISHING: usize = 8;

#[derive(Debug)]
struct Conn {
    service: usize,
    pipe: Arc<Pipe>,
    /// The guest sends no more.
    guest_ended: bool,
    /// The service sends no more, and the guest knows.
    ended: bool,
}

/// What comes next of a broker.
#[derive(Debug)]
pub enum Next {
    /// For the guest.
    Tell(ToGuest),
    /// For the execution's log: standard error.
    Log(String),
}

/// See the module.
#[derive(Debug)]
pub struct Broker {
    outside: Arc<Outside>,
    services: Vec<Arc<Aux>>,
    /// Bytes of each service, both ways.
    used: Vec<u64>,
    table: BTreeMap<u32, Conn>,
    /// Of each service, as many more references as there are connections to it outside: those that the guest has given up may last a little longer.
    outside_now: Vec<Arc<()>>,
    queued: VecDeque<ToGuest>,
    changed: Arc<Notify>,
    say: Say,
    last: u32,
    sent: u64,
    /// The guest is to be told what is still there.
    greets: bool,
    /// It was brought back for what came of a service.
    pub woken: bool,
}

impl Broker {
    /// For an execution that has not begun, or whose other broker is gone.
    #[must_use]
    pub fn new(outside: &Arc<Outside>, services: &[Aux], execution: &str) -> Self {
        let changed = Arc::new(Notify::new());
        let say = Say { lines: Arc::default(), said: Arc::default(), execution: execution.into(), changed: Arc::clone(&changed) };
        Self {
            outside: Arc::clone(outside),
            services: services.iter().cloned().map(Arc::new).collect(),
            used: vec![0; services.len()],
            table: BTreeMap::new(),
            outside_now: services.iter().map(|_| Arc::default()).collect(),
            queued: VecDeque::new(),
            changed,
            say,
            last: 0,
            sent: 0,
            greets: false,
            woken: false,
        }
    }

    /// How many messages the guest has been sent, as it counts them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    fn reset(&mut self, id: u32, why: Option<&Why>) {
        let Some(conn) = self.table.remove(&id) else { return };
        conn.pipe.reset();
        self.queued.push_back(ToGuest::Relay(id, Relay::Reset));
        if let Some(why) = why {
            self.tell(conn.service, why);
        }
    }

    fn tell(&self, service: usize, why: &Why) {
        self.outside.metrics.aux_ended(why.word());
        let name = self.services.get(service).map_or("?", |aux| aux.name.as_str());
        self.say.line(name, why);
    }

    /// Counts bytes; false: there are too many.
    fn count(&mut self, service: usize, bytes: usize) -> bool {
        self.outside.metrics.aux_bytes(bytes);
        let Some(used) = self.used.get_mut(service) else { return false };
        *used = used.saturating_add(bytes as u64);
        self.services.get(service).is_some_and(|aux| *used <= aux.bytes)
    }

    fn admit(&self, service: usize) -> Result<Arc<Aux>, Why> {
        let aux = self.services.get(service).ok_or(Why::Unknown)?;
        let open = self.table.values().filter(|conn| conn.service == service).count();
        if !self.outside.caps.allows(&self.outside.account, &aux.target) {
            return Err(Why::NotAllowed(aux.target.to_string()));
        }
        let outside = self.outside_now.get(service).map_or(0, |one| Arc::strong_count(one) - 1);
        if open >= aux.connections as usize || outside >= aux.connections as usize + FINISHING {
            return Err(Why::Connections(aux.connections));
        }
        if self.table.len() >= MAX_CONNECTIONS {
            return Err(Why::All(MAX_CONNECTIONS));
        }
        if self.used.get(service).is_none_or(|used| *used >= aux.bytes) {
            return Err(Why::Bytes(aux.bytes));
        }
        Ok(Arc::clone(aux))
    }

    /// Takes what the guest says.
    pub fn hear(&mut self, said: FromGuest) {
        let (id, relay) = match said {
            FromGuest::Open { conn, service } => return self.open(conn, usize::from(service)),
            FromGuest::Relay(id, relay) => (id, relay),
        };
        let Some(conn) = self.table.get_mut(&id) else { return };
        let service = conn.service;
        match relay {
            Relay::Data(bytes) => {
                if !conn.pipe.put(&bytes) {
                    self.reset(id, Some(&Why::Flow));
                } else if !self.count(service, bytes.len()) {
                    let most = self.services.get(service).map_or(0, |aux| aux.bytes);
                    self.reset(id, Some(&Why::Bytes(most)));
                }
            }
            Relay::Credit(bytes) => conn.pipe.credit(bytes),
            Relay::End => {
                conn.guest_ended = true;
                conn.pipe.end();
                self.settle(id);
            }
            Relay::Reset => {
                if let Some(conn) = self.table.remove(&id) {
                    // What it had sent before is passed on.
                    conn.pipe.finish();
                    self.outside.metrics.aux_ended("closed");
                }
            }
        }
    }

    fn settle(&mut self, id: u32) {
        if self.table.get(&id).is_some_and(|conn| conn.guest_ended && conn.ended) {
            self.table.remove(&id);
            self.outside.metrics.aux_ended("closed");
        }
    }

    fn open(&mut self, id: u32, service: usize) {
        if id <= self.last {
            // Numbers are never used twice, not even by who does not keep to it.
            self.reset(id, Some(&Why::Flow));
            return;
        }
        self.last = id;
        let aux = match self.admit(service) {
            Ok(aux) => aux,
            Err(why) => {
                self.queued.push_back(ToGuest::Relay(id, Relay::Reset));
                return self.tell(service, &why);
            }
        };
        tracing::debug!(execution = &*self.say.execution, service = aux.name.as_str(), to = %aux.target, "aux: opened");
        self.outside.metrics.aux_opened();
        let pipe = Pipe::new(Arc::clone(&self.changed));
        let counted = self.outside_now.get(service).cloned();
        let life = connect::live(Arc::clone(&self.outside), aux, Arc::clone(&pipe), self.say.clone());
        tokio::spawn(async move {
            life.await;
            drop(counted);
        });
        self.table.insert(id, Conn { service, pipe, guest_ended: false, ended: false });
    }

    /// What is next, if there is something now.
    fn ready(&mut self) -> Option<ToGuest> {
        if std::mem::take(&mut self.greets) {
            let base = self.base();
            self.sent = base;
            return Some(ToGuest::Held { base, conns: self.table.keys().copied().collect() });
        }
        let told = self.queued.pop_front().or_else(|| self.of_services());
        self.sent = self.sent.wrapping_add(u64::from(told.is_some()));
        told
    }

    /// A number that the guest has not counted to.
    fn base(&self) -> u64 {
        let mut bytes = [0; 8];
        // Without entropy: what a new broker and its guest may have in common by chance is harmless but for a needless wait.
        let _ = getrandom::fill(&mut bytes);
        u64::from_le_bytes(bytes) ^ self.sent.rotate_left(32)
    }

    fn of_services(&mut self) -> Option<ToGuest> {
        loop {
            let (id, service, out) = self.table.iter().find_map(|(id, conn)| Some((*id, conn.service, conn.pipe.next()?)))?;
            match out {
                Out::Data(bytes) if self.count(service, bytes.len()) => return Some(ToGuest::Relay(id, Relay::Data(bytes))),
                Out::Data(_) => {
                    let most = self.services.get(service).map_or(0, |aux| aux.bytes);
                    self.reset(id, Some(&Why::Bytes(most)));
                }
                Out::Credit(bytes) => return Some(ToGuest::Relay(id, Relay::Credit(bytes))),
                Out::End => {
                    if let Some(conn) = self.table.get_mut(&id) {
                        conn.ended = true;
                    }
                    self.settle(id);
                    return Some(ToGuest::Relay(id, Relay::End));
                }
                Out::Failed(why) => self.reset(id, Some(&why)),
            }
            if let Some(reset) = self.queued.pop_front() {
                return Some(reset);
            }
        }
    }

    fn line(&self) -> Option<String> {
        let mut lines = self.say.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() { None } else { Some(lines.drain(..).collect()) }
    }

    /// Lines that were not asked for.
    pub fn last_lines(&mut self) -> Option<String> {
        self.line()
    }

    /// What is next. May be dropped and asked again.
    pub async fn next(&mut self) -> Next {
        let changed = Arc::clone(&self.changed);
        loop {
            if let Some(line) = self.line() {
                return Next::Log(line);
            }
            if let Some(told) = self.ready() {
                return Next::Tell(told);
            }
            changed.notified().await;
        }
    }

    /// There is something for the guest now that its program may wait for.
    #[must_use]
    pub fn calls(&self) -> bool {
        !self.queued.is_empty() || self.table.values().any(|conn| conn.pipe.calls())
    }

    /// Until [`Self::calls`].
    pub async fn called(&self) {
        while !self.calls() {
            self.changed.notified().await;
        }
        // For whoever asks next.
        self.changed.notify_one();
    }

    fn with(&self, what: OnPark) -> impl Iterator<Item = (u32, &Arc<Aux>)> {
        let aux = move |conn: &Conn| self.services.get(conn.service).filter(|aux| aux.on_park == what);
        self.table.iter().filter_map(move |(id, conn)| Some((*id, aux(conn)?)))
    }

    /// Why it can't be parked now.
    #[must_use]
    pub fn refuses(&self) -> Option<String> {
        let (_, aux) = self.with(OnPark::Refuse).next()?;
        Some(format!("it has an open connection to {}, whose on_park is \"refuse\"", aux.name))
    }

    /// It is parked.
    pub fn parked(&mut self) {
        for id in self.with(OnPark::Close).map(|(id, _)| id).collect::<Vec<_>>() {
            if let Some(conn) = self.table.remove(&id) {
                conn.pipe.finish();
                self.tell(conn.service, &Why::Parked);
            }
        }
        self.queued.clear();
    }

    /// Names of the services whose connections are held.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let mut names: Vec<_> = self.with(OnPark::Hold).map(|(_, aux)| aux.name.to_string()).collect();
        names.dedup();
        names
    }

    /// It begins in a machine that another execution has used.
    pub fn reused(&mut self) {
        self.greets = !self.services.is_empty();
    }

    /// It goes on after a park, with these services' connections held then. `inherited`: by another broker.
    pub fn resumed(&mut self, held: &[String], inherited: bool) {
        self.greets = self.last > 0 || (inherited && !self.services.is_empty());
        if inherited && self.last == 0 {
            for name in held {
                self.outside.metrics.aux_ended(Why::Lost.word());
                self.say.line(name, &Why::Lost);
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.table.values().for_each(|conn| conn.pipe.finish());
    }
}
