//! One call of a URL: what is said, how it is signed, what counts as told.

use super::Notify;
use crate::aux::connect::tcp;
use crate::aux::http::tls::Tls;
use crate::cron::Fired;
use crate::engine::ExecutionError;
use crate::hex;
use crate::manifest::notify::Destination;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::time::Timestamp;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

/// Largest result that is told, in bytes of JSON text.
pub const MAX_RESULT: usize = 64 << 10;
/// For a whole call.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What is said.
#[derive(Debug, Serialize)]
struct Said<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    delivery: &'a str,
    execution: Ended<'a>,
}

/// An execution that has ended.
#[derive(Debug, Serialize)]
struct Ended<'a> {
    id: &'a ExecutionId,
    task: &'a str,
    version: &'a str,
    state: State,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<&'a Fired>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a RawValue>,
    /// Of a result that is too large to be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a ExecutionError>,
}

/// The body of a call. `result_bytes`: the size of a result that the execution is here without.
pub fn body(delivery: &str, execution: &Execution, result_bytes: Option<u64>) -> serde_json::Result<Vec<u8>> {
    // Whoever runs the other side may be nobody who may see the code, of which it has lines.
    let error = execution.error.clone().map(|error| ExecutionError { traceback: None, ..error });
    let ended = Ended {
        id: &execution.id,
        task: execution.task.as_str(),
        version: &execution.version,
        state: execution.state,
        created_at: execution.created_at,
        started_at: execution.started_at,
        finished_at: execution.finished_at,
        attempts: execution.attempts,
        schedule: execution.schedule.as_ref(),
        result: execution.result.as_deref(),
        result_bytes: result_bytes.filter(|_| execution.result.is_none()),
        error: error.as_ref(),
    };
    serde_json::to_vec(&Said { kind: "execution.ended", delivery, execution: ended })
}

/// HMAC-SHA256 of `DELIVERY.TIMESTAMP.BODY`, as the header has it.
#[must_use]
pub fn signature(secret: &str, delivery: &str, timestamp: i64, body: &[u8]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = ring::hmac::Context::with_key(&key);
    context.update(format!("{delivery}.{timestamp}.").as_bytes());
    context.update(body);
    format!("v1={}", hex::encode(context.sign().as_ref()))
}

/// Why it is not told.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotTold {
    /// For people.
    pub why: String,
    /// The other side does not want to hear of it again.
    pub gone: bool,
}

impl From<String> for NotTold {
    fn from(why: String) -> Self {
        Self { why, gone: false }
    }
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, request: Request<Full<Bytes>>) -> hyper::Result<u16> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with this, whatever comes of it; the answer's body is nobody's.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    sender.send_request(request).await.map(|response| response.status().as_u16())
}

async fn call(tls: &Tls, to: &Destination, request: Request<Full<Bytes>>) -> Result<u16, String> {
    let unreachable = |error: std::io::Error| format!("{} can't be reached: {error}", to.authority());
    let stream = tcp(&to.host, to.port).await.map_err(unreachable)?;
    let status = if to.tls {
        exchange(tls.connect(&to.host, stream).await.map_err(unreachable)?, request).await
    } else {
        exchange(stream, request).await
    };
    status.map_err(|error| format!("{} broke off: {error}", to.authority()))
}

/// Tells it.
pub(crate) async fn send(
    tls: &Tls,
    notify: &Notify,
    delivery: &str,
    body: Vec<u8>,
    secret: Option<&str>,
    now: Timestamp,
) -> Result<(), NotTold> {
    let (to, timestamp) = (&notify.url, now.0.div_euclid(1_000_000));
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{}", to.path, to.query))
        .header(header::HOST, to.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("torpord/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .header("torpor-delivery", delivery)
        .header("torpor-timestamp", timestamp);
    if let Some(secret) = secret {
        request = request.header("torpor-signature", signature(secret, delivery, timestamp, &body));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| format!("it can't be sent: {error}"))?;
    let late = |_| format!("{} did not answer within {} s", to.authority(), TIMEOUT.as_secs());
    let status = tokio::time::timeout(TIMEOUT, call(tls, to, request)).await.map_err(late)??;
    match status {
        200..300 => Ok(()),
        410 => Err(NotTold { why: "status 410: it does not want to hear of it again".into(), gone: true }),
        300..400 => Err(format!("status {status}: a redirection, which is not followed").into()),
        _ => Err(format!("status {status}").into()),
    }
}
