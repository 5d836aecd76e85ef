//! What is going on at this moment: who has what of the host, who waits, and for how long.

use super::App;
use super::caller::Invoker;
use crate::accounts::Role;
use crate::state::machine::State as S;
use crate::state::record::Execution;
use crate::state::time::Timestamp;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Most executions that are told of.
const MOST: usize = 100;

/// The host as a whole; only administrators see it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostLoad {
    /// Bytes that VMs are charged.
    pub memory_used_bytes: u64,
    /// Bytes that they may take together.
    pub memory_budget_bytes: u64,
    /// Processors that those VMs are given that compute.
    pub cpus_used: f64,
    /// Processors that they may take together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus_budget: Option<f64>,
    /// Executions that wait for a VM.
    pub queued: usize,
    /// Executions that have a VM.
    pub running: usize,
    /// Executions that are parked.
    pub parked: usize,
    /// No new work is taken.
    pub draining: bool,
}

/// What an account has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AccountLoad {
    /// Its name.
    pub account: String,
    /// Its share of a busy host, against those of others.
    pub weight: u32,
    /// Executions that wait for a VM.
    pub queued: usize,
    /// Executions that have a VM.
    pub running: usize,
    /// Bytes that their VMs are charged.
    pub memory_bytes: u64,
    /// Processors that those VMs are given that compute.
    pub cpus: f64,
    /// How long the one waits that has waited longest, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_wait_ms: Option<u64>,
}

/// An execution that has not ended.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ExecutionLoad {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub account: String,
    /// Its task.
    pub task: String,
    /// Where it is.
    pub state: S,
    /// How long it has been there, in ms.
    pub for_ms: u64,
    /// When its result is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub need_by: Option<Timestamp>,
    /// It will not be done by then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
}

/// What is going on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LoadBody {
    /// When.
    pub at: Timestamp,
    /// The host as a whole, for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostLoad>,
    /// Accounts that have something waiting or running: all for administrators, else the caller's own.
    pub accounts: Vec<AccountLoad>,
    /// Executions that have not ended, at most 100: those that have a VM first, then those that wait for one, the most urgent first, then those that are parked.
    pub executions: Vec<ExecutionLoad>,
}

fn cpus(permille: u64) -> f64 {
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 1000.0
}

fn rank(state: S) -> u8 {
    match state {
        S::Starting | S::Running | S::Resuming => 0,
        S::Queued => 1,
        _ => 2,
    }
}

fn told(view: &Execution, now: Timestamp) -> ExecutionLoad {
    let since = view.timeline.last().map_or(view.created_at, |entry| entry.at);
    ExecutionLoad {
        id: view.id.to_string(),
        account: view.account.to_string(),
        task: view.task.to_string(),
        state: view.state,
        for_ms: now.millis().saturating_sub(since.millis()),
        need_by: view.need_by,
        late: view.late,
    }
}

/// What is going on at this moment.
#[utoipa::path(get, path = "/v1/load", tag = "host", responses((status = 200, body = LoadBody)))]
pub(super) async fn load(State(app): State<Arc<App>>, Invoker(caller): Invoker) -> Json<LoadBody> {
    let (now, all, load) = (Timestamp::now(), caller.role == Role::Admin, app.dispatcher.load());
    let may_see = |account: &str| all || account == caller.account.as_str();
    let host = all.then(|| HostLoad {
        memory_used_bytes: load.used,
        memory_budget_bytes: load.budget.bytes,
        cpus_used: cpus(load.used_cpu),
        cpus_budget: load.budget.cpu.map(|permille| cpus(permille.into())),
        queued: load.queued,
        running: load.running,
        parked: load.parked,
        draining: load.draining,
    });
    let accounts = app.dispatcher.account_loads().into_iter().filter(|(own, _)| may_see(&own.name));
    let accounts = accounts.map(|(own, waits)| AccountLoad {
        account: own.name.to_string(),
        weight: own.weight,
        queued: own.waiting,
        running: own.holding,
        memory_bytes: own.bytes,
        cpus: cpus(own.cpu),
        oldest_wait_ms: waits.map(|waits| u64::try_from(waits.as_millis()).unwrap_or(u64::MAX)),
    });
    let views = app.dispatcher.all_live().into_iter().map(|live| live.view());
    let mut views: Vec<Arc<Execution>> = views.filter(|view| may_see(view.account.as_str())).collect();
    views.sort_by_cached_key(|view| {
        let urgency = view.need_by.filter(|_| view.state == S::Queued).map_or((true, 0), |need_by| (false, need_by.0));
        (rank(view.state), urgency, view.id.clone())
    });
    views.truncate(MOST);
    let executions = views.iter().map(|view| told(view, now)).collect();
    Json(LoadBody { at: now, host, accounts: accounts.collect(), executions })
}
