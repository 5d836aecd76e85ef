//! The time between a failed attempt and the next one. Its execution is queued, has no VM, and is not in the queue.
//!
//! ```text
//! failed -- VM given up, queued with `not_before` (commit) --> waits --> in the queue, at its end
//!                                                               |
//!                                                               +-- cancelled, its deadline passed --> the end
//! ```
//! Invariants: it waits no longer than its policy says, whatever the wall clock does: a daemon that runs counts on a clock that never jumps, and one that starts
//! takes the moment in the database for no later than the whole wait from now. Where a cancel and the end of the wait cross, one of them has it.

use super::dispatch::Dispatcher;
use super::ending::Ending;
use super::guard::guarded;
use super::job::Job;
use super::live::{Cause, Live};
use super::run;
use crate::engine::ErrorKind;
use crate::fault;
use crate::manifest::Policy;
use crate::state::record::{Execution, Happening};
use crate::state::time::Timestamp;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long is waited after failure number `attempts` (from 1): `first` ms, doubled for each before, `most` ms at most; between half of that and all
/// of it, as `random` has it, so that what failed together does not come back together.
#[must_use]
pub fn delay((first, most): (u64, u64), attempts: u32, random: u64) -> Duration {
    let doubled = 1u64.checked_shl(attempts.saturating_sub(1)).and_then(|factor| first.checked_mul(factor));
    let millis = doubled.unwrap_or(u64::MAX).min(most);
    let half = millis / 2;
    Duration::from_millis(millis - if half == 0 { 0 } else { random % (half + 1) })
}

/// The same with fresh randomness; without any, the whole time.
#[must_use]
pub fn fresh(first_and_most: (u64, u64), attempts: u32) -> Duration {
    let mut random = [0; 8];
    let _ = getrandom::fill(&mut random);
    delay(first_and_most, attempts, u64::from_le_bytes(random))
}

/// How long an execution waits for its next attempt, now that one has failed: longer with each that failed before. One that a daemon's end cut short did not:
/// nothing waited after it, and restarts are no reason to wait.
pub(super) fn of(policy: &Policy, execution: &Execution) -> Duration {
    let failed = |what: &Happening| matches!(what, Happening::Retrying { kind, .. } if *kind != ErrorKind::Interrupted);
    let before = execution.timeline.iter().filter(|entry| failed(&entry.what)).count();
    fresh((policy.backoff_ms, policy.backoff_max_ms), u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1))
}

/// How much is left of a wait, after a restart.
#[must_use]
pub fn left(execution: &Execution, now: Timestamp) -> Duration {
    let Some(until) = execution.not_before else { return Duration::ZERO };
    let whole = execution.timeline.iter().rev().find_map(|entry| match entry.what {
        Happening::Retrying { delay_ms, .. } => Some(Duration::from_millis(delay_ms)),
        _ => None,
    });
    until.since(now).min(whole.unwrap_or_default())
}

/// Waits, and has it queued; or ends it. It is recorded as it is, and holds nothing.
pub(super) async fn wait(d: Arc<Dispatcher>, live: Arc<Live>, time: Duration) {
    guarded(&d, &live, Box::pin(sleep(&d, &live, time))).await;
}

async fn sleep(d: &Arc<Dispatcher>, live: &Arc<Live>, time: Duration) {
    let counted = Counted::new(&d.delayed);
    tokio::select! {
        biased;
        () = live.cancel.cancelled() => return stopped(d, live).await,
        () = tokio::time::sleep(time) => {}
    }
    let _ = fault::at("retry.due").await;
    drop(counted);
    d.requeue(std::slice::from_ref(live));
    // Whoever stopped it before that saw that it does not wait in the queue, and left it to this.
    if live.cause().is_some() && d.unqueue(&Job::Execution(live.id.clone())) {
        stopped(d, live).await;
    }
}

/// One that waits.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn stopped(d: &Arc<Dispatcher>, live: &Live) {
    // The next start goes on.
    if live.cause() != Some(Cause::Daemon) {
        run::finish(d, live, Ending::of(live.cause(), &live.version.policy)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn restarts_do_not_make_it_longer() {
        let policy = Policy { backoff_ms: 1000, backoff_max_ms: 3_600_000, ..Policy::default() };
        let version = crate::state::tests::version("t", 'a');
        let mut execution = Execution::new(crate::state::id::ExecutionId::first_of(Timestamp(0)), &version, Timestamp(0));
        let mut begin_and_end = |kind: ErrorKind, attempt| {
            execution.apply(Timestamp(0), Happening::Starting { attempt }).unwrap();
            let waits = of(&policy, &execution).as_millis();
            execution.apply(Timestamp(0), Happening::Retrying { kind, message: String::new(), delay_ms: 0 }).unwrap();
            waits
        };
        for attempt in 1..=10 {
            begin_and_end(ErrorKind::Interrupted, attempt);
        }
        assert!((500..=1000).contains(&begin_and_end(ErrorKind::Exit, 11)));
        begin_and_end(ErrorKind::Interrupted, 12);
        assert!((1000..=2000).contains(&begin_and_end(ErrorKind::Exit, 13)));
        assert!((2000..=4000).contains(&begin_and_end(ErrorKind::Exit, 14)));
    }

    proptest! {
        #[test]
        fn waits_double_up_to_the_most(first in 0u64..86_400_000, most in 0u64..86_400_000, attempts in 1u32..200, random: u64) {
            let first_and_most = (first.min(most), most);
            let (one, whole) = (delay(first_and_most, attempts, random), delay(first_and_most, attempts, 0));
            prop_assert!(one <= whole && whole <= one * 2 + Duration::from_millis(1));
            let next = delay(first_and_most, attempts + 1, 0);
            prop_assert_eq!(next, (whole * 2).min(Duration::from_millis(most)));
        }

        #[test]
        fn no_clock_makes_it_longer(at in -1_000_000_000_000i64..2_000_000_000_000_000, now in -1_000_000_000_000i64..2_000_000_000_000_000, ms in 0u64..86_400_000) {
            let version = crate::state::tests::version("t", 'a');
            let id = crate::state::id::ExecutionId::first_of(Timestamp(0));
            let mut execution = Execution::new(id, &version, Timestamp(at));
            execution.timeline.push(crate::state::record::TimelineEntry { at: Timestamp(at), what: Happening::Retrying { kind: crate::engine::ErrorKind::Exit, message: String::new(), delay_ms: ms } });
            execution.not_before = Some(Timestamp(at).later(ms));
            prop_assert!(left(&execution, Timestamp(now)) <= Duration::from_millis(ms));
            prop_assert_eq!(left(&execution, Timestamp(at).later(ms)), Duration::ZERO);
            prop_assert_eq!(left(&execution, Timestamp(at)), Duration::from_millis(ms));
        }
    }
}
