//! Accounts: whom everything on a host belongs to, and who may do what in one.

use serde::{Deserialize, Serialize};

/// What a caller may do. Each may do all that those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the account's tasks, and sees what becomes of that. Sees no code, policy or secret.
    Invoker,
    /// All within the account.
    Owner,
    /// All within every account; accounts, tokens and the host.
    Admin,
}
