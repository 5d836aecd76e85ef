//! What outlives the daemon: tasks, versions, executions, their inputs, results and timelines.
//!
//! - [`machine`]: the states of an execution and the steps between them
//! - [`record`]: an execution and a version as clients and the store see them
//! - [`id`], [`time`]: ids that sort by age; moments
//! - [`waiting`]: what an execution waits for, and its parked machine
//! - [`store`]: the database, and [`writer`], the only one who writes to it
//! - [`sketch`]: how long things take
//! - [`reserve`]: room on the disk for the ends of what was accepted
//!
//! # What a crash means
//!
//! The daemon can die between any two lines of this list; after it, a restart finds:
//!
//! 1. before the commit of a submission: nothing. No client has the id. A VM may have begun with it, since the commit and the restore
//!    overlap; it is gone with the daemon.
//! 2. after it, still `queued`: the execution waits again, in the order of ids.
//! 3. after the commit of `starting`, which comes before the program gets its input (or is the submission itself): the attempt counts.
//!    It is queued again if `retries` allows another, otherwise failed as `interrupted`. `running` is not written by itself: it differs from
//!    `starting` in nothing that a restart could use.
//! 4. before the commit of its end: as 3, although a result may have existed; nobody has been told of it.
//! 5. after it: the end, with result, error and timeline. Waiting clients and waiting executions are only told now.
//! 6. before the commit of `parked`: as 3; a machine that was written down already is a file that nobody refers to, and is removed.
//! 7. after it: the execution is parked, whatever became of its VM, which the daemon had to end or which ended with it. What it waits for is looked
//!    at anew: a result, a signal or a moment that came meanwhile is found in the database.
//! 8. after the commit of `resuming`, which comes before the machine is brought back: as 3, since it may have run. No machine is ever run
//!    twice from the same file.
//! 9. before the commit of `queued` after an attempt that failed: as 3. After it, the execution waits for what is left of its backoff.
//!
//! Each of these commits is one SQLite transaction with `synchronous=FULL`.

mod batch;
pub mod id;
pub mod machine;
pub mod record;
pub mod reserve;
pub mod sketch;
pub mod store;
pub mod time;
pub mod waiting;
pub mod writer;

#[cfg(test)]
pub(crate) mod tests;
