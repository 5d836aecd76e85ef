//! Parked executions that move from host to host: held while they are written down, given up for good once that is done; or taken in.

use super::dispatch::Dispatcher;
use super::live::{Live, Note};
use super::run;
use crate::engine::ErrorKind;
use crate::state::id::ExecutionId;
use crate::state::machine::State;
use crate::state::record::{Execution, Version};
use crate::state::store::StoreError;
use crate::state::waiting::Parked;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How long one may take to be held: it may be on its way to a VM.
const HOLD: Duration = Duration::from_secs(30);
/// Most executions that a message names.
const NAMED: usize = 4;

/// A parked execution that stays so: nothing wakes it while this lives. Dropped, it goes on.
#[derive(Debug)]
pub struct Held {
    /// The execution.
    pub live: Arc<Live>,
    /// Its machine.
    pub parked: Arc<Parked>,
    release: oneshot::Sender<()>,
}

impl Held {
    /// From here until this is dropped, signals wait for what becomes of it.
    #[must_use]
    pub fn leave(&self) -> Leaving {
        self.live.leaving.send_replace(true);
        Leaving(Arc::clone(&self.live))
    }

    /// Gives it up for good: it goes on elsewhere. True once that is durable; false where it was cancelled or ended first.
    pub async fn moved(self) -> bool {
        if self.release.send(()).is_err() {
            return false;
        }
        let ended = self.live.ended().await;
        ended.error.as_ref().is_some_and(|error| error.kind == ErrorKind::Moved)
    }

    /// It was cancelled, or its deadline passed.
    #[must_use]
    pub fn lost(&self) -> bool {
        self.release.is_closed()
    }
}

/// See [`Held::leave`].
#[derive(Debug)]
pub struct Leaving(Arc<Live>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.leaving.send_replace(false);
    }
}

fn named(ids: &[ExecutionId]) -> String {
    let shown = ids.iter().take(NAMED).map(ExecutionId::as_str).collect::<Vec<_>>().join(", ");
    if ids.len() > NAMED { format!("{shown} and {} more", ids.len() - NAMED) } else { shown }
}

impl Dispatcher {
    /// Keeps a parked execution from waking; why not otherwise.
    pub async fn hold(&self, live: &Arc<Live>) -> Result<Held, String> {
        let state = live.view().state;
        if state != State::Parked {
            return Err(format!("it is {}; only a parked execution moves, and `torpor park` parks one that waits", state.name()));
        }
        let (tell, told) = oneshot::channel();
        live.note(Note::Hold(tell));
        let release = match tokio::time::timeout(HOLD, told).await {
            Ok(Ok(Ok(release))) => release,
            Ok(Ok(Err(why))) => return Err(why),
            Ok(Err(_)) => return Err("it ended, or is being brought back".into()),
            Err(_) => return Err(format!("it is on its way to a VM, or being exported already, for {} s now", HOLD.as_secs())),
        };
        let parked = live.view().parked.clone().ok_or("it is not parked any more")?;
        Ok(Held { live: Arc::clone(live), parked, release })
    }

    /// Whether an execution has moved to another host. One that is just leaving is waited for.
    pub async fn has_moved(&self, id: &ExecutionId) -> Result<bool, StoreError> {
        let ended = match self.live(id) {
            Some(live) => {
                let mut leaving = live.leaving.subscribe();
                let _ = leaving.wait_for(|leaving| !leaving).await;
                live.view().error.clone()
            }
            None => self.store.end(id).await?.and_then(|end| end.error),
        };
        Ok(ended.is_some_and(|error| error.kind == ErrorKind::Moved))
    }

    /// Why a held execution has to stay: others here have to do with it.
    pub fn ties(&self, held: &Held) -> Result<(), String> {
        let (id, account) = (&held.live.id, &held.live.account);
        let targets = held.parked.asks.iter().flat_map(|ask| ask.targets());
        let mut awaited: Vec<_> = targets.filter(|target| self.live(target).is_some()).cloned().collect();
        awaited.sort();
        awaited.dedup();
        if !awaited.is_empty() {
            return Err(format!("it waits for executions that have not ended, and they stay here: {}", named(&awaited)));
        }
        let mut below = self.children_of(account, id);
        below.reverse();
        if !below.is_empty() {
            return Err(format!("executions that it started have not ended, and they stay here: {}", named(&below)));
        }
        let mut above = self.graph().waiters(id);
        above.extend(held.live.parent.clone().filter(|parent| self.live_of(account, parent).is_some() && !above.contains(parent)));
        if above.is_empty() { Ok(()) } else { Err(format!("executions here wait for it, or may come to: {}", named(&above))) }
    }

    /// Goes on with a parked execution from another host, which is durable here.
    pub fn take_in(self: &Arc<Self>, execution: Execution, version: Arc<Version>, parked: Arc<Parked>, input_bytes: u64) -> Arc<Execution> {
        let bytes = self.runner.vm_bytes(version.policy.memory_mib);
        let live = Arc::new(Live::known(execution, version, (bytes, input_bytes)));
        live.log.send_replace(self.logs.measure(&live.id).unwrap_or_default());
        self.adopt(&live);
        self.watch_deadline(&live);
        let view = live.view();
        tokio::spawn(run::go_on(Arc::clone(self), live, parked));
        view
    }
}
