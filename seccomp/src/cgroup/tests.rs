#![allow(clippy::unwrap_used)]
use super::*;

/// Plain folders stand in for hierarchies: what is written where is what counts, the kernel's part is tested with real ones.
fn fake(name: &str) -> (tempfile::TempDir, Arc<Cgroups>) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    for folder in ["m/own", "u/own"] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::write(dir.path().join("u/own/cgroup.controllers"), "cpu pids io\n").unwrap();
    let mounts = format!("1 1 0:1 / {at}/m rw - cgroup cgroup rw,memory\n2 1 0:2 / {at}/u rw - cgroup2 cgroup2 rw\n");
    let cgroups = Cgroups::open_in(name, true, &mounts, "3:memory:/own\n0::/own\n").unwrap();
    (dir, cgroups)
}

#[test]
fn limits_are_written_as_each_version_wants_them() {
    let (dir, cgroups) = fake("t");
    let group = cgroups.make().unwrap();
    group.limits(5 << 20, Some(250), 7).unwrap();
    group.add(42).unwrap();
    let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
    assert_eq!(read("m/own/t/vm-1/memory.limit_in_bytes"), "5242880");
    assert_eq!((read("u/own/t/vm-1/cpu.max"), read("u/own/t/vm-1/pids.max")), ("25000 100000".into(), "7".into()));
    assert_eq!((read("m/own/t/vm-1/cgroup.procs"), read("u/own/t/vm-1/cgroup.procs")), ("42".into(), "42".into()));
    assert_eq!(read("u/own/cgroup.subtree_control"), "+pids");
}

#[test]
fn what_is_missing_says_why_and_can_be_required() {
    let states = |required| Cgroups::open_in("t", required, "", "0::/own");
    let cgroups = states(false).unwrap();
    assert!(cgroups.states().iter().all(|(_, state)| matches!(state, State::Missing(why) if why.contains("mounted"))));
    assert!(cgroups.make().unwrap().folders.is_empty());
    let error = states(true).unwrap_err().to_string();
    assert!(error.contains("--require-cgroups") && error.contains("memory") && error.contains("pids"), "{error}");
}

#[test]
fn what_has_the_name_after_a_close_is_anothers() {
    let (dir, first) = fake("t");
    let late = first.make().unwrap();
    first.close();
    let folder = dir.path().join("m/own/t/vm-1");
    fs::create_dir_all(&folder).unwrap();
    drop(late);
    first.close();
    drop(first);
    assert!(folder.exists());
}
