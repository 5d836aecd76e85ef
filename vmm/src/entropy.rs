//! Random bytes from the host's kernel, without a file to open.

use crate::error::VmmError;

/// `N` bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], VmmError> {
    let mut out = [0; N];
    getrandom::fill(&mut out).map_err(|e| VmmError::Io { what: "getrandom", source: e.into() })?;
    Ok(out)
}
