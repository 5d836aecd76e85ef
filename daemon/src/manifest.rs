//! `torpor.toml`: what a task says about itself, parsed once into types that can't be wrong.
//!
//! ```toml
//! [task]
//! name = "checkout"             # ^[a-z][a-z0-9-]{0,62}$
//! runtime = "python"            # or "exec"
//! entry = "main.py:handler"     # python: FILE.py:FUNCTION; exec: a program in the folder
//! trust = "untrusted"           # or "limited", "trusted"
//!
//! [policy]                      # may be left out, and so may each of its keys
//! memory = "128MiB"             # 64MiB to 2048MiB, whole MiB
//! vcpus = 1                     # 0.05 to 1: share of one processor
//! timeout = "30s"               # 100ms to 24h; ms, s, m, h
//! retries = 0                   # 0 to 100
//! backoff = "1s"                # 0s to 24h: before the first of them; doubled for each further one
//! backoff_max = "5m"            # the longest of these waits
//! log_cap = "1MiB"              # 4KiB to 64MiB
//! park = "auto"                 # or "always", "never": what happens while the program waits
//! deadline = "1h"               # 1s to 366d; none where it is not given
//! max_parallel = 10             # executions that have a VM at once; no limit where it is not given
//! isolation = "execution"       # or "task": a VM is used again for the same task
//! priority = 0                  # -10 to 10: the higher goes first among an account's executions that wait
//! replay = "results"            # or "none": what a retry gets of the calls that were done
//! callers = ["client", "shop"]  # who may call it: clients of the API, tasks; all of the account where it is not given
//! calls = ["portion:sign"]      # what it may call: portions of this task, other tasks, "*"; nothing where it is not given
//! secrets = ["api-key"]         # secrets that the program gets
//!
//! [aux.ledger]                  # a service outside, see `aux`
//! connect = "tcp:127.0.0.1:5432"
//!
//! [portion.sign]                # a part of the task with a VM of its own
//! folder = "sign"               # its code: this folder of the task and nothing else
//! runtime = "python"
//! entry = "main.py:sign"
//! trust = "trusted"
//! [portion.sign.policy]         # keys as in [policy]; callers names portions
//! callers = ["portion:main"]
//! secrets = ["signing-key"]
//! ```
//!
//! - [`names`], [`entry`], [`policy`], [`rights`], [`aux`]: the values; [`flow`]: who may call whom
//! - [`host`]: the administrator's caps, from a file of the same form
//!
//! Invariant: a [`Manifest`] only exists with every value in its range; each [`ManifestError`] names the line that it is about.

pub mod aux;
pub mod entry;
pub mod flow;
pub mod host;
pub mod limits;
pub mod names;
pub mod notify;
pub mod policy;
mod reader;
pub mod rights;
mod units;

#[cfg(test)]
mod tests;

pub use entry::Entry;
use entry::relative;
pub use names::{AccountName, DEFAULT_ACCOUNT, MAIN, PortionName, SecretName, TaskName};
pub use policy::{Caps, Declared, Isolation, Park, Policy, Replay};
use reader::Reader;
pub use reader::Said;
pub use rights::{Callee, Caller, Rights, Trust};
use std::ops::Range;
use toml::de::DeTable;
use torpor_protocol::agent::Runtime;
pub use units::{bytes as parse_bytes, format_bytes, format_millis, millis as parse_millis};

/// Name of the manifest in a task's folder.
pub const FILE: &str = "torpor.toml";
/// Largest manifest.
pub const MAX_BYTES: usize = 64 << 10;
/// Most portions of a task, main included.
pub const MAX_PORTIONS: usize = 16;

/// A part of a task that has a VM of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// Its name; [`MAIN`] for the one that is called from outside.
    pub name: PortionName,
    /// Its folder in the task's; none for main, which has all that no other has.
    pub folder: Option<Said<String>>,
    /// Runtime and entry.
    pub entry: Entry,
    /// Line of `entry`, for errors that only the folder can show.
    pub entry_line: usize,
    /// The figures of its policy, as they are declared.
    pub declared: Declared,
    /// What it may reach.
    pub rights: Rights,
}

/// A whole manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The task's name.
    pub name: TaskName,
    /// Main first, the others in the order of the file.
    pub portions: Vec<Portion>,
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

/// The document of a file, or the line that is no TOML.
fn document(bytes: &[u8]) -> Result<(&str, DeTable<'_>), ManifestError> {
    if bytes.len() > MAX_BYTES {
        return Err(ManifestError { line: 1, message: format!("it has more than {}", format_bytes(MAX_BYTES as u64)) });
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        ManifestError { line, message: "not UTF-8 text".into() }
    })?;
    let reader = Reader { text };
    let root = DeTable::parse(text).map_err(|e| reader.error(e.span().unwrap_or(0..0), format!("not TOML: {}", e.message())))?;
    Ok((text, root.into_inner()))
}

/// Where the parts of a portion stand in the document.
struct Place<'t, 'a> {
    /// `[task]` or `[portion.NAME]`, as people write it.
    title: String,
    /// Before `policy` and `aux` in their titles.
    prefix: String,
    span: Range<usize>,
    /// Holds runtime, entry and trust.
    head: &'t DeTable<'a>,
    /// Holds `policy` and `aux`.
    body: &'t DeTable<'a>,
}

fn portion(reader: &Reader<'_>, name: PortionName, place: &Place<'_, '_>) -> Result<Portion, ManifestError> {
    let head = (place.title.as_str(), &place.span);
    let (runtime, span) = reader.required(head, place.head, "runtime")?;
    let runtime = match runtime {
        "python" => Runtime::Python,
        "exec" => Runtime::Exec,
        other => return Err(reader.error(span, format!("unknown runtime {other:?}; known: python, exec"))),
    };
    let (entry, span) = reader.required(head, place.head, "entry")?;
    let entry_line = reader.line(&span);
    let entry = Entry::parse(runtime, entry).map_err(|message| reader.error(span, message))?;
    let trust = reader.parsed(place.head, "trust", Trust::parse)?;
    let trust = match trust {
        Some(said) => said.value,
        None if name.is_main() => Trust::default(),
        None => return Err(reader.error(place.span.clone(), format!("{} has no trust", place.title))),
    };
    let folder = reader.parsed(place.head, "folder", relative)?;
    if folder.is_none() && !name.is_main() {
        return Err(reader.error(place.span.clone(), format!("{} has no folder: the code that its VM gets", place.title)));
    }
    let policy = match place.body.get("policy") {
        None => None,
        Some(value) => {
            let title = format!("{}policy", place.prefix);
            let table = reader.table(&title, value)?;
            let keys: Vec<&str> = policy::KEYS.into_iter().chain(rights::KEYS).collect();
            reader.known(&format!("[{title}]"), table, &keys)?;
            Some(table)
        }
    };
    let declared = policy.map(|table| Declared::read(reader, table)).transpose()?.unwrap_or_default();
    if let (Runtime::Exec, Some(line)) = (runtime, declared.reuses()) {
        let message = "isolation \"task\" is for runtime python: a program of runtime exec ends with its execution, and so does its VM";
        return Err(ManifestError { line: line as usize, message: message.into() });
    }
    let rights = Rights::read(reader, trust, policy, place.body, &place.prefix)?;
    Ok(Portion { name, folder, entry, entry_line, declared, rights })
}

/// No folder holds another: each file belongs to one portion.
fn apart(portions: &[Portion]) -> Result<(), ManifestError> {
    let folders: Vec<&Said<String>> = portions.iter().filter_map(|portion| portion.folder.as_ref()).collect();
    for (at, folder) in folders.iter().enumerate() {
        let holds = |one: &str, other: &str| other == one || other.strip_prefix(one).is_some_and(|rest| rest.starts_with('/'));
        let clash = folders[..at].iter().find(|other| holds(&other.value, &folder.value) || holds(&folder.value, &other.value));
        if let Some(other) = clash {
            let message = format!("folder {:?} and folder {:?} of another portion hold the same files", folder.value, other.value);
            return Err(ManifestError { line: folder.line as usize, message });
        }
    }
    Ok(())
}

impl Manifest {
    /// Reads a manifest as it came.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (text, root) = document(bytes)?;
        let reader = Reader { text };
        reader.known("the manifest", &root, &["task", "policy", "aux", "portion"])?;
        let task = root.get("task").ok_or_else(|| ManifestError { line: 1, message: "no [task] table".into() })?;
        let span = task.span();
        let head = reader.table("task", task)?;
        reader.known("[task]", head, &["name", "runtime", "entry", "trust"])?;
        let (name, at) = reader.required(("[task]", &span), head, "name")?;
        let name = TaskName::try_from(name.to_owned()).map_err(|why| reader.error(at, format!("name {name:?}: {why}")))?;

        let main = Place { title: "[task]".into(), prefix: String::new(), span, head, body: &root };
        let mut portions = vec![portion(&reader, PortionName::main(), &main)?];
        for (name, span, table) in reader.tables(&root, "portion")? {
            let title = format!("[portion.{name}]");
            let own = PortionName::try_from(name.to_owned()).map_err(|why| reader.error(span.clone(), format!("{title}: {why}")))?;
            if own.is_main() {
                return Err(reader.error(span, "portion \"main\" is what [task] and [policy] describe"));
            }
            if portions.len() == MAX_PORTIONS {
                return Err(reader.error(span, format!("a task has at most {MAX_PORTIONS} portions")));
            }
            reader.known(&title, table, &["folder", "runtime", "entry", "trust", "policy", "aux"])?;
            let place = Place { title, prefix: format!("portion.{name}."), span, head: table, body: table };
            portions.push(portion(&reader, own, &place)?);
        }
        apart(&portions)?;
        let manifest = Self { name, portions };
        flow::check(&manifest)?;
        Ok(manifest)
    }
}
