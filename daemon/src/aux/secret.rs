//! Where the secrets come from that are added to requests.

use crate::manifest::{AccountName, SecretName};
use crate::secrets::Secrets;
use zeroize::Zeroizing;

/// Gives secrets of accounts by name.
pub trait SecretSource: Send + Sync + 'static {
    /// Its value now; or why there is none, for people.
    fn get(&self, account: &AccountName, name: &SecretName) -> Result<Zeroizing<String>, String>;
}

impl SecretSource for Secrets {
    fn get(&self, account: &AccountName, name: &SecretName) -> Result<Zeroizing<String>, String> {
        Self::get(self, account, name).map_err(|error| error.to_string())
    }
}

/// Secrets in memory.
#[cfg(test)]
pub(crate) struct MemorySecrets(pub(crate) std::collections::BTreeMap<SecretName, String>);

#[cfg(test)]
impl SecretSource for MemorySecrets {
    fn get(&self, _account: &AccountName, name: &SecretName) -> Result<Zeroizing<String>, String> {
        self.0.get(name).map(|value| Zeroizing::new(value.clone())).ok_or_else(|| format!("secret \"{name}\" is not set"))
    }
}
