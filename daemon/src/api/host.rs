//! The host and the daemon itself.

use super::App;
use super::caller::{Admin, Invoker};
use super::error::{ApiError, ErrorCode};
use crate::accounts::Role;
use crate::code::MAX_ENTRIES;
use crate::engine::{Engine, TemplateInfo};
use crate::schedule::dispatch::Load;
use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use torpor_protocol::limits::{MAX_CODE, MAX_INPUT, MAX_MEMORY_MIB, MAX_RESULT, MIN_MEMORY_MIB};
use torpor_seccomp::host::{Layer, Status};
use utoipa::ToSchema;

const KVM: &str = "/dev/kvm";

/// How the daemon is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// `ok`, or `draining` while it takes no new work.
    #[schema(example = "ok")]
    pub status: &'static str,
}

/// KVM on this host.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KvmBody {
    /// The device.
    pub device: &'static str,
    /// The daemon may open it.
    pub usable: bool,
}

/// Sizes that are not a matter of policy.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitsBody {
    /// Largest input, in bytes.
    pub input_bytes: usize,
    /// Largest result, in bytes.
    pub result_bytes: usize,
    /// Largest code of a task, in bytes.
    pub code_bytes: u64,
    /// Most files, folders and links of a task.
    pub code_entries: usize,
    /// Smallest memory of a VM, in MiB.
    pub memory_min_mib: u32,
    /// Largest memory of a VM, in MiB.
    pub memory_max_mib: u32,
    /// Most VMs at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vms: Option<usize>,
}

/// A layer of the sandbox of VMs.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LayerBody {
    /// Its name.
    pub layer: &'static str,
    /// `on`: it holds for every VM. `missing`: the host lacks what it takes.
    pub status: &'static str,
    /// How it holds; or what is missing, and what to do.
    pub detail: String,
}

/// What this host has and does.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostBody {
    /// Version of torpord.
    pub version: &'static str,
    /// Account that the request was for.
    pub account: String,
    /// What its caller may do there.
    pub role: Role,
    /// Executions that hold a VM. This and the other figures: for administrators of all accounts, for others of their own.
    pub running: usize,
    /// Executions that wait.
    pub queued: usize,
    /// Executions that are parked.
    pub parked: usize,
    /// Disk that parked executions take.
    pub parked_bytes: u64,
    /// Sizes.
    pub limits: LimitsBody,
    /// The host itself; for administrators only.
    #[serde(flatten)]
    pub whole: Option<WholeHost>,
}

/// The host itself.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeHost {
    /// KVM.
    pub kvm: KvmBody,
    /// Path of the guest kernel.
    pub kernel: String,
    /// Folder of root disks.
    pub images: String,
    /// Memory that VMs may take together.
    pub memory_budget_bytes: u64,
    /// Memory that VMs are charged.
    pub memory_used_bytes: u64,
    /// Disk that parked executions may take.
    pub parked_quota_bytes: u64,
    /// Templates that this daemon has used.
    pub templates: Vec<TemplateInfo>,
    /// Layers of the sandbox of VMs, as this host has them.
    pub sandbox: Vec<LayerBody>,
    /// The state folder.
    pub state_dir: String,
    /// Free bytes of its disk.
    pub disk_free_bytes: u64,
}

/// What this host has and does: all of it for administrators, for others what it does for their account.
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, body = HostBody)))]
pub(super) async fn host(State(app): State<Arc<App>>, Invoker(caller): Invoker) -> Json<HostBody> {
    let load = app.dispatcher.load();
    let admin = caller.role == Role::Admin;
    let (running, queued, parked, parked_bytes) = if admin {
        (load.running, load.queued, load.parked, app.dispatcher.parked.used())
    } else {
        let own = app.dispatcher.load_of(&caller.account);
        (own.running, own.queued, own.parked, own.parked_bytes)
    };
    Json(HostBody {
        version: env!("CARGO_PKG_VERSION"),
        account: caller.account.to_string(),
        role: caller.role,
        running,
        queued,
        parked,
        parked_bytes,
        limits: LimitsBody {
            input_bytes: MAX_INPUT,
            result_bytes: MAX_RESULT,
            code_bytes: MAX_CODE,
            code_entries: MAX_ENTRIES,
            memory_min_mib: MIN_MEMORY_MIB,
            memory_max_mib: MAX_MEMORY_MIB,
            vms: load.budget.vms.filter(|_| admin),
        },
        whole: admin.then(|| whole(&app, &load)),
    })
}

fn whole(app: &App, load: &Load) -> WholeHost {
    let config = &app.config;
    let free = nix::sys::statvfs::statvfs(&config.state_dir).map_or(0, |disk| disk.blocks_available().saturating_mul(disk.fragment_size()));
    WholeHost {
        kvm: KvmBody { device: KVM, usable: std::fs::File::options().read(true).write(true).open(KVM).is_ok() },
        kernel: config.kernel.display().to_string(),
        images: config.images.display().to_string(),
        memory_budget_bytes: load.budget.bytes,
        memory_used_bytes: load.used,
        parked_quota_bytes: app.dispatcher.parked.quota(),
        templates: app.runner().stats().templates,
        sandbox: app.runner().engine().map_or(&[][..], Engine::layers).iter().map(layer).collect(),
        state_dir: config.state_dir.display().to_string(),
        disk_free_bytes: free,
    }
}

fn layer(layer: &Layer) -> LayerBody {
    let status = match layer.status {
        Status::On => "on",
        Status::Missing => "missing",
    };
    LayerBody { layer: layer.layer, status, detail: layer.detail.clone() }
}

/// Figures of the whole host in Prometheus' text format; for administrators.
#[utoipa::path(get, path = "/metrics", tag = "host", responses((status = 200, body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<Arc<App>>, Admin(_caller): Admin) -> Result<Response, ApiError> {
    app.metrics.webhooks_pending(app.store.pending_count().await?);
    let text = app.metrics.render(&app.dispatcher.load(), &app.runner().stats());
    let text = text.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response())
}

/// Whether the daemon takes work.
#[utoipa::path(get, path = "/healthz", tag = "host", responses((status = 200, body = HealthBody)))]
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<HealthBody> {
    Json(HealthBody { status: if app.dispatcher.draining() { "draining" } else { "ok" } })
}
