//! `torpor.toml`: what a task says about itself, parsed once into types that can't be wrong.
//!
//! ```toml
//! [task]
//! name = "wordcount"            # ^[a-z][a-z0-9-]{0,62}$
//! runtime = "python"            # or "exec"
//! entry = "main.py:handler"     # python: FILE.py:FUNCTION; exec: a program in the folder
//!
//! [policy]                      # may be left out, and so may each of its keys
//! memory = "128MiB"             # 64MiB to 2048MiB, whole MiB
//! timeout = "30s"               # 100ms to 24h; ms, s, m, h
//! retries = 0                   # 0 to 10
//! log_cap = "1MiB"              # 4KiB to 64MiB
//! park = "auto"                 # or "always", "never": what happens while the program waits
//! deadline = "1h"               # 1s to 366d; none where it is not given
//! ```
//!
//! Invariant: a [`Manifest`] only exists with every value in its range; each [`ManifestError`] names the line that it is about.

mod units;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use torpor_protocol::agent::Runtime;
use torpor_protocol::limits::{MAX_MEMORY_MIB, MIN_MEMORY_MIB};
pub use units::{bytes as parse_bytes, format_bytes, format_millis, millis as parse_millis};

/// Name of the manifest in a task's folder.
pub const FILE: &str = "torpor.toml";
/// Largest manifest.
pub const MAX_BYTES: usize = 64 << 10;

const MEMORY_DEFAULT_MIB: u32 = 128;
const TIMEOUT_DEFAULT_MS: u64 = 30_000;
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 100..=24 * 3_600_000;
const DEADLINE_MS: std::ops::RangeInclusive<u64> = 1000..=366 * 86_400_000;
const RETRIES: std::ops::RangeInclusive<u32> = 0..=10;
const LOG_CAP_DEFAULT: u64 = 1 << 20;
const LOG_CAP: std::ops::RangeInclusive<u64> = (4 << 10)..=(64 << 20);

/// A task's name: `^[a-z][a-z0-9-]{0,62}$`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskName(String);

impl TaskName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TaskName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let mut bytes = name.bytes();
        let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if first && rest && name.len() <= 63 {
            Ok(Self(name))
        } else {
            Err("a task's name is 1 to 63 of a-z, 0-9 and -, and begins with a letter")
        }
    }
}

impl From<TaskName> for String {
    fn from(name: TaskName) -> Self {
        name.0
    }
}

impl std::fmt::Display for TaskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a program begins: a runtime and what it starts, in a form that fits that runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Python: a function of a file.
    Python {
        /// Path in the folder, ends with `.py`.
        file: String,
        /// Name of the function.
        function: String,
    },
    /// A program of the folder.
    Exec {
        /// Path in the folder.
        file: String,
    },
}

impl Entry {
    /// Reads what a manifest says for `runtime`.
    pub fn parse(runtime: Runtime, text: &str) -> Result<Self, String> {
        match runtime {
            Runtime::Python => {
                let (file, function) =
                    text.split_once(':').ok_or_else(|| format!("entry {text:?} is not FILE.py:FUNCTION, such as \"main.py:handler\""))?;
                let file = relative(file)?;
                if file.strip_suffix(".py").is_none_or(|stem| stem.is_empty() || stem.ends_with('/')) {
                    return Err(format!("entry {text:?} names no .py file; it is FILE.py:FUNCTION, such as \"main.py:handler\""));
                }
                let mut chars = function.chars();
                let head = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
                if !head || !chars.all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                    return Err(format!("entry {text:?} names no function; it is FILE.py:FUNCTION, such as \"main.py:handler\""));
                }
                Ok(Self::Python { file, function: function.to_owned() })
            }
            Runtime::Exec => Ok(Self::Exec { file: relative(text)? }),
        }
    }

    /// The file that must be in the folder.
    #[must_use]
    pub fn file(&self) -> &str {
        match self {
            Self::Python { file, .. } | Self::Exec { file } => file,
        }
    }

    /// Its runtime.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        match self {
            Self::Python { .. } => Runtime::Python,
            Self::Exec { .. } => Runtime::Exec,
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python { file, function } => write!(f, "{file}:{function}"),
            Self::Exec { file } => f.write_str(file),
        }
    }
}

fn relative(path: &str) -> Result<String, String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let whole = !path.is_empty() && path.len() <= 512 && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if whole && !path.contains(['\0', '\n', '\\']) {
        Ok(path.to_owned())
    } else {
        Err(format!("{path:?} is not a path in the task's folder; write it from the folder's top, without \"..\""))
    }
}

/// When an execution that waits is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// Its name in manifests and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Auto, Self::Always, Self::Never].into_iter().find(|park| park.name() == name)
    }
}

/// The rules that an execution runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// RAM of the VM.
    pub memory_mib: u32,
    /// How long the program may run; time in which it waits does not count, except under [`Park::Never`].
    pub timeout_ms: u64,
    /// How long after its submission the execution must have ended, waits included.
    pub deadline_ms: Option<u64>,
    /// What happens while it waits.
    pub park: Park,
    /// How many times an execution that failed is run again, see [`crate::schedule`].
    pub retries: u32,
    /// Most bytes of output that are kept.
    pub log_cap: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            memory_mib: MEMORY_DEFAULT_MIB,
            timeout_ms: TIMEOUT_DEFAULT_MS,
            deadline_ms: None,
            park: Park::Auto,
            retries: 0,
            log_cap: LOG_CAP_DEFAULT,
        }
    }
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The task's name.
    pub name: TaskName,
    /// Runtime and entry.
    pub entry: Entry,
    /// Line of `entry`, for errors that only the folder can show.
    pub entry_line: usize,
    /// The policy.
    pub policy: Policy,
}

/// What is wrong with a manifest, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FILE}:{line}: {message}")]
pub struct ManifestError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub message: String,
}

struct Reader<'a> {
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl<'a> Reader<'a> {
    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ManifestError {
        let before = self.text.as_bytes().get(..span.start).unwrap_or(self.text.as_bytes());
        ManifestError { line: 1 + before.iter().filter(|b| **b == b'\n').count(), message: message.into() }
    }

    fn table<'t>(&self, name: &str, value: &'t Value<'a>) -> Result<&'t DeTable<'a>, ManifestError> {
        value.get_ref().as_table().ok_or_else(|| self.error(value.span(), format!("{name:?} is not a table; write [{name}]")))
    }

    fn known(&self, place: &str, table: &DeTable<'a>, keys: &[&str]) -> Result<(), ManifestError> {
        // First in the file, whatever order the table keeps.
        let unknown = table.keys().filter(|key| !keys.contains(&key.get_ref().as_ref())).min_by_key(|key| key.span().start);
        unknown.map_or(Ok(()), |key| {
            let message = format!("unknown key {:?} in {place}; known: {}", key.get_ref(), keys.join(", "));
            Err(self.error(key.span(), message))
        })
    }

    fn string<'t>(&self, key: &str, value: &'t Value<'a>) -> Result<&'t str, ManifestError> {
        let found = value.get_ref().type_str();
        value.get_ref().as_str().ok_or_else(|| self.error(value.span(), format!("{key} is a text in quotes, not {found}")))
    }

    fn required<'t>(&self, head: &Range<usize>, table: &'t DeTable<'a>, key: &str) -> Result<(&'t str, Range<usize>), ManifestError> {
        let value = table.get(key).ok_or_else(|| self.error(head.clone(), format!("[task] has no {key}")))?;
        Ok((self.string(key, value)?, value.span()))
    }

    fn parsed<T>(
        &self,
        table: &DeTable<'a>,
        key: &str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ManifestError> {
        let Some(value) = table.get(key) else { return Ok(default) };
        read(self.string(key, value)?).map_err(|message| self.error(value.span(), message))
    }

    fn policy(&self, table: &DeTable<'a>) -> Result<Policy, ManifestError> {
        self.known("[policy]", table, &["memory", "timeout", "deadline", "park", "retries", "log_cap"])?;
        let default = Policy::default();
        Ok(Policy {
            memory_mib: self.parsed(table, "memory", default.memory_mib, memory)?,
            timeout_ms: self.parsed(table, "timeout", default.timeout_ms, timeout)?,
            deadline_ms: self.parsed(table, "deadline", default.deadline_ms, |text| deadline(text).map(Some))?,
            park: self.parsed(table, "park", default.park, park)?,
            log_cap: self.parsed(table, "log_cap", default.log_cap, log_cap)?,
            retries: match table.get("retries") {
                None => default.retries,
                Some(value) => self.retries(value)?,
            },
        })
    }

    fn retries(&self, value: &Value<'a>) -> Result<u32, ManifestError> {
        let wrong = || self.error(value.span(), format!("retries is a whole number from {} to {}", RETRIES.start(), RETRIES.end()));
        let number = value.get_ref().as_integer().ok_or_else(wrong)?;
        let number = u32::from_str_radix(number.as_str(), number.radix()).map_err(|_| wrong())?;
        if RETRIES.contains(&number) { Ok(number) } else { Err(wrong()) }
    }
}

fn memory(text: &str) -> Result<u32, String> {
    let range = format!("from \"{MIN_MEMORY_MIB}MiB\" to \"{MAX_MEMORY_MIB}MiB\", in whole MiB");
    let bytes = units::bytes(text).ok_or_else(|| format!("memory {text:?} is not a size; write it {range}"))?;
    let mib = u32::try_from(bytes >> 20).ok().filter(|_| bytes % (1 << 20) == 0);
    mib.filter(|mib| (MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(mib))
        .ok_or_else(|| format!("memory {text:?} is out of range; it is {range}"))
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

fn park(text: &str) -> Result<Park, String> {
    Park::from_name(text).ok_or_else(|| format!("park {text:?} is none of \"auto\", \"always\", \"never\""))
}

fn log_cap(text: &str) -> Result<u64, String> {
    let range = "from \"4KiB\" to \"64MiB\"";
    let bytes = units::bytes(text).ok_or_else(|| format!("log_cap {text:?} is not a size; write it {range}"))?;
    if LOG_CAP.contains(&bytes) { Ok(bytes) } else { Err(format!("log_cap {text:?} is out of range; it is {range}")) }
}

impl Manifest {
    /// Reads a manifest as it came.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BYTES {
            return Err(ManifestError { line: 1, message: format!("a manifest has at most {}", format_bytes(MAX_BYTES as u64)) });
        }
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            ManifestError { line, message: "not UTF-8 text".into() }
        })?;
        let reader = Reader { text };
        let root = DeTable::parse(text).map_err(|e| reader.error(e.span().unwrap_or(0..0), format!("not TOML: {}", e.message())))?;
        let root = root.get_ref();
        reader.known("the manifest", root, &["task", "policy"])?;
        let task = root.get("task").ok_or_else(|| ManifestError { line: 1, message: "no [task] table".into() })?;
        let head = task.span();
        let task = reader.table("task", task)?;
        reader.known("[task]", task, &["name", "runtime", "entry"])?;

        let (name, span) = reader.required(&head, task, "name")?;
        let name = TaskName::try_from(name.to_owned()).map_err(|why| reader.error(span, format!("name {name:?}: {why}")))?;
        let (runtime, span) = reader.required(&head, task, "runtime")?;
        let runtime = match runtime {
            "python" => Runtime::Python,
            "exec" => Runtime::Exec,
            other => return Err(reader.error(span, format!("unknown runtime {other:?}; known: python, exec"))),
        };
        let (entry, span) = reader.required(&head, task, "entry")?;
        let entry_line = reader.error(span.clone(), "").line;
        let entry = Entry::parse(runtime, entry).map_err(|message| reader.error(span, message))?;
        let policy = match root.get("policy") {
            None => Policy::default(),
            Some(value) => reader.policy(reader.table("policy", value)?)?,
        };
        Ok(Self { name, entry, entry_line, policy })
    }
}
