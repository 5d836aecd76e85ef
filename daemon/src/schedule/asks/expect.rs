//! When what an execution waits for is there, as far as that is known from how long others take.

use super::{Asks, Open};
use crate::schedule::dispatch::Dispatcher;
use crate::state::waiting::WaitsFor;
use std::time::{Duration, Instant};

impl Asks {
    /// When to bring it back so that its machine runs when the first of what it waits for is there, as far as that is known: a moment, or the end of
    /// executions that always take about as long. Whether that is certain. Nothing where it would have to be now or was.
    #[must_use]
    pub fn ahead(&self, d: &Dispatcher, resume: Duration) -> Option<(Instant, bool)> {
        let now = Instant::now();
        let end = |open: &Open| match &open.waiting.what {
            WaitsFor::Timer => open.due.map(|due| (due, true)),
            WaitsFor::Executions { any, .. } => {
                let ends = open.pending.iter().map(|id| d.steady_end(id));
                let end =
                    if *any { ends.flatten().min() } else { ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max()) };
                end.map(|end| (end, false))
            }
            WaitsFor::Event { .. } => None,
        };
        let (first, certain) = self.open.values().filter_map(end).min()?;
        first.checked_sub(resume).filter(|ahead| *ahead > now).map(|ahead| (ahead, certain))
    }

    /// How long until the first of them can be answered, as far as that is known.
    #[must_use]
    pub fn expected(&self, d: &Dispatcher) -> Option<Duration> {
        let now = Instant::now();
        let one = |open: &Open| {
            let due = open.due.map(|due| due.saturating_duration_since(now));
            let ends = match &open.waiting.what {
                WaitsFor::Executions { any, .. } => {
                    let ends = open.pending.iter().map(|id| d.expected_end(id));
                    if *any { ends.flatten().min() } else { ends.collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().max()) }
                }
                WaitsFor::Timer => None,
                WaitsFor::Event { .. } => None,
            };
            match (&open.waiting.what, ends, due) {
                (_, Some(ends), Some(due)) => Some(ends.min(due)),
                (WaitsFor::Timer, _, due) => due,
                (_, ends, _) => ends,
            }
        };
        self.open.values().map(one).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min())
    }
}
