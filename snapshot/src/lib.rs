//! Snapshot format, integrity and stores.
#![forbid(unsafe_code)]
