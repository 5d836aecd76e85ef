//! The time of an execution without a VM: from the commit of `parked` to the commit of `resuming`.
//!
//! ```text
//!  held (being exported) -- it has moved --> the end
//!    ^ |
//!    | v
//!  parked -- something it waits for is there, or it is told to --> wanting memory -- admitted --> resuming (durable) --> attempt
//!    ^                                                                                                                  |
//!    +------------------------- not brought back, has not run: tried again a little later -------------------------------+
//! ```
//! All of it is in the database; what is here is a task that sleeps.

use super::asks::Asks;
use super::dispatch::Dispatcher;
use super::ending::Ending;
use super::job::Job;
use super::live::{Cause, Live, Note};
use super::run::persist;
use super::until;
use crate::aux::broker::Broker;
use crate::engine::{Begin, ErrorKind, ExecutionError, ParkKey};
use crate::fault;
use crate::hex;
use crate::manifest::Park;
use crate::state::record::Happening;
use crate::state::waiting::Parked;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use torpor_snapshot::SnapshotError;
use torpor_snapshot::parked::{Parked as Machine, SealKey};

/// Before another attempt to bring it back, and how many there are.
const AGAIN: (Duration, u32) = (Duration::from_millis(if cfg!(test) { 10 } else { 2000 }), 20);

/// How the time without a VM ended.
pub(super) enum Woken {
    /// With memory for it, recorded as `resuming`.
    Resume(Begin),
    /// For good.
    End(Ending),
    /// It goes on on another host. Its machine is removed once that is durable.
    Moved,
    /// The daemon stops, or the database does not take anything more: the next start goes on.
    Lost,
}

/// Somebody who wants it to stay parked.
type Holder = oneshot::Sender<Result<oneshot::Sender<()>, String>>;

/// Takes in what it was told. True: it is to have a VM whatever it waits for.
fn told(live: &Live, asks: &mut Asks, holders: &mut Vec<Holder>) -> bool {
    let mut wanted = false;
    for note in live.notes() {
        asks.note(&note);
        match note {
            Note::Park(wish) => drop(wish.send(Ok(()))),
            Note::Resume(wish) => {
                wanted = true;
                let _ = wish.send(Ok(()));
            }
            Note::Hold(holder) => holders.push(holder),
            Note::Ended(_) | Note::Signalled(_) => {}
        }
    }
    wanted
}

fn refuse(holders: &mut Vec<Holder>) {
    for holder in holders.drain(..) {
        let _ = holder.send(Err("it is being brought back".into()));
    }
}

/// Stays parked as long as its holder wants. True: it has moved.
async fn held(live: &Live, holder: Holder) -> bool {
    let (release, released) = oneshot::channel();
    if holder.send(Ok(release)).is_err() {
        return false;
    }
    tokio::select! {
        biased;
        () = live.cancel.cancelled() => false,
        moved = released => moved.is_ok(),
    }
}

/// Sleeps until it can go on.
pub(super) async fn wait(d: &Arc<Dispatcher>, live: &Arc<Live>, (asks, aux): (&mut Asks, &mut Broker), parked: &Arc<Parked>) -> Woken {
    let mut holders = Vec::new();
    let mut wanted = told(live, asks, &mut holders);
    let (resume, mut tried) = (d.estimates.of(&live.version).resume, false);
    while !wanted && !asks.any_ready() {
        if let Some(holder) = holders.pop() {
            if held(live, holder).await {
                return Woken::Moved;
            }
            wanted = told(live, asks, &mut holders);
            continue;
        }
        let ahead = if tried { None } else { asks.ahead(d, resume) };
        tokio::select! {
            () = live.cancel.cancelled() => return stopped(d, live, parked),
            () = until(ahead.map(|(moment, _)| moment)) => {
                tried = true;
                let certain = ahead.is_some_and(|(_, certain)| certain);
                // What always parks would be parked again at once.
                wanted = !d.pressed() && (certain || live.version.policy.park == Park::Auto);
                asks.ahead = wanted && !certain;
            }
            () = live.noted() => wanted = told(live, asks, &mut holders),
            () = until(asks.next_due()) => {}
            () = aux.called() => {
                aux.woken = true;
                wanted = true;
            }
        }
    }
    refuse(&mut holders);
    if let Err(error) = fault::at("resume.ready").await {
        tracing::error!(execution = %live.id, %error, "on the way to a resume");
    }
    let job = Job::Execution(live.id.clone());
    tokio::select! {
        biased;
        () = live.cancel.cancelled() => {
            d.withdraw(&job);
            return stopped(d, live, parked);
        }
        () = d.admitted(live) => {}
    }
    told(live, asks, &mut holders);
    refuse(&mut holders);
    let begin = begin(d, live, asks, parked).await;
    let begin = match begin {
        Ok(begin) => begin,
        Err(error) => {
            d.release(job);
            return fail(d, live, parked, error);
        }
    };
    let _ = fault::at("resume.admitted").await;
    live.happened(Happening::Resuming);
    if !persist(d, live, live.view()).await {
        d.release(job);
        d.forget(&live.id);
        return Woken::Lost;
    }
    let _ = fault::at("resume.recorded").await;
    Woken::Resume(begin)
}

async fn begin(d: &Arc<Dispatcher>, live: &Live, asks: &mut Asks, parked: &Parked) -> Result<Begin, ExecutionError> {
    let answers = asks.reply(d, live).await;
    let host = |message: String| ExecutionError::new(ErrorKind::Host, message);
    let key = parked.key.as_ref().map(|sealed| d.secrets.park_key(&live.account, &live.id, sealed)).transpose();
    let key = key.map_err(|error| host(error.to_string()))?;
    let file = d.parked.marked(&parked.file, &parked.mark).map_err(|error| host(format!("its parked machine is gone: {error}")))?;
    if live.inherited {
        differs(d, live, &file, key.clone()).await?;
    }
    let unread = hex::decode(&parked.unread).ok_or_else(|| host("its record in the database is damaged".into()))?;
    Ok(Begin::Resume { file, key, base: parked.base.clone(), unread, answers: Box::new(answers) })
}

/// An earlier daemon may have had other disks.
async fn differs(d: &Arc<Dispatcher>, live: &Live, file: &File, key: Option<ParkKey>) -> Result<(), ExecutionError> {
    let host = |error: &dyn std::fmt::Display| ExecutionError::new(ErrorKind::Host, format!("its parked machine can't be used: {error}"));
    let (this, runtime, file) = (Arc::clone(d), live.version.entry.runtime(), file.try_clone().map_err(|error| host(&error))?);
    let found = tokio::task::spawn_blocking(move || {
        let Some(engine) = this.runner().engine() else { return Ok(Vec::new()) };
        let key = key.map(|key| SealKey::new(key.bytes()));
        let origin = Machine::open(&file, key.as_ref())?.origin()?;
        Ok::<_, SnapshotError>(engine.differences(&origin, runtime))
    });
    let found = found.await.map_err(|error| host(&error))?.map_err(|error| host(&error))?;
    if found.is_empty() { Ok(()) } else { Err(host(&format!("this host is not as it was; {}", found.join("; ")))) }
}

fn stopped(d: &Dispatcher, live: &Live, parked: &Parked) -> Woken {
    if live.cause() == Some(Cause::Daemon) {
        return Woken::Lost;
    }
    d.parked.remove(&live.account, &parked.file, parked.stored_bytes);
    Woken::End(Ending::of(live.cause(), &live.version.policy))
}

fn fail(d: &Dispatcher, live: &Live, parked: &Parked, error: ExecutionError) -> Woken {
    d.parked.remove(&live.account, &parked.file, parked.stored_bytes);
    Woken::End(Ending::failed(error))
}

/// It was not brought back, and has not run: parked again for a while, or failed.
pub(super) async fn again(d: &Arc<Dispatcher>, live: &Live, parked: &Arc<Parked>, error: ExecutionError, tries: u32) -> Result<(), Woken> {
    if tries >= AGAIN.1 {
        return Err(fail(d, live, parked, error));
    }
    let mut execution = (*live.view()).clone();
    if let Err(refused) = execution.apply(live.clock.now(), Happening::NotResumed { reason: error.message }) {
        tracing::error!(execution = %live.id, error = %refused, "its machine was not brought back, and that is refused");
        return Err(fail(d, live, parked, ExecutionError::new(ErrorKind::Host, format!("a fault in torpord: {refused}"))));
    }
    execution.parked = Some(Arc::clone(parked));
    if !persist(d, live, Arc::new(execution)).await {
        d.forget(&live.id);
        return Err(Woken::Lost);
    }
    tokio::select! {
        () = tokio::time::sleep(AGAIN.0) => Ok(()),
        () = live.cancel.cancelled() => Ok(()),
    }
}
