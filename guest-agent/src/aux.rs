//! Auxiliary services: places in the guest at which a program connects to them, and its connections, which the host makes outside
//! (`torpor_protocol::aux`).
//!
//! ```text
//!  program --connect--> listener --accept--> Open ------vsock-----> host connects, or resets
//!  program <==========> [`conn::Conn`] <---Data, Credit, End--> host            Reset, or both Ends: gone
//! ```
//!
//! Made when the task's code is loaded, before its template is taken: a name in `/etc/hosts` for an address of the loopback interface, a listener there
//! on the service's port, and a Unix socket. Where no program ever connects nothing is watched and nothing is woken.
//!
//! Invariant: a connection holds at most one window of bytes, numbers are never used twice, and who connects before there is an execution is
//! reset.

mod conn;

use crate::door::Door;
use crate::error::AgentError;
use crate::link::Link;
use conn::{Conn, Read};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use torpor_protocol::agent::{AuxPlace, GuestMessage};
use torpor_protocol::aux::{FromGuest, MAX_CONNECTIONS, Relay, ToGuest};

/// Where the Unix sockets are.
const FOLDER: &str = "/run/aux";
const HOSTS: &str = "/etc/hosts";
/// What goes over [`HOSTS`], which lies on a disk that nobody writes to.
const OWN_HOSTS: &str = "/run/hosts";
/// In an epoll set: what is ours.
pub(crate) const MINE: u64 = 1 << 63;
const CONN: u64 = 1 << 62;
/// For what a program had sent when it ended.
const LAST: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn accept(&self) -> std::io::Result<OwnedFd> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok(stream.into())
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Aux {
    listeners: Vec<(u8, Listener)>,
    conns: BTreeMap<u32, Conn>,
    /// What each connection is watched for, where it is.
    watched: BTreeMap<u32, EpollFlags>,
    next: u32,
    heard: u64,
    /// The door's count of messages while code was loaded: there is an execution once it has moved.
    loaded: u64,
}

fn io(what: &'static str, path: &str) -> impl FnOnce(std::io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::io(what, path, source)
}

/// The address that a service has in the guest.
fn address(service: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, service + 1)
}

/// `/etc/hosts` with the services' names.
fn hosts(old: &str, places: &[AuxPlace]) -> String {
    let mut text = old.trim_end().to_owned() + "\n";
    for (service, place) in (0..).zip(places) {
        if place.port.is_some() {
            let _ = writeln!(text, "{} {}", address(service), place.name);
        }
    }
    text
}

fn unix(path: &str) -> Result<UnixListener, AgentError> {
    let listener = UnixListener::bind(path).map_err(io("listen at", path))?;
    listener.set_nonblocking(true).map_err(io("listen at", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(io("open to all", path))?;
    Ok(listener)
}

fn tcp(service: u8, port: u16) -> Result<TcpListener, AgentError> {
    let at = (address(service), port);
    let listener = TcpListener::bind(at).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|source| AgentError::io("listen at", format!("{}:{port}", at.0), source))
}

impl Aux {
    /// Makes the places.
    pub(crate) fn make(places: &[AuxPlace], door: &Door, epoll: &Epoll) -> Result<Self, AgentError> {
        let mut this = Self { loaded: door.sequence(), ..Self::default() };
        if places.is_empty() {
            return Ok(this);
        }
        fs::create_dir(FOLDER).map_err(io("create", FOLDER))?;
        for (service, place) in (0..).zip(places) {
            this.listeners.push((service, Listener::Unix(unix(&format!("{FOLDER}/{}", place.name))?)));
            if let Some(port) = place.port {
                this.listeners.push((service, Listener::Tcp(tcp(service, port)?)));
            }
        }
        let old = fs::read_to_string(HOSTS).map_err(io("read", HOSTS))?;
        fs::write(OWN_HOSTS, hosts(&old, places)).map_err(io("write", OWN_HOSTS))?;
        crate::setup::lay_over(OWN_HOSTS, HOSTS)?;
        for (place, (_, listener)) in (0..).zip(&this.listeners) {
            epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, MINE | place)).map_err(AgentError::sys("watch a service's place"))?;
        }
        Ok(this)
    }

    /// How many of the host's messages were heard.
    pub(crate) fn heard(&self) -> u64 {
        self.heard
    }

    /// The host may have something to say.
    pub(crate) fn used(&self) -> bool {
        self.next > 0
    }

    /// Something that is watched has happened.
    pub(crate) fn event(&mut self, data: u64, events: EpollFlags, door: &Door, link: &mut Link) -> Result<(), AgentError> {
        if data & CONN == 0 {
            return self.accept(usize::try_from(data & !MINE).unwrap_or(usize::MAX), door, link);
        }
        let Ok(id) = u32::try_from(data & !(MINE | CONN)) else { return Ok(()) };
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        if events.contains(EpollFlags::EPOLLERR) {
            return self.reset(id, link);
        }
        if conn.unsent() > 0 && conn.push().is_err() {
            return self.reset(id, link);
        }
        let gone = events.contains(EpollFlags::EPOLLHUP);
        match self.pull(id, link)? {
            // Both ways are closed.
            Some(Read::End) if gone => self.reset(id, link),
            _ => self.settle(id, link),
        }
    }

    fn accept(&mut self, place: usize, door: &Door, link: &mut Link) -> Result<(), AgentError> {
        let Some((service, listener)) = self.listeners.get(place) else { return Ok(()) };
        // One who did not wait, or no descriptor left for him: he is tried again, or has gone.
        let Ok(socket) = listener.accept() else { return Ok(()) };
        let (service, conn) = (*service, Conn::new(socket));
        if door.sequence() == self.loaded || self.conns.len() > MAX_CONNECTIONS || self.next == u32::MAX {
            conn.reset();
            return Ok(());
        }
        self.next += 1;
        link.send(&GuestMessage::Aux(FromGuest::Open { conn: self.next, service }))?;
        self.conns.insert(self.next, conn);
        self.pull(self.next, link)?;
        self.settle(self.next, link)
    }

    /// Passes on what the program has sent, as far as the host takes it.
    fn pull(&mut self, id: u32, link: &mut Link) -> Result<Option<Read>, AgentError> {
        let mut say = |relay| link.send(&GuestMessage::Aux(FromGuest::Relay(id, relay)));
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(None) };
        loop {
            match conn.pull() {
                Ok(Read::Bytes(bytes)) => say(Relay::Data(bytes))?,
                Ok(Read::End) => {
                    if !std::mem::replace(&mut conn.read_done, true) {
                        say(Relay::End)?;
                    }
                    return Ok(Some(Read::End));
                }
                Ok(other) => return Ok(Some(other)),
                Err(_) => {
                    self.reset(id, link)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Tells the host what was passed on, and drops what is done.
    fn settle(&mut self, id: u32, link: &mut Link) -> Result<(), AgentError> {
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        if let Some(bytes) = conn.owed() {
            link.send(&GuestMessage::Aux(FromGuest::Relay(id, Relay::Credit(bytes))))?;
        }
        if conn.done() {
            self.remove(id);
        }
        Ok(())
    }

    fn remove(&mut self, id: u32) -> Option<Conn> {
        // Closing it takes it out of the epoll set.
        self.watched.remove(&id);
        self.conns.remove(&id)
    }

    fn reset(&mut self, id: u32, link: &mut Link) -> Result<(), AgentError> {
        if let Some(conn) = self.remove(id) {
            conn.reset();
            link.send(&GuestMessage::Aux(FromGuest::Relay(id, Relay::Reset)))?;
        }
        Ok(())
    }

    /// Takes what the host says.
    pub(crate) fn hear(&mut self, said: ToGuest, link: &mut Link) -> Result<(), AgentError> {
        self.heard = self.heard.wrapping_add(1);
        let (id, relay) = match said {
            ToGuest::Relay(id, relay) => (id, relay),
            ToGuest::Held { base, conns } => {
                self.heard = base;
                let gone: Vec<u32> = self.conns.keys().copied().filter(|id| !conns.contains(id)).collect();
                gone.into_iter().filter_map(|id| self.remove(id)).for_each(Conn::reset);
                return Ok(());
            }
        };
        let Some(conn) = self.conns.get_mut(&id) else { return Ok(()) };
        let passed = match relay {
            Relay::Data(bytes) => conn.put(&bytes),
            Relay::End => conn.end(),
            Relay::Credit(bytes) => {
                conn.credit(bytes);
                Ok(())
            }
            Relay::Reset => {
                if let Some(conn) = self.remove(id) {
                    conn.reset();
                }
                return Ok(());
            }
        };
        match passed {
            Ok(()) => self.settle(id, link),
            Err(_) => self.reset(id, link),
        }
    }

    /// Sets what every connection is watched for, where it is not.
    pub(crate) fn watch(&mut self, epoll: &Epoll) -> Result<(), AgentError> {
        for (id, conn) in &self.conns {
            let (want, old) = (conn.interest(), self.watched.get(id).copied());
            let mut event = EpollEvent::new(want, MINE | CONN | u64::from(*id));
            match (old, want.is_empty()) {
                (None, true) => {}
                (None, false) => epoll.add(conn, event).map_err(AgentError::sys("watch a connection"))?,
                // One that is watched for nothing would still be told of when it is closed, again and again.
                (Some(_), true) => epoll.delete(conn).map_err(AgentError::sys("watch a connection"))?,
                (Some(old), false) if old != want => epoll.modify(conn, &mut event).map_err(AgentError::sys("watch a connection"))?,
                (Some(_), false) => {}
            }
            if want.is_empty() {
                self.watched.remove(id);
            } else {
                self.watched.insert(*id, want);
            }
        }
        Ok(())
    }

    /// Passes on what a program has sent before it ended. `hear` takes what the host says meanwhile.
    pub(crate) fn finish(&mut self, door: &Door, link: &mut Link) -> Result<(), AgentError> {
        for place in 0..self.listeners.len() {
            let mut before = None;
            while before != Some(self.next) {
                before = Some(self.next);
                self.accept(place, door, link)?;
            }
        }
        let deadline = Instant::now() + LAST;
        loop {
            let mut waits = false;
            for id in self.conns.keys().copied().collect::<Vec<_>>() {
                waits |= matches!(self.pull(id, link)?, Some(Read::NoCredit));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !waits || left.is_zero() {
                return Ok(());
            }
            let _ = poll(&mut [PollFd::new(link.as_fd(), PollFlags::POLLIN)], PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
            while let Some(message) = link.receive()? {
                if let torpor_protocol::agent::HostMessage::Aux(said) = message {
                    self.hear(said, link)?;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "aux/tests.rs"]
mod tests;
