//! Settings: flags, and the environment where a flag is not given.

use crate::accounts::Unmapped;
use crate::manifest;
use crate::secrets::key::KeyPlace;
use clap::{Parser, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use torpor_seccomp::uids::Range;

/// How the daemon writes its own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the memory of parked executions is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pack {
    /// As it is.
    None,
    /// Compressed where that takes less time.
    Fast,
    /// Compressed wherever it gets smaller.
    Small,
}

impl From<Pack> for crate::engine::Packing {
    fn from(pack: Pack) -> Self {
        match pack {
            Pack::None => Self::None,
            Pack::Fast => Self::Fast,
            Pack::Small => Self::Small,
        }
    }
}

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Removed this long after its end.
    For(Duration),
    /// Never removed.
    Forever,
}

/// Runs programs in microVMs, on demand.
#[derive(Debug, Clone, Parser)]
#[command(name = "torpord", version)]
pub struct Config {
    /// Folder of everything that outlives the daemon
    #[arg(long, env = "TORPOR_STATE_DIR", default_value = "/var/lib/torpor", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Unix socket of the control API
    #[arg(long, env = "TORPOR_SOCKET", default_value = "/run/torpor/torpord.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// Address and port where the control API is served to other hosts too, with TLS and to callers with a token, such as 0.0.0.0:7443 [default: nowhere]
    #[arg(long, env = "TORPOR_LISTEN", value_name = "ADDR:PORT", requires_all = ["tls_cert", "tls_key"])]
    pub listen: Option<SocketAddr>,
    /// Certificate of --listen and those above it, PEM; read again when it changes
    #[arg(long, env = "TORPOR_TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, PEM
    #[arg(long, env = "TORPOR_TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// What a user is that may open the socket and has no account: an owner of the account `default`, or refused
    #[arg(long, env = "TORPOR_UNMAPPED", default_value = "default", value_name = "WHAT")]
    pub unmapped: Unmapped,
    /// Guest kernel, an ELF vmlinux
    #[arg(long, env = "TORPOR_KERNEL", default_value = "/usr/lib/torpor/vmlinux", value_name = "PATH")]
    pub kernel: PathBuf,
    /// Folder of root disks: python.erofs, exec.erofs
    #[arg(long, env = "TORPOR_IMAGES", default_value = "/usr/lib/torpor/images", value_name = "DIR")]
    pub images: PathBuf,
    /// The monitor [default: torpor-vmm beside torpord]
    #[arg(long, env = "TORPOR_MONITOR", value_name = "PATH")]
    pub monitor: Option<PathBuf>,
    /// Memory that all VMs may take together, such as 4GiB [default: half of the host's]
    #[arg(long, env = "TORPOR_MEMORY_BUDGET", value_parser = size, value_name = "SIZE")]
    pub memory_budget: Option<u64>,
    /// Processors that the VMs that compute may take together, more than the host has: not all compute all the time [default: 8 for each of the host's]
    #[arg(long, env = "TORPOR_CPU_BUDGET", value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub cpu_budget: Option<u32>,
    /// Most VMs at once [default: what fits the memory budget]
    #[arg(long, env = "TORPOR_MAX_VMS", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub max_vms: Option<u32>,
    /// The host's policy: caps for all tasks, and the auxiliary services that they may use [default: /etc/torpor/policy.toml, where it is there]
    #[arg(long, env = "TORPOR_POLICY", value_name = "PATH")]
    pub policy: Option<PathBuf>,
    /// Master key of secrets: 32 bytes or 64 hexadecimal digits [default: the systemd credential secrets-key, or secrets.key in the state folder, made
    /// when the first secret is set]
    #[arg(long, env = "TORPOR_SECRETS_KEY", value_name = "PATH")]
    pub secrets_key: Option<PathBuf>,
    /// Monitors kept ready, each with a VM made
    #[arg(long, env = "TORPOR_WARM", default_value_t = 4, value_name = "N")]
    pub warm: usize,
    /// User ids that VMs run under, one each, where torpord may change ids; no account, container or `/etc/subuid` may have them
    #[arg(long, env = "TORPOR_VM_UIDS", default_value_t = Range::DEFAULT, value_name = "FIRST+COUNT")]
    pub vm_uids: Range,
    /// Do not start where a control group controller (memory, cpu, pids) can't be used for VMs
    #[arg(long, env = "TORPOR_REQUIRE_CGROUPS")]
    pub require_cgroups: bool,
    /// How long running executions may go on after SIGTERM
    #[arg(long, env = "TORPOR_DRAIN_TIMEOUT", default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    /// How long executions that ended are kept, with results and logs, such as 12h or 30d; `forever`: none is removed
    #[arg(long, env = "TORPOR_KEEP", default_value = "7d", value_parser = keep, value_name = "TIME")]
    pub keep: Keep,
    /// Disk that parked executions may take together; one that does not fit is not parked
    #[arg(long, env = "TORPOR_PARKED_QUOTA", default_value = "16GiB", value_parser = size, value_name = "SIZE")]
    pub parked_quota: u64,
    /// How the memory of parked executions is written: `fast` compresses where that saves time, `small` wherever it saves room, `none` not at all
    #[arg(long, env = "TORPOR_PARKED_PACKING", default_value = "fast", value_name = "HOW")]
    pub parked_packing: Pack,
    /// How to write the daemon's own log (to standard error)
    #[arg(long, env = "TORPOR_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

fn size(text: &str) -> Result<u64, String> {
    manifest::parse_bytes(text).ok_or_else(|| "a size is a whole number and a unit: 512MiB, 4GiB".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    let millis = manifest::parse_millis(text).ok_or("a time is a whole number and a unit: 500ms, 30s, 5m, 12h, 7d")?;
    Ok(Duration::from_millis(millis))
}

fn keep(text: &str) -> Result<Keep, String> {
    if text == "forever" { Ok(Keep::Forever) } else { duration(text).map(Keep::For) }
}

impl Config {
    /// The monitor's path.
    #[must_use]
    pub fn monitor(&self) -> PathBuf {
        self.monitor.clone().unwrap_or_else(|| {
            let own = std::env::current_exe().unwrap_or_default();
            own.with_file_name("torpor-vmm")
        })
    }

    /// The same with every path absolute, as monitors and messages need them.
    pub fn absolute(mut self) -> std::io::Result<Self> {
        self.monitor = Some(self.monitor());
        for path in [&mut self.state_dir, &mut self.socket, &mut self.kernel, &mut self.images]
            .into_iter()
            .chain(self.monitor.as_mut())
            .chain(self.policy.as_mut())
            .chain(self.secrets_key.as_mut())
            .chain(self.tls_cert.as_mut())
            .chain(self.tls_key.as_mut())
        {
            *path = std::path::absolute(&*path)?;
        }
        Ok(self)
    }

    /// Where the master key of secrets is.
    #[must_use]
    pub fn key_place(&self) -> KeyPlace {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        KeyPlace::find(credentials.as_deref(), self.secrets_key.as_deref(), &self.state_dir)
    }

    /// The budget of processors, in thousandths.
    #[must_use]
    pub fn cpu_permille(&self) -> u32 {
        let own = || std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)).saturating_mul(8);
        self.cpu_budget.unwrap_or_else(own).saturating_mul(1000)
    }

    /// The memory budget in bytes.
    pub fn budget(&self) -> std::io::Result<u64> {
        match self.memory_budget {
            Some(bytes) => Ok(bytes),
            None => Ok(host_memory()? / 2),
        }
    }
}

fn host_memory() -> std::io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| std::io::Error::other("/proc/meminfo has no MemTotal; give --memory-budget"))
}
