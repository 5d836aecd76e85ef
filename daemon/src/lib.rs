//! Control API, scheduler and engine of torpord.
//!
//! - [`accounts`]: whom everything belongs to, and who may do what
//! - [`api`]: HTTP on a Unix socket, and on TCP with TLS
//! - [`manifest`], [`code`]: what a client pushes, parsed into types that can't be wrong
//! - [`catalog`]: tasks and their versions, in memory, as the store has them
//! - [`state`]: what outlives the daemon; the state machine of an execution
//! - [`schedule`]: who runs next, and the life of an execution from submission to its end
//! - [`secrets`]: what programs get and nobody reads back
//! - [`aux`]: auxiliary services, as programs reach them
//! - [`cron`]: executions that are made at the times of a cron expression
//! - [`notify`]: ends of executions, told to URLs
//! - [`idempotency`]: submissions that may come twice
//! - [`logs`]: what programs print
//! - [`transfer`]: a parked execution on its way to another host
//! - [`retention`]: how long executions that ended are known
//! - [`engine`]: microVMs, their monitors and templates
//! - `caught`: work that may have a fault
//! - [`config`], [`lock`], [`metrics`] and [`daemon`]: the process around all that
#![forbid(unsafe_code)]

pub mod accounts;
pub mod api;
pub mod aux;
pub mod catalog;
mod caught;
pub mod code;
pub mod config;
pub mod cron;
pub mod daemon;
pub mod engine;
pub mod fault;
pub mod hex;
pub mod idempotency;
pub mod lock;
pub mod logs;
pub mod manifest;
pub mod metrics;
pub mod notify;
pub mod parked;
pub mod retention;
pub mod schedule;
pub mod secrets;
pub mod state;
#[cfg(test)]
mod testing;
pub mod transfer;
