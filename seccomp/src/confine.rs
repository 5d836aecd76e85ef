//! What a monitor does to itself before it reads anything of the outside: an empty root, no capabilities, Landlock, limits.
//!
//! ```text
//! started in its namespaces, holding capabilities there --enter()--> empty root, nothing held, nothing to be had --narrow()--> few system calls
//! ```
//! Invariant: after [`enter`] every layer of the [`Plan`] holds for the calling thread and for all that it starts; where one does not, it says so and the
//! process must end. The plan comes from who started the process and knows the host; nothing is left out in silence.

use crate::error::SandboxError;
use caps::CapSet;
use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{chdir, pivot_root, sethostname};
use std::fmt;
use std::str::FromStr;

/// Open files of a monitor: control socket, KVM, disks, snapshot, and room for those of one command.
const OPEN_FILES: u64 = 64;
/// Tasks of a monitor's user: two threads, and those that KVM starts for a VM.
const TASKS: u64 = 8;
/// Address space: the largest guest, mapped twice while it is laid out anew, and the monitor itself.
const ADDRESS_SPACE: u64 = 6 << 30;
/// The largest file that a monitor writes: the largest guest's memory and what belongs to it.
const FILE_SIZE: u64 = 4 << 30;

/// Layers that a monitor has to reach beside those that every host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// It has mount, host name and other namespaces of its own: an empty root is to be had.
    pub own_root: bool,
    /// Nobody else runs under its user: what the kernel counts per user can be limited.
    pub own_user: bool,
    /// The host's kernel has Landlock.
    pub landlock: bool,
}

impl Plan {
    const NAMES: [&str; 3] = ["root", "user", "landlock"];

    const fn flags(self) -> [bool; 3] {
        [self.own_root, self.own_user, self.landlock]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Self::NAMES.into_iter().zip(self.flags()).filter_map(|(name, on)| on.then_some(name)).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(","))
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut plan = Self::default();
        for name in text.split(',').filter(|name| *name != "none") {
            match name {
                "root" => plan.own_root = true,
                "user" => plan.own_user = true,
                "landlock" => plan.landlock = true,
                other => return Err(format!("{other:?} is no layer; there are {}", Self::NAMES.join(", "))),
            }
        }
        Ok(plan)
    }
}

/// Locks the calling thread in, for good. To be called while it is the only one of its process.
pub fn enter(plan: Plan) -> Result<(), SandboxError> {
    let step = SandboxError::step;
    if plan.own_root {
        no_more_namespaces();
        empty_root()?;
        sethostname("vm").map_err(step("the host name"))?;
    }
    prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    if plan.landlock {
        landlock()?;
    }
    limits(plan)?;
    no_capabilities()?;
    prctl::set_dumpable(false).map_err(step("not dumpable"))?;
    // Last: a change of capabilities takes it back. Who started this process holds the other end of its control socket: without it there is no VM.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("the parent's death signal"))
}

/// Nobody in this process's user namespace makes another one, in which it would hold capabilities again. Where /proc/sys is read-only, as under a unit with
/// `ProtectKernelTunables=`, this fails, and the filter alone forbids it. Where the namespace is not its own (it maps more than one id), it is left as it is.
fn no_more_namespaces() {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().collect::<Vec<_>>().get(2..) == Some(&["1"]) {
        let _ = std::fs::write("/proc/sys/user/max_user_namespaces", "0");
    }
}

/// Makes an empty read-only file system the root, and lets go of the old one.
fn empty_root() -> Result<(), SandboxError> {
    const NOTHING: Option<&str> = None;
    let step = SandboxError::step;
    let bare = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING).map_err(step("keeping mounts to itself"))?;
    // Any folder serves as the place: /proc is there, the page map was read from it.
    mount(Some("none"), "/proc", Some("tmpfs"), bare, Some("size=4k,nr_inodes=1,mode=555")).map_err(step("an empty file system"))?;
    chdir("/proc").map_err(step("going to the empty root"))?;
    // The old root comes to lie above the new one, at the same place, and is taken away from there.
    pivot_root(".", ".").map_err(step("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("letting go of the host's root"))?;
    chdir("/").map_err(step("going to the empty root"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | bare;
    mount(NOTHING, "/", NOTHING, read_only, NOTHING).map_err(step("making the root read-only"))
}

/// Denies every access to files, network and processes outside that the kernel's Landlock knows of: newer kernels know of more. What was opened before, or
/// comes as a descriptor, stays usable.
fn landlock() -> Result<(), SandboxError> {
    const NEWEST: ABI = ABI::V6;
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    let restrict = || {
        let ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?.handle_access(AccessNet::from_all(NEWEST))?;
        ruleset.scope(Scope::from_all(NEWEST))?.create()?.restrict_self()
    };
    let status = restrict().map_err(|error| SandboxError::Landlock(error.to_string()))?;
    match status.ruleset {
        RulesetStatus::NotEnforced => {
            Err(SandboxError::Landlock("the kernel had it when torpord started and does not enforce it now".into()))
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

fn limits(plan: Plan) -> Result<(), SandboxError> {
    let all = [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, OPEN_FILES),
        (Resource::RLIMIT_AS, ADDRESS_SPACE),
        (Resource::RLIMIT_FSIZE, FILE_SIZE),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_RTPRIO, 0),
    ];
    // Counted per user: of a user that others run under too, the count says nothing about this process.
    let own = plan.own_user.then_some((Resource::RLIMIT_NPROC, TASKS));
    for (resource, limit) in all.into_iter().chain(own) {
        setrlimit(resource, limit, limit).map_err(SandboxError::step("limits"))?;
    }
    Ok(())
}

/// Gives up all capabilities, in every set, and every way to get some again.
fn no_capabilities() -> Result<(), SandboxError> {
    let failed = |step: &'static str| move |error: caps::errors::CapsError| SandboxError::step(step)(std::io::Error::other(error));
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).map_err(failed("reading capabilities"))? {
        caps::clear(None, CapSet::Bounding).map_err(failed("the bounding set"))?;
        secure_bits()?;
    }
    caps::clear(None, CapSet::Ambient).map_err(failed("the ambient set"))?;
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        caps::clear(None, set).map_err(failed("dropping capabilities"))?;
    }
    Ok(())
}

/// User id 0 is no more than any other, for good.
fn secure_bits() -> Result<(), SandboxError> {
    const ALL_LOCKED: libc::c_ulong = (libc::SECBIT_NOROOT
        | libc::SECBIT_NOROOT_LOCKED
        | libc::SECBIT_NO_SETUID_FIXUP
        | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
        | libc::SECBIT_KEEP_CAPS_LOCKED
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE
        | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED)
        .cast_unsigned() as libc::c_ulong;
    // SAFETY: takes a number, touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_SECUREBITS, ALL_LOCKED, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(SandboxError::step("secure bits")(std::io::Error::last_os_error())),
    }
}
