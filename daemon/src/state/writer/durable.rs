//! Idempotency keys, schedules and deliveries.

use super::super::batch::Batch;
use super::{Execution, ExecutionId, StoreError, Timestamp};
use crate::cron::{Fired, Schedule};
use crate::idempotency::{KEPT, NewKey};
use crate::notify::Delivery;

pub(super) fn put_key<'a>(batch: &mut Batch<'a>, key: &'a NewKey, execution: &'a ExecutionId) -> Result<(), StoreError> {
    let (account, name) = (&*key.account, key.key.as_str());
    let values = [account.into(), name.into(), key.at.before(KEPT).0.into()];
    batch.add("DELETE FROM idempotency WHERE account = ? AND key = ? AND created_at <= ?", values)?;
    let values = [account.into(), name.into(), key.request.as_str().into(), execution.as_str().into(), key.at.0.into()];
    batch.add("INSERT INTO idempotency (account, key, request, execution, created_at) VALUES (?, ?, ?, ?, ?)", values)
}

pub(super) fn remove_keys(batch: &mut Batch<'_>, moment: Timestamp, most: u32) -> Result<(), StoreError> {
    batch.add(
        "DELETE FROM idempotency WHERE execution IN (SELECT execution FROM idempotency WHERE created_at <= ? ORDER BY created_at LIMIT ?)",
        [moment.0.into(), i64::from(most).into()],
    )
}

/// Those that name executions that have ended and are removed: they would stand for nothing.
pub(super) fn remove_keys_of<'a>(batch: &mut Batch<'a>, ids: &'a [ExecutionId]) -> Result<(), StoreError> {
    let marks = vec!["?"; ids.len()].join(", ");
    let sql =
        format!("DELETE FROM idempotency WHERE execution IN (SELECT id FROM executions WHERE id IN ({marks}) AND finished_at IS NOT NULL)");
    batch.add_all(&sql, ids.iter().map(|id| id.as_str().into()))
}

pub(super) fn put_schedule<'a>(batch: &mut Batch<'a>, schedule: &'a Schedule, input: &'a [u8]) -> Result<(), StoreError> {
    let notify = schedule.notify.as_ref().map(serde_json::to_string).transpose().map_err(StoreError::damaged("schedule"))?;
    batch.add(
        "INSERT INTO schedules (account, name, id, task, cron, timezone, missed, overlap, input, paused, created_at, fired_to, notify, need_by_s, on_late) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            schedule.account.as_str().into(),
            schedule.name.as_str().into(),
            (&*schedule.id).into(),
            schedule.task.as_str().into(),
            schedule.rule.text().into(),
            schedule.rule.zone().into(),
            schedule.missed.name().into(),
            schedule.overlap.name().into(),
            input.into(),
            i64::from(schedule.paused).into(),
            schedule.created_at.0.into(),
            schedule.fired_to.0.into(),
            notify.into(),
            schedule.need.map(|need| i64::from(need.by_s)).into(),
            schedule.need.map(|need| need.on_late.name().to_owned()).into(),
        ],
    )
}

pub(super) fn mark_schedule<'a>(batch: &mut Batch<'a>, schedule: &'a Schedule) -> Result<(), StoreError> {
    batch.add(
        "UPDATE schedules SET paused = ?, fired_to = ?, skipped = ?, skipped_at = ? WHERE id = ?",
        [
            i64::from(schedule.paused).into(),
            schedule.fired_to.0.into(),
            schedule.skipped.as_ref().map(|skipped| skipped.message.clone()).into(),
            schedule.skipped.as_ref().map(|skipped| skipped.at.0).into(),
            (&*schedule.id).into(),
        ],
    )
}

/// Moves a schedule on to the time of this execution. Where it is there already, `fired_to` is null, and where there is no such schedule a number in a timeline
/// is, which their tables refuse.
pub(super) fn fire<'a>(batch: &mut Batch<'a>, execution: &'a Execution, fired: &'a Fired) -> Result<(), StoreError> {
    batch.add(
        "UPDATE schedules SET fired_to = CASE WHEN fired_to < ? THEN ? END, last = ? WHERE id = ?",
        [fired.at.0.into(), fired.at.0.into(), execution.id.as_str().into(), (&*fired.id).into()],
    )?;
    batch.add(
        "INSERT INTO timeline (execution, seq, at, event) SELECT ?, NULL, 0, '' WHERE NOT EXISTS (SELECT 1 FROM schedules WHERE id = ?)",
        [execution.id.as_str().into(), (&*fired.id).into()],
    )?;
    batch.add(
        "UPDATE executions SET schedule = ?, fire_at = ? WHERE id = ?",
        [(&*fired.id).into(), fired.at.0.into(), execution.id.as_str().into()],
    )
}

pub(super) fn put_delivery<'a>(batch: &mut Batch<'a>, execution: &'a Execution, delivery: &'a Delivery) -> Result<(), StoreError> {
    batch.add(
        "INSERT INTO deliveries (execution, account, id, url, authority, secret, state, attempts) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            execution.id.as_str().into(),
            execution.account.as_str().into(),
            (&*delivery.id).into(),
            delivery.notify.url.to_string().into(),
            delivery.notify.url.authority().into(),
            delivery.notify.secret.as_ref().map(ToString::to_string).into(),
            delivery.state.name().into(),
            i64::from(delivery.attempts).into(),
        ],
    )
}

/// With the end of its execution.
pub(super) fn end_delivery<'a>(batch: &mut Batch<'a>, execution: &'a Execution, delivery: &'a Delivery) -> Result<(), StoreError> {
    batch.add(
        "UPDATE deliveries SET state = ?, next_at = ?, ended_at = ? WHERE execution = ? AND state = 'waiting'",
        [
            delivery.state.name().into(),
            delivery.next_at.map(|at| at.0).into(),
            execution.finished_at.map(|at| at.0).into(),
            execution.id.as_str().into(),
        ],
    )
}

pub(super) fn mark_delivery<'a>(batch: &mut Batch<'a>, execution: &'a ExecutionId, delivery: &'a Delivery) -> Result<(), StoreError> {
    batch.add(
        "UPDATE deliveries SET state = ?, attempts = ?, next_at = ?, last = ?, settled_at = ? WHERE execution = ? AND id = ? AND state = 'pending'",
        [
            delivery.state.name().into(),
            i64::from(delivery.attempts).into(),
            delivery.next_at.map(|at| at.0).into(),
            delivery.last.clone().into(),
            delivery.settled_at.map(|at| at.0).into(),
            execution.as_str().into(),
            (&*delivery.id).into(),
        ],
    )
}

pub(super) fn give_up<'a>(batch: &mut Batch<'a>, executions: &'a [String], why: &'a str, at: Timestamp) -> Result<(), StoreError> {
    let marks = vec!["?"; executions.len()].join(", ");
    let values = [at.0.into(), why.into()].into_iter().chain(executions.iter().map(|id| id.as_str().into()));
    batch.add_all(
        &format!(
            "UPDATE deliveries SET state = 'failed', next_at = NULL, settled_at = ?, last = coalesce(last || '; ', '') || ? \
             WHERE execution IN ({marks}) AND state = 'pending'"
        ),
        values,
    )
}
