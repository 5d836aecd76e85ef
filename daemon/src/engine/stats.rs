//! Counters and gauges of the engine. Each is counted where it happens; none is ever reset.

use super::types::EngineStats;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Live counters behind [`EngineStats`].
#[derive(Debug, Default)]
pub(super) struct Stats {
    warm: AtomicUsize,
    monitors: AtomicUsize,
    started: AtomicU64,
    lost: AtomicU64,
    restores: [(AtomicU64, AtomicU64); 2],
    boots: (AtomicU64, AtomicU64),
    parks: (AtomicU64, AtomicU64, AtomicU64),
    resumes: (AtomicU64, AtomicU64),
    made: AtomicU64,
    failed: AtomicU64,
}

/// A duration in whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Stats {
    pub(super) fn monitor_started(&self) {
        self.monitors.fetch_add(1, Relaxed);
        self.started.fetch_add(1, Relaxed);
    }

    pub(super) fn monitor_ended(&self) {
        self.monitors.fetch_sub(1, Relaxed);
    }

    pub(super) fn warm_is(&self, count: usize) {
        self.warm.store(count, Relaxed);
    }

    pub(super) fn warm_lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    pub(super) fn restored(&self, warm: bool, micros: u64) {
        let (count, total) = &self.restores[usize::from(warm)];
        count.fetch_add(1, Relaxed);
        total.fetch_add(micros, Relaxed);
    }

    pub(super) fn parked(&self, micros: u64, bytes: u64) {
        self.parks.0.fetch_add(1, Relaxed);
        self.parks.1.fetch_add(micros, Relaxed);
        self.parks.2.fetch_add(bytes, Relaxed);
    }

    pub(super) fn resumed(&self, micros: u64) {
        self.resumes.0.fetch_add(1, Relaxed);
        self.resumes.1.fetch_add(micros, Relaxed);
    }

    pub(super) fn booted(&self, micros: u64) {
        self.boots.0.fetch_add(1, Relaxed);
        self.boots.1.fetch_add(micros, Relaxed);
    }

    pub(super) fn template(&self, made: bool) {
        let counter = if made { &self.made } else { &self.failed };
        counter.fetch_add(1, Relaxed);
    }

    /// All of them now, without the list of templates.
    pub(super) fn snapshot(&self) -> EngineStats {
        let [new, warm] = &self.restores;
        EngineStats {
            warm_monitors: self.warm.load(Relaxed),
            monitors: self.monitors.load(Relaxed),
            monitors_started: self.started.load(Relaxed),
            warm_monitors_lost: self.lost.load(Relaxed),
            restores_warm: warm.0.load(Relaxed),
            restore_warm_micros: warm.1.load(Relaxed),
            restores_new: new.0.load(Relaxed),
            restore_new_micros: new.1.load(Relaxed),
            boots: self.boots.0.load(Relaxed),
            boot_micros: self.boots.1.load(Relaxed),
            parks: self.parks.0.load(Relaxed),
            park_micros: self.parks.1.load(Relaxed),
            park_bytes: self.parks.2.load(Relaxed),
            resumes: self.resumes.0.load(Relaxed),
            resume_micros: self.resumes.1.load(Relaxed),
            templates_made: self.made.load(Relaxed),
            templates_failed: self.failed.load(Relaxed),
            templates: Vec::new(),
        }
    }
}
