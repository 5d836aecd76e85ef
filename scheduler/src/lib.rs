//! Who may have a VM now: a pure function of state, time and event.
//!
//! ```text
//!            +------------------- Submit again (resume) <------------------+
//!            v                                                             |
//! Submit --> waiting -- it is its turn, and there is room --> holding -- Release --> known -- Ended --> gone
//!               |   ^
//!               |   +-- its group has room again -- blocked (its group holds as many VMs as it may)
//!            Withdraw --> known
//! ```
//!
//! No clock is read, nothing is random, no thread runs: the same events at the same times give the same actions. Who is next is decided in three steps.
//! Between accounts by weighted fair shares (`shares`). Within an account what is wanted now goes by priority and arrival, and what has a due goes before it
//! exactly when it must (`plan`). What others wait for is as urgent as they are (`urgency`).
//!
//! Invariants: what holds never exceeds the budget of bytes and VMs, nor a group its limit, nor, but for [`Event::Busy`], the CPU; who is in turn and does
//! not fit holds up all behind it, so that a large one is never starved by small ones; no job starts twice without a release between; after
//! [`Event::Drain`] nothing starts. docs/scheduler.md says what is promised and what is not.
#![forbid(unsafe_code)]

mod claim;
mod holding;
mod line;
mod loads;
mod pick;
mod plan;
mod query;
mod queue;
mod scheduler;
mod shares;
mod urgency;

pub use claim::{AccountLoad, Action, Budget, Claim, Count, Event, Group, Key, Kind, Order, Time};
pub use scheduler::Scheduler;
