//! The TCP listener, with a real client: who is let in, and what certificate it has.

use super::*;
use crate::accounts::Role;
use crate::api::serve::{Door, serve};
use crate::api::tls::{Tls, TlsError};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// A new certificate in the place of whatever is there.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    for (name, text) in [("cert.pem", cert.pem()), ("key.pem", signing_key.serialize_pem())] {
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&new, folder.join(name)).unwrap();
    }
    cert.der().clone()
}

fn open(folder: &Path) -> Result<Tls, TlsError> {
    Tls::open(&folder.join("cert.pem"), &folder.join("key.pem"))
}

/// A server on a port of its own.
async fn listening(server: &Server, tls: &Arc<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(Door::Tls(listener, Arc::clone(tls)), server.router.clone(), server.app.stopping.clone()));
    address
}

/// A whole answer as text, or why the server is none to be trusted.
async fn exchange(address: SocketAddr, trusted: &CertificateDer<'static>, name: &'static str, request: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = TlsConnector::from(config).connect(ServerName::try_from(name).unwrap(), stream).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    match tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await.unwrap() {
        // Who closes need not say so in TLS.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}

fn get(path: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{token}\r\n")
}

#[tokio::test]
async fn callers_come_over_tls_with_a_token_and_not_without() {
    let server = Server::start().await;
    let cert = certify(server.path());
    let tls = Arc::new(open(server.path()).unwrap());
    let address = listening(&server, &tls).await;
    let token = server.token("us", Role::Owner).await;
    let ask = async |request: String| exchange(address, &cert, "localhost", &request).await.unwrap();
    let host = ask(get("/v1/host", Some(&token))).await;
    assert!(host.starts_with("HTTP/1.1 200") && host.contains("\"account\":\"us\"") && host.contains("\"role\":\"owner\""), "{host}");
    let refused = ask(get("/v1/host", None)).await;
    assert!(
        refused.starts_with("HTTP/1.1 401") && refused.contains("www-authenticate: Bearer"),
        "no user id comes over the network: {refused}"
    );
    assert!(ask(get("/v1/host", Some(&token.replace('_', "-")))).await.starts_with("HTTP/1.1 401"));
    assert!(ask(get("/healthz", None)).await.ends_with("{\"status\":\"ok\"}"));
    // A client checks the name and whom the certificate is from.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = certify(elsewhere.path());
    assert!(exchange(address, &other, "localhost", "").await.is_err());
    assert!(exchange(address, &cert, "example.com", "").await.is_err());
    // One that does not speak TLS learns nothing, and does not hold up others.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(get("/healthz", None).as_bytes()).await.unwrap();
    let _silent = TcpStream::connect(address).await.unwrap();
    let mut told = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), plain.read_to_end(&mut told)).await.unwrap();
    assert!(!told.starts_with(b"HTTP"), "{told:?}");
    assert!(ask(get("/v1/tasks", Some(&token))).await.starts_with("HTTP/1.1 200"));
    server.app.stopping.cancel();
}

#[tokio::test]
async fn who_is_nobody_does_not_stay() {
    let server = Server::start().await;
    let cert = certify(server.path());
    let tls = Arc::new(open(server.path()).unwrap());
    let address = listening(&server, &tls).await;
    let stay = |path: &str, token| get(path, token).replace("connection: close\r\n", "");
    for path in ["/healthz", "/v1/host"] {
        // Read to its end, which comes only if the server closes it; two requests get one answer.
        let answer = exchange(address, &cert, "localhost", &stay(path, None).repeat(2)).await.unwrap();
        assert!(answer.contains("connection: close") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
    }
    let token = server.token("us", Role::Owner).await;
    let both = stay("/healthz", Some(&token)) + &get("/v1/host", Some(&token));
    let answer = exchange(address, &cert, "localhost", &both).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    server.app.stopping.cancel();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_broken_one_is_not() {
    let server = Server::start().await;
    let first = certify(server.path());
    let tls = Arc::new(open(server.path()).unwrap());
    let address = listening(&server, &tls).await;
    let works = async |cert: &CertificateDer<'static>| exchange(address, cert, "localhost", &get("/healthz", None)).await.is_ok();
    assert!(works(&first).await);
    let second = certify(server.path());
    tls.look_now();
    assert!(works(&second).await && !works(&first).await);
    std::fs::write(server.path().join("cert.pem"), "nothing").unwrap();
    tls.look_now();
    assert!(works(&second).await, "what was there before stays");
    std::fs::remove_file(server.path().join("cert.pem")).unwrap();
    tls.look_now();
    assert!(works(&second).await);
}

#[test]
fn files_that_can_not_be_used_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(matches!(open(folder.path()), Err(TlsError::Io { .. })));
    certify(folder.path());
    std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(open(folder.path()), Err(TlsError::Loose { mode: 0o644, .. })));
    std::fs::set_permissions(path("key.pem"), std::fs::Permissions::from_mode(0o640)).unwrap();
    open(folder.path()).unwrap();
    let key = std::fs::read(path("key.pem")).unwrap();
    std::fs::write(path("key.pem"), "-----BEGIN PRIVATE KEY-----\n%\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(matches!(open(folder.path()), Err(TlsError::Pem { what: "a private key", .. })));
    std::fs::write(path("key.pem"), key).unwrap();
    std::fs::write(path("cert.pem"), "").unwrap();
    assert!(matches!(open(folder.path()), Err(TlsError::Unusable { .. })));
    // A key of another certificate.
    let other = tempfile::tempdir().unwrap();
    certify(other.path());
    std::fs::copy(other.path().join("cert.pem"), path("cert.pem")).unwrap();
    assert!(matches!(open(folder.path()), Err(TlsError::Unusable { .. })));
}
