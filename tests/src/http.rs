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

/// Sends any bytes.
#[must_use]
pub fn raw(socket: &Path, head: &[u8], body: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    stream.set_read_timeout(Some(Duration::from_secs(200))).expect("a socket has time limits");
    stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a socket has time limits");
    // A daemon that refuses a request early need not read the rest of it.
    let _ = stream.write_all(head).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no answer: {error}"),
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, body: body.to_owned() }
}
