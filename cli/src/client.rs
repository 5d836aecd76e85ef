//! HTTP/1.1 to torpord: one connection for each request. Every answer is bounded in size, every wait in time, except for
//! streams that follow an execution.

use crate::api::RefusalBody;
pub(crate) use crate::connect::Origin;
use crate::connect::Place;
use crate::error::CliError;
use crate::upload::Upload;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// How long an answer may take beyond what the request itself asks the daemon to wait.
const ANSWER: Duration = Duration::from_secs(120);
const MAX_ANSWER: usize = 128 << 20;

/// The way to one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    place: Place,
    /// Of every request.
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// An answer: its status, the daemon's own text, and what of it this program understands.
#[derive(Debug)]
pub(crate) struct Reply<T> {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    pub(crate) value: T,
}

/// Body of a request.
pub(crate) enum Payload {
    None,
    Json(Vec<u8>),
    /// An input, and the key that its submission is known by when it is sent again.
    Keyed(Vec<u8>, Option<String>),
    Tar(Vec<u8>),
    Secret(Vec<u8>),
    Upload(Upload),
}

impl Client {
    /// To a socket, as whoever runs this program.
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { place: Place::Socket(socket), headers: Vec::new() }
    }

    /// As the command line says.
    pub(crate) fn to(from: Origin) -> Result<Self, CliError> {
        let headers = from.headers()?;
        Ok(Self { place: Place::of(from)?, headers })
    }

    /// Where the daemon is, for people.
    pub(crate) fn place(&self) -> String {
        self.place.to_string()
    }

    /// It is another host's.
    pub(crate) const fn is_remote(&self) -> bool {
        matches!(self.place, Place::Host(_))
    }

    /// A request whose answer is JSON. `wait`: how long the request asks the daemon to wait.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        wait: Duration,
    ) -> Result<Reply<T>, CliError> {
        let request = format!("{method} {path}");
        let (status, text) = self.text(method, path, payload, wait).await?;
        let value = serde_json::from_str(&text).map_err(|error| CliError::Answer { request, why: error.to_string() })?;
        Ok(Reply { status, text, value })
    }

    /// GET of JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Reply<T>, CliError> {
        self.json(Method::GET, path, Payload::None, Duration::ZERO).await
    }

    /// A request whose answer is text of any kind.
    pub(crate) async fn text(
        &self,
        method: Method,
        path: &str,
        payload: Payload,
        wait: Duration,
    ) -> Result<(StatusCode, String), CliError> {
        let request = format!("{method} {path}");
        let exchange = async {
            let response = self.open(method, path, payload).await?;
            let status = response.status();
            let bytes = self.whole(&request, response.into_body(), MAX_ANSWER).await?;
            let text = String::from_utf8(bytes.to_vec()).map_err(|_| CliError::Answer { request, why: "it is not UTF-8".into() })?;
            Ok((status, text))
        };
        timeout(wait + ANSWER, exchange).await.map_err(|_| self.lost("no answer in time"))?
    }

    /// All of an answer, where it is not larger than `limit`.
    async fn whole<B>(&self, request: &str, body: B, limit: usize) -> Result<Bytes, CliError>
    where
        B: hyper::body::Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(CliError::TooLarge { request: request.to_owned(), limit: u64::try_from(limit).unwrap_or(u64::MAX) })
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// What comes of a step of an answer that is read piece by piece, or that it took too long.
    pub(crate) async fn in_time<T>(&self, step: impl Future<Output = T>) -> Result<T, CliError> {
        timeout(ANSWER, step).await.map_err(|_| self.lost("no answer in time"))
    }

    /// A request whose answer is read piece by piece. Refusals are read here and become errors.
    pub(crate) async fn open(&self, method: Method, path: &str, payload: Payload) -> Result<Response<Incoming>, CliError> {
        let mut key = None;
        let (content_type, body) = match payload {
            Payload::Keyed(body, given) => {
                key = given;
                (Some("application/json"), Either::Left(Full::new(Bytes::from(body))))
            }
            Payload::None => (None, Either::Left(Full::default())),
            Payload::Json(body) => (Some("application/json"), Either::Left(Full::new(Bytes::from(body)))),
            Payload::Tar(body) => (Some("application/x-tar"), Either::Left(Full::new(Bytes::from(body)))),
            Payload::Secret(body) => (Some("text/plain; charset=utf-8"), Either::Left(Full::new(Bytes::from(body)))),
            Payload::Upload(upload) => (Some("application/octet-stream"), Either::Right(upload)),
        };
        let mut request = Request::builder().method(method.clone()).uri(path).header(header::HOST, self.place.authority());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(body).map_err(|error| CliError::Usage(format!("can't ask for {path:?}: {error}")))?;
        let stream = self.place.connect().await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.lost(error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.lost(error))?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(&method, path, response).await) }
    }

    async fn refusal(&self, method: &Method, path: &str, response: Response<Incoming>) -> CliError {
        let status = response.status();
        let body = match self.whole(&format!("{method} {path}"), response.into_body(), 1 << 20).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        match serde_json::from_slice::<RefusalBody>(&body) {
            Ok(body) => CliError::Refused(body.error),
            Err(_) => CliError::Answer { request: format!("{method} {path}"), why: format!("status {status} without a reason") },
        }
    }

    /// The connection broke.
    pub(crate) fn lost(&self, why: impl ToString) -> CliError {
        CliError::Lost { place: self.place(), why: why.to_string() }
    }
}

/// One segment of a path or one value of a query: everything but letters, digits and `-._~@` is escaped.
pub(crate) fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn too_large_is_not_no_daemon() {
        let client = Client::new(PathBuf::from("/none"));
        let body = || Full::new(Bytes::from_static(b"0123456789"));
        assert_eq!(client.whole("GET /x", body(), 10).await.ok(), Some(Bytes::from_static(b"0123456789")));
        let error = client.whole("GET /x", body(), 9).await.err();
        let Some(error @ CliError::TooLarge { .. }) = error else { unreachable!("{error:?}") };
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "torpord's answer to GET /x is larger than the 9 B that torpor takes at once");
    }

    #[test]
    fn segments_can_not_leave_their_place() {
        assert_eq!(escape("wordcount@0123abcd"), "wordcount@0123abcd");
        assert_eq!(escape("a/../b?c=d#e f"), "a%2F..%2Fb%3Fc%3Dd%23e%20f");
        assert_eq!(escape("é"), "%C3%A9");
    }
}
