//! What a task may do, and why: its effective policy line by line, and who calls whom.

use super::App;
use super::caller::Owner;
use super::error::{ApiError, ErrorBody};
use crate::manifest::aux::Aux;
use crate::manifest::flow::{self, By};
use crate::manifest::{Callee, Caller, FILE, Said};
use crate::state::record::Version;
use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// The effective policy of a version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyReport {
    /// Name of the task.
    pub task: String,
    /// Content hash, 64 hex digits.
    #[schema(value_type = String)]
    pub version: Arc<str>,
    /// Of each portion, main first.
    pub lines: Vec<PolicyLine>,
}

/// One rule.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PolicyLine {
    /// Portion that it is for.
    #[schema(example = "main")]
    pub portion: String,
    /// Key, as in a manifest.
    #[schema(example = "memory")]
    pub key: String,
    /// What holds.
    #[schema(example = "128MiB")]
    pub value: String,
    /// Where that comes from: a line of the manifest, a default, a cap.
    #[schema(example = "torpor.toml:9")]
    pub source: String,
}

/// Who calls whom in a version.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GraphReport {
    /// Name of the task.
    pub task: String,
    /// Content hash, 64 hex digits.
    #[schema(value_type = String)]
    pub version: Arc<str>,
    /// Its portions, main first.
    pub portions: Vec<GraphPortion>,
    /// Calls that the policies of both ends allow.
    pub calls: Vec<GraphCall>,
}

/// A portion of a graph.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GraphPortion {
    /// Its name.
    pub name: String,
    /// `untrusted`, `limited` or `trusted`.
    pub trust: &'static str,
    /// Its language host.
    pub runtime: &'static str,
    /// Names of secrets that its program gets.
    pub secrets: Vec<String>,
    /// Services that it may talk to: `NAME ADDRESS`.
    pub aux: Vec<String>,
}

/// A call of a graph.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GraphCall {
    /// `client`, or `portion:NAME`.
    pub from: String,
    /// `portion:NAME`, the name of another task, or `*` for any.
    pub to: String,
}

fn said<T>(list: Option<&Said<Vec<T>>>, default: &str) -> (String, String)
where
    T: ToString,
{
    match list {
        None => (default.to_owned(), "default".into()),
        Some(said) if said.value.is_empty() => ("none".into(), place(said.line)),
        Some(said) => (said.value.iter().map(T::to_string).collect::<Vec<_>>().join(", "), place(said.line)),
    }
}

/// Line 0 stands for a manifest from before lines were kept.
fn place(line: u32) -> String {
    if line == 0 { FILE.to_owned() } else { format!("{FILE}:{line}") }
}

fn service(aux: &Aux) -> String {
    format!("{}; on_park {}, {} connections, {}", aux.target, aux.on_park.name(), aux.connections, crate::manifest::format_bytes(aux.bytes))
}

fn lines(app: &App, portion: &Version) -> Vec<PolicyLine> {
    let line =
        |key: &str, value: String, source: String| PolicyLine { portion: portion.portion.to_string(), key: key.to_owned(), value, source };
    let rights = &portion.rights;
    let mut lines = vec![line("trust", rights.trust.name().into(), FILE.into())];
    let resolved = app.dispatcher.caps.resolve(&portion.account, &portion.declared);
    lines.extend(resolved.lines().into_iter().map(|(key, value, source)| line(key, value, source.to_string())));
    let callers =
        if portion.portion.is_main() { "client, and all of the account that are trusted as far" } else { "portions trusted as far" };
    for (key, (value, source)) in [
        ("callers", said(rights.callers.as_ref(), callers)),
        ("calls", said(rights.calls.as_ref(), "none")),
        ("secrets", said(rights.secrets.as_ref(), "none")),
    ] {
        lines.push(line(key, value, source));
    }
    let services = rights.aux.iter().map(|aux| {
        let allowed =
            if app.dispatcher.caps.allows(&portion.account, &aux.target) { "" } else { "; NOT ALLOWED by the host's policy any more" };
        line(&format!("aux.{}", aux.name), format!("{}{allowed}", service(aux)), place(aux.line))
    });
    lines.extend(services);
    lines
}

fn calls(main: &Arc<Version>) -> Vec<GraphCall> {
    let name = |portion: &Version| format!("portion:{}", portion.portion);
    let mut calls = Vec::new();
    if flow::allowed(By::Client, main.end()).is_ok() {
        calls.push(GraphCall { from: Caller::Client.to_string(), to: name(main) });
    }
    for from in main.all() {
        let inside = main.all().filter(|to| flow::allowed(By::Portion(from.end()), to.end()).is_ok());
        calls.extend(inside.map(|to| GraphCall { from: name(from), to: name(to) }));
        let outside = from.rights.calls().iter().filter(|callee| match callee {
            Callee::Any => true,
            Callee::Task(task) => *task != from.task,
            Callee::Portion(_) => false,
        });
        calls.extend(outside.map(|callee| GraphCall { from: name(from), to: callee.to_string() }));
    }
    calls
}

/// The effective policy of a task (`NAME` or `NAME@HASH`), and where each line comes from.
#[utoipa::path(
    get, path = "/v1/tasks/{name}/policy", tag = "tasks", params(("name" = String, Path, description = "NAME or NAME@HASH")),
    responses((status = 200, body = PolicyReport), (status = 404, description = "unknown_task, unknown_version", body = ErrorBody))
)]
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(name): Path<String>,
) -> Result<Json<PolicyReport>, ApiError> {
    let main = app.catalog.version(&caller.account, &name)?;
    let lines = main.all().flat_map(|portion| lines(&app, portion)).collect();
    Ok(Json(PolicyReport { task: main.task.to_string(), version: Arc::clone(&main.version), lines }))
}

/// Who calls whom in a task (`NAME` or `NAME@HASH`): its portions, and the calls that the policies of both ends allow.
#[utoipa::path(
    get, path = "/v1/tasks/{name}/graph", tag = "tasks", params(("name" = String, Path, description = "NAME or NAME@HASH")),
    responses((status = 200, body = GraphReport), (status = 404, description = "unknown_task, unknown_version", body = ErrorBody))
)]
pub(super) async fn graph(
    State(app): State<Arc<App>>,
    Owner(caller): Owner,
    Path(name): Path<String>,
) -> Result<Json<GraphReport>, ApiError> {
    let main = app.catalog.version(&caller.account, &name)?;
    let portion = |portion: &Arc<Version>| GraphPortion {
        name: portion.portion.to_string(),
        trust: portion.rights.trust.name(),
        runtime: portion.entry.runtime().name(),
        secrets: portion.rights.secrets().iter().map(ToString::to_string).collect(),
        aux: portion.rights.aux.iter().map(|aux| format!("{} {}", aux.name, aux.target)).collect(),
    };
    let portions = main.all().map(portion).collect();
    Ok(Json(GraphReport { task: main.task.to_string(), version: Arc::clone(&main.version), portions, calls: calls(&main) }))
}
