//! An ask that starts an execution: `spawn` and `call`.

use super::answer::Refused;
use super::{Asks, Started, Taken};
use crate::manifest::PortionName;
use crate::manifest::flow::{self, By};
use crate::schedule::dispatch::{Dispatcher, SubmitError, Ties};
use crate::schedule::extras::Extras;
use crate::schedule::live::Live;
use crate::state::id::ExecutionId;
use crate::state::record::Version;
use crate::state::time::Timestamp;
use crate::state::waiting::CallKey;
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::Duration;
use torpor_protocol::ask::{MAX_WAIT_MS, NeedBy, OnLate, Refusal};

/// Deepest nesting of calls.
pub const MAX_DEPTH: u32 = 128;
/// Most executions that one execution starts.
pub const MAX_CHILDREN: u32 = 10_000;

/// A wish to start an execution.
pub(super) struct Start<'a> {
    pub(super) seq: u64,
    /// `NAME`, `NAME@HASH`, `portion:NAME`.
    pub(super) task: &'a str,
    /// Waits for its end: until when.
    pub(super) call: Option<Option<Duration>>,
    pub(super) need_by: Option<NeedBy>,
    pub(super) on_late: OnLate,
}

/// What a wish to start an execution leads to.
enum Child {
    /// It is being stored.
    New(Arc<Live>),
    /// An earlier attempt had started it.
    Done(ExecutionId),
}

/// When a result is needed, as a moment.
fn needed(need_by: Option<NeedBy>, now: Timestamp) -> Result<Option<Timestamp>, Refused> {
    let latest = now.later(MAX_WAIT_MS);
    let moment = need_by.map(|need_by| match need_by {
        NeedBy::InMs(ms) => now.later(ms),
        // That is by the host's clock.
        NeedBy::AtMs(ms) => Timestamp(now.0.saturating_add(Timestamp(0).later(ms).0.saturating_sub(Timestamp::now().0))),
    });
    match moment {
        Some(moment) if moment > latest => Err(Refused::new(Refusal::Invalid, "need_by is more than a year from now")),
        moment => Ok(moment),
    }
}

/// A portion of the caller's own version.
fn portion(d: &Dispatcher, live: &Live, name: &str) -> Result<Arc<Version>, Refused> {
    let own = &live.version;
    let found =
        PortionName::try_from(name.to_owned()).ok().and_then(|name| d.catalog.portion(&own.account, &own.task, &own.version, &name));
    found.ok_or_else(|| Refused::new(Refusal::UnknownTask, format!("task {:?} has no portion {name:?}", own.task.as_str())))
}

impl Asks {
    pub(super) async fn start(
        &mut self,
        d: &Arc<Dispatcher>,
        live: &Arc<Live>,
        start: Start<'_>,
        input: Vec<u8>,
    ) -> Result<Taken, Refused> {
        let Start { seq, task, call, need_by, on_late } = start;
        if self.children >= MAX_CHILDREN {
            return Err(Refused::new(Refusal::TooMany, format!("one execution may start at most {MAX_CHILDREN} others")));
        }
        if live.depth >= MAX_DEPTH {
            return Err(Refused::new(
                Refusal::TooDeep,
                format!("calls are nested {MAX_DEPTH} deep already; does this task call itself without end?"),
            ));
        }
        serde_json::from_slice::<&RawValue>(&input)
            .map_err(|error| Refused::new(Refusal::Invalid, format!("the input of a call of {task:?} is not JSON: {error}")))?;
        d.store.check_room().map_err(|error| Refused::new(Refusal::Host, error.to_string()))?;
        let ties = if call.is_some() { Ties::Call } else { Ties::Spawn };
        let need_by = needed(need_by, live.clock.now())?;
        let submit = |version: Arc<Version>| {
            flow::allowed(By::Portion(live.version.end()), version.end()).map_err(|denied| Refused::denied(&denied))?;
            let key = CallKey::after(self.calls.as_ref(), &version, &input);
            let done = self.done.remove(&key);
            self.calls = Some(key.clone());
            if let Some(done) = done {
                return Ok(Child::Done(done));
            }
            let extras = Extras { need_by, on_late, call_key: Some(key), ..Extras::default() };
            let submitted = d.submit_child(version, input.into(), live, ties, extras);
            submitted.map(Child::New).map_err(|error| {
                let kind = match error {
                    SubmitError::Late { .. } => Refusal::Late,
                    SubmitError::TooMuch { .. } | SubmitError::History { .. } => Refusal::TooMany,
                    _ => Refusal::Capacity,
                };
                Refused::new(kind, error.to_string())
            })
        };
        let child = match task.strip_prefix("portion:") {
            Some(name) => submit(portion(d, live, name)?),
            None => {
                // What the newest version closes is closed in the older ones too.
                if let Some((name, _)) = task.split_once('@')
                    && let Ok(newest) = d.catalog.version(&live.account, name)
                {
                    flow::allowed(By::Portion(live.version.end()), newest.end()).map_err(|denied| Refused::denied(&denied))?;
                }
                d.catalog
                    .with_version(&live.account, task, submit)
                    .map_err(|error| Refused::new(Refusal::UnknownTask, error.to_string()))?
            }
        }?;
        self.children += 1;
        self.starting.insert(seq);
        match child {
            Child::New(child) => Ok(Taken::Starting(child, call)),
            Child::Done(child) => {
                let answer = self.started(d, live, Started { seq, child: Ok(child), call }).await;
                Ok(answer.map_or(Taken::Open, |(_, reply)| Taken::Answer(reply)))
            }
        }
    }
}
