//! What a portion may reach and who may reach it: trust, callers, calls, secrets and auxiliary services.

use super::aux::{Aux, MAX_AUX};
use super::names::{FORM, PortionName, SecretName, TaskName};
use super::reader::{Reader, Said};
use super::{ManifestError, aux};
use serde::{Deserialize, Serialize};
use std::fmt;
use toml::de::DeTable;

/// Most entries of a list of callers, calls or secrets.
const MAX_LIST: usize = 256;
/// Most secrets of a portion.
pub const MAX_SECRETS: usize = 32;
/// Any.
const ANY: &str = "*";
/// Before the name of a portion.
const PORTION: &str = "portion:";
/// Who runs tasks over the API.
const CLIENT: &str = "client";

/// How far a portion's code is trusted, lowest first. Code reaches what is trusted more only where that names it as a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Nobody vouches for it.
    #[default]
    Untrusted,
    /// Its authors are known; what it reads may be hostile.
    Limited,
    /// It guards something: a key, a database.
    Trusted,
}

impl Trust {
    const ALL: [Self; 3] = [Self::Untrusted, Self::Limited, Self::Trusted];

    /// Its name in manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Limited => "limited",
            Self::Trusted => "trusted",
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|trust| trust.name() == text);
        known.ok_or_else(|| format!("trust {text:?} is none of \"untrusted\", \"limited\", \"trusted\""))
    }
}

/// Who may call a portion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Caller {
    /// Anybody of the account.
    Any,
    /// Clients of the API.
    Client,
    /// Any portion of this task.
    Task(TaskName),
    /// This portion of the same task.
    Portion(PortionName),
}

/// What a portion may call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Callee {
    /// The main portion of any task.
    Any,
    /// The main portion of this task.
    Task(TaskName),
    /// This portion of the same task.
    Portion(PortionName),
}

fn portion(text: &str) -> Option<Result<PortionName, String>> {
    let name = text.strip_prefix(PORTION)?;
    Some(PortionName::try_from(name.to_owned()).map_err(|why| format!("{text:?}: {why}")))
}

impl TryFrom<String> for Caller {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            ANY => Ok(Self::Any),
            CLIENT => Ok(Self::Client),
            other => match portion(other) {
                Some(name) => name.map(Self::Portion),
                None => TaskName::try_from(text.clone())
                    .map(Self::Task)
                    .map_err(|_| format!("caller {text:?} is neither a task's name, nor \"portion:NAME\", \"client\" or \"*\" ({FORM})")),
            },
        }
    }
}

impl From<Caller> for String {
    fn from(caller: Caller) -> Self {
        match caller {
            Caller::Any => ANY.into(),
            Caller::Client => CLIENT.into(),
            Caller::Task(name) => name.into(),
            Caller::Portion(name) => format!("{PORTION}{name}"),
        }
    }
}

impl TryFrom<String> for Callee {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            ANY => Ok(Self::Any),
            other => match portion(other) {
                Some(name) => name.map(Self::Portion),
                None => TaskName::try_from(text.clone())
                    .map(Self::Task)
                    .map_err(|_| format!("call {text:?} is neither a task's name, nor \"portion:NAME\" or \"*\" ({FORM})")),
            },
        }
    }
}

impl From<Callee> for String {
    fn from(callee: Callee) -> Self {
        match callee {
            Callee::Any => ANY.into(),
            Callee::Task(name) => name.into(),
            Callee::Portion(name) => format!("{PORTION}{name}"),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(self.clone()))
    }
}

impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(self.clone()))
    }
}

/// The rights of a portion.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// How far its code is trusted.
    pub trust: Trust,
    /// Who may call it; where nothing is said, whoever may call what is trusted no more than itself.
    pub callers: Option<Said<Vec<Caller>>>,
    /// What it may call.
    pub calls: Option<Said<Vec<Callee>>>,
    /// Secrets that its program gets.
    pub secrets: Option<Said<Vec<SecretName>>>,
    /// Services outside that it may talk to.
    pub aux: Vec<Aux>,
}

/// Keys of rights in a `[policy]`.
pub(super) const KEYS: [&str; 3] = ["callers", "calls", "secrets"];

impl Rights {
    pub(super) fn read(
        reader: &Reader<'_>,
        trust: Trust,
        policy: Option<&DeTable<'_>>,
        head: &DeTable<'_>,
        prefix: &str,
    ) -> Result<Self, ManifestError> {
        let mut rights = Self { trust, ..Self::default() };
        if let Some(policy) = policy {
            rights.callers = reader.list(policy, "callers", MAX_LIST, |text| Caller::try_from(text.to_owned()))?;
            rights.calls = reader.list(policy, "calls", MAX_LIST, |text| Callee::try_from(text.to_owned()))?;
            let secret = |text: &str| SecretName::try_from(text.to_owned()).map_err(|why| format!("secret {text:?}: {why}"));
            rights.secrets = reader.list(policy, "secrets", MAX_SECRETS, secret)?;
        }
        for (name, span, table) in reader.tables(head, "aux")? {
            if rights.aux.len() == MAX_AUX {
                return Err(reader.error(span, format!("more than {MAX_AUX} auxiliary services")));
            }
            rights.aux.push(aux::read(reader, &format!("[{prefix}aux.{name}]"), name, &span, table)?);
        }
        Ok(rights)
    }

    /// Everything, as tasks had it that were pushed before there were rights.
    #[must_use]
    pub fn calls(&self) -> &[Callee] {
        self.calls.as_ref().map_or(&[], |said| &said.value)
    }

    /// Secrets that its program gets.
    #[must_use]
    pub fn secrets(&self) -> &[SecretName] {
        self.secrets.as_ref().map_or(&[], |said| &said.value)
    }

    /// Names all secrets that its executions make use of: those that its program gets, and those that are added to what it sends.
    pub fn all_secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.secrets().iter().chain(self.aux.iter().flat_map(Aux::secrets))
    }

    /// It may call this.
    #[must_use]
    pub fn may_call(&self, callee: &Callee) -> bool {
        self.calls().iter().any(|own| own == callee || (*own == Callee::Any && matches!(callee, Callee::Task(_))))
    }

    /// It lets itself be called by somebody who is trusted so far; a client of the account is trusted as far as the account.
    #[must_use]
    pub fn may_be_called_by(&self, caller: &Caller, trust: Trust) -> bool {
        match &self.callers {
            None => trust >= self.trust,
            Some(said) => said.value.iter().any(|own| own == caller || (*own == Caller::Any && trust >= self.trust)),
        }
    }
}
