//! Monitor processes: started in a sandbox of their own (see torpor-seccomp) with a control socket as descriptor 3, watched, and reaped off everyone's path.
//!
//! ```text
//! launch -> [process, supervised by one task] -> exits by itself, or its Monitor is dropped, or the engine shuts down
//!                                                 -> killed where needed -> reaped -> counted out
//! ```
//! Invariant: a process has exactly one supervisor, which alone kills and reaps it, by its pidfd; a `Monitor` that is dropped anywhere is a process that is
//! killed. All processes are started by one thread that lives as long as the launcher: they die with it, whatever ends torpord.

use super::link::Link;
use super::stats::Stats;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use torpor_seccomp::cgroup::Cgroup;
use torpor_seccomp::launch::{self, Confined, MONITOR, Start};
use torpor_seccomp::process::Process;
use torpor_seccomp::{CgroupError, LaunchError};

/// Most bytes of a monitor's standard error that are logged; the rest is read and dropped.
const STDERR_LOGGED: usize = 64 << 10;
/// How much of its end is kept for error messages.
const LAST_WORDS: usize = 1 << 10;
/// How long standard error may outlive its process.
const STDERR_LINGER: Duration = Duration::from_millis(100);

/// Why no monitor was started.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// Its process or its sandbox.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its socket or its pipe.
    #[error("its descriptors: {0}")]
    Io(#[from] io::Error),
    /// No more are started.
    #[error("torpord is shutting down")]
    Closing,
}

/// A process that is to be started.
struct Request {
    control: OwnedFd,
    stderr: OwnedFd,
    memory: u64,
    reply: oneshot::Sender<Result<Confined, LaunchError>>,
}

/// Starts monitors.
#[derive(Debug)]
pub(super) struct Launcher {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stats: Arc<Stats>,
    supervisors: TaskTracker,
    closing: CancellationToken,
    ended: Arc<Notify>,
}

/// A running monitor; dropping it kills it.
#[derive(Debug)]
pub(super) struct Monitor {
    /// Its control socket.
    pub(super) link: Link,
    /// Its process id, for logs.
    pub(super) pid: u32,
    cgroup: Option<Arc<Cgroup>>,
    end: watch::Receiver<Option<String>>,
    _kill: DropGuard,
}

impl Launcher {
    /// `closing` kills all monitors; `ended` is told whenever one is gone.
    pub(super) fn new(monitors: launch::Launcher, stats: Arc<Stats>, closing: CancellationToken, ended: Arc<Notify>) -> io::Result<Self> {
        Self::with(monitors, &MONITOR, stats, closing, ended)
    }

    fn with(
        monitors: launch::Launcher,
        arguments: &'static [&'static str],
        stats: Arc<Stats>,
        closing: CancellationToken,
        ended: Arc<Notify>,
    ) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel::<Request>();
        // A monitor dies with the thread that started it: a thread of the runtime may end at any time, this one ends with the launcher.
        let body = move || {
            for Request { control, stderr, memory, reply } in inbox {
                let start = Start { control: control.as_fd(), stderr: stderr.as_fd(), arguments, memory: Some(memory) };
                // Where nobody waits any more, the process is killed by its drop.
                let _ = reply.send(monitors.start(&start));
            }
        };
        let thread = Mutex::new(Some(std::thread::Builder::new().name("launcher".into()).spawn(body)?));
        Ok(Self { requests: Mutex::new(Some(requests)), thread, stats, supervisors: TaskTracker::new(), closing, ended })
    }

    /// Starts a shell in place of a monitor.
    #[cfg(test)]
    pub(super) fn shell(script: &'static str, stats: Arc<Stats>, closing: CancellationToken, ended: Arc<Notify>) -> io::Result<Self> {
        let arguments = Box::leak(Box::new(["-c", script, "sh", "monitor"]));
        let shell = launch::Launcher::open(std::path::Path::new("/bin/sh"), None, torpor_seccomp::cgroup::Cgroups::none());
        Self::with(shell.map_err(io::Error::other)?, arguments, stats, closing, ended)
    }

    /// Starts a process that may take so many bytes of memory.
    pub(super) async fn launch(&self, memory: u64) -> Result<Monitor, StartError> {
        if self.closing.is_cancelled() {
            return Err(StartError::Closing);
        }
        let (link, control) = Link::pair()?;
        let (words, stderr) = io::pipe()?;
        let (reply, started) = oneshot::channel();
        let request = Request { control, stderr: stderr.into(), memory, reply };
        let sent = lock(&self.requests).as_ref().map(|requests| requests.send(request).is_ok());
        sent.filter(|sent| *sent).ok_or(StartError::Closing)?;
        let confined = started.await.map_err(|_| StartError::Closing)??;
        let words = pipe::Receiver::from_owned_fd(words.into())?;
        self.stats.monitor_started();
        let (pid, cgroup) = (confined.process.id(), Some(Arc::clone(&confined.cgroup)));
        let kill = CancellationToken::new();
        let (told, end) = watch::channel(None);
        let (guard, stats, closing, ended) = (kill.clone().drop_guard(), self.stats.clone(), self.closing.clone(), self.ended.clone());
        self.supervisors.spawn(async move {
            let end = supervise(confined, words, kill, closing).await;
            stats.monitor_ended();
            told.send_replace(Some(end));
            ended.notify_one();
        });
        Ok(Monitor { link, pid, cgroup, end, _kill: guard })
    }

    /// Waits until all monitors are gone; they go once `closing` is cancelled.
    pub(super) async fn join(&self) {
        // What is just being started has nobody who waits for it: its thread kills it.
        drop(lock(&self.requests).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.supervisors.close();
        self.supervisors.wait().await;
    }
}

impl Monitor {
    /// A monitor without a process: a test plays it over the other end of its control socket.
    #[cfg(test)]
    pub(super) fn scripted() -> io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (link, theirs) = Link::pair()?;
        let (_, end) = watch::channel(Some("as scripted".to_owned()));
        Ok((Self { link, pid: 0, cgroup: None, end, _kill: CancellationToken::new().drop_guard() }, theirs.into()))
    }

    /// Whether the process is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.end.borrow().is_some() || self.link.is_closed()
    }

    /// Limits it to thousandths of one processor's time, where the host can.
    pub(super) fn limit_cpu(&self, permille: u32) -> Result<(), CgroupError> {
        self.cgroup.as_ref().map_or(Ok(()), |cgroup| cgroup.cpu(permille))
    }

    /// How the process ended and what it said last. Waits a moment for the end.
    pub(super) async fn last_words(&mut self) -> String {
        let end = tokio::time::timeout(Duration::from_secs(1), self.end.wait_for(Option::is_some)).await;
        match end {
            Ok(Ok(end)) => end.clone().unwrap_or_default(),
            _ => "it runs on".into(),
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn supervise(mut confined: Confined, stderr: pipe::Receiver, kill: CancellationToken, closing: CancellationToken) -> String {
    let words = Arc::new(Mutex::new(String::new()));
    let mut relay = tokio::spawn(relay(stderr, confined.process.id(), words.clone()));
    let status = end(&mut confined.process, &kill, &closing).await;
    if tokio::time::timeout(STDERR_LINGER, &mut relay).await.is_err() {
        relay.abort();
    }
    let words = std::mem::take(&mut *lock(&words));
    describe(&status, &words)
}

/// Waits for a process's end, brings that about where it is asked for, and reaps it.
async fn end(process: &mut Process, kill: &CancellationToken, closing: &CancellationToken) -> io::Result<ExitStatus> {
    #[expect(
        deprecated,
        reason = "what it warns of is an owner that changes its descriptor: an OwnedFd does not, and this crate has no unsafe code"
    )]
    let ended = AsyncFd::with_interest(process.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
    tokio::select! {
        biased;
        () = kill.cancelled() => process.kill()?,
        () = closing.cancelled() => process.kill()?,
        ready = ended.readable() => ready?.retain_ready(),
    }
    loop {
        let mut ready = ended.readable().await?;
        if let Some(status) = process.try_wait()? {
            return Ok(status);
        }
        ready.clear_ready();
    }
}

fn describe(status: &io::Result<ExitStatus>, words: &str) -> String {
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end can't be learnt: {error}"),
    };
    if words.is_empty() { status } else { format!("{status}; its last words: {}", words.trim_end()) }
}

/// Logs what a monitor says on standard error, up to a cap, and keeps its end.
async fn relay(mut stderr: pipe::Receiver, pid: u32, words: Arc<Mutex<String>>) {
    let (mut buffer, mut logged) = ([0; 1024], 0);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..read]);
        if logged < STDERR_LOGGED {
            logged += read;
            for line in text.lines() {
                tracing::warn!(pid, "monitor: {line}");
            }
        }
        let mut words = lock(&words);
        words.push_str(&text);
        let surplus = words.len().saturating_sub(LAST_WORDS);
        let cut = words.ceil_char_boundary(surplus);
        words.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::link::LinkError;
    use super::*;
    use std::time::Instant;

    const MEMORY: u64 = 64 << 20;

    fn launcher(script: &'static str) -> (Launcher, CancellationToken) {
        let closing = CancellationToken::new();
        let launcher = Launcher::shell(script, Arc::new(Stats::default()), closing.clone(), Arc::new(Notify::new())).unwrap();
        (launcher, closing)
    }

    async fn eventually(mut check: impl FnMut() -> bool) {
        let start = Instant::now();
        while !check() {
            assert!(start.elapsed() < Duration::from_secs(5), "it does not come true");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn exists(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn a_process_gets_its_socket_as_descriptor_3_and_little_else() {
        let (launcher, _closing) = launcher(
            "test -S /proc/self/fd/3 || exit 9; test \"$1\" = monitor || exit 8; test -z \"$HOME\" || exit 7; ls /proc/self/fd >&2; exit 5",
        );
        let mut monitor = launcher.launch(MEMORY).await.unwrap();
        let words = monitor.last_words().await;
        assert!(words.starts_with("exit status: 5") && words.contains('3') && !words.contains("\n5"), "4 is of ls itself: {words}");
        assert!(monitor.is_gone() && matches!(monitor.link.recv().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn a_dropped_monitor_is_killed_and_reaped() {
        let (launcher, _closing) = launcher("exec sleep 100");
        let monitor = launcher.launch(MEMORY).await.unwrap();
        let pid = monitor.pid;
        assert!(exists(pid));
        drop(monitor);
        eventually(|| !exists(pid)).await;
        eventually(|| launcher.stats.snapshot().monitors == 0).await;
    }

    #[tokio::test]
    async fn closing_ends_all() {
        let (launcher, closing) = launcher("exec sleep 100");
        let mut monitors = Vec::new();
        for _ in 0..3 {
            monitors.push(launcher.launch(MEMORY).await.unwrap());
        }
        closing.cancel();
        tokio::time::timeout(Duration::from_secs(5), launcher.join()).await.unwrap();
        assert!(monitors.iter().all(|monitor| monitor.is_gone() && !exists(monitor.pid)));
        assert!(launcher.launch(MEMORY).await.is_err());
    }

    #[tokio::test]
    async fn endless_words_are_bounded() {
        let (launcher, _closing) =
            launcher("i=0; while test $i -lt 3000; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done");
        let words = launcher.launch(MEMORY).await.unwrap().last_words().await;
        assert!(words.len() < LAST_WORDS + 200, "{}", words.len());
    }
}
