//! How long executions that ended are known: removes them with their results, timelines and logs, a few at a time, behind all other work.
//!
//! ```text
//! ended -- kept for --keep --> rows removed (one commit: the commit point) --> log removed
//!                                             a crash here leaves a log without an execution: the next start removes it
//! ```
//! The clock of the host may jump: what ended is kept for its time all the same, by how far executions and this clock are behind.
//!
//! Invariants: an execution that is known has its log; a log is removed only if no execution has it, neither in the database nor on its way there.

#[cfg(test)]
mod tests;

use crate::config::Keep;
use crate::logs::Logs;
use crate::metrics::Metrics;
use crate::state::id::ExecutionId;
use crate::state::store::{Store, StoreError};
use crate::state::time::{SteadyClock, Timestamp};
use crate::state::writer::Change;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Logs that are looked up at once.
const LOOKED_UP: usize = 256;
/// Clocks that differ by less are the same.
const TOLERANCE: Duration = Duration::from_secs(1);
/// What is over its time is noticed after a hundredth of that, within these bounds.
const NOTICE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Why something is not removed now. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of logs.
    #[error("the folder of logs can't be read: {0}")]
    Logs(#[from] io::Error),
}

/// Removes what was kept long enough.
#[derive(Debug)]
pub struct Retention {
    /// How long it is.
    pub keep: Keep,
    /// The database.
    pub store: Store,
    /// The logs.
    pub logs: Logs,
    /// Counts what was removed.
    pub metrics: Arc<Metrics>,
}

fn notice(keep: Duration) -> Duration {
    let (least, most) = NOTICE;
    (keep / 100).clamp(least, most)
}

/// How far the times of what ended are behind the host's clock, at most: as long as anything of that kind is kept.
#[derive(Debug)]
struct Lag {
    keep: Duration,
    clock: SteadyClock,
    most: Duration,
    seen: Instant,
}

impl Lag {
    fn new(keep: Duration) -> Self {
        Self { keep, clock: SteadyClock::start(), most: Duration::ZERO, seen: Instant::now() }
    }

    /// What ended by this moment was kept for its time. `behind`: of what has not ended.
    fn ended_by(&mut self, behind: Duration) -> Timestamp {
        let jumped = self.clock.behind();
        self.clock = SteadyClock::start();
        if self.seen.elapsed() > self.keep + 2 * notice(self.keep) {
            self.most = Duration::ZERO;
        }
        if jumped.max(behind) > TOLERANCE {
            self.most = self.most.saturating_add(jumped).max(behind);
            self.seen = Instant::now();
        }
        Timestamp::now().before(self.keep).before(self.most)
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Removes the logs of these executions; how many there were.
pub(crate) async fn remove_logs(logs: &Logs, ids: Arc<[ExecutionId]>) -> io::Result<usize> {
    let logs = logs.clone();
    blocking(move || {
        let gone = |id: &ExecutionId| {
            logs.remove(id).unwrap_or_else(|error| {
                tracing::warn!(execution = %id, %error, "a log could not be removed; the next start tries again");
                false
            })
        };
        Ok(ids.iter().filter(|id| gone(id)).count())
    })
    .await
}

impl Retention {
    /// For as long as the daemon lives. `live`: the execution has not ended, or is about to be stored. `behind`: how much the host's clock is ahead of the
    /// times of executions that have not ended.
    pub async fn run(self, live: impl Fn(&ExecutionId) -> bool + Send, behind: impl Fn() -> Duration + Send) {
        match self.remove_orphans(live).await {
            Ok(0) => {}
            Ok(logs) => tracing::info!(logs, "removed logs that belong to no execution"),
            Err(error) => tracing::warn!(%error, "can't look for logs that belong to no execution; the next start does"),
        }
        let Keep::For(time) = self.keep else { return };
        let mut lag = Lag::new(time);
        loop {
            match self.remove_ended(lag.ended_by(behind())).await {
                Ok(0) => {}
                Ok(executions) => tracing::info!(executions, "removed executions that ended long enough ago"),
                Err(error) => tracing::warn!(%error, "can't remove executions that ended long enough ago; trying again"),
            }
            tokio::time::sleep(notice(time)).await;
        }
    }

    /// Removes all executions that ended at or before this moment; how many.
    async fn remove_ended(&self, moment: Timestamp) -> Result<usize, RetentionError> {
        let mut removed = 0;
        let until = self.store.ids_until(moment, Timestamp::now()).await?;
        // What was passed over is not looked at again.
        let mut after = None;
        loop {
            let begin = Instant::now();
            let ids: Arc<[ExecutionId]> = self.store.ended_by(moment, (after.as_ref(), until.as_ref())).await?.into();
            let Some(last) = ids.last().cloned() else { return Ok(removed) };
            after = Some(last);
            self.store.commit(Change::RemoveEnded(Arc::clone(&ids))).await?;
            removed += ids.len();
            self.metrics.removed(ids.len());
            remove_logs(&self.logs, ids).await?;
            // Half of the time at most is ours.
            tokio::time::sleep(begin.elapsed()).await;
        }
    }

    /// Removes the logs that no execution has.
    async fn remove_orphans(&self, live: impl Fn(&ExecutionId) -> bool + Send) -> Result<usize, RetentionError> {
        let logs = self.logs.clone();
        let mut all = blocking(move || logs.all()).await?;
        let mut removed = 0;
        loop {
            let some: Vec<ExecutionId>;
            (all, some) = blocking(move || {
                let some = all.by_ref().take(LOOKED_UP).collect::<Result<_, _>>()?;
                Ok((all, some))
            })
            .await?;
            if some.is_empty() {
                break;
            }
            // In this order: an execution is live before it has a log, and in the database before it is live no more.
            let ended = some.into_iter().filter(|id| !live(id)).collect();
            let unknown = self.store.unknown(ended).await?;
            removed += remove_logs(&self.logs, unknown.into()).await?;
        }
        self.metrics.orphans(removed);
        Ok(removed)
    }
}
