//! Figures for Prometheus: counters and histograms kept here, gauges read when asked.

use crate::engine::EngineStats;
use crate::schedule::dispatch::Load;
use crate::state::record::{Execution, Happening};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct End {
    state: Word,
    kind: Word,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct How {
    how: Word,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    submitted: Counter,
    ended: Family<End, Counter>,
    queue_seconds: Histogram,
    run_seconds: Histogram,
    commit_seconds: Histogram,
    commit_changes: Counter,
    log_dropped: Counter,
    removed: Counter,
    orphans: Counter,
    aux_opened: Counter,
    aux_ended: Family<How, Counter>,
    aux_requests: Family<How, Counter>,
    aux_bytes: Counter,
    webhooks: Family<How, Counter>,
    webhooks_pending: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("torpor");
        let seconds = |first| Histogram::new(exponential_buckets(first, 2.0, 20));
        let this = Self {
            submitted: Counter::default(),
            ended: Family::default(),
            queue_seconds: seconds(0.001),
            run_seconds: seconds(0.001),
            commit_seconds: seconds(0.000_1),
            commit_changes: Counter::default(),
            log_dropped: Counter::default(),
            removed: Counter::default(),
            orphans: Counter::default(),
            aux_opened: Counter::default(),
            aux_ended: Family::default(),
            aux_requests: Family::default(),
            aux_bytes: Counter::default(),
            webhooks: Family::default(),
            webhooks_pending: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("executions_submitted", "Executions accepted", this.submitted.clone());
        registry.register("executions_ended", "Executions that ended, by state and kind of error", this.ended.clone());
        registry.register("queue_seconds", "From acceptance to the first attempt", this.queue_seconds.clone());
        registry.register("run_seconds", "From the program's start to the end of its execution", this.run_seconds.clone());
        registry.register("commit_seconds", "Durable commits of the database", this.commit_seconds.clone());
        registry.register("commit_changes", "Changes in all commits together", this.commit_changes.clone());
        registry.register("log_dropped_bytes", "Program output over log caps", this.log_dropped.clone());
        registry.register("executions_removed", "Executions that were kept long enough", this.removed.clone());
        registry.register("logs_orphaned", "Logs of unknown executions, removed after a start", this.orphans.clone());
        registry.register("aux_connections", "Connections to auxiliary services that were allowed", this.aux_opened.clone());
        registry.register("aux_connections_ended", "Connections that ended or were refused, by how", this.aux_ended.clone());
        registry.register("aux_requests", "Requests to auxiliary services over HTTP, by how they ended", this.aux_requests.clone());
        registry.register("aux_bytes", "Bytes exchanged with auxiliary services, both ways", this.aux_bytes.clone());
        registry.register(
            "webhooks",
            "Ends of executions that were told, are told again later, or are given up, by how",
            this.webhooks.clone(),
        );
        registry.register("webhooks_pending", "Ends of executions that are to be told", this.webhooks_pending.clone());
        Self { registry, ..this }
    }
}

impl Metrics {
    /// An execution was accepted.
    pub fn submitted(&self) {
        self.submitted.inc();
    }

    /// A transaction of so many changes was committed or failed.
    pub fn committed(&self, changes: usize, took: Duration) {
        self.commit_seconds.observe(took.as_secs_f64());
        self.commit_changes.inc_by(changes as u64);
    }

    /// An execution ended.
    pub fn ended(&self, execution: &Execution) {
        let kind = Word(execution.error.as_ref().map_or("", |error| error.kind.name()));
        self.ended.get_or_create(&End { state: Word(execution.state.name()), kind }).inc();
        let started = execution.timeline.iter().find(|entry| matches!(entry.what, Happening::Starting { .. }));
        if let Some(started) = started {
            self.queue_seconds.observe(started.at.seconds_since(execution.created_at));
        }
        if let (Some(from), Some(to)) = (execution.started_at, execution.finished_at) {
            self.run_seconds.observe(to.seconds_since(from));
        }
        if let Some(Happening::Finished { log_dropped_bytes, .. }) = execution.timeline.last().map(|entry| &entry.what) {
            self.log_dropped.inc_by(*log_dropped_bytes);
        }
    }

    /// Executions were removed with all that was stored of them.
    pub fn removed(&self, executions: usize) {
        self.removed.inc_by(executions as u64);
    }

    /// Logs that belonged to no execution were removed.
    pub fn orphans(&self, logs: usize) {
        self.orphans.inc_by(logs as u64);
    }

    /// A connection to an auxiliary service was allowed.
    pub fn aux_opened(&self) {
        self.aux_opened.inc();
    }

    /// One ended, or was refused.
    pub fn aux_ended(&self, how: &'static str) {
        self.aux_ended.get_or_create(&How { how: Word(how) }).inc();
    }

    /// A request was passed on, denied, or failed.
    pub fn aux_request(&self, how: &'static str) {
        self.aux_requests.get_or_create(&How { how: Word(how) }).inc();
    }

    /// So many bytes were exchanged.
    pub fn aux_bytes(&self, bytes: usize) {
        self.aux_bytes.inc_by(bytes as u64);
    }

    /// An end was told (`delivered`), is told again later (`pending`), or is given up (`failed`).
    pub fn webhooks(&self, how: &'static str, count: usize) {
        self.webhooks.get_or_create(&How { how: Word(how) }).inc_by(count as u64);
    }

    /// So many ends are to be told now.
    pub fn webhooks_pending(&self, count: u64) {
        self.webhooks_pending.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// All of it in Prometheus' text format.
    pub fn render(&self, load: &Load, engine: &EngineStats) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        // `encode` closes the text; what is read now goes before that.
        text.truncate(text.trim_end().trim_end_matches("# EOF").len());
        let mut now = Registry::with_prefix("torpor");
        let mut gauge = |name: &str, help: &str, value: u64| {
            let gauge: Gauge = Gauge::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            now.register(name, help, gauge);
        };
        gauge("executions_queued", "Executions that wait for memory", load.queued as u64);
        gauge("executions_running", "Executions that hold a VM", load.running as u64);
        gauge("executions_parked", "Executions that are parked", load.parked as u64);
        gauge("memory_budget_bytes", "Memory that VMs may take together", load.budget.bytes);
        gauge("memory_used_bytes", "Memory that VMs are charged", load.used);
        gauge("draining", "1 while no new work is taken", u64::from(load.draining));
        gauge("monitors", "Monitor processes", engine.monitors as u64);
        gauge("monitors_warm", "Monitors that wait with a VM made", engine.warm_monitors as u64);
        gauge("templates", "Templates on disk or being made", engine.templates.len() as u64);
        let mut counter = |name: &str, help: &str, value: u64| {
            let counter: Counter = Counter::default();
            counter.inc_by(value);
            now.register(name, help, counter);
        };
        counter("monitors_started", "Monitors started", engine.monitors_started);
        counter("monitors_warm_lost", "Monitors that died while they waited", engine.warm_monitors_lost);
        counter("restores_warm", "VMs restored in a warm monitor", engine.restores_warm);
        counter("restores_warm_micros", "Their time to the vCPU's start", engine.restore_warm_micros);
        counter("restores_new", "VMs restored in a new monitor", engine.restores_new);
        counter("restores_new_micros", "Their time to the vCPU's start", engine.restore_new_micros);
        counter("parks", "Machines parked", engine.parks);
        counter("parks_micros", "Time that they stood still for it", engine.park_micros);
        counter("parks_bytes", "Bytes written for them", engine.park_bytes);
        counter("resumes", "Machines resumed", engine.resumes);
        counter("resumes_micros", "Their time to the vCPU's start", engine.resume_micros);
        counter("boots", "Runtimes booted", engine.boots);
        counter("boots_micros", "Their time to the agent's first frame", engine.boot_micros);
        counter("templates_made", "Templates made", engine.templates_made);
        counter("templates_failed", "Templates that could not be made", engine.templates_failed);
        let mut rest = String::new();
        encode(&mut rest, &now)?;
        text.write_str(&rest)?;
        Ok(text)
    }
}
