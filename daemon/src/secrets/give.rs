//! What goes to machines: secrets to a program at its start, a key to whoever writes a machine down that has got some.

use super::seal::{Bound, SealError, Sealed};
use super::{SecretError, Secrets};
use crate::manifest::AccountName;
use crate::state::id::ExecutionId;
use crate::state::record::Version;
use torpor_protocol::agent::Secret;
use torpor_protocol::limits::MAX_SECRETS;
use torpor_protocol::monitor::ParkKey;
use zeroize::Zeroizing;

/// Why a parked machine's key is not there.
#[derive(Debug, thiserror::Error)]
pub enum ParkKeyError {
    /// The master key, or what it opens.
    #[error("the key of its parked machine: {0}")]
    Seal(#[from] SealError),
    /// There is no master key, or it can't be read.
    #[error("the key of its parked machine: {0}")]
    Key(#[from] super::key::KeyError),
}

impl Secrets {
    /// The secrets that a portion's program gets.
    pub fn given(&self, version: &Version) -> Result<Vec<Secret>, SecretError> {
        let names = version.rights.secrets();
        let secrets: Vec<Secret> = names
            .iter()
            .map(|name| Ok(Secret { name: name.to_string(), value: self.get(&version.account, name)? }))
            .collect::<Result<_, SecretError>>()?;
        // As JSON text, escapes included.
        let size = |secret: &Secret| secret.name.len() + 32 + secret.value.bytes().map(escaped).sum::<usize>();
        if secrets.iter().map(size).sum::<usize>() > MAX_SECRETS { Err(SecretError::Together) } else { Ok(secrets) }
    }

    /// A new key for one file of an execution's machine, and the same as the database keeps it.
    pub fn new_park_key(&self, account: &AccountName, id: &ExecutionId) -> Result<(ParkKey, Sealed), ParkKeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(SealError::Entropy)?;
        let sealed = self.0.keys.get_or_make()?.seal(&Bound::Parked { account, id }, &*bytes)?;
        Ok((ParkKey::new(bytes), sealed))
    }

    /// The key of a file that is there.
    pub fn park_key(&self, account: &AccountName, id: &ExecutionId, sealed: &Sealed) -> Result<ParkKey, ParkKeyError> {
        let plain = self.0.keys.get()?.open(&Bound::Parked { account, id }, sealed)?;
        let mut bytes = Zeroizing::new([0; 32]);
        if plain.len() != bytes.len() {
            return Err(SealError::Damaged.into());
        }
        bytes.copy_from_slice(&plain);
        Ok(ParkKey::new(bytes))
    }
}

const fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    }
}
