//! Deliveries to a server of the test's own, from a real store with a scripted runner. The clock is an argument.
#![allow(clippy::unwrap_used, clippy::panic)]

mod limits;

use super::outbox::Outbox;
use super::send::{MAX_RESULT, body, signature};
use super::*;
use crate::manifest::AccountName;
use crate::manifest::host::HostPolicy;
use crate::schedule::extras::Extras;
use crate::schedule::live::Live;
use crate::schedule::scripted::Daemon;
use crate::schedule::tests::crash;
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use crate::state::tests::{change, version};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

/// What came: path, headers, body.
type Came = (String, HeaderMap, Vec<u8>);

/// A server that answers with these statuses, the last one for ever.
struct Other {
    port: u16,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Other {
    async fn start(statuses: &'static [u16]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (port, came) = (listener.local_addr().unwrap().port(), Arc::<Mutex<Vec<Came>>>::default());
        let all = Arc::clone(&came);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let all = Arc::clone(&all);
                let answer = move |request: Request<Incoming>| {
                    let all = Arc::clone(&all);
                    async move {
                        let (head, body) = request.into_parts();
                        assert_eq!(head.method, "POST");
                        let body = body.collect().await?.to_bytes().to_vec();
                        let mut all = all.lock().unwrap();
                        all.push((head.uri.to_string(), head.headers, body));
                        let status = statuses[all.len().min(statuses.len()) - 1];
                        let response = Response::builder().status(status).header("location", "http://127.0.0.1:9/");
                        Ok::<_, hyper::Error>(response.body(Empty::<Bytes>::new()).unwrap())
                    }
                };
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
        Self { port, came }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }
}

fn caps(allowed: &str) -> Arc<HostPolicy> {
    Arc::new(HostPolicy::parse(format!("[caps]\nnotify = [{allowed:?}]\n").as_bytes()).unwrap())
}

fn notify(url: &str) -> Notify {
    Notify { url: Destination::parse(url).unwrap(), secret: None }
}

async fn start(folder: &Path, allowed: &str) -> (Daemon, Outbox) {
    let daemon = Daemon::start_under(folder, 1024, caps(allowed)).await;
    daemon.put(&version("t", 'a')).await;
    let outbox = daemon.outbox();
    (daemon, outbox)
}

async fn submit(daemon: &Daemon, script: &str, notify: Notify) -> Arc<Live> {
    let version = daemon.catalog.version(&AccountName::default(), "t").unwrap();
    let extras = Extras { notify: Some(notify), ..Extras::default() };
    let live = daemon.dispatcher.submit_with(version, script.as_bytes().into(), extras).unwrap();
    live.stored().await.unwrap();
    live
}

/// One that has ended, as the database has it.
async fn ended(daemon: &Daemon, script: &str, notify: Notify) -> Execution {
    let id = submit(daemon, script, notify).await.ended().await.id.clone();
    known(daemon, &id).await
}

async fn known(daemon: &Daemon, id: &ExecutionId) -> Execution {
    daemon.store.execution(id).await.unwrap().unwrap()
}

/// Carries out what is due; how many that were.
async fn round(outbox: &Outbox, now: Timestamp) -> usize {
    let due = outbox.take(now).await;
    let count = due.len();
    for due in due {
        outbox.deliver(due, || now).await;
    }
    count
}

#[tokio::test]
async fn an_end_is_told_once_it_is_durable_and_signed() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[204]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("/hooks/*")).await;
    let secret = SecretName::try_from("hook".to_owned()).unwrap();
    daemon.parts.secrets.set(&AccountName::default(), secret.clone(), Zeroizing::new("k3y".into())).await.unwrap();
    let signed = Notify { secret: Some(secret), ..notify(&other.url("/hooks/a?b=c")) };
    let live = submit(&daemon, r#"{"ms":60000}"#, signed.clone()).await;
    assert_eq!(live.view().notify.as_ref().unwrap().state, Told::Waiting);
    assert_eq!(round(&outbox, Timestamp::now()).await, 0, "it has not ended");
    daemon.dispatcher.cancel(&live.id).await.unwrap().unwrap();
    let cancelled = known(&daemon, &live.id).await;
    assert_eq!(cancelled.notify.as_ref().unwrap().next_at, cancelled.finished_at);
    let now = Timestamp::now();
    assert_eq!(round(&outbox, now).await, 1);

    let (path, headers, said) = other.came().remove(0);
    let told = known(&daemon, &live.id).await.notify.unwrap();
    assert_eq!((told.state, told.attempts, told.next_at, told.settled_at), (Told::Delivered, 1, None, Some(now)));
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        (path.as_str(), header("torpor-delivery"), header("content-type")),
        ("/hooks/a?b=c", told.id.to_string(), "application/json".into())
    );
    let time: i64 = header("torpor-timestamp").parse().unwrap();
    assert_eq!(time, now.0 / SECOND);
    assert_eq!(header("torpor-signature"), signature("k3y", &told.id, time, &said));
    let said: Value = serde_json::from_slice(&said).unwrap();
    assert_eq!((&said["type"], &said["delivery"]), (&json!("execution.ended"), &json!(*told.id)));
    let execution = &said["execution"];
    assert_eq!((&execution["id"], &execution["task"], &execution["state"]), (&json!(live.id.as_str()), &json!("t"), &json!("cancelled")));
    assert_eq!((&execution["error"]["kind"], execution.get("result")), (&json!("cancelled"), None));
    assert_eq!(round(&outbox, Timestamp(now.0 + 48 * HOUR)).await, 0, "it is over");
}

#[test]
fn a_signature_is_what_others_make_of_it() {
    // printf 'dl_1.1700000000.{"a":1}' | openssl dgst -sha256 -hmac k3y
    let made = signature("k3y", "dl_1", 1_700_000_000, b"{\"a\":1}");
    assert_eq!(made, "v1=5e10544cbab9f18720694019e86fd8421c295f73ff2396bd5de2778e485f6206");
    for other in [
        signature("k3z", "dl_1", 1_700_000_000, b"{\"a\":1}"),
        signature("k3y", "dl_2", 1_700_000_000, b"{\"a\":1}"),
        signature("k3y", "dl_1", 1_700_000_001, b"{\"a\":1}"),
    ] {
        assert_ne!(made, other);
    }
}

#[tokio::test]
async fn a_failure_is_tried_again_later_with_the_same_id() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[500, 302, 200]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    let id = ended(&daemon, r#"{"fail":"exit"}"#, notify(&other.url("/"))).await.id;
    let mut now = Timestamp::now();
    for (attempt, last) in [(1, "status 500"), (2, "status 302: a redirection, which is not followed")] {
        assert_eq!(round(&outbox, now).await, 1);
        let told = known(&daemon, &id).await.notify.unwrap();
        assert_eq!((told.state, told.attempts, told.last.as_deref()), (Told::Pending, attempt, Some(last)));
        let wait = told.next_at.unwrap().0 - now.0;
        let whole = (5 * SECOND) << (attempt - 1);
        assert!((whole / 2..=whole).contains(&wait), "{wait}");
        assert_eq!(round(&outbox, Timestamp(now.0 + wait - 1)).await, 0);
        now = Timestamp(now.0 + wait);
    }
    // The next daemon goes on.
    drop((daemon, outbox));
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    assert_eq!(daemon.store.ended_by(Timestamp(now.0 + HOUR), (None, None)).await.unwrap(), [], "it is kept until that is told");
    assert_eq!(round(&outbox, now).await, 1);
    assert_eq!(known(&daemon, &id).await.notify.unwrap().state, Told::Delivered);
    let ids: std::collections::BTreeSet<_> =
        other.came().iter().map(|(_, headers, _)| headers["torpor-delivery"].clone().to_str().unwrap().to_owned()).collect();
    assert_eq!((other.came().len(), ids.len()), (3, 1));
    assert_eq!(daemon.store.ended_by(Timestamp(now.0 + HOUR), (None, None)).await.unwrap(), [id]);
}

#[tokio::test]
async fn what_is_not_allowed_or_not_there_is_not_called() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[200]).await;
    let (daemon, outbox) = start(folder.path(), "http://127.0.0.1:9/elsewhere").await;
    let now = Timestamp::now();
    let id = ended(&daemon, "{}", notify(&other.url("/"))).await.id;
    assert_eq!(round(&outbox, Timestamp(now.0 + SECOND)).await, 1);
    assert!(known(&daemon, &id).await.notify.unwrap().last.unwrap().contains("does not allow"));
    let gone = Notify { secret: Some(SecretName::try_from("gone".to_owned()).unwrap()), ..notify("http://127.0.0.1:9/elsewhere") };
    let id = ended(&daemon, "{}", gone).await.id;
    round(&outbox, Timestamp::now()).await;
    assert!(known(&daemon, &id).await.notify.unwrap().last.unwrap().contains("is not set"));
    // Nobody listens there.
    let id = ended(&daemon, "{}", notify("http://127.0.0.1:9/elsewhere")).await.id;
    round(&outbox, Timestamp::now()).await;
    assert!(known(&daemon, &id).await.notify.unwrap().last.unwrap().contains("can't be reached"));
    assert!(other.came().is_empty());
}

#[tokio::test]
async fn a_server_with_tls_is_called_where_its_certificate_is_good() {
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let answer = |_| async { Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())) };
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (daemon, outbox) = start(folder.path(), &url).await;
    let id = ended(&daemon, "{}", notify(&url)).await.id;
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert;
    let outbox = outbox.trusting(crate::aux::http::tls::Tls::of(stranger.der().clone()).unwrap());
    let now = Timestamp::now();
    round(&outbox, now).await;
    let told = known(&daemon, &id).await.notify.unwrap();
    assert!(told.last.as_ref().unwrap().contains("certificate"), "{told:?}");
    let outbox = outbox.trusting(crate::aux::http::tls::Tls::of(cert.der().clone()).unwrap());
    round(&outbox, Timestamp(now.0 + HOUR)).await;
    assert_eq!(known(&daemon, &id).await.notify.unwrap().state, Told::Delivered);
}

#[test]
fn lines_of_code_are_not_told() {
    let mut execution = Execution::new(ExecutionId::first_of(Timestamp(0)), &version("t", 'a'), Timestamp(0));
    let error = json!({"kind": "exception", "message": "no", "exception": "ValueError", "traceback": "secret_code()"});
    execution.error = Some(serde_json::from_value(error).unwrap());
    let said: Value = serde_json::from_slice(&body("dl_1", &execution, None).unwrap()).unwrap();
    assert_eq!(said["execution"]["error"], json!({"kind": "exception", "message": "no", "exception": "ValueError"}));
}

#[tokio::test]
async fn a_large_result_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, _outbox) = start(folder.path(), "http://127.0.0.1:9").await;
    let id = ended(&daemon, "{}", notify("http://127.0.0.1:9/")).await.id;
    for (bytes, whole) in [(MAX_RESULT, true), (MAX_RESULT + 1, false)] {
        let text = format!("\"{}\"", "x".repeat(bytes - 2));
        change(folder.path(), &format!("UPDATE executions SET result = CAST('{text}' AS BLOB), schedule = 'sc_1', fire_at = 0")).await;
        let (execution, size) = daemon.store.told(&id, MAX_RESULT).await.unwrap().unwrap();
        let said: Value = serde_json::from_slice(&body("dl_1", &execution, size).unwrap()).unwrap();
        let ended = &said["execution"];
        assert_eq!((ended.get("result").is_some(), ended.get("result_bytes").is_some()), (whole, !whole));
        assert!(whole || ended["result_bytes"] == json!(bytes));
        assert_eq!(ended["schedule"]["id"], "sc_1");
    }
}

#[tokio::test]
async fn ends_are_told_while_the_daemon_runs() {
    let folder = tempfile::tempdir().unwrap();
    let other = Other::start(&[200]).await;
    let (daemon, outbox) = start(folder.path(), &other.url("")).await;
    let telling = tokio::spawn(Arc::new(outbox).run());
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(submit(&daemon, "{}", notify(&other.url("/"))).await.id.clone());
    }
    for id in &ids {
        let told = async {
            loop {
                if known(&daemon, id).await.notify.unwrap().state == Told::Delivered {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
    }
    assert_eq!(other.came().len(), 30);
    telling.abort();
}

const PORT: &str = "TORPOR_TEST_DYING_PORT";

/// The process that dies.
#[tokio::test]
async fn until_it_dies() {
    let Some(folder) = crash::folder() else { return };
    let url = format!("http://127.0.0.1:{}/", std::fs::read_to_string(folder.join(PORT)).unwrap());
    let (daemon, outbox) = start(&folder, &url).await;
    ended(&daemon, "{}", notify(&url)).await;
    round(&outbox, Timestamp::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_each_step_tells_it_at_least_once() {
    for (step, times) in [("notify.sent", 2), ("notify.recorded", 1)] {
        let folder = tempfile::tempdir().unwrap();
        let other = Other::start(&[200]).await;
        std::fs::write(folder.path().join(PORT), other.port.to_string()).unwrap();
        let path = folder.path().to_owned();
        tokio::task::spawn_blocking(move || crash::dies("notify::tests::until_it_dies", &path, step)).await.unwrap();
        let (daemon, outbox) = start(folder.path(), &other.url("/")).await;
        round(&outbox, Timestamp::now()).await;
        let came = other.came();
        assert_eq!(came.len(), times, "{step}");
        assert!(
            came.iter().all(|(_, headers, body)| headers["torpor-delivery"] == came[0].1["torpor-delivery"] && *body == came[0].2),
            "{step}"
        );
        let id = daemon.store.last_id().await.unwrap().unwrap();
        assert_eq!(known(&daemon, &id).await.notify.unwrap().state, Told::Delivered, "{step}");
    }
}
