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
use crate::parked::ParkError;
use crate::state::record::Happening;
use crate::state::waiting::Parked;
use std::fmt::Display;
use std::fs::File;
use std::io;
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
    let begin = match admission(d, live, asks, parked).await {
        Ok(begin) => begin,
        Err(woken) => return woken,
    };
    let _ = fault::at("resume.admitted").await;
    live.happened(Happening::Resuming);
    if !persist(d, live, live.view()).await {
        d.release(Job::Execution(live.id.clone()));
        d.forget(&live.id);
        return Woken::Lost;
    }
    let _ = fault::at("resume.recorded").await;
    Woken::Resume(begin)
}

/// With a place, and what it is brought back from.
async fn admission(d: &Arc<Dispatcher>, live: &Arc<Live>, asks: &mut Asks, parked: &Arc<Parked>) -> Result<Begin, Woken> {
    let (job, mut holders, mut tries) = (Job::Execution(live.id.clone()), Vec::new(), 0);
    loop {
        tokio::select! {
            biased;
            () = live.cancel.cancelled() => {
                d.withdraw(&job);
                return Err(stopped(d, live, parked));
            }
            () = d.admitted(live) => {}
        }
        told(live, asks, &mut holders);
        refuse(&mut holders);
        let Unready { error, passing } = match begin(d, live, asks, parked).await {
            Ok(begin) => return Ok(begin),
            Err(unready) => unready,
        };
        d.release(job.clone());
        if !passing || tries >= AGAIN.1 {
            return Err(fail(d, parked, error));
        }
        tries += 1;
        tracing::warn!(execution = %live.id, %error, "not brought back; it is tried again");
        tokio::select! {
            () = live.cancel.cancelled() => return Err(stopped(d, live, parked)),
            () = tokio::time::sleep(AGAIN.0) => {}
        }
    }
}

/// Why a machine can't be brought back.
struct Unready {
    error: ExecutionError,
    /// The system could not do it now, and may next time.
    passing: bool,
}

impl Unready {
    fn new(why: impl Display) -> Self {
        Self::told(format!("its parked machine can't be used: {why}"))
    }

    fn told(message: String) -> Self {
        Self { error: ExecutionError::new(ErrorKind::Host, message), passing: false }
    }

    fn io(why: impl Display, source: &io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::told(format!("its parked machine is gone: {why}")),
            _ => Self { passing: true, ..Self::new(why) },
        }
    }
}

impl From<ParkError> for Unready {
    fn from(error: ParkError) -> Self {
        if let ParkError::Io { source, .. } = &error { Self::io(&error, source) } else { Self::new(error) }
    }
}

impl From<SnapshotError> for Unready {
    fn from(error: SnapshotError) -> Self {
        if let SnapshotError::Io { source, .. } = &error { Self::io(&error, source) } else { Self::new(error) }
    }
}

async fn begin(d: &Arc<Dispatcher>, live: &Live, asks: &mut Asks, parked: &Parked) -> Result<Begin, Unready> {
    let key = parked.key.as_ref().map(|sealed| d.secrets.park_key(&live.account, &live.id, sealed)).transpose();
    let key = key.map_err(|error| Unready::told(error.to_string()))?;
    let file = d.parked.marked(&parked.file, &parked.mark)?;
    if live.inherited {
        differs(d, live, &file, key.clone()).await?;
    }
    let unread = hex::decode(&parked.unread).ok_or_else(|| Unready::new("its record in the database is damaged"))?;
    // Last: what was taken is not there for another try.
    let answers = Box::new(asks.reply(d, live).await);
    Ok(Begin::Resume { file, key, base: parked.base.clone(), unread, answers })
}

/// An earlier daemon may have had other disks.
async fn differs(d: &Arc<Dispatcher>, live: &Live, file: &File, key: Option<ParkKey>) -> Result<(), Unready> {
    let (this, runtime) = (Arc::clone(d), live.version.entry.runtime());
    let file = file.try_clone().map_err(|error| Unready::io(&error, &error))?;
    let found = tokio::task::spawn_blocking(move || {
        let Some(engine) = this.runner().engine() else { return Ok(Vec::new()) };
        let key = key.map(|key| SealKey::new(key.bytes()));
        let origin = Machine::open(&file, key.as_ref())?.origin()?;
        Ok::<_, SnapshotError>(engine.differences(&origin, runtime))
    });
    let found = found.await.map_err(Unready::new)??;
    if found.is_empty() { Ok(()) } else { Err(Unready::new(format!("this host is not as it was; {}", found.join("; ")))) }
}

fn stopped(d: &Dispatcher, live: &Live, parked: &Parked) -> Woken {
    if live.cause() == Some(Cause::Daemon) {
        return Woken::Lost;
    }
    d.parked.remove(&parked.file);
    Woken::End(Ending::of(live.cause(), &live.version.policy))
}

fn fail(d: &Dispatcher, parked: &Parked, error: ExecutionError) -> Woken {
    d.parked.remove(&parked.file);
    Woken::End(Ending::failed(error))
}

/// It was not brought back, and has not run: parked again for a while, or failed.
pub(super) async fn again(d: &Arc<Dispatcher>, live: &Live, parked: &Arc<Parked>, error: ExecutionError, tries: u32) -> Result<(), Woken> {
    if tries >= AGAIN.1 {
        return Err(fail(d, parked, error));
    }
    let mut execution = (*live.view()).clone();
    if let Err(refused) = execution.apply(live.clock.now(), Happening::NotResumed { reason: error.message }) {
        tracing::error!(execution = %live.id, error = %refused, "its machine was not brought back, and that is refused");
        return Err(fail(d, parked, ExecutionError::new(ErrorKind::Host, format!("a fault in torpord: {refused}"))));
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
