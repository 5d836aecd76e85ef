//! The time of an execution without a VM: from the commit of `parked` to the commit of `resuming`.
//!
//! ```text
//!  parked -- something it waits for is there, or it is told to --> wanting memory -- admitted --> resuming (durable) --> attempt
//!    ^                                                                                                                  |
//!    +------------------------- not brought back, has not run: tried again a little later -------------------------------+
//! ```
//! All of it is in the database; what is here is a task that sleeps.

use super::asks::Asks;
use super::asks::answer::{abandoned, build};
use super::core::Job;
use super::dispatch::Dispatcher;
use super::ending::Ending;
use super::live::{Cause, Live, Note};
use super::run::persist;
use crate::engine::{Begin, ErrorKind, ExecutionError};
use crate::fault;
use crate::state::record::Happening;
use crate::state::waiting::Parked;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Before another attempt to bring it back, and how many there are.
const AGAIN: (Duration, u32) = (Duration::from_millis(if cfg!(test) { 10 } else { 2000 }), 20);

/// How the time without a VM ended.
pub(super) enum Woken {
    /// With memory for it, recorded as `resuming`.
    Resume(Begin),
    /// For good.
    End(Ending),
    /// The database does not take anything more: the next start goes on.
    Lost,
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Takes in what it was told. True: it is to have a VM whatever it waits for.
fn told(live: &Live, asks: &mut Asks) -> bool {
    let mut wanted = false;
    for note in live.notes() {
        asks.note(&note);
        match note {
            Note::Park(wish) => drop(wish.send(Ok(()))),
            Note::Resume(wish) => {
                wanted = true;
                let _ = wish.send(Ok(()));
            }
            Note::Ended(_) | Note::Signalled(_) => {}
        }
    }
    wanted
}

/// Sleeps until it can go on.
pub(super) async fn wait(d: &Arc<Dispatcher>, live: &Arc<Live>, asks: &mut Asks, parked: &Arc<Parked>) -> Woken {
    let mut wanted = told(live, asks);
    while !wanted && !asks.any_ready() {
        tokio::select! {
            () = live.cancel.cancelled() => return stopped(d, live, parked),
            () = live.noted() => wanted = told(live, asks),
            () = until(asks.next_due()) => {}
        }
    }
    if let Err(error) = fault::at("resume.ready").await {
        tracing::error!(execution = %live.id, %error, "on the way to a resume");
    }
    let job = Job::Resume(live.id.clone());
    tokio::select! {
        biased;
        () = live.cancel.cancelled() => {
            d.withdraw(&job);
            return stopped(d, live, parked);
        }
        () = d.admitted(&job, live.bytes) => {}
    }
    told(live, asks);
    let begin = begin(d, live, asks, parked).await;
    let begin = match begin {
        Ok(begin) => begin,
        Err(error) => {
            d.release(job);
            return fail(d, parked, error);
        }
    };
    let _ = fault::at("resume.admitted").await;
    live.happened(Happening::Resuming);
    if !persist(d, live, live.view()).await {
        d.release(job);
        return Woken::Lost;
    }
    let _ = fault::at("resume.recorded").await;
    Woken::Resume(begin)
}

async fn begin(d: &Arc<Dispatcher>, live: &Live, asks: &mut Asks, parked: &Parked) -> Result<Begin, ExecutionError> {
    let ready = asks.take_ready(d, live);
    let abandoned = abandoned(&ready);
    let (answers, rest) = build(d, ready).await;
    asks.put_back(rest);
    for child in abandoned {
        d.abandon(&child, Cause::Parent);
    }
    let host = |message: String| ExecutionError::new(ErrorKind::Host, message);
    let file = d.parked.file(&parked.file).map_err(|error| host(format!("its parked machine is gone: {error}")))?;
    let unread = unhex(&parked.unread).ok_or_else(|| host("its record in the database is damaged".into()))?;
    Ok(Begin::Resume { file, base: parked.base.clone(), unread, answers: Box::new(answers) })
}

fn stopped(d: &Dispatcher, live: &Live, parked: &Parked) -> Woken {
    if live.cause() == Some(Cause::Daemon) {
        return Woken::Lost;
    }
    d.parked.give_free(&parked.file, parked.stored_bytes);
    Woken::End(Ending::of(live.cause(), &live.version.policy))
}

fn fail(d: &Dispatcher, parked: &Parked, error: ExecutionError) -> Woken {
    d.parked.give_free(&parked.file, parked.stored_bytes);
    Woken::End(Ending::failed(error))
}

/// It was not brought back, and has not run: parked again for a while, or failed.
pub(super) async fn again(d: &Arc<Dispatcher>, live: &Live, parked: &Arc<Parked>, error: ExecutionError, tries: u32) -> Result<(), Woken> {
    if tries >= AGAIN.1 {
        return Err(fail(d, parked, error));
    }
    let mut execution = (*live.view()).clone();
    if execution.apply(crate::state::time::Timestamp::now(), Happening::NotResumed { reason: error.message }).is_err() {
        return Err(Woken::Lost);
    }
    execution.parked = Some(Arc::clone(parked));
    if !persist(d, live, Arc::new(execution)).await {
        return Err(Woken::Lost);
    }
    tokio::select! {
        () = tokio::time::sleep(AGAIN.0) => Ok(()),
        () = live.cancel.cancelled() => Ok(()),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    digits.len().is_multiple_of(2).then_some(())?;
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_from_digits() {
        assert_eq!(unhex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!((unhex("0"), unhex("zz"), unhex("")), (None, None, Some(Vec::new())));
    }
}
