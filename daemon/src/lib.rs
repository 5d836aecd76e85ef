//! Control API, scheduler and engine of torpord.
#![forbid(unsafe_code)]

pub mod engine;
