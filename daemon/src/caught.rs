//! Work in which a fault of this program, a panic, is an error like others: who waits for the work is told, and what it holds is given back.

use crate::engine::{ErrorKind, ExecutionError};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;

/// Does the work to its end. Where a fault was is logged when it happens.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, ExecutionError> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.map_err(|_| ExecutionError::new(ErrorKind::Host, "a fault in torpord ended it; the log of torpord says where: report it"))
}
