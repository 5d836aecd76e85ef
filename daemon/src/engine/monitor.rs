//! Monitor processes: started with a control socket as descriptor 3 and nothing else (what torpord itself inherited, they close), watched, and reaped off everyone's path.
//!
//! ```text
//! launch -> [process, supervised by one task] -> exits by itself, or its Monitor is dropped, or the engine shuts down
//!                                                 -> killed where needed -> reaped -> counted out
//! ```
//! Invariant: a process has exactly one supervisor, which alone kills and reaps it; so no signal ever goes to a reused process id, and a
//! `Monitor` that is dropped anywhere is a process that is killed.

use super::link::Link;
use super::stats::Stats;
use command_fds::{CommandFdExt, FdMapping, FdMappingCollision};
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use torpor_protocol::monitor::CONTROL_FD;

/// Most bytes of a monitor's standard error that are logged; the rest is read and dropped.
const STDERR_LOGGED: usize = 64 << 10;
/// How much of its end is kept for error messages.
const LAST_WORDS: usize = 1 << 10;
/// How long standard error may outlive its process.
const STDERR_LINGER: Duration = Duration::from_millis(100);

/// Starts monitors.
#[derive(Debug)]
pub(super) struct Launcher {
    binary: PathBuf,
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
    end: watch::Receiver<Option<String>>,
    _kill: DropGuard,
}

impl Launcher {
    /// `closing` kills all monitors; `ended` is told whenever one is gone.
    pub(super) fn new(binary: PathBuf, stats: Arc<Stats>, closing: CancellationToken, ended: Arc<Notify>) -> Self {
        Self { binary, stats, supervisors: TaskTracker::new(), closing, ended }
    }

    /// Starts a process. Takes as long as fork and exec do; needs a runtime around it.
    pub(super) fn launch(&self) -> io::Result<Monitor> {
        if self.closing.is_cancelled() {
            return Err(io::Error::other("torpord is shutting down"));
        }
        let (link, theirs) = Link::pair()?;
        let mut command = Command::new(&self.binary);
        command.arg("monitor").env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
            .fd_mappings(vec![FdMapping { parent_fd: theirs, child_fd: CONTROL_FD }])
            .map_err(|FdMappingCollision| io::Error::other("descriptor 3 mapped twice"))?;
        let child = command.spawn()?;
        drop(command);
        self.stats.monitor_started();
        let pid = child.id().unwrap_or_default();
        let kill = CancellationToken::new();
        let (told, end) = watch::channel(None);
        let (guard, stats, closing, ended) = (kill.clone().drop_guard(), self.stats.clone(), self.closing.clone(), self.ended.clone());
        self.supervisors.spawn(async move {
            let end = supervise(child, pid, kill, closing).await;
            stats.monitor_ended();
            told.send_replace(Some(end));
            ended.notify_one();
        });
        Ok(Monitor { link, pid, end, _kill: guard })
    }

    /// Waits until all monitors are gone; they go once `closing` is cancelled.
    pub(super) async fn join(&self) {
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
        Ok((Self { link, pid: 0, end, _kill: CancellationToken::new().drop_guard() }, theirs.into()))
    }

    /// Whether the process is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.end.borrow().is_some() || self.link.is_closed()
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

async fn supervise(mut child: Child, pid: u32, kill: CancellationToken, closing: CancellationToken) -> String {
    let words = Arc::new(Mutex::new(String::new()));
    let relay = child.stderr.take().map(|stderr| tokio::spawn(relay(stderr, pid, words.clone())));
    let status = tokio::select! {
        biased;
        () = kill.cancelled() => end(&mut child).await,
        () = closing.cancelled() => end(&mut child).await,
        status = child.wait() => status,
    };
    if let Some(mut relay) = relay
        && tokio::time::timeout(STDERR_LINGER, &mut relay).await.is_err()
    {
        relay.abort();
    }
    let words = std::mem::take(&mut *words.lock().unwrap_or_else(PoisonError::into_inner));
    describe(&status, &words)
}

async fn end(child: &mut Child) -> io::Result<ExitStatus> {
    child.start_kill()?;
    child.wait().await
}

fn describe(status: &io::Result<ExitStatus>, words: &str) -> String {
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("its end can't be learnt: {error}"),
    };
    if words.is_empty() { status } else { format!("{status}; its last words: {}", words.trim_end()) }
}

/// Logs what a monitor says on standard error, up to a cap, and keeps its end.
async fn relay(mut stderr: ChildStderr, pid: u32, words: Arc<Mutex<String>>) {
    let (mut buffer, mut logged) = ([0; 1024], 0);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..read]);
        if logged < STDERR_LOGGED {
            logged += read;
            for line in text.lines() {
                tracing::warn!(pid, "monitor: {line}");
            }
        }
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
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
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    fn launcher(script: &str) -> (tempfile::TempDir, Launcher, CancellationToken) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("monitor");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let closing = CancellationToken::new();
        let launcher = Launcher::new(path, Arc::new(Stats::default()), closing.clone(), Arc::new(Notify::new()));
        (dir, launcher, closing)
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
        let (_dir, launcher, _) = launcher(
            "test -S /proc/self/fd/3 || exit 9; test \"$1\" = monitor || exit 8; test -z \"$HOME\" || exit 7; ls /proc/$$/fd >&2; exit 5",
        );
        let mut monitor = launcher.launch().unwrap();
        let words = monitor.last_words().await;
        assert!(words.starts_with("exit status: 5") && words.contains('3') && !words.contains("\n4"), "{words}");
        assert!(monitor.is_gone() && matches!(monitor.link.recv().await, Err(LinkError::Closed)));
    }

    #[tokio::test]
    async fn a_dropped_monitor_is_killed_and_reaped() {
        let (_dir, launcher, _) = launcher("exec sleep 100");
        let monitor = launcher.launch().unwrap();
        let pid = monitor.pid;
        assert!(exists(pid));
        drop(monitor);
        eventually(|| !exists(pid)).await;
        eventually(|| launcher.stats.snapshot().monitors == 0).await;
    }

    #[tokio::test]
    async fn closing_ends_all() {
        let (_dir, launcher, closing) = launcher("exec sleep 100");
        let monitors: Vec<_> = (0..3).map(|_| launcher.launch().unwrap()).collect();
        closing.cancel();
        tokio::time::timeout(Duration::from_secs(5), launcher.join()).await.unwrap();
        assert!(monitors.iter().all(|monitor| monitor.is_gone() && !exists(monitor.pid)));
        assert!(launcher.launch().is_err());
    }

    #[tokio::test]
    async fn endless_words_are_bounded() {
        let (_dir, launcher, _) =
            launcher("i=0; while test $i -lt 3000; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done");
        let words = launcher.launch().unwrap().last_words().await;
        assert!(words.len() < LAST_WORDS + 200, "{}", words.len());
    }
}
