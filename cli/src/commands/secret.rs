//! `secret set`, `ls` and `rm`. A value is never an argument, which others on the host could see, and is never printed.

use super::remove;
use crate::api::{Secret, Secrets};
use crate::args::SecretCommand;
use crate::client::{Client, Payload, escape};
use crate::error::CliError;
use crate::output::{Output, ago, complain, size, table};
use hyper::{Method, StatusCode};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead, IsTerminal, Read};
use std::time::Duration;

/// What the daemon takes.
const MAX_SECRET: usize = 16 << 10;

pub(super) async fn secret(client: &Client, output: Output, command: SecretCommand) -> Result<(), CliError> {
    match command {
        SecretCommand::Set { name, keep_line_end } => set(client, output, &name, keep_line_end).await,
        SecretCommand::Ls => ls(client, output).await,
        SecretCommand::Rm { name } => remove(client, output, &format!("/v1/secrets/{}", escape(&name)), &name).await,
    }
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        quiet.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &self.0);
    }
}

fn typed(name: &str) -> io::Result<Vec<u8>> {
    complain(&format!("Value of {name} (not shown):"));
    let mut line = Vec::with_capacity(MAX_SECRET + 3);
    io::stdin().lock().take(MAX_SECRET as u64 + 3).read_until(b'\n', &mut line)?;
    Ok(line)
}

fn piped() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(MAX_SECRET + 3);
    io::stdin().lock().take(MAX_SECRET as u64 + 3).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Without one line end at the end, which `echo` and editors add.
fn without_line_end(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    bytes
}

async fn value(name: &str, keep_line_end: bool) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::File { what: "can't read", path: "standard input".into(), source };
    let (terminal, asked) = (io::stdin().is_terminal(), name.to_owned());
    // Held here and not by the thread that reads, which an interrupt leaves waiting.
    let quiet = if terminal { Some(Quiet::new().map_err(failed)?) } else { None };
    let read = tokio::task::spawn_blocking(move || if terminal { typed(&asked) } else { piped() });
    let bytes = tokio::select! {
        read = read => read.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)?,
        Ok(()) = tokio::signal::ctrl_c() => return Err(CliError::Interrupted),
    };
    drop(quiet);
    let bytes = if keep_line_end && !terminal { bytes } else { without_line_end(bytes) };
    if bytes.len() > MAX_SECRET {
        let most = size(u64::try_from(MAX_SECRET).unwrap_or(u64::MAX));
        return Err(CliError::Usage(format!("the value is larger than {most}, the most that a secret may be")));
    }
    if bytes.is_empty() {
        return Err(CliError::Usage("the value is empty; give it on standard input: `torpor secret set NAME < FILE`".into()));
    }
    Ok(bytes)
}

async fn set(client: &Client, output: Output, name: &str, keep_line_end: bool) -> Result<(), CliError> {
    let value = value(name, keep_line_end).await?;
    let path = format!("/v1/secrets/{}", escape(name));
    let reply = client.json::<Secret>(Method::PUT, &path, Payload::Secret(value), Duration::ZERO).await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    let what = if reply.status == StatusCode::CREATED { "set" } else { "set anew; what runs keeps the value that it got" };
    output.line(&format!("{}  {what}", reply.value.name))
}

async fn ls(client: &Client, output: Output) -> Result<(), CliError> {
    let reply = client.get::<Secrets>("/v1/secrets").await?;
    if output.wants_json() {
        return output.json(&reply.text);
    }
    if reply.value.secrets.is_empty() {
        return output.line("no secrets; `torpor secret set NAME` sets one");
    }
    let row = |secret: &Secret| vec![secret.name.clone(), ago(&secret.created_at), ago(&secret.changed_at)];
    let rows: Vec<_> = reply.value.secrets.iter().map(row).collect();
    output.line(&table(&["NAME", "MADE", "CHANGED"], &rows))
}

#[cfg(test)]
mod tests {
    use super::without_line_end;

    #[test]
    fn one_line_end_is_taken_off() {
        for (from, to) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("a\r", "a\r"), ("\n", ""), ("", "")] {
            assert_eq!(without_line_end(from.as_bytes().to_vec()), to.as_bytes());
        }
    }
}
