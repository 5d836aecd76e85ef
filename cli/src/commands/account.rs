//! `account add`, `ls`, `rm`, `allow` and `deny`; `token create`, `ls` and `rm`. A token is printed once, when it is made.

use super::remove;
use crate::api::{Account, Accounts, NewToken, Token, Tokens, Uid};
use crate::args::{AccountCommand, TokenArgs, TokenCommand};
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, ago, complain, table, until};
use hyper::{Method, StatusCode};
use serde_json::json;
use std::time::Duration;

pub(super) async fn account(client: &Client, output: Output, command: AccountCommand) -> Result<(), CliError> {
    match command {
        AccountCommand::Add { name, weight } => add(client, output, &name, weight).await,
        AccountCommand::Ls => ls(client, output).await,
        AccountCommand::Rm { name, with_history } => {
            let history = if with_history { "?history=true" } else { "" };
            remove(client, output, &format!("/v1/accounts/{}{history}", escape(&name)), &name).await
        }
        AccountCommand::Allow { name, uid, role } => {
            let body = json!({"account": name, "role": role.name()}).to_string();
            let path = format!("/v1/uids/{uid}");
            let reply = client.json::<Uid>(Method::PUT, &path, Payload::Json(body.into_bytes()), Duration::ZERO).await?;
            if output.wants_json() {
                return output.json(&reply.text);
            }
            output.line(&format!("user id {}  {} of {}", reply.value.uid, reply.value.role, reply.value.account))
        }
        AccountCommand::Deny { uid } => remove(client, output, &format!("/v1/uids/{uid}"), &format!("user id {uid}")).await,
    }
}

pub(super) async fn token(client: &Client, output: Output, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => create(client, output, args).await,
        TokenCommand::Ls => tokens(client, output).await,
        TokenCommand::Rm { id } => remove(client, output, &format!("/v1/tokens/{}", escape(&id)), &id).await,
    }
}

async fn add(client: &Client, output: Output, name: &str, weight: Option<u32>) -> Result<(), CliError> {
    let (path, body) = (format!("/v1/accounts/{}", escape(name)), json!({"weight": weight}).to_string());
    let reply = client.json::<Account>(Method::PUT, &path, Payload::Json(body.into_bytes()), Duration::ZERO).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let what = if reply.status == StatusCode::CREATED { "added" } else { "was there" };
    output.line(&format!("{}  {what}, weight {}", reply.value.name, reply.value.weight))
}

async fn ls(client: &Client, output: Output) -> Result<(), CliError> {
    let reply = client.get::<Accounts>("/v1/accounts").await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let row = |account: &Account| {
        let users = account.uids.iter().map(|uid| format!("{} ({})", uid.uid, uid.role)).collect::<Vec<_>>().join(", ");
        // That of the host was there before anybody could have made one.
        let made = if account.created_at.starts_with("1970-") { "with the host".to_owned() } else { ago(&account.created_at) };
        vec![account.name.clone(), account.weight.to_string(), account.tokens.to_string(), made, users]
    };
    let rows: Vec<_> = reply.value.accounts.iter().map(row).collect();
    output.line(&table(&["NAME", "WEIGHT", "TOKENS", "MADE", "USER IDS"], &rows))
}

async fn create(client: &Client, output: Output, args: TokenArgs) -> Result<(), CliError> {
    let body = json!({"role": args.role.name(), "expires_in_s": args.expires, "note": args.note}).to_string();
    let reply = client.json::<NewToken>(Method::POST, "/v1/tokens", Payload::Json(body.into_bytes()), Duration::ZERO).await?;
    if output.json_asked() {
        return output.json(&reply.text);
    }
    let NewToken { token, about } = reply.value;
    let expires = about.expires_at.as_deref().map_or_else(|| "for ever".to_owned(), |at| format!("until {at}"));
    complain(&format!("{} of account {}, good {expires}; its id is {}. It is not shown again:", about.role, about.account, about.id));
    // Alone, so that it can go into a file.
    output.line(&token)
}

async fn tokens(client: &Client, output: Output) -> Result<(), CliError> {
    let reply = client.get::<Tokens>("/v1/tokens").await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.tokens.is_empty() {
        return output.line("no tokens; `torpor token create --role ROLE` makes one");
    }
    let row = |token: &Token| {
        let expires = match &token.expires_at {
            Some(_) if token.expired => "expired".to_owned(),
            Some(at) => until(at),
            None => "never".to_owned(),
        };
        vec![token.id.clone(), token.account.clone(), token.role.clone(), ago(&token.created_at), expires, token.note.clone()]
    };
    let rows: Vec<_> = reply.value.tokens.iter().map(row).collect();
    output.line(&table(&["ID", "ACCOUNT", "ROLE", "MADE", "EXPIRES", "NOTE"], &rows))
}
