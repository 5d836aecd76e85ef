//! What a submission may bring beside its input.

use crate::idempotency::NewKey;

/// Nothing of it, by default.
#[derive(Debug, Default)]
pub struct Extras {
    /// What the request is known by when it comes again; stored with the execution.
    pub key: Option<NewKey>,
}
