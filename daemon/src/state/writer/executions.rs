//! Executions: new ones and how they go on, what they wait for, those that come from another host, and the end of what is known of them.

use super::{Import, durable, int, put_version};
use crate::state::batch::{Batch, Value};
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::Execution;
use crate::state::store::StoreError;
use crate::state::time::Timestamp;

/// Most entries of a timeline in one statement: SQLite takes 32,766 values.
const ROWS: usize = 500;

/// Entries from number `first` on. Where the execution is not there in this state, the number is null, which the table refuses; so it
/// does where the number is taken.
fn timeline<'a>(batch: &mut Batch<'a>, execution: &'a Execution, first: usize) -> Result<(), StoreError> {
    let entries = execution.timeline.get(first..).unwrap_or_default();
    if entries.is_empty() {
        // Nothing that is told happened: then this is what refuses an update of what is not there.
        let (id, state) = (execution.id.as_str(), execution.state.name());
        return batch.add(
            "INSERT INTO timeline (execution, seq, at, event) SELECT ?, NULL, 0, '' WHERE NOT EXISTS (SELECT 1 FROM executions WHERE id = ? AND state = ?)",
            [id.into(), id.into(), state.into()],
        );
    }
    let row = "(?, (SELECT ? FROM executions WHERE id = ? AND state = ?), ?, ?)";
    let mut seq = first as u64;
    for some in entries.chunks(ROWS) {
        let mut values: Vec<Value<'_>> = Vec::with_capacity(6 * some.len());
        for entry in some {
            let event = serde_json::to_string(&entry.what).map_err(StoreError::damaged("timeline"))?;
            let (id, state) = (execution.id.as_str(), execution.state.name());
            values.extend([id.into(), int(seq).into(), id.into(), state.into(), entry.at.0.into(), event.into()]);
            seq += 1;
        }
        let rows = vec![row; some.len()].join(", ");
        batch.add_all(&format!("INSERT INTO timeline (execution, seq, at, event) VALUES {rows}"), values)?;
    }
    Ok(())
}

fn error(execution: &Execution) -> Result<Option<String>, StoreError> {
    execution.error.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("error"))
}

pub(super) fn insert<'a>(batch: &mut Batch<'a>, execution: &'a Execution, input: &'a [u8]) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO executions (id, account, task, version, portion, state, attempts, created_at, parent, depth, due, need_by, call_key) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            execution.id.as_str().into(),
            execution.account.as_str().into(),
            execution.task.as_str().into(),
            (&*execution.version).into(),
            execution.portion.as_str().into(),
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.created_at.0.into(),
            execution.parent.as_ref().map(|parent| parent.as_str().to_owned()).into(),
            i64::from(execution.depth).into(),
            execution.due.map(|at| at.0).into(),
            execution.need_by.map(|at| at.0).into(),
            execution.call_key.as_ref().map(|key| key.as_str().to_owned()).into(),
        ],
    )?;
    batch.add("INSERT INTO inputs (execution, body) VALUES (?, ?)", [execution.id.as_str().into(), input.into()])?;
    timeline(batch, execution, 0)
}

pub(super) fn update<'a>(batch: &mut Batch<'a>, execution: &'a Execution, stored: State, known: usize) -> Result<(), StoreError> {
    let error = error(execution)?;
    let parked = execution.parked.as_deref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("parked machine"))?;
    batch.add(
        "UPDATE executions SET state = ?, attempts = ?, started_at = ?, finished_at = ?, error = ?, result = ?, parks = ?, parked_ms = ?, \
         parked = ?, not_before = ?, log_bytes = ? WHERE id = ? AND state = ?",
        [
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.started_at.map(|at| at.0).into(),
            execution.finished_at.map(|at| at.0).into(),
            error.into(),
            execution.result.as_ref().map(|result| result.get().as_bytes()).into(),
            i64::from(execution.parks).into(),
            int(execution.parked_ms).into(),
            parked.into(),
            execution.not_before.map(|at| at.0).into(),
            int(execution.log_bytes()).into(),
            execution.id.as_str().into(),
            stored.name().into(),
        ],
    )?;
    if let Some(delivery) = execution.notify.as_ref().filter(|_| execution.state.ended()) {
        durable::end_delivery(batch, execution, delivery)?;
    }
    timeline(batch, execution, known)
}

pub(super) fn put_event<'a>(batch: &mut Batch<'a>, token: &'a str, execution: &'a ExecutionId) -> Result<(), StoreError> {
    let values = [token.into(), execution.as_str().into(), Timestamp::now().0.into()];
    batch.add("INSERT INTO events (token, execution, created_at) VALUES (?, ?, ?)", values)
}

pub(super) fn signal<'a>(batch: &mut Batch<'a>, token: &'a str, data: &'a [u8]) -> Result<(), StoreError> {
    batch.add("INSERT INTO signals (token, data, at) VALUES (?, ?, ?)", [token.into(), data.into(), Timestamp::now().0.into()])
}

pub(super) fn remove_ended<'a>(batch: &mut Batch<'a>, ids: &'a [ExecutionId]) -> Result<(), StoreError> {
    let marks = vec!["?"; ids.len()].join(", ");
    let ended = format!("SELECT id FROM executions WHERE id IN ({marks}) AND finished_at IS NOT NULL");
    batch.add_all(
        &format!("DELETE FROM signals WHERE token IN (SELECT token FROM events WHERE execution IN ({ended}))"),
        ids.iter().map(|id| id.as_str().into()),
    )?;
    for (table, key) in
        [("deliveries", "execution"), ("events", "execution"), ("timeline", "execution"), ("inputs", "execution"), ("executions", "id")]
    {
        batch.add_all(&format!("DELETE FROM {table} WHERE {key} IN ({ended})"), ids.iter().map(|id| id.as_str().into()))?;
    }
    Ok(())
}

pub(super) fn take_in<'a>(batch: &mut Batch<'a>, import: &'a Import) -> Result<(), StoreError> {
    let Import { execution, version, input, events, ended, returns } = import;
    if returns.is_some() {
        remove_ended(batch, returns.as_slice())?;
    }
    batch.add(
        "INSERT INTO tasks (account, name, latest, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (account, name) DO NOTHING",
        [version.account.as_str().into(), version.task.as_str().into(), (&*version.version).into(), version.created_at.0.into()],
    )?;
    put_version(batch, version)?;
    insert(batch, execution, input)?;
    execution.notify.as_ref().map_or(Ok(()), |delivery| durable::put_delivery(batch, execution, delivery))?;
    update(batch, execution, execution.state, execution.timeline.len())?;
    for (token, data) in events {
        put_event(batch, token, &execution.id)?;
        if let Some(data) = data {
            signal(batch, token, data)?;
        }
    }
    ended.iter().try_for_each(|execution| ended_elsewhere(batch, execution))
}

fn ended_elsewhere<'a>(batch: &mut Batch<'a>, execution: &'a Execution) -> Result<(), StoreError> {
    let error = error(execution)?;
    batch.add(
        "INSERT INTO executions (id, account, task, version, portion, state, attempts, created_at, started_at, finished_at, error, result, \
         parent, depth, parks, parked_ms, call_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        [
            execution.id.as_str().into(),
            execution.account.as_str().into(),
            execution.task.as_str().into(),
            (&*execution.version).into(),
            execution.portion.as_str().into(),
            execution.state.name().into(),
            i64::from(execution.attempts).into(),
            execution.created_at.0.into(),
            execution.started_at.map(|at| at.0).into(),
            execution.finished_at.map(|at| at.0).into(),
            error.into(),
            execution.result.as_ref().map(|result| result.get().as_bytes()).into(),
            execution.parent.as_ref().map(|parent| parent.as_str().to_owned()).into(),
            i64::from(execution.depth).into(),
            i64::from(execution.parks).into(),
            int(execution.parked_ms).into(),
            execution.call_key.as_ref().map(|key| key.as_str().to_owned()).into(),
        ],
    )
}
