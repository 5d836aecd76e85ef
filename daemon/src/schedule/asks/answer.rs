//! From what happened to what a guest is told. Everything is read from the database here: what is told is durable.

use super::{Ready, may_know};
use crate::engine::{self, ExecutionError};
use crate::manifest::flow::Denied;
use crate::schedule::dispatch::Dispatcher;
use crate::schedule::live::Live;
use crate::state::id::ExecutionId;
use crate::state::record::Execution;
use crate::state::store::StoreError;
use crate::state::waiting::{Waiting, WaitsFor};
use crate::state::writer::Change;
use std::collections::HashMap;
use torpor_protocol::ask::{Answer, CalleeError, MAX_INLINE, Refusal, Reply, Waited};

/// Longest message and longest traceback of a callee that its caller gets.
const MAX_TEXT: usize = 16 << 10;

/// Why an ask is refused.
#[derive(Debug, Clone)]
pub struct Refused {
    kind: Refusal,
    message: String,
}

/// Most bytes of a refusal's message.
const MAX_MESSAGE: usize = 512;

impl Refused {
    /// A refusal.
    #[must_use]
    pub fn new(kind: Refusal, message: impl Into<String>) -> Self {
        let mut message = message.into();
        // A guest's own words are in it, and may be megabytes.
        if message.len() > MAX_MESSAGE {
            message = cut(&message, MAX_MESSAGE) + "...";
        }
        Self { kind, message }
    }

    /// A call that a policy does not allow.
    #[must_use]
    pub fn denied(denied: &Denied) -> Self {
        Self::new(Refusal::NotAllowed, denied.to_string())
    }

    /// A wait that would never end.
    #[must_use]
    pub fn cycle(chain: &[ExecutionId]) -> Self {
        let chain: Vec<&str> = chain.iter().map(ExecutionId::as_str).collect();
        Self::new(Refusal::Cycle, format!("this wait would never end: {}", chain.join(" waits for ")))
    }
}

impl From<Refused> for Reply {
    fn from(refused: Refused) -> Self {
        Self::Refused { kind: refused.kind, message: refused.message }
    }
}

fn host(error: &StoreError) -> Reply {
    Refused::new(Refusal::Host, error.to_string()).into()
}

/// Makes an event.
pub(super) async fn event(d: &Dispatcher, live: &Live, most: u64) -> Result<Reply, Refused> {
    let failed = |error: StoreError| Refused::new(Refusal::Host, error.to_string());
    d.store.check_room().map_err(failed)?;
    if d.store.events_of(&live.id).await.map_err(failed)? >= most {
        return Err(Refused::new(Refusal::TooMany, format!("one execution may make at most {most} events")));
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Refused::new(Refusal::Host, format!("no entropy: {error}")))?;
    let token = format!("ev_{:032x}", u128::from_le_bytes(random));
    // An execution that is not stored yet can't own one.
    live.stored().await.map_err(|error| Refused::new(Refusal::Host, error.to_string()))?;
    d.store.commit(Change::PutEvent { token: token.as_str().into(), execution: live.id.clone() }).await.map_err(failed)?;
    Ok(Reply::Event { token })
}

fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

fn callee(error: &ExecutionError) -> CalleeError {
    CalleeError {
        kind: error.kind.name().to_owned(),
        message: cut(&error.message, MAX_TEXT),
        exception: error.exception.clone(),
        traceback: error.traceback.as_deref().map(|text| cut(text, MAX_TEXT)),
        exit_code: error.exit_code,
        signal: error.signal,
    }
}

/// What fits one message.
struct Room {
    left: usize,
    /// The first thing fits, however large it is.
    empty: bool,
}

impl Room {
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.empty || bytes <= self.left;
        if fits {
            self.left = self.left.saturating_sub(bytes);
            self.empty = false;
        }
        fits
    }
}

/// Answers as many asks as fit one message; the others are given back.
pub async fn build(d: &Dispatcher, live: &Live, ready: Vec<Ready>) -> (engine::Reply, Vec<Ready>) {
    let (mut reply, mut room, mut rest) = (engine::Reply::default(), Room { left: MAX_INLINE, empty: true }, Vec::new());
    for one in ready {
        if room.left == 0 && !reply.answers.is_empty() {
            rest.push(one);
            continue;
        }
        let seq = one.waiting.seq;
        let answer = match one.waiting.what {
            WaitsFor::Timer => Reply::Slept,
            WaitsFor::Event { .. } if one.timed_out => Reply::TimedOut,
            WaitsFor::Event { ref token } => match d.store.event(token).await {
                Ok(Some((_, Some(data)))) if room.take(data.len()) => {
                    reply.payload.extend_from_slice(&data);
                    Reply::Signalled { len: data.len() }
                }
                Ok(Some((_, Some(_)))) => {
                    rest.push(one);
                    continue;
                }
                // It was given back as ready, and it was its time that had passed.
                Ok(_) => Reply::TimedOut,
                Err(error) => host(&error),
            },
            WaitsFor::Executions { .. } => match waited(d, live, &one.waiting, &mut room, &mut reply.payload).await {
                Ok(executions) => Reply::Waited { executions, timed_out: one.timed_out },
                Err(error) => host(&error),
            },
        };
        reply.answers.push(Answer { seq, reply: answer });
    }
    (reply, rest)
}

async fn waited(d: &Dispatcher, live: &Live, waiting: &Waiting, room: &mut Room, payload: &mut Vec<u8>) -> Result<Vec<Waited>, StoreError> {
    let WaitsFor::Executions { ids, results, .. } = &waiting.what else { return Ok(Vec::new()) };
    // One after the other where there may be many: results of all of them need not fit the daemon's memory at once.
    let ends = d.store.ends(ids).await?.into_iter();
    // Asked again: what a parked execution waits for may come from a file.
    let mut ends: HashMap<ExecutionId, Execution> = ends.filter(|end| may_know(d, live, end)).map(|end| (end.id.clone(), end)).collect();
    let mut all = Vec::with_capacity(ids.len());
    for id in ids {
        let state = |name: &str| Waited { execution: id.to_string(), state: name.to_owned(), result: None, error: None, more: false };
        let Some(end) = ends.get_mut(id) else {
            let known = d.live(id).filter(|target| may_know(d, live, &target.view()));
            all.push(state(known.map_or("queued", |target| target.view().state.name())));
            continue;
        };
        let mut entry = state(end.state.name());
        if *results {
            if let Some(error) = end.error.as_ref().map(callee) {
                let size = error.message.len() + error.traceback.as_ref().map_or(0, String::len) + 256;
                entry.more = !room.take(size);
                entry.error = (!entry.more).then_some(error);
            } else if room.left == 0 && !room.empty {
                entry.more = true;
            } else {
                let result = d.store.end(id).await?.and_then(|end| end.result);
                let json = result.as_deref().map_or("null", serde_json::value::RawValue::get);
                entry.more = !room.take(json.len());
                if !entry.more {
                    payload.extend_from_slice(json.as_bytes());
                    entry.result = Some(json.len());
                }
            }
        }
        all.push(entry);
    }
    Ok(all)
}

/// What is left to do for calls whose time passed: nobody else knows of their executions.
#[must_use]
pub fn abandoned(ready: &[Ready]) -> Vec<ExecutionId> {
    let late = ready.iter().filter(|one| one.timed_out);
    let calls = late.filter_map(|one| match &one.waiting.what {
        WaitsFor::Executions { ids, call: true, .. } => Some(ids.clone()),
        _ => None,
    });
    calls.flatten().collect()
}

/// A reply to one ask.
#[must_use]
pub fn single(seq: u64, reply: Reply) -> engine::Reply {
    engine::Reply { answers: vec![Answer { seq, reply }], payload: Vec::new() }
}
