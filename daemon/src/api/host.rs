//! The host and the daemon itself.

use super::App;
use super::caller::{Admin, Invoker};
use super::error::{ApiError, ErrorCode};
use super::types::{HealthBody, HostBody, KvmBody, LayerBody, LimitsBody};
use crate::code::MAX_ENTRIES;
use crate::engine::Engine;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use torpor_protocol::limits::{MAX_CODE, MAX_INPUT, MAX_MEMORY_MIB, MAX_RESULT, MIN_MEMORY_MIB};
use torpor_seccomp::host::{Layer, Status};

const KVM: &str = "/dev/kvm";

/// What this host has and does.
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, body = HostBody)))]
pub(super) async fn host(State(app): State<Arc<App>>, Invoker(_caller): Invoker) -> Json<HostBody> {
    let (load, config) = (app.dispatcher.load(), &app.config);
    let free = nix::sys::statvfs::statvfs(&config.state_dir).map_or(0, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    Json(HostBody {
        version: env!("CARGO_PKG_VERSION"),
        kvm: KvmBody { device: KVM, usable: std::fs::File::options().read(true).write(true).open(KVM).is_ok() },
        kernel: config.kernel.display().to_string(),
        images: config.images.display().to_string(),
        memory_budget_bytes: load.budget.bytes,
        memory_used_bytes: load.used,
        running: load.running,
        queued: load.queued,
        parked: load.parked,
        parked_bytes: app.dispatcher.parked.used(),
        parked_quota_bytes: app.dispatcher.parked.quota(),
        templates: app.runner().stats().templates,
        sandbox: app.runner().engine().map_or(&[][..], Engine::layers).iter().map(layer).collect(),
        state_dir: config.state_dir.display().to_string(),
        disk_free_bytes: free,
        limits: LimitsBody {
            input_bytes: MAX_INPUT,
            result_bytes: MAX_RESULT,
            code_bytes: MAX_CODE,
            code_entries: MAX_ENTRIES,
            memory_min_mib: MIN_MEMORY_MIB,
            memory_max_mib: MAX_MEMORY_MIB,
            vms: load.budget.vms,
        },
    })
}

fn layer(layer: &Layer) -> LayerBody {
    let status = match layer.status {
        Status::On => "on",
        Status::Missing => "missing",
    };
    LayerBody { layer: layer.layer, status, detail: layer.detail.clone() }
}

/// Figures in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "host", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>, Admin(_caller): Admin) -> Result<Response, ApiError> {
    let text = app.metrics.render(&app.dispatcher.load(), &app.runner().stats());
    let text = text.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

/// Whether the daemon takes work.
#[utoipa::path(get, path = "/healthz", tag = "host", responses((status = 200, body = HealthBody)))]
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<HealthBody> {
    Json(HealthBody { status: if app.dispatcher.draining() { "draining" } else { "ok" } })
}
