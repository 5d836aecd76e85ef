//! What each account may have at once of what all share, as the administrator sets it in the host's policy.

use super::ManifestError;
use super::reader::Reader;
use super::units;
use toml::de::DeTable;

/// Executions that have not ended, where nothing is said.
const EXECUTIONS: u32 = 100_000;
/// Most that may be set.
const MOST_EXECUTIONS: u32 = 10_000_000;
/// Bytes of their inputs, where nothing is said.
const INPUTS: u64 = 4 << 30;

/// What is said of an account, or of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Declared {
    executions: Option<u32>,
    inputs: Option<u64>,
    parked: Option<u64>,
    history: Option<u64>,
}

/// What an account may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Executions that have not ended.
    pub executions: usize,
    /// Bytes of their inputs.
    pub inputs: u64,
    /// Bytes of its parked machines; where nothing is said, what torpord's quota leaves it.
    pub parked: Option<u64>,
    /// Bytes of what is kept of its executions that have ended; where nothing is said, what the disk leaves it.
    pub history: Option<u64>,
}

fn size(key: &'static str) -> impl FnOnce(&str) -> Result<u64, String> {
    move |text| units::bytes(text).ok_or_else(|| format!("{key} {text:?} is not a size; write it like \"512MiB\" or \"20GiB\""))
}

impl Declared {
    pub(super) fn read(reader: &Reader<'_>, table: &DeTable<'_>, place: &str) -> Result<Self, ManifestError> {
        reader.known(place, table, &["executions", "inputs", "parked", "history"])?;
        Ok(Self {
            executions: reader.whole(table, "executions", &(1..=MOST_EXECUTIONS))?.map(|said| said.value),
            inputs: reader.parsed(table, "inputs", size("inputs"))?.map(|said| said.value),
            parked: reader.parsed(table, "parked", size("parked"))?.map(|said| said.value),
            history: reader.parsed(table, "history", size("history"))?.map(|said| said.value),
        })
    }

    /// What holds for an account, of which this is said, where `all` is said of all.
    pub(super) fn under(&self, all: &Self) -> Limits {
        let executions = self.executions.or(all.executions).unwrap_or(EXECUTIONS);
        Limits {
            executions: usize::try_from(executions).unwrap_or(usize::MAX),
            inputs: self.inputs.or(all.inputs).unwrap_or(INPUTS),
            parked: self.parked.or(all.parked),
            history: self.history.or(all.history),
        }
    }
}
