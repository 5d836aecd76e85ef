//! Wire messages of Torpor. No I/O: bytes in, typed messages out, and back.
//!
//! - [`frame`]: the envelope of every message between a guest and the daemon, whichever way it travels (vsock or door)
//! - [`agent`]: what the daemon, the guest agent and the language hosts say to each other
//! - [`ask`]: what a program asks for while it runs: calls, timers, events
//! - [`aux`]: connections of a program to services outside
//! - [`monitor`]: what the daemon and a monitor say to each other
//! - [`door`]: the layout of the door, the shared window that guest user mode may touch (docs/door.md)
//! - [`limits`]: every size cap, in one place
//!
//! Everything decoded here may come from a hostile peer: sizes are checked before use and nothing panics.
#![forbid(unsafe_code)]

pub mod agent;
pub mod ask;
pub mod aux;
pub mod door;
pub mod frame;
pub mod limits;
pub mod monitor;
