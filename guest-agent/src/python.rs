//! Runtime `python`: the language host (`/usr/lib/torpor/host.py`) stands at the door, the agent listens behind it.
//!
//! ```text
//!  Warming --warm--> at the door --Load--> Loading --loaded--> Running --host ended--> Told (for good)
//!     \--> the image is broken                \--> LoadFailed (for good)
//! ```
//!
//! On the way from `Start` to `Result` the agent does nothing, and no process switch happens. It speaks (over vsock) for what the host can't: raw
//! output of descriptors 1 and 2, and the host's end.
//!
//! Invariant: nothing that comes over the control socket is believed: once a task's code is loaded it may be the program that writes there. The worst that
//! it can do is to misreport its own load.

mod control;

use crate::broker::{Broker, SOCKET};
use crate::children::Children;
use crate::door::Door;
use crate::error::AgentError;
use crate::launch::{self, Launch, Outputs};
use crate::link::{Link, settle};
use crate::memory::KernelLog;
use crate::setup::{Place, drop_caches, mount_code, say};
use crate::stopped::{Stopped, Traced};
use crate::verdict::{self, Ended, failure};
use control::{Control, FromHost, ToHost};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::Pid;
use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use torpor_protocol::agent::{Failure, FailureKind, GuestMessage, HostMessage, Stream};
use torpor_protocol::limits::MAX_LOG_CHUNK;

const INTERPRETER: &str = "/usr/bin/python3";
const HOST: &str = "/usr/lib/torpor/host.py";
/// What the pipes for raw output hold; a program that writes more waits for the agent.
const PIPE_SIZE: i32 = 64 << 10;

/// What happened next.
enum Event {
    Said(FromHost),
    Ended(Ended),
}

struct Session {
    door: Door,
    link: Link,
    broker: Broker,
    host: Traced,
    control: Option<Control>,
    children: Children,
    stdout: Option<File>,
    stderr: Option<File>,
    buffer: Vec<u8>,
    log: KernelLog,
    /// The host has said that it is warm: from here on its output is the program's.
    warm: bool,
}

/// Serves one task and one execution of it.
pub(crate) fn serve(door: Door, link: Link, place: &Place) -> Result<Infallible, AgentError> {
    let children = Children::watch()?;
    let mut session = start(door, link, Broker::listen(SOCKET)?, children, place)?;
    session.warm_up()?;
    session.door.wait();
    let HostMessage::Load(load) = session.door.message()? else { return Err(AgentError::Order { got: "Start", want: "Load" }) };
    session.door.sync_clock()?;
    mount_code()?;
    session.broker.aux(&load.aux, &session.door)?;
    session.tell(&ToHost::Load(load));
    if let Err(failure) = session.load()? {
        session.link.send(&GuestMessage::LoadFailed(failure))?;
        crate::rest()
    }
    session.link.send(&GuestMessage::Loaded)?;
    settle();
    session.children.clear();
    session.broker.open();
    session.tell(&ToHost::Go);
    let failure = session.run()?;
    session.link.send(&GuestMessage::Failed(failure))?;
    crate::rest()
}

/// Starts the language host.
fn start(door: Door, link: Link, broker: Broker, children: Children, place: &Place) -> Result<Session, AgentError> {
    let (control, theirs) = Control::pair()?;
    let mut command = Command::new(INTERPRETER);
    launch::environment(&mut command);
    // Memory that was given back to the allocator once is not given back to the kernel: a page fault is the dearest thing in a guest.
    command.envs([
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_TRIM_THRESHOLD_", "1073741824"),
        ("MALLOC_MMAP_THRESHOLD_", "33554432"),
        ("MALLOC_TOP_PAD_", "1048576"),
    ]);
    let outputs = launch::outputs(&mut command, PIPE_SIZE)?;
    let raw = raw_output(&outputs)?;
    let keep = vec![door.device().as_raw_fd(), theirs.as_raw_fd(), raw.0.as_raw_fd()];
    command.args(["-I", "-X", "utf8", HOST]).args(keep.iter().map(ToString::to_string)).arg(place.memory_mib.to_string());
    command.current_dir("/tmp").stdin(Stdio::null());
    launch::unprivileged(&mut command, &Launch { place, keep });
    let child = command.spawn().map_err(|source| AgentError::io("start", INTERPRETER, source))?;
    let host = Stopped::wait(Pid::from_raw(child.id().cast_signed()))?
        .map_err(|status| AgentError::HostBroken(format!("{status:?}")))?
        .let_go("")?;
    let Outputs { stdout, stderr } = outputs;
    Ok(Session {
        door,
        link,
        broker,
        host,
        control: Some(control),
        children,
        stdout: Some(stdout),
        stderr: Some(stderr),
        buffer: vec![0; MAX_LOG_CHUNK],
        log: KernelLog::from_here(),
        warm: false,
    })
}

/// What the host asks, in one system call, whether anything is in the pipes that the agent has not taken yet.
fn raw_output(outputs: &Outputs) -> Result<Epoll, AgentError> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(AgentError::sys("make an epoll set"))?;
    for pipe in [&outputs.stdout, &outputs.stderr] {
        epoll.add(pipe, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(AgentError::sys("fill an epoll set"))?;
    }
    Ok(epoll)
}

impl Session {
    /// The host may be gone already: its end is an event of its own.
    fn tell(&mut self, what: &ToHost) {
        if let Some(control) = &self.control
            && control.send(what).is_err()
        {
            self.control = None;
        }
    }

    /// Takes what one pipe holds now, and sends it on; false when it is empty.
    fn forward(&mut self, stream: Stream) -> Result<bool, AgentError> {
        let pipe = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(file) = pipe else { return Ok(false) };
        // Counted before it is taken: a host that finds the pipe empty must find the count moved.
        self.door.count_raw_output(1);
        match file.read(&mut self.buffer) {
            Ok(len @ 1..) => {
                self.door.count_raw_output(len as u64 - 1);
                let bytes = self.buffer[..len].to_vec();
                if self.warm {
                    self.link.send(&GuestMessage::Log { stream, bytes })?;
                } else {
                    say(&String::from_utf8_lossy(&bytes));
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                self.door.count_raw_output(u64::MAX);
                Ok(false)
            }
            Ok(_) | Err(_) => {
                self.door.count_raw_output(u64::MAX);
                *pipe = None;
                Ok(false)
            }
        }
    }

    /// Sends all raw output that is there. What others still write is bounded by what the pipes hold.
    fn drain(&mut self) -> Result<(), AgentError> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..16 {
                if !self.forward(stream)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for the host's next move, forwarding raw output meanwhile.
    fn next(&mut self) -> Result<Event, AgentError> {
        loop {
            let mut fds = vec![PollFd::new(self.children.as_fd(), PollFlags::POLLIN), PollFd::new(self.broker.as_fd(), PollFlags::POLLIN)];
            let places =
                [self.control.as_ref().map(AsFd::as_fd), self.stdout.as_ref().map(AsFd::as_fd), self.stderr.as_ref().map(AsFd::as_fd)];
            let places = places.map(|place| {
                place.map(|fd| {
                    fds.push(PollFd::new(fd, PollFlags::POLLIN));
                    fds.len() - 1
                })
            });
            let count = match poll(&mut fds, self.broker.patience()) {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(source) => return Err(AgentError::Sys { what: "wait for the language host", source }),
            };
            let happened = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
            let (child, asked) = (happened(0), happened(1));
            let [said, out, err] = places.map(|place| place.is_some_and(happened));
            drop(fds);
            if count == 0 {
                if self.broker.quiet(&self.link) {
                    self.broker.stand(&mut self.door, &mut self.link)?;
                }
                continue;
            }
            self.broker.stirred();
            if out {
                self.forward(Stream::Stdout)?;
            }
            if err {
                self.forward(Stream::Stderr)?;
            }
            if asked {
                self.broker.turn(&self.door, &mut self.link)?;
            }
            if said && let Some(event) = self.said() {
                return Ok(Event::Said(event));
            }
            if child && let Some(ended) = self.children.ended(&self.host) {
                self.drain()?;
                return Ok(Event::Ended(ended));
            }
        }
    }

    fn said(&mut self) -> Option<FromHost> {
        match self.control.as_ref()?.receive() {
            Ok(Some(said)) => return said,
            Ok(None) | Err(_) => self.control = None,
        }
        None
    }

    fn warm_up(&mut self) -> Result<(), AgentError> {
        match self.next()? {
            Event::Said(FromHost::Warm) => {}
            Event::Said(_) => return Err(AgentError::HostBroken("it said something else first".to_owned())),
            Event::Ended(ended) => return Err(AgentError::HostBroken(ended.describe())),
        }
        self.warm = true;
        drop_caches();
        settle();
        self.children.clear();
        Ok(())
    }

    /// Waits until the task's code is loaded, or is not.
    fn load(&mut self) -> Result<Result<(), Failure>, AgentError> {
        loop {
            match self.next()? {
                Event::Said(FromHost::Loaded) => {
                    self.drain()?;
                    return Ok(Ok(()));
                }
                Event::Said(FromHost::LoadFailed(failure)) => {
                    self.drain()?;
                    return Ok(Err(failure));
                }
                Event::Said(_) => {}
                Event::Ended(ended) => return Ok(Err(ended_while_loading(ended, self.log.ran_out()))),
            }
        }
    }

    /// Stands behind the host until it ends, which it does only when the program makes it.
    fn run(&mut self) -> Result<Failure, AgentError> {
        loop {
            match self.next()? {
                Event::Said(FromHost::Drain) => {
                    self.drain()?;
                    self.broker.finish(&self.door, &mut self.link)?;
                    self.link.send(&GuestMessage::Drained)?;
                    self.tell(&ToHost::Drained);
                }
                Event::Said(_) => {}
                Event::Ended(ended) => return Ok(verdict::ended(ended, self.log.ran_out(), "the program's process")),
            }
        }
    }
}

fn ended_while_loading(ended: Ended, ran_out: bool) -> Failure {
    if ran_out {
        return verdict::ended(ended, true, "the program's process");
    }
    failure(FailureKind::Load, format!("the program's process ended with {} while its code was being imported", ended.describe()))
}
