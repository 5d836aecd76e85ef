//! Requests over the daemon's Unix socket, as bytes, so that a test can also send what no proper client would. HTTP/1.0: the answer ends where the
//! connection does.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code; 0 where the daemon closed without an answer.
    pub status: u16,
    /// Everything after the headers.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("status {}, not JSON ({error}): {:?}", self.status, self.body))
    }

    /// The body, if the status is this one.
    #[must_use]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// Panics unless it is a refusal with this status and code; its message.
    pub fn refused(&self, status: u16, code: &str) -> String {
        let body = self.expect(status);
        assert_eq!(body["error"]["code"], code, "{}", self.body);
        body["error"]["message"].as_str().expect("a message").to_owned()
    }
}

/// Sends a request and reads the answer to its end.
#[must_use]
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
    let head = format!("{method} {path} HTTP/1.0\r\nhost: torpord\r\ncontent-length: {}\r\n\r\n", body.len());
    raw(socket, head.as_bytes(), body)
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Failed {
    /// Nobody listens: nothing was sent.
    Connect(std::io::Error),
    /// The connection broke, and what was sent may have arrived.
    Answer(std::io::Error),
}

/// The same for a daemon that may die meanwhile: the whole answer or none.
pub fn try_request(socket: &Path, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failed> {
    try_request_with(socket, method, path, "", body)
}

/// The same with more headers, each with its end of line.
pub fn try_request_with(socket: &Path, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Answer, Failed> {
    let head = format!("{method} {path} HTTP/1.0\r\nhost: torpord\r\n{headers}content-length: {}\r\n\r\n", body.len());
    let (answer, length) = try_raw(socket, head.as_bytes(), body)?;
    if answer.status != 0 && length.is_none_or(|length| length == answer.body.len()) {
        Ok(answer)
    } else {
        Err(Failed::Answer(std::io::ErrorKind::UnexpectedEof.into()))
    }
}

/// Sends any bytes.
#[must_use]
pub fn raw(socket: &Path, head: &[u8], body: &[u8]) -> Answer {
    match try_raw(socket, head, body) {
        Ok((answer, _)) => answer,
        Err(Failed::Connect(error)) => panic!("{}: {error}", socket.display()),
        Err(Failed::Answer(error)) => panic!("no answer: {error}"),
    }
}

/// The answer, and how long its body is to be.
fn try_raw(socket: &Path, head: &[u8], body: &[u8]) -> Result<(Answer, Option<usize>), Failed> {
    let mut stream = UnixStream::connect(socket).map_err(Failed::Connect)?;
    stream.set_read_timeout(Some(Duration::from_secs(200))).expect("a socket has time limits");
    stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a socket has time limits");
    // A daemon that refuses a request early need not read the rest of it.
    let _ = stream.write_all(head).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(Failed::Answer(error)),
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let lengths = head.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.filter_map(|(_, value)| value.trim().parse().ok()).next();
    Ok((Answer { status, body: body.to_owned() }, length))
}
