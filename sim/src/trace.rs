//! What a trace is made of: requests in the order of their arrival, each an execution with those that it starts in turn.

use std::time::Duration;
use thiserror::Error;

/// An execution, as a trace has it. What it really takes is not told to the scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Which task; numbers from 0 without great gaps.
    pub task: u32,
    /// Microseconds that it computes.
    pub work: u64,
    /// What its VM is charged, in bytes.
    pub bytes: u64,
    /// Thousandths of a processor.
    pub cpu: u32,
    /// Higher first, within one account.
    pub priority: i32,
    /// Microseconds from its arrival by which it must have ended. Those that have it may be put off.
    pub need_by: Option<u64>,
    /// It waits for these when half of its own work is done.
    pub calls: Vec<Self>,
    /// It starts these when half of its own work is done, and needs their results at its end.
    pub spawns: Vec<Self>,
}

impl Job {
    /// Executions in all: itself, and what it starts.
    #[must_use]
    pub fn executions(&self) -> u64 {
        1 + self.parts().map(Self::executions).sum::<u64>()
    }

    /// Microseconds of a processor in all.
    #[must_use]
    pub fn processor_time(&self) -> u64 {
        let own = self.work.saturating_mul(u64::from(self.cpu)) / 1_000;
        own + self.parts().map(Self::processor_time).sum::<u64>()
    }

    fn parts(&self) -> impl Iterator<Item = &Self> {
        self.calls.iter().chain(&self.spawns)
    }
}

/// A job from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// When it arrives, in microseconds.
    pub at: u64,
    /// Whose it is.
    pub account: u32,
    /// What it is.
    pub job: Job,
}

/// A trace that can't be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file can't be opened or read.
    #[error("{path}: {cause}; give a CSV file with the columns of `torpor-sim --help`")]
    Read {
        /// Which.
        path: String,
        /// Why.
        cause: csv::Error,
    },
    /// A row has a value that makes no sense.
    #[error("{path}, line {line}: {what}")]
    Row {
        /// Which file.
        path: String,
        /// Where in it.
        line: u64,
        /// What is wrong, and what it must be.
        what: String,
    },
}

/// Requests, the earliest first.
pub type Trace = Box<dyn Iterator<Item = Result<Request, TraceError>> + Send>;

/// Seconds as microseconds; 0 for what is negative or no number, and the largest where there are too many.
#[must_use]
pub fn micros(seconds: f64) -> u64 {
    if seconds.is_nan() || seconds <= 0.0 {
        return 0;
    }
    Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
