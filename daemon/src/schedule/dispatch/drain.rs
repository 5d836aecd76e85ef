//! The end of the scheduler: no new work, what runs may end, what does not is stopped.

use super::{Dispatcher, Event, Shared};
use crate::schedule::live::{Cause, Live};
use crate::state::machine::State;
use std::sync::Arc;
use std::time::Duration;

/// How long stopped VMs may take to be gone and recorded when the daemon stops.
const STOP_WAIT: Duration = Duration::from_secs(10);

impl Dispatcher {
    async fn until(&self, wait: Duration, done: impl Fn(&Shared) -> bool) -> bool {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(wait, async {
            while !done(&self.lock()) {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        });
        waited.await.is_ok()
    }

    /// Takes no new work, waits for what runs, then stops it. What waits stays queued in the database.
    pub async fn drain(self: &Arc<Self>, wait: Duration) {
        self.step(Event::Drain);
        self.drop_all_kept();
        if !self.until(wait, |shared| shared.core.holding().executions == 0).await {
            let running: Vec<_> = self.all_live().into_iter().filter(|live| !rests(live)).collect();
            tracing::warn!(running = running.len(), "the drain timeout passed; what still runs is interrupted");
            for live in running {
                live.stop(Cause::Daemon);
            }
        }
        let settled = |shared: &Shared| shared.core.holding().executions == 0 && shared.live.values().all(|live| rests(live));
        if !self.until(STOP_WAIT, settled).await {
            tracing::error!("some executions could not be stopped or recorded; the next start accounts for them");
        }
    }
}

/// It is in the database as it is, and needs nothing.
fn rests(live: &Live) -> bool {
    matches!(live.view().state, State::Queued | State::Parked)
}
