//! Who runs next, and the life of an execution from its submission to its end.
//!
//! - [`core`]: the queue, a pure function of events
//! - [`runner`]: what it needs from the engine
//! - [`live`]: an execution that has not ended
//! - [`dispatch`]: submissions, cancels, draining
//! - [`run`]: one execution from its VM to its end
//! - [`recover`]: what a restart does with what it finds
//!
//! # Retries
//!
//! `retries` of a policy is how often an execution that failed is run again, at once and in the VM's place that it holds: for every kind of
//! error but `load` (the same code fails the same way), `timeout` and `cancelled`. A daemon that went away counts as a failure (`interrupted`).
//! A log goes on over attempts.

pub mod core;
pub mod dispatch;
pub mod live;
pub mod recover;
pub mod run;
pub mod runner;

#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;
