//! Runtime `exec`: any program. JSON on its standard input, JSON on its standard output, logs on its standard error.
//!
//! ```text
//!  Empty --Load--> Stopped --Start--> Running --ended, pipes empty--> Told (stands at the door for ever)
//!           \--> LoadFailed (for good)
//! ```
//!
//! The agent is the only one at the door. The program is started before the task template is taken and stopped before its first instruction; what it
//! writes is read straight into the outbox: logs at its start, where they are sent from, the result behind [`STAGE`].
//!
//! Invariant: once the program has ended nobody else is waited for: what is in the pipes then, and not what was there when they were looked at last, is the
//! output.

use crate::broker::{Broker, SOCKET};
use crate::children::Children;
use crate::door::{Door, PREFIX_LEN, Prefix};
use crate::error::AgentError;
use crate::launch::{self, Launch, Outputs, PIPE_SIZE};
use crate::link::{Link, settle};
use crate::memory::KernelLog;
use crate::secrets;
use crate::setup::{Place, TASK, mount_code};
use crate::stopped::{EXECUTION_ROOM, EXECUTION_VARIABLE, Stopped, Traced};
use crate::verdict::{self, Ended, failure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use torpor_protocol::agent::{Failure, FailureKind, GuestMessage, HostMessage, Load, Stream};
use torpor_protocol::limits::{MAX_LOG_CHUNK, MAX_RESULT};

/// A program of the image that does what programs commonly do.
const WARM_UP: &str = "/etc/torpor/warm";
/// Offset in the outbox at which standard output is collected: behind the largest log frame.
const STAGE: usize = 128 << 10;
/// One byte more than allowed is enough to know.
const COLLECT_MAX: usize = MAX_RESULT + 1;
const _: () = assert!(PREFIX_LEN + MAX_LOG_CHUNK <= STAGE);
const _: () = assert!((STAGE + COLLECT_MAX) as u64 <= torpor_protocol::door::BOX_SIZE);

/// Serves one task and one execution of it.
pub(crate) fn serve(mut door: Door, mut link: Link, place: &Place) -> Result<Infallible, AgentError> {
    let children = Children::watch()?;
    // A shell that is refused memory only says so and ends like after any other error; one that the kernel ends for it is told apart.
    let _ = std::fs::write("/proc/sys/vm/overcommit_memory", "1");
    let prefixes = Prefixes { stderr: Prefix::log(Stream::Stderr)?, result: Prefix::result(false)?, result_drain: Prefix::result(true)? };
    warm_up(place, &children)?;
    let mut broker = Broker::listen(SOCKET)?;
    secrets::make_folder()?;
    settle();
    door.wait();
    let HostMessage::Load(load) = door.message()? else { return Err(AgentError::Order { got: "Start", want: "Load" }) };
    door.sync_clock()?;
    mount_code()?;
    broker.aux(&load.aux, &door)?;
    let loaded = match prepare(&load, place)? {
        Ok(loaded) => loaded,
        Err(failure) => {
            link.send(&GuestMessage::LoadFailed(failure))?;
            crate::rest()
        }
    };
    link.send(&GuestMessage::Loaded)?;
    settle();
    children.clear();
    let program = run(door, link, broker, loaded, children, prefixes)?;
    stand(program)
}

/// Runs what the image says is worth running once before the template is taken: what it reads stays in the page cache, and what it looks up is
/// found at once.
fn warm_up(place: &Place, children: &Children) -> Result<(), AgentError> {
    if !Path::new(WARM_UP).exists() {
        return Ok(());
    }
    let mut command = Command::new(WARM_UP);
    launch::environment(&mut command);
    command.current_dir("/tmp").stdin(Stdio::null()).stdout(Stdio::null());
    launch::unprivileged(&mut command, &Launch { place, keep: Vec::new() });
    let child = command.spawn().map_err(|source| AgentError::io("start", WARM_UP, source))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut program = Stopped::wait(pid)?.map_err(|status| AgentError::WarmUp(format!("{status:?}")))?;
    program.prepare()?;
    let program = program.let_go("")?;
    let ended = loop {
        let mut fds = [PollFd::new(children.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(AgentError::Sys { what: "wait for the warm-up", source }),
        }
        if let Some(ended) = children.ended(&program) {
            break ended;
        }
    };
    program.bury();
    match ended {
        Ended::Exit(0) => Ok(()),
        other => Err(AgentError::WarmUp(other.describe())),
    }
}

fn stand(mut door: Door) -> Result<Infallible, AgentError> {
    loop {
        door.wait();
    }
}

/// The file that an entry names, or why it names none.
fn entry_path(entry: &str) -> Result<PathBuf, String> {
    let relative = Path::new(entry);
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if entry.is_empty() || !relative.components().all(inside) {
        return Err(format!("entry {entry:?} does not name a file inside the task's folder"));
    }
    Ok(Path::new(TASK).join(relative.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>()))
}

/// Why `execve` refused, for the one who wrote the task.
fn refused(entry: &str, path: &Path, error: &std::io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) if path.exists() => {
            format!(
                "entry {entry:?} can't be started: its interpreter (the #! line, or the ELF loader) is not in the image of runtime exec"
            )
        }
        Some(Errno::ENOENT) => format!("entry {entry:?} is not in the task's folder"),
        Some(Errno::EACCES) if path.is_dir() => format!("entry {entry:?} is a folder"),
        Some(Errno::EACCES) => format!("entry {entry:?} is not executable: chmod +x it and push again"),
        Some(Errno::ENOEXEC) => format!("entry {entry:?} is neither a program for this machine nor a script that starts with #!"),
        _ => format!("entry {entry:?} can't be started: {error}"),
    }
}

/// A program that waits for its input.
struct Loaded {
    program: Stopped,
    stdin: File,
    outputs: Outputs,
}

/// Starts the program up to its first instruction.
fn prepare(load: &Load, place: &Place) -> Result<Result<Loaded, Failure>, AgentError> {
    let no = |message: String| Ok(Err(failure(FailureKind::Load, message)));
    let path = match entry_path(&load.entry) {
        Ok(path) => path,
        Err(message) => return no(message),
    };
    let (read, stdin) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(AgentError::sys("make a pipe"))?;
    launch::nonblocking(&stdin)?;
    nix::fcntl::fcntl(&stdin, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_SIZE)).map_err(AgentError::sys("widen a pipe"))?;
    let mut command = Command::new(&path);
    command.current_dir(TASK).stdin(Stdio::from(read));
    launch::environment(&mut command);
    command.envs([
        ("TORPOR_TASK", load.task.as_str()),
        ("TORPOR_VERSION", &load.version),
        ("TORPOR_PORTION", &load.portion),
        (secrets::VARIABLE, secrets::FOLDER),
        (EXECUTION_VARIABLE, EXECUTION_ROOM),
    ]);
    let outputs = launch::outputs(&mut command, PIPE_SIZE)?;
    launch::unprivileged(&mut command, &Launch { place, keep: Vec::new() });
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return no(refused(&load.entry, &path, &error)),
    };
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut program = match Stopped::wait(pid)? {
        Ok(program) => program,
        Err(status) => return no(format!("entry {:?} ended before it could be stopped: {status:?}", load.entry)),
    };
    program.prepare()?;
    Ok(Ok(Loaded { program, stdin: File::from(stdin), outputs }))
}

struct Prefixes {
    stderr: Prefix,
    result: Prefix,
    result_drain: Prefix,
}

/// What a read of a pipe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Bytes(usize),
    Nothing,
    End,
}

fn read_some(pipe: &mut File, into: &mut [u8]) -> Found {
    loop {
        match pipe.read(into) {
            Ok(0) => return Found::End,
            Ok(len) => return Found::Bytes(len),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Found::Nothing,
            Err(_) => return Found::End,
        }
    }
}

/// The program's standard input, and what of the inbox is still to go there.
struct Feed {
    stdin: Option<File>,
    input: Range<usize>,
    /// The input, where it is not in the inbox any more.
    kept: Option<Vec<u8>>,
}

impl Feed {
    /// Gives the program what it takes now; closed after the last byte.
    fn push(&mut self, door: &Door) -> Result<(), AgentError> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        while !self.input.is_empty() {
            let input = match &self.kept {
                Some(kept) => kept.as_slice(),
                None => door.inbox()?,
            };
            match stdin.write(input.get(self.input.clone()).unwrap_or_default()) {
                Ok(len) => self.input.start += len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                // Nobody reads it (any more): its right.
                Err(_) => break,
            }
        }
        self.stdin = None;
        Ok(())
    }

    /// Takes what is left of the input out of the inbox.
    fn keep(&mut self, door: &Door) -> Result<(), AgentError> {
        if self.stdin.is_some() && self.kept.is_none() {
            let left = door.inbox()?.get(self.input.clone()).unwrap_or_default().to_vec();
            self.input = 0..left.len();
            self.kept = Some(left);
        }
        Ok(())
    }
}

/// A program between its first instruction and its end.
struct Running {
    door: Door,
    link: Link,
    broker: Broker,
    prefixes: Prefixes,
    program: Traced,
    children: Children,
    feed: Feed,
    stdout: Option<File>,
    stderr: Option<File>,
    collected: usize,
    log: KernelLog,
}

impl Running {
    /// Takes standard output as it is now, up to the cap.
    fn collect(&mut self) {
        let Some(stdout) = &mut self.stdout else { return };
        let room = &mut self.door.outbox()[STAGE..STAGE + COLLECT_MAX][self.collected..];
        if room.is_empty() {
            return;
        }
        let room_len = room.len();
        match read_some(stdout, room) {
            Found::Bytes(len) => self.collected += len.min(room_len),
            Found::Nothing => {}
            Found::End => self.stdout = None,
        }
    }

    /// Sends what is on standard error now, one piece.
    fn send_log(&mut self) -> usize {
        let Some(stderr) = &mut self.stderr else { return 0 };
        match read_some(stderr, self.door.log_payload()) {
            Found::Bytes(len) => {
                self.door.send_in_place(self.prefixes.stderr, len);
                len
            }
            Found::Nothing => 0,
            Found::End => {
                self.stderr = None;
                0
            }
        }
    }

    fn too_large(&self) -> bool {
        self.collected > MAX_RESULT
    }

    /// Waits for the program's next move; `Some` when it has ended.
    fn turn(&mut self) -> Result<Option<Ended>, AgentError> {
        let mut fds = Vec::with_capacity(5);
        fds.push(PollFd::new(self.children.as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.broker.as_fd(), PollFlags::POLLIN));
        fds.extend(self.stdout.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stderr.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.feed.stdin.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLOUT)));
        let count = match poll(&mut fds, self.broker.patience()) {
            Ok(count) => count,
            Err(Errno::EINTR) => return Ok(None),
            Err(source) => return Err(AgentError::Sys { what: "wait for the program", source }),
        };
        if count == 0 {
            return self.quiet();
        }
        let happened = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        let stdout_at = 2;
        let stderr_at = stdout_at + usize::from(self.stdout.is_some());
        let stdin_at = stderr_at + usize::from(self.stderr.is_some());
        let (child, asked, out) = (happened(0), happened(1), self.stdout.is_some() && happened(stdout_at));
        let (err, input) = (self.stderr.is_some() && happened(stderr_at), self.feed.stdin.is_some() && happened(stdin_at));
        self.broker.stirred();
        let ended = if child { self.children.ended(&self.program) } else { None };
        // Children are asked again and again once one of them did something, so the end may be later than the look at the pipes: then they are read once more.
        let over = ended.is_some();
        let logged = if err || over { self.send_log() } else { 0 };
        if out || over {
            self.collect();
        }
        if ended.is_some() {
            self.rest_of_log(logged);
            return Ok(ended);
        }
        if input {
            self.feed.push(&self.door)?;
        }
        if asked {
            self.broker.turn(&self.door, &mut self.link)?;
        }
        Ok(None)
    }

    /// Nothing has happened for a while: where nothing can, the agent stands at the door. What comes into the inbox there is put over the input.
    fn quiet(&mut self) -> Result<Option<Ended>, AgentError> {
        if self.broker.quiet(&self.link) {
            self.feed.keep(&self.door)?;
            self.broker.stand(&mut self.door, &mut self.link)?;
        }
        Ok(None)
    }

    /// Sends the rest of standard error after the program's end, given what the last read of it found. What others still write is bounded by what a
    /// pipe holds. Standard output needs nothing of the kind: there was room for all that its pipe held.
    fn rest_of_log(&mut self, mut last: usize) {
        let mut left = PIPE_SIZE.unsigned_abs() as usize / MAX_LOG_CHUNK;
        while last == MAX_LOG_CHUNK && left > 0 {
            last = self.send_log();
            left -= 1;
        }
    }

    /// The last message.
    fn tell(&mut self, ended: Option<Ended>, drain: bool) -> Result<(), AgentError> {
        let failed = match ended {
            _ if self.too_large() => Some(verdict::too_large()),
            None | Some(Ended::Exit(0)) => None,
            Some(ended) => Some(verdict::ended(ended, self.log.ran_out(), "the program")),
        };
        if let Some(failure) = failed {
            return self.door.send(&GuestMessage::Failed(Failure { drain, ..failure }));
        }
        let prefix = if drain { self.prefixes.result_drain } else { self.prefixes.result };
        let collected = self.collected;
        let outbox = self.door.outbox();
        match verdict::result(&outbox[STAGE..STAGE + collected]) {
            Ok(Some(json)) => {
                outbox.copy_within(STAGE + json.start..STAGE + json.end, PREFIX_LEN);
                self.door.send_in_place(prefix, json.len());
                Ok(())
            }
            Ok(None) => self.door.send(&GuestMessage::Result { drain, json: b"null".to_vec() }),
            Err(failure) => self.door.send(&GuestMessage::Failed(Failure { drain, ..failure })),
        }
    }
}

/// Waits for the input, runs the program on it and tells what came of it.
fn run(mut door: Door, link: Link, mut broker: Broker, loaded: Loaded, children: Children, prefixes: Prefixes) -> Result<Door, AgentError> {
    let Loaded { program, stdin, outputs: Outputs { stdout, stderr } } = loaded;
    let log = KernelLog::from_here();
    door.wait();
    let (start, input) = door.start()?;
    door.sync_clock()?;
    secrets::write(Path::new(secrets::FOLDER), &start.secrets)?;
    door.send(&GuestMessage::Started)?;
    let mut feed = Feed { stdin: Some(stdin), input, kept: None };
    feed.push(&door)?;
    broker.open();
    let program = program.let_go(&start.execution)?;
    let mut running =
        Running { door, link, broker, prefixes, program, children, feed, stdout: Some(stdout), stderr: Some(stderr), collected: 0, log };
    let ended = loop {
        let ended = running.turn()?;
        if ended.is_some() || running.too_large() {
            break ended;
        }
    };
    let aux = running.broker.finish(&running.door, &mut running.link)?;
    running.tell(ended, aux)?;
    if aux {
        running.link.send(&GuestMessage::Drained)?;
        // The door would stop the kernel's threads, which send it.
        settle();
    }
    Ok(running.door)
}

#[cfg(test)]
#[path = "exec/tests.rs"]
mod tests;
