//! The queue against all orders of events, and executions from submission to end on a real store with a scripted runner, waits and parks included.
#![allow(clippy::unwrap_used, clippy::panic)]

mod accounts;
mod backoff;
pub(crate) mod crash;
mod faults;
mod life;
mod limits;
mod locked;
mod needed;
mod policy;
mod replay;
mod restart;
mod waits;
