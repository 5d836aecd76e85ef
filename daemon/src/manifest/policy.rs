//! The figures of a policy: what a manifest declares, what caps make of it, and where each value comes from.
//!
//! ```text
//! Declared (torpor.toml) -- or the default -- narrowed by the host's and the account's Caps --> Policy
//! ```
//! Invariant: a [`Policy`] is never wider than any cap.

use super::ManifestError;
use super::reader::{Reader, Said};
use super::units;
use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use torpor_protocol::limits::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};

const MEMORY_DEFAULT_MIB: u32 = 128;
const TIMEOUT_DEFAULT_MS: u64 = 30_000;
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=24 * 3_600_000;
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1000..=366 * 86_400_000;
const RETRIES: std::ops::RangeInclusive<u32> = 0..=100;
/// Long enough for most of what passes by itself, short enough for whoever waits.
const BACKOFF_DEFAULT_MS: u64 = 1000;
const BACKOFF_MS: std::ops::RangeInclusive<u64> = 0..=24 * 3_600_000;
const BACKOFF_MAX_DEFAULT_MS: u64 = 300_000;
const LOG_CAP_DEFAULT: u64 = 1 << 20;
const LOG_CAP: std::ops::RangeInclusive<u64> = (4 << 10)..=(64 << 20);
const MAX_PARALLEL: std::ops::RangeInclusive<u32> = 1..=100_000;
const PRIORITY: std::ops::RangeInclusive<i32> = -10..=10;
/// A VM has one vCPU; less than a twentieth of a processor is no way to run a kernel.
const VCPUS_PERMILLE: std::ops::RangeInclusive<u32> = 50..=1000;

/// When an execution that waits is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Park {
    /// When that costs less than keeping its VM.
    #[default]
    Auto,
    /// At once.
    Always,
    /// Not at all: its VM stays, and the time counts as running time.
    Never,
}

impl Park {
    /// Its name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What executions share a VM, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// None do.
    #[default]
    Execution,
    /// Those of the same portion of the same task version, for the same account.
    Task,
}

impl Isolation {
    /// Its name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Execution => "execution",
            Self::Task => "task",
        }
    }
}

/// What becomes of the executions that an attempt has started, when another attempt follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Replay {
    /// Those that succeeded are not run again, as long as the new attempt makes the same calls with the same inputs: it gets their results.
    #[default]
    Results,
    /// All is run anew.
    None,
}

impl Replay {
    /// Its name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Results => "results",
            Self::None => "none",
        }
    }
}

/// The rules that an execution runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// RAM of the VM.
    pub memory_mib: u32,
    /// Share of one processor, in thousandths.
    pub vcpus_permille: u32,
    /// How long the program may run; time in which it waits does not count, except under [`Park::Never`].
    pub timeout_ms: u64,
    /// How long after its submission the execution must have ended, waits included.
    pub deadline_ms: Option<u64>,
    /// What happens while it waits.
    pub park: Park,
    /// How many times an execution that failed is run again, see [`crate::schedule`].
    pub retries: u32,
    /// How long the first of these waits; each further one twice as long as the one before, see [`crate::schedule::backoff`].
    pub backoff_ms: u64,
    /// The longest such wait.
    pub backoff_max_ms: u64,
    /// Most bytes of output that are kept.
    pub log_cap: u64,
    /// Most executions that have a VM at once; no limit of its own where there is none.
    pub max_parallel: Option<u32>,
    /// What executions share a VM.
    pub isolation: Isolation,
    /// Who goes first among those of one account that wait: the higher.
    pub priority: i32,
    /// What a further attempt gets of what an earlier one has called.
    pub replay: Replay,
}

impl Default for Policy {
    fn default() -> Self {
        Declared::default().resolve(&Caps::default(), &Caps::default()).policy
    }
}

/// What a manifest says of a policy's figures; what it leaves out has a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Declared {
    memory_mib: Option<Said<u32>>,
    vcpus_permille: Option<Said<u32>>,
    timeout_ms: Option<Said<u64>>,
    deadline_ms: Option<Said<u64>>,
    park: Option<Said<Park>>,
    retries: Option<Said<u32>>,
    log_cap: Option<Said<u64>>,
    max_parallel: Option<Said<u32>>,
    isolation: Option<Said<Isolation>>,
    priority: Option<Said<i32>>,
    replay: Option<Said<Replay>>,
    backoff_ms: Option<Said<u64>>,
    backoff_max_ms: Option<Said<u64>>,
}

/// Keys of figures, in manifests.
pub(super) const KEYS: [&str; 13] = [
    "memory",
    "vcpus",
    "timeout",
    "deadline",
    "park",
    "retries",
    "backoff",
    "backoff_max",
    "log_cap",
    "max_parallel",
    "isolation",
    "priority",
    "replay",
];

/// Limits that an administrator sets for the host or for an account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caps {
    memory_mib: Option<u32>,
    vcpus_permille: Option<u32>,
    timeout_ms: Option<u64>,
    deadline_ms: Option<u64>,
    retries: Option<u32>,
    log_cap: Option<u64>,
    max_parallel: Option<u32>,
    /// Auxiliary services that may be declared; none where it is not given for the host.
    pub(super) aux: Option<Vec<super::aux::Allowed>>,
    /// URLs that the ends of executions may be told to; none where it is not given for the host.
    pub(super) notify: Option<Vec<super::notify::AllowedUrl>>,
}

/// Where a value of a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A line of the manifest.
    Manifest(u32),
    /// Nobody says anything.
    Default,
    /// The host's cap, which is narrower than what this line of the manifest asks for, or than the default.
    Host(Option<u32>),
    /// The account's cap, likewise.
    Account(Option<u32>),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest(line) => write!(f, "{}:{line}", super::FILE),
            Self::Default => f.write_str("default"),
            Self::Host(Some(line)) => write!(f, "cap of the host, narrower than {}:{line}", super::FILE),
            Self::Account(Some(line)) => write!(f, "cap of the account, narrower than {}:{line}", super::FILE),
            Self::Host(None) => f.write_str("cap of the host"),
            Self::Account(None) => f.write_str("cap of the account"),
        }
    }
}

/// A policy and where each of its values comes from, in the order of [`KEYS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved {
    /// The policy.
    pub policy: Policy,
    sources: [Source; KEYS.len()],
}

impl Resolved {
    /// Key, value as a manifest would write it, and source of each figure.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String, Source)> {
        let policy = &self.policy;
        let values = [
            format!("{}MiB", policy.memory_mib),
            permille(policy.vcpus_permille),
            units::format_millis(policy.timeout_ms),
            policy.deadline_ms.map_or_else(|| "none".into(), units::format_millis),
            policy.park.name().into(),
            policy.retries.to_string(),
            units::format_millis(policy.backoff_ms),
            units::format_millis(policy.backoff_max_ms),
            units::format_bytes(policy.log_cap),
            policy.max_parallel.map_or_else(|| "no limit".into(), |most| most.to_string()),
            policy.isolation.name().into(),
            policy.priority.to_string(),
            policy.replay.name().into(),
        ];
        KEYS.into_iter().zip(values).zip(self.sources).map(|((key, value), source)| (key, value, source)).collect()
    }
}

/// Thousandths as a decimal number.
#[must_use]
pub fn permille(permille: u32) -> String {
    let text = format!("{}.{:03}", permille / 1000, permille % 1000);
    let text = text.trim_end_matches('0');
    text.strip_suffix('.').unwrap_or(text).to_owned()
}

/// The narrowest of what is declared (or the default) and two caps.
fn narrowest<T: Copy + Ord>(said: Option<Said<T>>, default: T, host: Option<T>, account: Option<T>) -> (T, Source) {
    let line = said.map(|said| said.line);
    let mut value = said.map_or(default, |said| said.value);
    let mut source = line.map_or(Source::Default, Source::Manifest);
    for (cap, from) in [(host, Source::Host as fn(_) -> _), (account, Source::Account)] {
        if let Some(cap) = cap.filter(|cap| *cap < value) {
            (value, source) = (cap, from(line));
        }
    }
    (value, source)
}

/// The same for what has no limit where nothing is said.
fn narrowest_limit<T: Copy + Ord>(said: Option<Said<T>>, host: Option<T>, account: Option<T>) -> (Option<T>, Source) {
    let line = said.map(|said| said.line);
    let mut value = said.map(|said| said.value);
    let mut source = line.map_or(Source::Default, Source::Manifest);
    for (cap, from) in [(host, Source::Host as fn(_) -> _), (account, Source::Account)] {
        if let Some(cap) = cap.filter(|cap| value.is_none_or(|value| *cap < value)) {
            (value, source) = (Some(cap), from(line));
        }
    }
    (value, source)
}

fn plain<T: Copy + Default>(said: Option<Said<T>>) -> (T, Source) {
    plain_or(said, T::default())
}

fn plain_or<T: Copy>(said: Option<Said<T>>, default: T) -> (T, Source) {
    said.map_or((default, Source::Default), |said| (said.value, Source::Manifest(said.line)))
}

impl Declared {
    pub(super) fn read(reader: &Reader<'_>, table: &DeTable<'_>) -> Result<Self, ManifestError> {
        let declared = Self {
            memory_mib: reader.parsed(table, "memory", memory)?,
            vcpus_permille: vcpus(reader, table)?,
            timeout_ms: reader.parsed(table, "timeout", timeout)?,
            deadline_ms: reader.parsed(table, "deadline", deadline)?,
            park: reader.parsed(table, "park", park)?,
            retries: reader.whole(table, "retries", &RETRIES)?,
            log_cap: reader.parsed(table, "log_cap", log_cap)?,
            max_parallel: reader.whole(table, "max_parallel", &MAX_PARALLEL)?,
            isolation: reader.parsed(table, "isolation", isolation)?,
            priority: priority(reader, table)?,
            replay: reader.parsed(table, "replay", replay)?,
            backoff_ms: reader.parsed(table, "backoff", |text| backoff("backoff", text))?,
            backoff_max_ms: reader.parsed(table, "backoff_max", |text| backoff("backoff_max", text))?,
        };
        match (declared.backoff_ms, declared.backoff_max_ms) {
            (Some(first), Some(most)) if first.value > most.value => {
                Err(ManifestError { line: most.line as usize, message: "backoff_max is shorter than backoff, the first wait".into() })
            }
            _ => Ok(declared),
        }
    }

    /// What declares this policy.
    #[cfg(test)]
    pub(crate) fn of(policy: &Policy) -> Self {
        fn said<T>(value: T) -> Option<Said<T>> {
            Some(Said { value, line: 1 })
        }
        Self {
            memory_mib: said(policy.memory_mib),
            vcpus_permille: said(policy.vcpus_permille),
            timeout_ms: said(policy.timeout_ms),
            deadline_ms: policy.deadline_ms.and_then(said),
            park: said(policy.park),
            retries: said(policy.retries),
            log_cap: said(policy.log_cap),
            max_parallel: policy.max_parallel.and_then(said),
            isolation: said(policy.isolation),
            priority: said(policy.priority),
            replay: said(policy.replay),
            backoff_ms: said(policy.backoff_ms),
            backoff_max_ms: said(policy.backoff_max_ms),
        }
    }

    /// The policy under these caps.
    #[must_use]
    pub fn resolve(&self, host: &Caps, account: &Caps) -> Resolved {
        let (memory_mib, memory) = narrowest(self.memory_mib, MEMORY_DEFAULT_MIB, host.memory_mib, account.memory_mib);
        let (vcpus_permille, vcpus) = narrowest(self.vcpus_permille, 1000, host.vcpus_permille, account.vcpus_permille);
        let (timeout_ms, timeout) = narrowest(self.timeout_ms, TIMEOUT_DEFAULT_MS, host.timeout_ms, account.timeout_ms);
        let (deadline_ms, deadline) = narrowest_limit(self.deadline_ms, host.deadline_ms, account.deadline_ms);
        let (park, parked) = plain(self.park);
        let (retries, retried) = narrowest(self.retries, 0, host.retries, account.retries);
        let (log_cap, logged) = narrowest(self.log_cap, LOG_CAP_DEFAULT, host.log_cap, account.log_cap);
        let (max_parallel, parallel) = narrowest_limit(self.max_parallel, host.max_parallel, account.max_parallel);
        let (isolation, isolated) = plain(self.isolation);
        let (priority, ranked) = plain(self.priority);
        let (replay, replayed) = plain(self.replay);
        let (backoff_ms, first) = plain_or(self.backoff_ms, BACKOFF_DEFAULT_MS);
        let (backoff_max_ms, last) = plain_or(self.backoff_max_ms, BACKOFF_MAX_DEFAULT_MS.max(backoff_ms));
        let policy = Policy {
            memory_mib,
            vcpus_permille,
            timeout_ms,
            deadline_ms,
            park,
            retries,
            log_cap,
            max_parallel,
            isolation,
            priority,
            replay,
            backoff_ms,
            backoff_max_ms,
        };
        let sources = [memory, vcpus, timeout, deadline, parked, retried, first, last, logged, parallel, isolated, ranked, replayed];
        Resolved { policy, sources }
    }

    /// The line that wants VMs to be used again.
    pub(super) fn reuses(&self) -> Option<u32> {
        self.isolation.filter(|said| said.value == Isolation::Task).map(|said| said.line)
    }
}

impl Caps {
    pub(super) fn read(reader: &Reader<'_>, table: &DeTable<'_>, place: &str) -> Result<Self, ManifestError> {
        reader.known(place, table, &["memory", "vcpus", "timeout", "deadline", "retries", "log_cap", "max_parallel", "aux", "notify"])?;
        let declared = Declared::read(reader, table)?;
        let value = |said: Option<Said<u64>>| said.map(|said| said.value);
        let small = |said: Option<Said<u32>>| said.map(|said| said.value);
        Ok(Self {
            memory_mib: small(declared.memory_mib),
            vcpus_permille: small(declared.vcpus_permille),
            timeout_ms: value(declared.timeout_ms),
            deadline_ms: value(declared.deadline_ms),
            retries: small(declared.retries),
            log_cap: value(declared.log_cap),
            max_parallel: small(declared.max_parallel),
            aux: reader.list(table, "aux", super::aux::MAX_AUX, super::aux::Allowed::parse)?.map(|said| said.value),
            notify: reader.list(table, "notify", super::notify::MAX_ALLOWED, super::notify::AllowedUrl::parse)?.map(|said| said.value),
        })
    }
}

fn memory(text: &str) -> Result<u32, String> {
    let range = format!("from \"{MIN_MEMORY_MIB}MiB\" to \"{MAX_MEMORY_MIB}MiB\", in whole MiB");
    let bytes = units::bytes(text).ok_or_else(|| format!("memory {text:?} is not a size; write it {range}"))?;
    let mib = u32::try_from(bytes >> 20).ok().filter(|_| bytes % (1 << 20) == 0);
    mib.filter(|mib| (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(mib))
        .ok_or_else(|| format!("memory {text:?} is out of range; it is {range}"))
}

fn vcpus(reader: &Reader<'_>, table: &DeTable<'_>) -> Result<Option<Said<u32>>, ManifestError> {
    let Some(value) = table.get("vcpus") else { return Ok(None) };
    let wrong = || reader.error(value.span(), "vcpus is a number from 0.05 to 1: the share of one processor that a VM may take");
    let inner = value.get_ref();
    let text = inner.as_float().map(|number| number.as_str()).or_else(|| inner.as_integer().map(|number| number.as_str()));
    let number: f64 = text.ok_or_else(wrong)?.parse().map_err(|_| wrong())?;
    // Whole thousandths: the range is checked on those that are there, so that no cast can lose anything.
    let permille = VCPUS_PERMILLE.clone().find(|permille| (f64::from(*permille) - number * 1000.0).abs() < 0.5);
    Ok(Some(reader.said(permille.ok_or_else(wrong)?, &value.span())))
}

fn timeout(text: &str) -> Result<u64, String> {
    let range = "from \"100ms\" to \"24h\" (ms, s, m, h)";
    let millis = units::millis(text).ok_or_else(|| format!("timeout {text:?} is not a duration; write it {range}"))?;
    if TIMEOUT_MS.contains(&millis) { Ok(millis) } else { Err(format!("timeout {text:?} is out of range; it is {range}")) }
}

fn deadline(text: &str) -> Result<u64, String> {
    let range = "from \"1s\" to \"366d\" (s, m, h, d)";
    let millis = units::millis(text).ok_or_else(|| format!("deadline {text:?} is not a duration; write it {range}"))?;
    if DEADLINE_MS.contains(&millis) { Ok(millis) } else { Err(format!("deadline {text:?} is out of range; it is {range}")) }
}

fn backoff(key: &str, text: &str) -> Result<u64, String> {
    let range = "from \"0s\" to \"24h\" (ms, s, m, h)";
    let millis = units::millis(text).ok_or_else(|| format!("{key} {text:?} is not a duration; write it {range}"))?;
    if BACKOFF_MS.contains(&millis) { Ok(millis) } else { Err(format!("{key} {text:?} is out of range; it is {range}")) }
}

fn park(text: &str) -> Result<Park, String> {
    let known = [Park::Auto, Park::Always, Park::Never].into_iter().find(|park| park.name() == text);
    known.ok_or_else(|| format!("park {text:?} is none of \"auto\", \"always\", \"never\""))
}

fn priority(reader: &Reader<'_>, table: &DeTable<'_>) -> Result<Option<Said<i32>>, ManifestError> {
    let Some(value) = table.get("priority") else { return Ok(None) };
    let wrong = || {
        reader
            .error(value.span(), "priority is a whole number from -10 to 10: the higher goes first among an account's executions that wait")
    };
    let number = value.get_ref().as_integer().and_then(|number| i32::from_str_radix(number.as_str(), number.radix()).ok());
    Ok(Some(reader.said(number.filter(|number| PRIORITY.contains(number)).ok_or_else(wrong)?, &value.span())))
}

fn replay(text: &str) -> Result<Replay, String> {
    let known = [Replay::Results, Replay::None].into_iter().find(|replay| replay.name() == text);
    known.ok_or_else(|| {
        format!("replay {text:?} is neither \"results\" (a retry gets the results of calls that were done) nor \"none\" (all is run anew)")
    })
}

fn isolation(text: &str) -> Result<Isolation, String> {
    let known = [Isolation::Execution, Isolation::Task].into_iter().find(|isolation| isolation.name() == text);
    known.ok_or_else(|| format!("isolation {text:?} is neither \"execution\" (a VM for each) nor \"task\" (used again for the same task)"))
}

fn log_cap(text: &str) -> Result<u64, String> {
    let range = "from \"4KiB\" to \"64MiB\"";
    let bytes = units::bytes(text).ok_or_else(|| format!("log_cap {text:?} is not a size; write it {range}"))?;
    if LOG_CAP.contains(&bytes) { Ok(bytes) } else { Err(format!("log_cap {text:?} is out of range; it is {range}")) }
}
