//! Who runs next, and the life of an execution from its submission to its end.
//!
//! - [`job`]: what wants a VM; the queue is the crate `torpor-scheduler`
//! - [`runner`]: what it needs from the engine
//! - [`extras`]: what a submission may bring beside its input
//! - [`live`]: an execution that has not ended
//! - [`dispatch`]: submissions, cancels, draining
//! - [`run`]: one execution from its VM to its end, by way of [`attempt`], one VM of it, and [`parked`], the time without one
//! - [`ending`]: what follows when a VM ended
//! - `guard`: what follows when a task of this program has a fault
//! - [`estimates`]: how long executions take
//! - [`backoff`]: the time between a failed attempt and the next one
//! - [`asks`]: what an execution waits for
//! - [`moved`]: from host to host
//! - [`recover`]: what a restart does with what it finds
//!
//! # Retries
//!
//! `retries` of a policy is how often an execution that failed is run again, after a wait that grows with each failure: for every kind of
//! error but those that [`ending::retriable`] names: the same code fails the same way, and an end that was asked for is one. A daemon that went away counts as a failure (`interrupted`), but
//! nothing waits after it, and it makes no later wait longer. With `backoff = "0s"` the next attempt begins at once, in the VM's place that the last one held.
//! A log goes on over attempts.

pub mod asks;
pub mod attempt;
pub mod backoff;
pub mod dispatch;
pub mod ending;
pub mod estimates;
pub mod extras;
mod guard;
pub mod job;
pub mod live;
pub mod moved;
pub mod parked;
pub mod recover;
pub mod run;
pub mod runner;

use std::time::Instant;

/// Until this moment; for ever where there is none.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
pub(crate) mod tests;
