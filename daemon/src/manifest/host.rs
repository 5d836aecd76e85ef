//! The host's policy: what an administrator allows, to all and to each account.
//!
//! ```toml
//! [caps]                                   # of the host
//! memory = "512MiB"                        # keys as in a manifest's [policy]: memory, vcpus, timeout, deadline, retries, log_cap, max_parallel
//! aux = ["tcp:127.0.0.1:5432", "https://api.example.com"]   # auxiliary services that tasks may declare; none where it is not given
//! notify = ["https://hooks.example.com/torpor/*"]           # URLs that the ends of executions may be told to; likewise
//!
//! [account.default.caps]                   # of an account; narrows those of the host
//! max_parallel = 20
//!
//! [limits]                                 # of each account, at once
//! executions = 100000                      # that have not ended
//! inputs = "4GiB"                          # of these
//! parked = "20GiB"                         # their parked machines; by default all of torpord's quota, and half of it where there are other accounts
//! history = "20GiB"                        # results and logs of those that have ended; likewise, of the disk
//!
//! [account.default.limits]                 # of this account, in place of those
//! executions = 1000
//! ```

use super::aux::{Aux, Target};
use super::limits::{self, Limits};
use super::notify::Destination;
use super::policy::{Caps, Declared, Resolved};
use super::reader::Reader;
use super::{AccountName, ManifestError, document};
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct HostPolicy {
    host: Caps,
    accounts: BTreeMap<AccountName, Caps>,
    limits: limits::Declared,
    limits_of: BTreeMap<AccountName, limits::Declared>,
}

impl HostPolicy {
    /// Reads a file of it. The error names the line.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let (text, root) = document(bytes)?;
        let reader = Reader { text };
        reader.known("the host's policy", &root, &["caps", "limits", "account"])?;
        let caps = |value: &super::reader::Value<'_>, title: &str| {
            let table = reader.table(title, value)?;
            Caps::read(&reader, table, &format!("[{title}]"))
        };
        let host = root.get("caps").map(|value| caps(value, "caps")).transpose()?.unwrap_or_default();
        let limit = |value: &super::reader::Value<'_>, title: &str| {
            limits::Declared::read(&reader, reader.table(title, value)?, &format!("[{title}]"))
        };
        let limits = root.get("limits").map(|value| limit(value, "limits")).transpose()?.unwrap_or_default();
        let (mut accounts, mut limits_of) = (BTreeMap::new(), BTreeMap::new());
        for (name, span, table) in reader.tables(&root, "account")? {
            let account = AccountName::try_from(name.to_owned()).map_err(|why| reader.error(span, format!("[account.{name}]: {why}")))?;
            reader.known(&format!("[account.{name}]"), table, &["caps", "limits"])?;
            if let Some(value) = table.get("limits") {
                limits_of.insert(account.clone(), limit(value, &format!("account.{name}.limits"))?);
            }
            let own = table.get("caps").map(|value| caps(value, &format!("account.{name}.caps"))).transpose()?;
            accounts.insert(account, own.unwrap_or_default());
        }
        Ok(Self { host, accounts, limits, limits_of })
    }

    /// What an account may have at once.
    #[must_use]
    pub fn limits(&self, account: &AccountName) -> Limits {
        self.limits_of.get(account).unwrap_or(&limits::Declared::default()).under(&self.limits)
    }

    /// A declared policy under the caps of the host and of the account.
    #[must_use]
    pub fn resolve(&self, account: &AccountName, declared: &Declared) -> Resolved {
        declared.resolve(&self.host, self.accounts.get(account).unwrap_or(&Caps::default()))
    }

    /// Whether the host and the account allow tasks to talk to a service.
    #[must_use]
    pub fn allows(&self, account: &AccountName, target: &Target) -> bool {
        let listed = |list: &Vec<super::aux::Allowed>| list.iter().any(|allowed| allowed.allows(target));
        let account = self.accounts.get(account).and_then(|caps| caps.aux.as_ref());
        self.host.aux.as_ref().is_some_and(listed) && account.is_none_or(listed)
    }

    /// Whether the host and the account allow the ends of executions to be told there.
    #[must_use]
    pub fn allows_notify(&self, account: &AccountName, to: &Destination) -> bool {
        let listed = |list: &Vec<super::notify::AllowedUrl>| list.iter().any(|allowed| allowed.allows(to));
        let account = self.accounts.get(account).and_then(|caps| caps.notify.as_ref());
        self.host.notify.as_ref().is_some_and(listed) && account.is_none_or(listed)
    }

    /// The first of these services that is not allowed.
    pub fn denied<'a>(&self, account: &AccountName, services: impl IntoIterator<Item = &'a Aux>) -> Option<&'a Aux> {
        services.into_iter().find(|service| !self.allows(account, &service.target))
    }
}
