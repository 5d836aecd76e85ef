//! What torpords that were killed have left on the host.

use super::check::ids;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use torpor_tests::daemon::Daemon;
use torpor_tests::process::assert_no_orphans;
use torpor_tests::until;

/// The first user id of VMs, see docs/sandbox.md.
const VM_UIDS: u32 = 2_000_000_000;
/// Where programs put files and sockets that should not last.
const SHARED: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run"];

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn processes() -> impl Iterator<Item = i32> {
    names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok())
}

/// State, parent and session of a process.
fn stat(pid: i32) -> Option<(char, i32, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}

/// Those who got this in their environment.
fn marked(by: &str) -> Vec<String> {
    let has = |pid: &i32| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| String::from_utf8_lossy(&all).contains(by));
    processes().filter(has).map(said).collect()
}

fn said(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
}

/// The folders of its VMs' control groups.
fn groups(monitor: Pid) -> Vec<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{monitor}/cgroup")).unwrap_or_default();
    let groups = own.lines().filter_map(|line| line.rsplit_once(':'));
    let ours = groups.filter_map(|(_, path)| path.split('/').find(|name| name.starts_with("torpor-")));
    let names: Vec<String> = ours.map(str::to_owned).collect();
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if names.iter().any(|name| entry.file_name().to_str() == Some(name)) { found.push(path) } else { open.push(path) }
            }
        }
    }
    found
}

fn vms(group: &Path) -> usize {
    names(group).into_iter().filter(|name| name.starts_with("vm-")).count()
}

/// Files and sockets in shared folders that could be a torpord's or a monitor's. Other tests have folders there with names of [`tempfile`]; a torpord
/// that makes such a one makes it in its own `TMPDIR`.
fn shared() -> BTreeSet<PathBuf> {
    let entries = SHARED.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let could_be = |entry: &fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let by_a_vm = entry.metadata().is_ok_and(|metadata| metadata.uid() >= VM_UIDS);
        by_a_vm || name.contains("torpor") && !name.starts_with("torpor-")
    };
    entries.filter(could_be).map(|entry| entry.path()).collect()
}

/// Mounts with this in their line, in whoever's namespace.
fn mounts(what: &str) -> Vec<String> {
    let all = processes().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok());
    all.flat_map(|text| text.lines().filter(|line| line.contains(what)).map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// What a torpord has of the host before it is killed for the first time.
pub(super) struct Before {
    temporary: PathBuf,
    groups: Vec<PathBuf>,
    code: Vec<String>,
    templates: Vec<String>,
    shared: BTreeSet<PathBuf>,
}

impl Before {
    pub(super) fn of(daemon: &Daemon, temporary: &Path) -> Self {
        let monitor = until("a monitor", Duration::from_secs(20), || daemon.monitors().first().copied());
        let groups = groups(monitor);
        assert!(!groups.is_empty() && groups.iter().all(|group| vms(group) > 0), "no control groups to look at: {groups:?}");
        let own = daemon.pid().as_raw();
        assert!(stat(own).is_some_and(|(_, _, session)| session == own), "torpord has no session of its own");
        assert!(!marked(temporary.to_str().expect("UTF-8")).is_empty(), "torpord does not have its environment");
        assert!(!mounts(" /proc ").is_empty(), "no mounts to look at");
        let code = names(&daemon.state().join("code"));
        let templates = names(&daemon.state().join("templates"));
        let this = Self { temporary: temporary.to_owned(), groups, code, templates, shared: shared() };
        assert!(this.living(&[], Pid::from_raw(0)).len() > 1, "its monitors are not seen");
        this
    }

    /// Whatever torpords with these ids have started and is there still: what is in their sessions, and VMs of theirs that are not those of `now`.
    pub(super) fn living(&self, former: &[Pid], now: Pid) -> Vec<String> {
        let group = self.groups[0].file_name().expect("a name").to_string_lossy().into_owned();
        let in_it = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(&group));
        let theirs = |pid: &i32| {
            stat(*pid).is_some_and(|(state, parent, session)| {
                let of_now = [*pid, parent].contains(&now.as_raw());
                state != 'Z' && (former.contains(&Pid::from_raw(session)) || !of_now && in_it(*pid))
            })
        };
        processes().filter(theirs).map(said).collect()
    }

    /// All is as it was, while it runs and after its end.
    pub(super) fn nothing_more(&self, daemon: &mut Daemon, mut sessions: Vec<Pid>) {
        let former = self.living(&sessions, daemon.pid());
        assert!(former.is_empty(), "of torpords that were killed: {former:#?}");
        sessions.push(daemon.pid());
        let monitors = daemon.monitors().len();
        for group in &self.groups {
            assert!(vms(group) <= monitors, "{} groups of {monitors} VMs in {}", vms(group), group.display());
        }
        assert_eq!(daemon.get("/v1/host").expect(200)["parked_bytes"], 0);
        let logs: Vec<String> = ids(daemon).iter().map(|id| format!("{id}.jsonl")).collect();
        daemon.signal(Signal::SIGTERM);
        daemon.wait(Duration::from_secs(60));
        assert_no_orphans();
        self.no_process(&sessions, daemon.folder());
        self.no_file(daemon, &logs);
        let errors = daemon.log();
        let errors: Vec<_> = errors.lines().filter(|line| line.contains(" ERROR ")).take(20).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    fn no_process(&self, sessions: &[Pid], folder: &Path) {
        let (temporary, folder) = (self.temporary.to_str().expect("UTF-8"), folder.to_str().expect("UTF-8"));
        let left = [self.living(sessions, Pid::from_raw(0)), marked(temporary)].concat();
        assert!(left.is_empty(), "processes: {left:#?}");
        let mounts = [mounts(folder), mounts(temporary)].concat();
        assert!(mounts.is_empty(), "{mounts:#?}");
        for group in &self.groups {
            assert!(!group.exists(), "{} is left", group.display());
        }
    }

    /// Neither in its own folders nor elsewhere; a socket is a file as well.
    fn no_file(&self, daemon: &Daemon, logs: &[String]) {
        let state = daemon.state();
        assert_eq!(names(&state.join("parked")), Vec::<String>::new());
        assert_eq!(names(&state.join("tmp")), Vec::<String>::new());
        assert_eq!(names(&state.join("code")), self.code);
        let made: Vec<_> = names(&state.join("templates")).into_iter().filter(|name| !self.templates.contains(name)).collect();
        assert!(made.is_empty(), "templates of nobody: {made:?}");
        let foreign: Vec<_> = names(&state.join("logs")).into_iter().filter(|log| !logs.contains(log)).collect();
        assert!(foreign.is_empty(), "logs of nobody: {foreign:?}");
        let kept = ["code", "lock", "logs", "parked", "templates", "tmp", "torpor.db", "torpor.db-shm", "torpor.db-wal", "torpor.reserve"];
        let more: Vec<_> = names(&state).into_iter().filter(|name| !kept.contains(&name.as_str())).collect();
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(names(daemon.folder()), ["state", "torpord.log"], "sockets");
        assert_eq!(names(&self.temporary), Vec::<String>::new());
        let more: Vec<_> = shared().difference(&self.shared).cloned().collect();
        assert!(more.is_empty(), "{more:?}");
        let sockets = fs::read_to_string("/proc/net/unix").expect("sockets");
        let ours: Vec<_> = sockets.lines().filter(|line| line.contains(daemon.folder().to_str().expect("UTF-8"))).collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
}
