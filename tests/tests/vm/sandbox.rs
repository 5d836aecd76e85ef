//! What a monitor is locked into: looked at from outside while VMs run, and tried from inside by a monitor that turns on its host.

mod recorded;
mod unprivileged;

use nix::unistd::Pid;
use recorded::every_allowed_call_is_used;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::{Test, process, setup, tests, until};
use unprivileged::an_unprivileged_torpord_runs_a_task;

pub(crate) const TESTS: &[Test] = tests![
    each_monitor_is_alone,
    denied_calls_end_a_monitor,
    every_layer_holds_without_the_filter,
    rare_calls_are_allowed,
    limits_and_leftovers,
    missing_controllers_are_said_and_can_be_required,
    every_allowed_call_is_used,
    an_unprivileged_torpord_runs_a_task,
];

/// The part of a `/proc/PID/status` after a name.
fn status(pid: Pid, name: &str) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

fn namespaces(pid: Pid) -> Vec<String> {
    let link = |name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_else(|error| panic!("{pid} {name}: {error}"));
    ["user", "mnt", "pid", "net", "ipc", "uts"].map(|name| link(name).display().to_string()).to_vec()
}

/// Monitors that have locked themselves in: warm ones are among them from their start on.
fn locked_in(daemon: &Daemon, at_least: usize) -> Vec<Pid> {
    until("monitors that are locked in", Duration::from_secs(30), || {
        let monitors: Vec<_> = daemon.monitors().into_iter().filter(|pid| status(*pid, "Seccomp") == ["2"]).collect();
        (monitors.len() >= at_least).then_some(monitors)
    })
}

/// Own user, own namespaces, an empty root, no capability, no new privileges, a filter on each thread.
fn each_monitor_is_alone() {
    let daemon = shared();
    let ids: Vec<_> = (0..2).map(|_| daemon.submit("shell", &json!("sleep 5; echo 1"))).collect();
    ids.iter().for_each(|id| drop(daemon.wait_for(id, "running")));
    let monitors = locked_in(&daemon, 3);
    let host = namespaces(daemon.pid());
    let (mut users, mut seen) = (BTreeSet::new(), BTreeSet::new());
    let mut looked_at = 0;
    for pid in &monitors {
        let Some(found) = look(*pid) else { continue };
        looked_at += 1;
        assert!(users.insert(found.user), "two live VMs are of user {}", found.user);
        assert!((2_000_000_000..2_000_065_536).contains(&found.user), "{}", found.user);
        assert!(found.namespaces.iter().zip(&host).all(|(own, hosts)| own != hosts), "{:?} and the host's {host:?}", found.namespaces);
        assert!(found.namespaces.into_iter().all(|name| seen.insert(name)), "two live VMs share a namespace");
    }
    assert!(looked_at >= 2, "all of {monitors:?} ended while they were looked at");
    ids.iter().for_each(|id| assert_eq!(daemon.wait_for_end(id)["state"], "succeeded"));
    for layer in daemon.get("/v1/host").expect(200)["sandbox"].as_array().unwrap() {
        assert_eq!(layer["status"], "on", "{layer}");
    }
}

struct Found {
    user: u32,
    namespaces: Vec<String>,
}

/// What there is to see of a monitor; none where it ended meanwhile.
fn look(pid: Pid) -> Option<Found> {
    let (uids, gids, groups) = (status(pid, "Uid"), status(pid, "Gid"), status(pid, "Groups"));
    let caps = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| status(pid, set));
    let root = fs::read_dir(format!("/proc/{pid}/root")).ok()?.count();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let names = ["user", "mnt", "pid", "net", "ipc", "uts"].map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok());
    let threads: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten().collect();
    let thread = |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("status")).ok();
    let threads: Option<Vec<String>> = threads.iter().map(thread).collect();
    let (threads, limits) = (threads?, fs::read_to_string(format!("/proc/{pid}/limits")).ok()?);
    let namespaces: Option<Vec<_>> = names.into_iter().map(|name| name.map(|name| name.display().to_string())).collect();
    let namespaces = namespaces?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    if mounts.is_empty() || uids.is_empty() || limits.is_empty() {
        return None;
    }
    let one = |ids: &[String]| ids.iter().collect::<BTreeSet<_>>().len() == 1;
    assert!(one(&uids) && uids[0] == gids[0] && one(&gids) && groups.is_empty(), "{uids:?} {gids:?} {groups:?}");
    assert!(caps.iter().all(|set| set == &["0000000000000000"]), "{caps:?}");
    assert_eq!(root, 0, "its root is not empty");
    assert!(mounts.lines().count() == 1 && mounts.contains(" ro,") && mounts.contains("tmpfs"), "{mounts}");
    assert!(descriptors < 24, "{descriptors} descriptors");
    for text in threads.iter().filter(|text| !text.contains("kvm-nx") && !text.contains("vhost-")) {
        let has = |line: &str| text.lines().any(|own| own.replace('\t', " ") == line);
        assert!(has("NoNewPrivs: 1") && has("Seccomp: 2") && has("Seccomp_filters: 1"), "{text}");
    }
    assert!(limits.lines().any(|line| line.starts_with("Max open files") && line.contains(" 64 ")), "{limits}");
    Some(Found { user: uids[0].parse().unwrap(), namespaces })
}

/// Lines `ROLE ATTEMPT: OUTCOME` of a run of the hostile monitor.
fn hostile(what: &str) -> Vec<(String, String)> {
    let output = Command::new(setup::hostile()).arg(what).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text.lines().map(|line| line.rsplit_once(": ").unwrap()).map(|(what, how)| (what.to_owned(), how.to_owned())).collect()
}

fn of_role<'a>(lines: &'a [(String, String)], role: &str) -> Vec<&'a (String, String)> {
    lines.iter().filter(|(what, _)| what.starts_with(role)).collect()
}

/// Each of some ninety system calls, in either role, ends the process by SIGSYS once the role's filter is on, and not before.
fn denied_calls_end_a_monitor() {
    let lines = hostile("denied");
    for role in ["event_loop", "vcpu"] {
        let of_role = of_role(&lines, role);
        assert!(of_role.len() >= 80, "{} calls were tried by {role}", of_role.len());
        let wrong: Vec<_> = of_role.iter().filter(|(_, how)| how != "locked in, SIGSYS").collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Without a filter, the other layers hold by themselves.
fn every_layer_holds_without_the_filter() {
    let lines = hostile("layers");
    for role in ["event_loop", "vcpu"] {
        let of_role = of_role(&lines, role);
        assert!(of_role.len() >= 25, "{} attempts by {role}", of_role.len());
        let holds = |how: &str| how.starts_with("locked in, failed with ") && how.ends_with(", exit 0") && !how.contains("failed with 38");
        let wrong: Vec<_> = of_role.iter().filter(|(_, how)| !holds(how)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// What the policies call rare is allowed, and a panic ends as one.
fn rare_calls_are_allowed() {
    let lines = hostile("rare");
    let tried: BTreeSet<_> = lines.iter().map(|(what, _)| what.clone()).filter(|what| !what.ends_with("a panic")).collect();
    assert_eq!(tried, recorded::rare());
    for (what, how) in &lines {
        assert!(how.starts_with("locked in, ") && !how.contains("SIGSYS") && !how.contains("signal"), "{what}: {how}");
    }
}

/// How a check of `torpor doctor` comes out.
fn doctor(daemon: &Daemon, check: &str) -> String {
    let told = daemon.cli(&["doctor"]).json();
    let checks = told["checks"].as_array().unwrap();
    let check = checks.iter().find(|known| known["check"] == check).unwrap_or_else(|| panic!("no {check} in {told:#}"));
    check["verdict"].as_str().unwrap().to_owned()
}

/// The folders of a monitor's control groups.
fn groups(pid: Pid) -> Vec<(String, PathBuf)> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut groups = Vec::new();
    for line in own.lines().filter(|line| line.contains("/torpor-")) {
        let parts: Vec<_> = line.splitn(3, ':').collect();
        let kind = if parts[1].is_empty() { "cgroup2" } else { "cgroup" };
        let is_it = |mount: &&str| {
            let (_, what) = mount.split_once(" - ").unwrap();
            what.starts_with(&format!("{kind} ")) && (parts[1].is_empty() || what.ends_with(&format!(",{}", parts[1])))
        };
        let mount = mounts.lines().find(is_it).unwrap_or_else(|| panic!("{line} is of no mount:\n{mounts}"));
        let at = mount.split(' ').nth(4).unwrap();
        groups.push((parts[1].to_owned(), Path::new(at).join(parts[2].trim_start_matches('/'))));
    }
    groups
}

fn first_number(folder: &Path, files: [&str; 2]) -> Option<u64> {
    files.into_iter().find_map(|file| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok())
}

/// Each monitor is in a group of its own that limits it; those of a killed torpord are gone after the next start, all of them after an orderly end.
fn limits_and_leftovers() {
    let mut daemon = Daemon::start(Options { arguments: vec!["--require-cgroups".into()], ..Options::default() });
    let monitors = locked_in(&daemon, 2);
    let all: Vec<_> = monitors.iter().map(|pid| groups(*pid)).collect();
    let mut folders = BTreeSet::new();
    for groups in &all {
        let paths: BTreeSet<_> = groups.iter().map(|(_, folder)| folder.clone()).collect();
        let read = |files| paths.iter().find_map(|folder| first_number(folder, files));
        let memory = read(["memory.limit_in_bytes", "memory.max"]).expect("a limit of memory");
        assert!((128 << 20..1 << 30).contains(&memory), "{memory}");
        assert_eq!(read(["pids.max", "pids.max"]), Some(16));
        assert!(paths.iter().any(|folder| folder.join("cpu.cfs_quota_us").exists() || folder.join("cpu.max").exists()), "{paths:?}");
        assert!(paths.into_iter().all(|folder| folders.insert(folder)), "two monitors share a group");
    }
    daemon.kill();
    assert!(folders.iter().all(|folder| folder.exists()), "a killed torpord leaves them");
    process::assert_no_orphans();
    daemon.start_again();
    let parents: BTreeSet<_> = folders.iter().map(|folder| folder.parent().unwrap().to_owned()).collect();
    let living = |parent: &PathBuf| {
        let entries = fs::read_dir(parent).unwrap().flatten().filter(|entry| entry.path().is_dir());
        entries.filter(|entry| fs::read_to_string(entry.path().join("cgroup.procs")).is_ok_and(|text| text.is_empty())).count()
    };
    until("no group without a process", Duration::from_secs(10), || parents.iter().all(|parent| living(parent) <= 1).then_some(()));
    drop(daemon);
    assert!(parents.iter().all(|parent| !parent.exists()), "an orderly end leaves {parents:?}");
}

/// Where controllers are hidden, the daemon says so, to whoever asks, and does not start if they are required.
fn missing_controllers_are_said_and_can_be_required() {
    let hide = "mount --make-rprivate / && umount -R -l /sys/fs/cgroup && exec \"$@\"";
    let wrapper: Vec<_> = ["unshare", "--mount", "sh", "-c", hide, "sh"].map(str::to_owned).to_vec();
    let daemon = Daemon::start(Options { wrapper, ..Options::default() });
    let host = daemon.get("/v1/host").expect(200);
    let missing: Vec<&Value> = host["sandbox"].as_array().unwrap().iter().filter(|layer| layer["status"] == "missing").collect();
    assert_eq!(missing.iter().map(|layer| &layer["layer"]).collect::<Vec<_>>(), ["cgroup memory", "cgroup cpu", "cgroup pids"]);
    assert!(daemon.log().contains("this host has no cgroup memory"), "{}", daemon.log());
    assert_eq!(doctor(&daemon, "cgroup memory"), "note");
    assert_eq!(doctor(&daemon, "landlock"), "ok");
    drop(daemon);
    let wrapper: Vec<_> = ["unshare", "--mount", "sh", "-c", hide, "sh"].map(str::to_owned).to_vec();
    let refused = Daemon::unstarted(Options { wrapper, arguments: vec!["--require-cgroups".into()], ..Options::default() });
    let output = refused.command(&refused.socket()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--require-cgroups") && said.contains("memory"), "{said}");
}
