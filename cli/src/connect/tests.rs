#![allow(clippy::unwrap_used)]
use super::*;
use crate::client::Client;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

fn origin(host: &str, ca: &Path, token: &Path) -> Origin {
    Origin {
        host: Some(host.into()),
        ca: Some(ca.to_owned()),
        token_file: Some(token.to_owned()),
        account: Some("us".into()),
        socket: "/none".into(),
    }
}

/// A server that tells what it was asked; the folder has its certificate and a token.
async fn server(folder: &Path) -> u16 {
    serving(folder, rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap()).await
}

async fn serving(folder: &Path, certificate: rcgen::CertificateParams) -> u16 {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = certificate.self_signed(&key).unwrap();
    std::fs::write(folder.join("ca.pem"), cert.pem()).unwrap();
    std::fs::write(folder.join("token"), "torpor_0_1\n").unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap();
    let (listener, tls) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TlsAcceptor::from(Arc::new(config)));
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = tls.accept(stream).await else { continue };
            let (mut head, mut buffer) = (String::new(), [0; 4096]);
            while !head.ends_with("\r\n\r\n") {
                let read = stream.read(&mut buffer).await.unwrap();
                head.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            let body = serde_json::to_string(&head).unwrap();
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_host_is_asked_with_a_token_once_its_certificate_was_checked() {
    let folder = tempfile::tempdir().unwrap();
    let port = server(folder.path()).await;
    let (ca, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
    let client = Client::to(origin(&format!("https://localhost:{port}"), &ca, &token)).unwrap();
    let head = client.get::<Value>("/v1/tasks").await.unwrap().value;
    let head = head.as_str().unwrap();
    assert!(head.starts_with("GET /v1/tasks HTTP/1.1\r\n"), "{head}");
    for line in [format!("host: localhost:{port}"), "authorization: Bearer torpor_0_1".into(), "x-torpor-account: us".into()] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(!format!("{client:?}").contains("torpor_0_1"));
    // Another name, and a certificate of another.
    let error = Client::to(origin(&format!("https://127.0.0.1:{port}"), &ca, &token)).unwrap().get::<Value>("/").await.unwrap_err();
    assert!(matches!(error, CliError::NoHost { .. }) && error.to_string().contains("--ca"), "{error}");
    let other = tempfile::tempdir().unwrap();
    let _ = server(other.path()).await;
    let client = Client::to(origin(&format!("https://localhost:{port}"), &other.path().join("ca.pem"), &token)).unwrap();
    assert!(matches!(client.get::<Value>("/").await, Err(CliError::NoHost { .. })));
    // What is made for an authority is none for a server.
    let mut authority = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let port = serving(other.path(), authority).await;
    let client = Client::to(origin(&format!("https://localhost:{port}"), &other.path().join("ca.pem"), &token)).unwrap();
    assert!(client.get::<Value>("/").await.unwrap_err().to_string().contains("CA:FALSE"));
    // Nobody there.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = Client::to(origin(&format!("https://localhost:{free}"), &ca, &token)).unwrap().get::<Value>("/").await.unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().starts_with(&format!("no torpord at https://localhost:{free}: ")), "{error}");
}

#[test]
fn what_is_no_host_is_refused_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, token) = (folder.path().join("ca.pem"), folder.path().join("token"));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&ca, made.cert.pem()).unwrap();
    std::fs::write(&token, "t").unwrap();
    for wrong in [
        "localhost:1",
        "http://localhost:1",
        "https://",
        "https://a@localhost:1",
        "https://localhost:1/v1",
        "https://localhost/?x",
        "https://a b",
    ] {
        let error = Client::to(origin(wrong, &ca, &token)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("https://HOST:PORT"), "{wrong}: {error}");
    }
    for good in ["https://localhost", "https://[::1]:7443", "https://127.0.0.1:7443/"] {
        Client::to(origin(good, &ca, &token)).unwrap();
    }
    assert_eq!(Client::to(origin("https://[::1]:7443", &ca, &token)).unwrap().place(), "https://[::1]:7443");
    std::fs::write(&token, "two\nlines").unwrap();
    let error = Client::to(origin("https://localhost", &ca, &token)).unwrap_err().to_string();
    assert!(error.contains("characters that no token has") && !error.contains("two"), "{error}");
    std::fs::write(&token, "x".repeat(5000)).unwrap();
    assert!(Client::to(origin("https://localhost", &ca, &token)).is_err());
    std::fs::write(&token, "t").unwrap();
    std::fs::write(&ca, "nothing").unwrap();
    let error = Client::to(origin("https://localhost", &ca, &token)).unwrap_err().to_string();
    assert!(error.contains("ca.pem has no certificates"), "{error}");
    let none = Origin { token_file: None, ..origin("https://localhost", &ca, &token) };
    if std::env::var_os(TOKEN).is_none() {
        assert!(none.headers().unwrap_err().to_string().contains("needs a token"));
    }
}
