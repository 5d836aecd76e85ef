//! What may be said about accounts and tokens.

use clap::{Args, Subcommand, ValueEnum};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Runs tasks, and sees what becomes of that; sees no code, policy or secret
    Invoker,
    /// All within the account
    Owner,
    /// All within every account; accounts, tokens and the host
    Admin,
}

impl Role {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Invoker => "invoker",
            Self::Owner => "owner",
            Self::Admin => "admin",
        }
    }
}

fn account(name: &str) -> Result<String, String> {
    if name.is_empty() { Err("an account's name is wanted; `torpor account ls` lists them".into()) } else { Ok(name.to_owned()) }
}

fn token(id: &str) -> Result<String, String> {
    if id.starts_with("torpor_") {
        return Err("a token's id is wanted, not the token itself; `torpor token ls` lists them".into());
    }
    if id.is_empty() { Err("a token's id is wanted; `torpor token ls` lists them".into()) } else { Ok(id.to_owned()) }
}

/// A time as manifests write it, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "a time is a whole number and a unit: 45m, 12h, 30d".to_owned();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let unit = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    text[..digits].parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Add an account, or change its weight
    Add {
        /// Account
        #[arg(value_parser = account)]
        name: String,
        /// Its share of a busy host, against those of others [default: 1, or what it has]
        #[arg(long, value_name = "N")]
        weight: Option<u32>,
    },
    /// List accounts, and the user ids that belong to them
    Ls,
    /// Remove an account that has no tasks, secrets, schedules or executions; its tokens and user ids go with it
    Rm {
        /// Account
        #[arg(value_parser = account)]
        name: String,
        /// Remove its executions that ended first
        #[arg(long)]
        with_history: bool,
    },
    /// Let a user of this host into an account
    Allow {
        /// Account
        #[arg(value_parser = account)]
        name: String,
        /// User id
        #[arg(long, value_name = "N")]
        uid: u32,
        /// What that user may do there
        #[arg(long)]
        role: Role,
    },
    /// Take its account from a user of this host
    Deny {
        /// User id
        #[arg(long, value_name = "N")]
        uid: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token for the account that --account names, and print it: it is shown once
    Create(TokenArgs),
    /// List tokens, without what they are
    Ls,
    /// Remove a token: whoever brings it from now on is refused
    Rm {
        /// The token's id
        #[arg(value_parser = token)]
        id: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// What whoever brings it may do
    #[arg(long)]
    pub(crate) role: Role,
    /// For how long it is good, such as 12h or 30d, at most ten years [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) expires: Option<u64>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) note: String,
}

#[cfg(test)]
mod tests {
    use super::{seconds, token};

    #[test]
    fn times_have_a_unit() {
        for (text, wanted) in [("45s", 45), ("2m", 120), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(seconds(text), Ok(wanted));
        }
        for wrong in ["", "30", "d", "0d", "-1d", "1w", "1.5h", "1 d", "1\u{e9}", "99999999999999999999d", "9999999999999999999d"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_not_its_id() {
        assert!(token("torpor_0123456789ab_x").is_err_and(|why| !why.contains("0123")), "and is not repeated");
        assert!(token("").is_err() && token("0123456789ab").is_ok());
    }
}
