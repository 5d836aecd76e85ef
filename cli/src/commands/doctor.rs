//! `doctor`: looks at everything that an execution needs on this host, and says what to do about what is missing. It works without a daemon;
//! with one, the daemon's own word about its kernel, images and state folder counts.

use crate::args::DoctorArgs;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{Output, size, table};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const KVM: &str = "/dev/kvm";
/// Below this a few task templates fill the disk.
const LOW_DISK: u64 = 2 << 30;
/// Below this not even a handful of VMs fit.
const LOW_MEMORY: u64 = 512 << 20;
/// A VM takes about ten descriptors of the daemon.
const LOW_FILES: u64 = 1024;
/// A monitor maps its VM's memory in a few hundred pieces at most.
const LOW_MAPS: u64 = 65_530;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Works, but someone should know.
    Note,
    /// Executions can't run.
    Wrong,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Wrong => "WRONG",
        }
    }
}

#[derive(Debug)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    todo: Option<String>,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Ok, found: found.into(), todo: None }
    }

    fn not(verdict: Verdict, what: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { what, verdict, found: found.into(), todo: Some(todo.into()) }
    }
}

pub(super) async fn doctor(client: &Client, output: Output, args: DoctorArgs) -> Result<(), CliError> {
    let host = client.get::<Value>("/v1/host").await;
    let told = host.as_ref().ok().map(|reply| &reply.value);
    let path_of = |field: &str| told.and_then(|host| host.get(field)).and_then(path_in);
    let kernel = path_of("kernel").unwrap_or(args.kernel);
    let images = path_of("images").unwrap_or(args.images);
    let state_dir = path_of("state_dir").unwrap_or(args.state_dir);

    // Of another host only what it tells is known.
    let mut checks: Vec<Check> = told.and_then(kvm_told).into_iter().filter(|_| client.is_remote()).collect();
    if client.is_remote() {
        checks.extend(told.map(sandbox).unwrap_or_default());
        checks.push(daemon(client, &host));
    } else {
        checks =
            vec![told.and_then(kvm_told).unwrap_or_else(kvm), processor(), file("kernel", &kernel, "--kernel", "scripts/build-kernel")];
        checks.extend(image_checks(&images));
        checks.extend(told.map(sandbox).unwrap_or_default());
        checks.extend([disk(&state_dir), memory(), files(), maps(), daemon(client, &host)]);
    }

    let wrong = checks.iter().any(|check| check.verdict == Verdict::Wrong);
    if output.wants_json() {
        let list: Vec<Value> = checks.iter().map(as_json).collect();
        output.json(&json!({"ok": !wrong, "checks": list, "host": told}).to_string())?;
    } else {
        let row = |check: &Check| vec![check.verdict.name().to_owned(), check.what.to_owned(), check.found.clone()];
        output.line(&table(&["", "CHECK", "FOUND"], &checks.iter().map(row).collect::<Vec<_>>()))?;
        for check in &checks {
            if let Some(todo) = &check.todo {
                output.line(&format!("{}: {todo}", check.what))?;
            }
        }
    }
    if wrong { Err(CliError::Failed) } else { Ok(()) }
}

fn as_json(check: &Check) -> Value {
    json!({"check": check.what, "verdict": check.verdict.name().to_lowercase(), "found": check.found, "todo": check.todo})
}

/// A path, or an object with one.
fn path_in(value: &Value) -> Option<PathBuf> {
    value.as_str().or_else(|| value.get("path").and_then(Value::as_str)).map(PathBuf::from)
}

/// KVM as the daemon has it: it is the daemon that opens the device, whoever asks. None where it does not say.
fn kvm_told(host: &Value) -> Option<Check> {
    let told = host.get("kvm")?;
    let device = told.get("device").and_then(Value::as_str).unwrap_or(KVM);
    if told.get("usable")?.as_bool()? {
        return Some(Check::ok("kvm", format!("torpord can open {device}")));
    }
    let own = kvm();
    let found = format!("torpord can't open {device}");
    Some(match own.verdict {
        Verdict::Ok => {
            Check::not(Verdict::Wrong, "kvm", found, "this user can: put torpord's user into the group that owns it, then restart torpord")
        }
        _ => Check { found, ..own },
    })
}

fn kvm() -> Check {
    let what = "kvm";
    match OpenOptions::new().read(true).write(true).open(KVM) {
        Ok(_) => Check::ok(what, format!("{KVM} can be opened")),
        Err(error) => {
            let todo = match error.kind() {
                ErrorKind::NotFound => {
                    "load the module: `modprobe kvm_intel`, `kvm_amd` or `kvm_pvm`; in a VM, its host must allow nested virtualization or offer PVM"
                }
                ErrorKind::PermissionDenied => "add the user to the group that owns it: `usermod -aG kvm USER`, then log in again",
                _ => "see `dmesg | grep -i kvm`",
            };
            Check::not(Verdict::Wrong, what, format!("{KVM}: {error}"), todo)
        }
    }
}

/// Layers of the sandbox of VMs, as the daemon has found them on this host. A host may lack some: VMs run, less apart from it and from each other.
fn sandbox(host: &Value) -> Vec<Check> {
    const LAYERS: [&str; 7] = ["user ids", "user namespaces", "namespaces", "landlock", "cgroup memory", "cgroup cpu", "cgroup pids"];
    let text = |layer: &Value, field: &str| layer.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let check = |layer: &Value| {
        let name = text(layer, "layer");
        let what = LAYERS.into_iter().find(|known| *known == name).unwrap_or("sandbox");
        if text(layer, "status") == "on" {
            return Check::ok(what, text(layer, "detail"));
        }
        let todo = "VMs run without this layer of their sandbox; docs/sandbox.md says what it holds off";
        Check::not(Verdict::Note, what, format!("missing: {}", text(layer, "detail")), todo)
    };
    host.get("sandbox").and_then(Value::as_array).into_iter().flatten().map(check).collect()
}

fn processor() -> Check {
    let what = "processor";
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    match ["vmx", "svm"].into_iter().find(|flag| flags.split_whitespace().any(|have| have == *flag)) {
        Some(flag) => Check::ok(what, format!("hardware virtualization ({flag})")),
        None => Check::not(
            Verdict::Note,
            what,
            "no hardware virtualization",
            "works where /dev/kvm does without it (kvm_pvm); programs run at full speed, their system calls are slow",
        ),
    }
}

fn file(what: &'static str, path: &Path, option: &str, maker: &str) -> Check {
    let todo = || format!("`{maker}` makes it and prints where it is; name that with {option}");
    match fs::File::open(path).and_then(|mut file| file.read(&mut [0; 1])) {
        Ok(1..) => Check::ok(what, path.display().to_string()),
        Ok(_) => Check::not(Verdict::Wrong, what, format!("{} is empty", path.display()), todo()),
        Err(error) => Check::not(Verdict::Wrong, what, format!("{}: {error}", path.display()), todo()),
    }
}

fn image_checks(images: &Path) -> [Check; 2] {
    let image = |what, name: &str, maker| file(what, &images.join(name), "--images", maker);
    [
        image("image python", "python.erofs", "scripts/build-rootfs python --out DIR"),
        image("image exec", "exec.erofs", "scripts/build-rootfs exec --out DIR"),
    ]
}

fn disk(state_dir: &Path) -> Check {
    let what = "disk";
    // A state folder that is not there yet will be made in the nearest parent that is.
    let Some(place) = state_dir.ancestors().find(|dir| dir.exists()) else {
        return Check::not(Verdict::Wrong, what, format!("no folder above {}", state_dir.display()), "name another with --state-dir");
    };
    match statvfs(place) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let found = format!("{} free at {}", size(free), state_dir.display());
            if free < LOW_DISK {
                let todo = "templates take up to a VM's memory for each task version: make room, or move the state folder (--state-dir)";
                Check::not(Verdict::Wrong, what, found, todo)
            } else {
                Check::ok(what, found)
            }
        }
        Err(error) => Check::not(Verdict::Wrong, what, format!("{}: {error}", place.display()), "look at the file system"),
    }
}

fn memory() -> Check {
    let what = "memory";
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = available.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    match kib {
        Some(kib) if kib * 1024 < LOW_MEMORY => {
            let found = format!("{} available", size(kib * 1024));
            Check::not(Verdict::Wrong, what, found, "free some: each VM may take its policy's memory (128 MiB by default)")
        }
        Some(kib) => Check::ok(what, format!("{} available", size(kib * 1024))),
        None => Check::not(Verdict::Note, what, "/proc/meminfo does not say", "mount /proc"),
    }
}

fn files() -> Check {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => files_of(soft, hard),
        Err(error) => Check::not(Verdict::Note, "open files", error.to_string(), "see `ulimit -n`"),
    }
}

fn files_of(soft: u64, hard: u64) -> Check {
    let what = "open files";
    if hard < LOW_FILES {
        let todo =
            format!("raise it for torpord: LimitNOFILE= in its unit, or `ulimit -n {LOW_FILES}` as root in the shell that starts it");
        return Check::not(Verdict::Wrong, what, format!("limit {hard}"), todo);
    }
    Check::ok(what, format!("limit {soft}, may be raised to {hard}"))
}

fn maps() -> Check {
    let what = "memory maps";
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse::<u64>().ok());
    match limit {
        Some(limit) if limit < LOW_MAPS => Check::not(
            Verdict::Wrong,
            what,
            format!("vm.max_map_count is {limit}"),
            "`sysctl vm.max_map_count=65530`, the kernel's default",
        ),
        Some(limit) => Check::ok(what, format!("vm.max_map_count is {limit}")),
        None => Check::not(Verdict::Note, what, "not known", "mount /proc"),
    }
}

fn daemon(client: &Client, host: &Result<crate::client::Reply<Value>, CliError>) -> Check {
    let what = "daemon";
    match host {
        Ok(reply) => {
            let version = reply.value.get("version").and_then(Value::as_str).unwrap_or("?");
            let count = |field: &str| reply.value.get(field).map_or_else(|| "?".to_owned(), Value::to_string);
            let bytes = |field: &str| reply.value.get(field).and_then(Value::as_u64).map_or_else(|| "?".to_owned(), size);
            // Only administrators are told of the host as a whole.
            let most = reply.value.get("parked_quota_bytes").map(|_| format!(", of {} at most", bytes("parked_quota_bytes")));
            let whose = reply.value.get("account").and_then(Value::as_str).filter(|_| most.is_none());
            let found = format!(
                "torpord {version}{}, {} running, {} queued, {} parked ({} on disk{})",
                whose.map(|account| format!(", account {account}")).unwrap_or_default(),
                count("running"),
                count("queued"),
                count("parked"),
                bytes("parked_bytes"),
                most.unwrap_or_default()
            );
            Check::ok(what, found)
        }
        Err(error) => {
            if matches!(error, CliError::Denied { .. }) {
                let todo = "run this as root, or join the group that owns the socket: `usermod -aG GROUP USER`, then log in again";
                return Check::not(Verdict::Wrong, what, error.to_string(), todo);
            }
            let todo = if client.is_remote() {
                "check the address, the token and the certificate; on that host torpord needs --listen".to_owned()
            } else {
                format!("start one: `torpord --socket {}`, or `systemctl start torpord`", client.place())
            };
            Check::not(Verdict::Wrong, what, error.to_string(), todo)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_daemon_has_the_word_about_kvm() {
        let told = |usable: bool| kvm_told(&json!({"kvm": {"device": "/dev/kvm", "usable": usable}})).unwrap();
        assert_eq!((told(true).verdict, told(true).found.as_str()), (Verdict::Ok, "torpord can open /dev/kvm"));
        let not = told(false);
        assert_eq!((not.verdict, not.found.as_str()), (Verdict::Wrong, "torpord can't open /dev/kvm"));
        assert!(not.todo.is_some());
        assert!(kvm_told(&json!({"version": "0.0.1"})).is_none());
    }

    #[test]
    fn what_the_host_lacks_for_the_sandbox_is_a_note() {
        let layer = |layer: &str, status: &str| json!({"layer": layer, "status": status, "detail": "so and so"});
        let checks = sandbox(&json!({"sandbox": [layer("landlock", "on"), layer("cgroup cpu", "missing")]}));
        assert_eq!(
            checks.iter().map(|check| (check.what, check.verdict)).collect::<Vec<_>>(),
            [("landlock", Verdict::Ok), ("cgroup cpu", Verdict::Note)]
        );
        assert!(checks[1].found.contains("so and so") && checks[1].todo.is_some());
        assert!(sandbox(&json!({})).is_empty());
    }

    #[test]
    fn few_open_files_are_raised_by_a_command_that_works() {
        assert_eq!(files_of(256, LOW_FILES).verdict, Verdict::Ok);
        let low = files_of(256, 512);
        assert!(low.verdict == Verdict::Wrong && low.todo.as_deref().is_some_and(|todo| todo.contains("`ulimit -n 1024`")), "{low:?}");
    }

    #[test]
    fn a_daemon_that_may_not_be_asked_is_not_started_again() {
        let client = Client::new("/x.sock".into());
        let check = daemon(&client, &Err(CliError::Denied { socket: "/x.sock".into() }));
        assert!(check.verdict == Verdict::Wrong && !check.todo.unwrap().contains("start one"));
    }
}
