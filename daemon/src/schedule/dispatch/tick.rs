//! What the queue has to be told, or to tell, because time has passed; and what was learned of durations, written now and then.

use super::{Dispatcher, Event};
use crate::state::id::ExecutionId;
use crate::state::record::Happening;
use crate::state::writer::Change;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

/// How often durations are written, where there are new ones; and how many at once.
const WRITE: (Duration, usize) = (Duration::from_secs(5), 64);

/// Tells the queue when its alarm is due, as long as there is a queue.
pub(super) fn begin(d: &Arc<Dispatcher>) {
    let (mut alarm, clock, d) = (d.alarm.subscribe(), d.lock().clock, Arc::downgrade(d));
    tokio::spawn(async move {
        loop {
            let due = *alarm.borrow_and_update();
            let due = due.and_then(|due| clock.instant(due));
            tokio::select! {
                changed = alarm.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = crate::schedule::until(due) => match d.upgrade() {
                    Some(d) => d.step(Event::Tick),
                    None => return,
                },
            }
        }
    });
}

impl Dispatcher {
    /// Tells whether anybody waits for memory, and when the queue's alarm is due.
    pub(super) fn tell(&self) {
        // Held to the end: of two who tell at once, the later would otherwise tell first, and its alarm be lost.
        let shared = self.lock();
        let core = &shared.core;
        let (pressed, alarm) = (core.short_of_memory() || core.draining(), core.alarm());
        self.pressure.send_if_modified(|now| std::mem::replace(now, pressed) != pressed);
        self.alarm.send_if_modified(|now| std::mem::replace(now, alarm) != alarm);
    }

    /// It waits, and can't be done when it is needed any more.
    pub(super) fn tell_late(&self, id: &ExecutionId) {
        let Some(live) = self.live(id) else { return };
        let view = live.view();
        let Some(need_by) = view.need_by.filter(|_| !view.late && !view.state.ended()) else { return };
        let end = live.clock.now().after(self.estimates.of(&live.version).takes);
        live.happened(Happening::Late { by_ms: end.millis_past(need_by) });
    }

    /// Looks at what is kept of executions that have ended.
    pub async fn look_at_history(&self) {
        match self.store.history_sizes().await {
            Ok(history) => *self.history.write().unwrap_or_else(PoisonError::into_inner) = history,
            Err(error) => tracing::debug!(%error, "what is kept of each account is not looked at"),
        }
    }

    /// Writes what was learned of durations.
    pub async fn write_durations(&self) {
        let seen = self.estimates.take_dirty();
        for some in seen.chunks(WRITE.1) {
            if let Err(error) = self.store.commit(Change::PutDurations(some.into())).await {
                tracing::debug!(%error, "what was learned of durations is not written");
            }
        }
    }
}

/// Writes what is learned of durations, and looks at what is kept, now and then, as long as there is a scheduler.
pub async fn keep_durations(d: Weak<Dispatcher>) {
    loop {
        tokio::time::sleep(WRITE.0).await;
        match d.upgrade() {
            Some(d) => {
                d.write_durations().await;
                d.look_at_history().await;
            }
            None => return,
        }
    }
}
