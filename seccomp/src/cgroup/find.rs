//! Where this process is in the host's control group hierarchies, from what the kernel says in `/proc/self`. Pure: text in, places out.

use std::path::{Path, PathBuf};

/// What limits a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Controller {
    /// Bytes.
    Memory,
    /// Time of processors.
    Cpu,
    /// Processes and threads.
    Pids,
}

impl Controller {
    /// All that VMs are limited by.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// The folder of this process's group in the version 1 hierarchy of a controller.
pub(super) fn v1(controller: Controller, mountinfo: &str, groups: &str) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|name| name == controller.name());
    let mount = mounts(mountinfo).find(|mount| mount.kind == "cgroup" && has(mount.options))?;
    let own = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        has(controllers).then_some(path)
    })?;
    Some(mount.folder(own))
}

/// The folder of this process's group in the version 2 hierarchy.
pub(super) fn v2(mountinfo: &str, groups: &str) -> Option<PathBuf> {
    let mount = mounts(mountinfo).find(|mount| mount.kind == "cgroup2")?;
    Some(mount.folder(groups.lines().find_map(|line| line.strip_prefix("0::"))?))
}

struct Mount<'a> {
    root: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    fn folder(&self, path: &str) -> PathBuf {
        // A mount may show a part of the hierarchy only.
        let below = Path::new(path).strip_prefix(self.root).or_else(|_| Path::new(path).strip_prefix("/")).unwrap_or(Path::new(""));
        Path::new(self.at).join(below)
    }
}

fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let (root, at) = (place.next()?, place.next()?);
        let mut what = what.split(' ');
        let (kind, options) = (what.next()?, what.nth(1)?);
        Some(Mount { root, at, kind, options })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
36 26 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
37 26 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
38 26 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
39 26 0:33 / /tmp rw - tmpfs tmpfs rw,size=1k";
    const GROUPS: &str = "5:cpu,cpuacct:/docker/abc/x\n4:memory:/a/b\n0::/system.slice/torpord.service";

    #[test]
    fn places_are_found_in_both_versions() {
        let v1 = |controller| v1(controller, MOUNTS, GROUPS);
        assert_eq!(v1(Controller::Memory), Some("/sys/fs/cgroup/memory/a/b".into()));
        assert_eq!(v1(Controller::Cpu), Some("/sys/fs/cgroup/cpu,cpuacct/x".into()));
        assert_eq!(v1(Controller::Pids), None);
        assert_eq!(v2(MOUNTS, GROUPS), Some("/sys/fs/cgroup/unified/system.slice/torpord.service".into()));
        assert_eq!(v2("", GROUPS), None);
    }
}
