//! The API on a real store and a scripted runner: what is answered, and what is refused and how.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod bad;
mod good;
mod idempotency;
mod mutated;
mod notify;
mod schedules;
mod secrets;
mod socket;
mod tls;
mod transfer;

use super::caller::Peer;
use super::{App, router};
use crate::config::Config;
use crate::manifest::host::HostPolicy;
use crate::schedule::scripted::{Daemon, Scripted};
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use clap::Parser;
use http_body_util::BodyExt;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tower::ServiceExt;

const BUDGET_MIB: u64 = 512;

struct Server {
    folder: tempfile::TempDir,
    app: Arc<App>,
    router: Router,
    runner: Arc<Scripted>,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::on(folder).await
    }

    async fn on(folder: tempfile::TempDir) -> Self {
        Self::under(folder, Arc::default()).await
    }

    async fn under(folder: tempfile::TempDir, caps: Arc<HostPolicy>) -> Self {
        let daemon = Daemon::start_under(folder.path(), BUDGET_MIB, caps).await;
        let schedules = daemon.schedules().await;
        let Daemon { dispatcher, runner, parts, .. } = daemon;
        let config = Config::parse_from(["torpord".as_ref(), "--state-dir".as_ref(), folder.path().as_os_str()]);
        let app = App::new(dispatcher, Arc::new(schedules), parts, config);
        Self { folder, router: router(Arc::clone(&app)), app, runner }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    async fn ask(&self, method: &str, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        self.ask_with(method, path, &[], body).await
    }

    async fn ask_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, Value) {
        self.ask_from(Peer::Local(0), method, path, headers, body).await
    }

    async fn ask_from(&self, peer: Peer, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).extension(peer);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let request = request.body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
    }

    async fn ok(&self, method: &str, path: &str, body: impl Into<Body>) -> Value {
        let (status, value) = self.ask(method, path, body).await;
        assert!(status.is_success(), "{method} {path}: {status} {value}");
        value
    }

    async fn refused(&self, method: &str, path: &str, body: impl Into<Body>, status: u16, code: &str) -> Value {
        let (got, value) = self.ask(method, path, body).await;
        assert_eq!((got.as_u16(), value["error"]["code"].as_str()), (status, Some(code)), "{method} {path}: {value}");
        assert!(!value["error"]["message"].as_str().unwrap().is_empty());
        value["error"].clone()
    }

    async fn push(&self, name: &str, policy: &str) -> Value {
        self.ok("POST", "/v1/tasks", task(name, policy)).await
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(body.len() as u64);
        builder.append_data(&mut header, path, *body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn task(name: &str, policy: &str) -> Vec<u8> {
    let manifest = format!("[task]\nname = \"{name}\"\nruntime = \"python\"\nentry = \"main.py:handler\"\n[policy]\n{policy}\n");
    tar(&[("torpor.toml", manifest.as_bytes()), ("main.py", b"def handler(i, c): return i\n")])
}
