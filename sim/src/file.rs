//! A trace from a file: CSV with a header, the earliest arrival first.
//!
//! | column | |
//! |---|---|
//! | `arrival` | seconds; must not go back |
//! | `account` | whose it is; any text |
//! | `task` | what it is; any text. Executions of a task are expected to take as long as earlier ones of it |
//! | `duration` | seconds that it computes |
//! | `memory` | MiB that its VM is charged; 128 where empty or missing |
//! | `cpu` | processors; 1 where empty or missing |
//! | `need_by` | seconds from its arrival by which it must have ended; none where empty or missing |
//! | `priority` | higher first; 0 where empty or missing |
//!
//! A request of the trace AzureFunctionsInvocationTraceForTwoWeeksJan2021 (`app,func,end_timestamp,duration`) is `arrival` = `end_timestamp - duration`, `account` = `app`,
//! `task` = `func`, sorted by `arrival`.

use crate::trace::{Job, Request, Trace, TraceError, micros};
use csv::{Reader, StringRecord};
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

const MIB: u64 = 1 << 20;
const MEMORY: u64 = 128;

#[derive(Debug, Deserialize)]
struct Row {
    arrival: f64,
    account: String,
    task: String,
    duration: f64,
    memory: Option<u64>,
    cpu: Option<f64>,
    need_by: Option<f64>,
    priority: Option<i32>,
}

/// Requests of a file, at most so many.
///
/// # Errors
///
/// The file can't be opened, or has no header. What is wrong with a row is an error in its place.
pub fn trace(path: &Path, executions: u64) -> Result<Trace, TraceError> {
    let name = path.display().to_string();
    let failed = |cause| TraceError::Read { path: name.clone(), cause };
    let mut reader = Reader::from_path(path).map_err(failed)?;
    let header = reader.headers().map_err(failed)?.clone();
    let rows = Rows { path: name, reader, header, accounts: HashMap::new(), tasks: HashMap::new(), last: 0, failed: false };
    Ok(Box::new(rows.take(usize::try_from(executions).unwrap_or(usize::MAX))))
}

struct Rows {
    path: String,
    reader: Reader<File>,
    header: StringRecord,
    accounts: HashMap<String, u32>,
    tasks: HashMap<String, u32>,
    last: u64,
    failed: bool,
}

fn number(names: &mut HashMap<String, u32>, name: String) -> u32 {
    let next = u32::try_from(names.len()).unwrap_or(u32::MAX);
    *names.entry(name).or_insert(next)
}

impl Rows {
    fn read(&mut self) -> Result<Option<Request>, TraceError> {
        let failed = |cause| TraceError::Read { path: self.path.clone(), cause };
        let mut record = StringRecord::new();
        if !self.reader.read_record(&mut record).map_err(failed)? {
            return Ok(None);
        }
        let row: Row = record.deserialize(Some(&self.header)).map_err(failed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |what: &str| TraceError::Row { path: self.path.clone(), line, what: what.to_owned() };
        let not_negative = |value: f64| value.is_finite() && value >= 0.0;
        if !not_negative(row.arrival) || !not_negative(row.duration) || row.need_by.is_some_and(|value| !not_negative(value)) {
            return Err(wrong("arrival, duration and need_by must be seconds, not negative"));
        }
        let cpu = row.cpu.unwrap_or(1.0);
        if !(0.0..=1_000.0).contains(&cpu) {
            return Err(wrong("cpu must be from 0 to 1000 processors"));
        }
        let at = micros(row.arrival);
        if at < self.last {
            return Err(wrong("arrivals must not go back: sort the file by its column arrival"));
        }
        self.last = at;
        let job = Job {
            task: number(&mut self.tasks, row.task),
            work: micros(row.duration).max(1),
            bytes: row.memory.unwrap_or(MEMORY).saturating_mul(MIB),
            // Thousandths: a thousandth of a processor for a millisecond is a microsecond.
            cpu: u32::try_from(micros(cpu / 1_000.0)).unwrap_or(u32::MAX),
            priority: row.priority.unwrap_or(0),
            need_by: row.need_by.map(micros),
            calls: Vec::new(),
            spawns: Vec::new(),
        };
        Ok(Some(Request { at, account: number(&mut self.accounts, row.account), job }))
    }
}

impl Iterator for Rows {
    type Item = Result<Request, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.read().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
