//! The sandbox that a monitor locks itself into.
