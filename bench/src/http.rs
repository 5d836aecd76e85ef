//! As much HTTP/1.1 over a Unix socket as a bench needs: one connection, kept open, JSON both ways.

use crate::Failed;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to torpord, or to a peer's API.
pub(crate) struct Http {
    stream: BufReader<UnixStream>,
    /// The account that requests are about, where it is not the caller's own.
    pub(crate) account: Option<&'static str>,
}

impl Http {
    pub(crate) fn connect(socket: &Path) -> Result<Self, Failed> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(300)))?;
        stream.set_write_timeout(Some(Duration::from_secs(300)))?;
        Ok(Self { stream: BufReader::new(stream), account: None })
    }

    /// Status and body.
    pub(crate) fn request(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(u16, Value), Failed> {
        let account = self.account.map(|account| format!("x-torpor-account: {account}\r\n")).unwrap_or_default();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: torpor\r\n{account}content-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        let socket = self.stream.get_mut();
        socket.write_all(&[head.as_bytes(), body].concat())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status line")?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// A request that must succeed.
    pub(crate) fn ok(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Value, Failed> {
        let (status, answer) = self.request(method, path, kind, body)?;
        if (200..300).contains(&status) { Ok(answer) } else { Err(format!("{method} {path}: {status} {answer}").into()) }
    }
}
