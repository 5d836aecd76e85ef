//! What a host offers for the sandbox: each layer by itself, found out by trying, and said where people look.

use crate::cgroup::{Cgroups, State};
use crate::launch::{Launcher, Namespaces};
use serde::Serialize;

/// Whether a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// For every VM.
    On,
    /// The host lacks what it takes.
    Missing,
}

/// A layer of the sandbox on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Its name.
    pub layer: &'static str,
    /// Whether it holds.
    pub status: Status,
    /// How; or what is missing, and what to do.
    pub detail: String,
}

/// Version of the kernel's Landlock, 0 for none.
#[must_use]
pub fn landlock_version() -> i64 {
    const VERSION: libc::c_int = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asks for the version: with this flag the kernel takes no attributes, and their pointer is null.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) }.max(0)
}

pub(crate) fn has_landlock() -> bool {
    landlock_version() > 0
}

/// All layers that a host may lack. The others, seccomp among them, hold wherever a monitor runs.
#[must_use]
pub fn layers(launcher: &Launcher, cgroups: &Cgroups) -> Vec<Layer> {
    let layer = |layer, on: bool, detail: String| Layer { layer, status: if on { Status::On } else { Status::Missing }, detail };
    let mut layers = Vec::new();
    layers.push(match &launcher.uids {
        Some(uids) => layer("user ids", true, format!("each VM one of {}", uids.range())),
        None => {
            layer("user ids", false, "torpord may not change ids: all VMs run as its own user; start it as root for one user each".into())
        }
    });
    let why = || launcher.lacking.clone().unwrap_or_else(|| "not tried".into());
    let namespaces = launcher.namespaces;
    layers.push(if namespaces == Namespaces::All {
        layer("user namespaces", true, "each VM one".into())
    } else {
        layer("user namespaces", false, format!("{}; see user.max_user_namespaces and what restricts it", why()))
    });
    layers.push(if namespaces == Namespaces::None {
        layer("namespaces", false, format!("no mount, process, network, IPC and host name of its own, no empty root: {}", why()))
    } else {
        layer("namespaces", true, "mount (an empty root), process, network, IPC, host name".into())
    });
    let version = landlock_version();
    layers.push(if version > 0 {
        layer("landlock", true, format!("version {version}"))
    } else {
        layer("landlock", false, "the kernel has none: it needs Linux 5.13, CONFIG_SECURITY_LANDLOCK and lsm=landlock,...".into())
    });
    layers.extend(cgroups.states().iter().map(|(controller, state)| {
        let name = match controller.name() {
            "memory" => "cgroup memory",
            "cpu" => "cgroup cpu",
            _ => "cgroup pids",
        };
        match state {
            State::V1(folder) => layer(name, true, format!("version 1, {}", folder.display())),
            State::V2(folder) => layer(name, true, format!("version 2, {}", folder.display())),
            State::Missing(why) => layer(name, false, why.clone()),
        }
    }));
    layers
}

/// Whether this process may run others under each of these ids.
#[must_use]
pub fn may_use_ids(range: crate::uids::Range) -> bool {
    let holds = |cap| caps::has_cap(None, caps::CapSet::Effective, cap).unwrap_or(false);
    let mapped = |file: &str| {
        let map = std::fs::read_to_string(file).unwrap_or_default();
        map.lines().any(|line| covers(line, range))
    };
    let changes = holds(caps::Capability::CAP_SETUID) && holds(caps::Capability::CAP_SETGID);
    changes && mapped("/proc/self/uid_map") && mapped("/proc/self/gid_map")
}

/// Whether a line of a map of ids holds the whole range.
fn covers(line: &str, range: crate::uids::Range) -> bool {
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) = (numbers.next(), numbers.next(), numbers.next()) else { return false };
    first <= u64::from(range.first) && first + count >= u64::from(range.first) + u64::from(range.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uids::Range;

    #[test]
    fn ids_have_to_be_mapped() {
        assert!(covers("         0          0 4294967295", Range::DEFAULT));
        assert!(!covers("0 100000 65536", Range::DEFAULT) && !covers("", Range::DEFAULT));
    }
}
