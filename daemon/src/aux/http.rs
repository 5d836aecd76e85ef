//! An HTTP service: requests of the guest are read here, held against the policy, and sent on with headers that it never sees.
//!
//! ```text
//!  request --rules--> forbidden: 403, and why
//!             \-----> headers of the connection, and copies of ours, off; Host and ours on --> server (a connection for each of the guest's, kept)
//!                     response: headers of the connection off
//! ```
//! Invariant: no byte of a request reaches the server that was not read, checked and written anew.

mod headers;
mod rules;
pub(crate) mod tls;

use super::Outside;
use super::broker::Say;
use super::connect::{tcp, timely};
use super::pipe::GuestStream;
use super::why::Why;
use crate::manifest::aux::{Aux, Http};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rules::{Denied, Form};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

/// Most bytes of a request's or a response's head.
const MAX_HEAD: usize = 64 << 10;
/// Most header lines.
const MAX_HEADERS: usize = 128;

/// The one form of a path; why there is none, for people.
pub(crate) fn canonical(path: &str) -> Result<String, String> {
    rules::canonical(path).map_err(|denied| denied.to_string())
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type Sender = SendRequest<Incoming>;

/// What serves the requests of one connection.
struct Proxy<'a> {
    outside: &'a Outside,
    aux: &'a Aux,
    server: &'a Http,
    upstream: Mutex<Option<Sender>>,
    say: Say,
}

/// Serves a connection to its end.
pub(super) async fn serve(outside: &Outside, aux: &Arc<Aux>, server: &Http, guest: GuestStream, say: Say) -> Result<(), Why> {
    let proxy = Proxy { outside, aux, server, upstream: Mutex::default(), say };
    let mut http = hyper::server::conn::http1::Builder::new();
    http.half_close(true).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS).auto_date_header(false);
    let served = http.serve_connection(TokioIo::new(guest), service_fn(|request| proxy.answer(request))).await;
    match served {
        Ok(()) => Ok(()),
        // It went away in the middle of a request: its right.
        Err(error) if error.is_incomplete_message() || error.is_canceled() => Ok(()),
        Err(error) => Err(Why::Broken(error.to_string())),
    }
}

/// An answer of ours, not of the server.
fn own(status: StatusCode, body: &Value) -> Response<Body> {
    let bytes = Bytes::from(format!("{body}\n"));
    let mut response = Response::new(Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Why there is no answer of the server.
enum Failed {
    Why(Why),
    Secret(String),
    Sending(hyper::Error),
}

impl Proxy<'_> {
    fn error(&self, status: StatusCode, kind: &str, message: &str, policy: &Value) -> Response<Body> {
        own(status, &json!({"error": {"kind": kind, "message": message, "service": self.aux.name.as_str(), "policy": policy}}))
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let what = format!("{} {}", request.method(), request.uri().path());
        let what: String = what.chars().take(200).collect();
        let response = match rules::check(self.server, self.aux.name.as_str(), &request) {
            Err(denied) => {
                self.outside.metrics.aux_request("denied");
                self.say.line(self.aux.name.as_str(), &format_args!("{what}: 403, {denied}"));
                self.forbidden(&denied)
            }
            Ok(path) => match self.forward(request, path).await {
                Ok(response) => {
                    self.outside.metrics.aux_request("passed");
                    response
                }
                Err(failed) => {
                    self.outside.metrics.aux_request("failed");
                    let (kind, message) = match failed {
                        Failed::Why(why) => ("unreachable", why.to_string()),
                        Failed::Secret(why) => ("secret", why),
                        Failed::Sending(error) => ("broken", format!("{} broke off: {error}", self.aux.target)),
                    };
                    self.say.line(self.aux.name.as_str(), &format_args!("{what}: 502, {message}"));
                    self.error(StatusCode::BAD_GATEWAY, kind, &message, &Value::Null)
                }
            },
        };
        Ok(response)
    }

    fn forbidden(&self, denied: &Denied) -> Response<Body> {
        let name = self.aux.name.as_str();
        let message = format!("the policy of auxiliary service {name} does not allow this request: {denied}");
        let policy = json!({"aux": name, "methods": self.server.methods, "paths": self.server.paths});
        self.error(StatusCode::FORBIDDEN, "not_allowed", &message, &policy)
    }

    async fn forward(&self, request: Request<Incoming>, path: Form) -> Result<Response<Body>, Failed> {
        let request = headers::outward(request, path, self.server, |name| self.outside.secrets.get(&self.outside.account, name))
            .map_err(Failed::Secret)?;
        let mut upstream = self.upstream.lock().await;
        let kept = upstream.take().filter(|sender| !sender.is_closed());
        let (mut sender, fresh) = match kept {
            Some(sender) => (sender, false),
            None => (self.connect().await?, true),
        };
        let mut sent = sender.try_send_request(request).await;
        if let Err(error) = &mut sent
            && !fresh
            && let Some(request) = error.take_message()
        {
            // The kept connection was closed before anything of it was sent.
            sender = self.connect().await?;
            sent = sender.try_send_request(request).await;
        }
        let response = sent.map_err(|error| Failed::Sending(error.into_error()))?;
        *upstream = Some(sender);
        drop(upstream);
        headers::inward(response)
            .map(|response| response.map(|body| body.boxed_unsync()))
            .ok_or_else(|| Failed::Why(Why::Broken(format!("{} changes the protocol, which is not supported", self.aux.target))))
    }

    async fn connect(&self) -> Result<Sender, Failed> {
        let tcp = timely(&self.aux.target, tcp(&self.server.host, self.server.port)).await.map_err(Failed::Why)?;
        if self.server.tls {
            let tls = timely(&self.aux.target, self.outside.tls.connect(&self.server.host, tcp)).await.map_err(Failed::Why)?;
            speak(tls).await
        } else {
            speak(tcp).await
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, Failed> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Failed::Sending)?;
    // Ends with the sender.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "aux: a server's connection ended");
        }
    });
    Ok(sender)
}
