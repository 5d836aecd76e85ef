//! Replays traces of executions through the scheduler crate, on many hosts, and compares its order with plain ones.
//!
//! A discrete-event simulation: each host has a [`torpor_scheduler::Scheduler`] of its own, and does what it says. What runs takes as long as the trace says; the scheduler
//! knows only what earlier executions of the same task took. Arrivals are streamed, and all that is kept is of executions that are under way, so that memory does not
//! grow with the length of a trace. The same arguments give the same figures.
#![forbid(unsafe_code)]

pub mod azure;
pub mod engine;
mod estimate;
pub mod file;
pub mod report;
pub mod stats;
pub mod trace;
