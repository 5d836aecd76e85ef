//! Names of accounts, tasks, portions, auxiliary services and secrets: all of one form, each with a type of its own.

use serde::{Deserialize, Serialize};

/// Why a text is no name.
pub(super) const FORM: &str = "a name is 1 to 63 of a-z, 0-9 and -, and begins with a letter";

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    first && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') && name.len() <= 63
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = &'static str;

            fn try_from(name: String) -> Result<Self, Self::Error> {
                if is_name(&name) { Ok(Self(name.into())) } else { Err(FORM) }
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of an account, of the same form as a [`TaskName`].
    AccountName
}
name! {
    /// A task's name: `^[a-z][a-z0-9-]{0,62}$`.
    TaskName
}
name! {
    /// Name of a portion within its task, of the same form as a [`TaskName`].
    PortionName
}
name! {
    /// Name of an auxiliary service within its portion, of the same form as a [`TaskName`]: it is a host name in the guest.
    AuxName
}
name! {
    /// Name of a secret of an account, of the same form as a [`TaskName`].
    SecretName
}

/// The account that is always there.
pub const DEFAULT_ACCOUNT: &str = "default";

impl Default for AccountName {
    fn default() -> Self {
        Self(DEFAULT_ACCOUNT.into())
    }
}

/// The portion that a task is called by.
pub const MAIN: &str = "main";

impl PortionName {
    /// The portion that is called from outside.
    #[must_use]
    pub fn main() -> Self {
        Self(MAIN.into())
    }

    /// It is the one that is called from outside.
    #[must_use]
    pub fn is_main(&self) -> bool {
        &*self.0 == MAIN
    }
}
