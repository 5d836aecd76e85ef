//! Parking: the machine is written down, its file named, and that it is parked recorded; or it goes on.

use super::Watch;
use crate::engine::{Order, Parked};
use crate::fault;
use crate::hex;
use crate::manifest::Park;
use crate::parked::{Draft, ParkError, mark};
use crate::schedule::estimates::Kind;
use crate::schedule::live::Cause;
use crate::secrets::seal::Sealed;
use crate::state::record::{Happening, TimelineEntry};
use crate::state::waiting;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After a failure to park.
const PARK_AGAIN: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 10_000 });
/// How long one may stand in a VM that others wait for where there is no room to park it.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 60_000 });

/// A machine that is being written down.
pub(super) struct Parking {
    draft: Draft,
    /// Of the draft, where it is encrypted.
    key: Option<Sealed>,
    since: Instant,
}

impl Watch<'_> {
    pub(super) fn not_parked(&mut self, reason: String) {
        self.standing.parking = None;
        let again = self.standing.stands && !self.standing.kept && self.live.version.policy.park != Park::Never;
        self.standing.park_at = again.then(|| Instant::now() + PARK_AGAIN);
        self.granted(&Err(reason.clone()));
        // One entry for all tries that fail alike: they may go on for days.
        let told = matches!(self.live.view().timeline.last(), Some(TimelineEntry { what: Happening::NotParked { reason: last }, .. }) if *last == reason);
        if !told {
            self.live.happened(Happening::NotParked { reason });
        }
    }

    /// Has the machine written down.
    pub(super) async fn park(&mut self) {
        self.standing.park_at = None;
        self.standing.waits_longer = false;
        if !self.standing.stands || !self.asks.settled() || self.asks.any_ready() || self.aux.calls() {
            return self.look().await;
        }
        if let Some(why) = self.aux.refuses() {
            return self.granted(&Err(why));
        }
        let since = Instant::now();
        let begun = async {
            step("park.decided").await?;
            self.d.has_room_to_park(&self.live.account, self.standing.needs.max(1))?;
            let files = self.d.parked.clone();
            let draft = blocking(move || files.begin()).await?;
            step("park.file").await?;
            let file = draft.file.try_clone().map_err(|source| ParkError::Io { what: "using the file", source })?;
            let key = self.d.park_key(self.live)?;
            Ok::<_, ParkError>((draft, file, key))
        };
        match begun.await {
            Ok((draft, file, key)) => {
                let (key, sealed) = key.unzip();
                self.standing.parking = Some(Parking { draft, key: sealed, since });
                let _ = self.orders.send(Order::Park { file, packing: self.d.packing, key });
            }
            Err(error) => self.no_room(&error),
        }
    }

    /// It can't be parked. Where that is for want of room, and stays so while others wait for its VM, it ends: those that it waits for may be among them.
    fn no_room(&mut self, error: &ParkError) {
        self.not_parked(error.to_string());
        if !error.is_full() || !self.d.holds_up() {
            self.standing.no_room = None;
            return;
        }
        // It may go on between two tries: what counts is the time up to the next one.
        let (last, held) = self.standing.no_room.unwrap_or_else(|| (Instant::now(), Duration::ZERO));
        let held = held + last.elapsed().min(PARK_AGAIN * 2);
        self.standing.no_room = Some((Instant::now(), held));
        if held >= PATIENCE && self.d.gives_way() {
            tracing::warn!(execution = %self.live.id, %error, "it waits, can't be parked, and others wait for its VM; it ends");
            self.live.stop(Cause::Unparked);
        }
    }

    /// The machine is written down: name it, record it, end it; or let it go on.
    pub(super) async fn written(&mut self, parked: Parked) {
        let Some(Parking { draft, key, since }) = self.standing.parking.take() else { return };
        self.notes();
        if self.asks.any_ready() || self.aux.calls() {
            drop(draft);
            return self.look().await;
        }
        if let Some(why) = self.aux.refuses() {
            drop(draft);
            return self.not_parked(why);
        }
        match self.commit((draft, key), &parked, since).await {
            Ok(()) => {
                let _ = fault::at("park.committed").await;
                let _ = self.orders.send(Order::End);
                self.aux.parked();
                self.aux_lines();
                self.d.estimates.note(&self.live.version, Kind::Park, since.elapsed());
                self.standing.stands = false;
                self.standing.over = true;
                self.granted(&Ok(()));
            }
            Err(error) => {
                self.no_room(&error);
                self.look().await;
            }
        }
    }

    async fn commit(&mut self, (draft, key): (Draft, Option<Sealed>), parked: &Parked, since: Instant) -> Result<(), ParkError> {
        step("park.written").await?;
        draft.holds(parked.stored_bytes)?;
        let mark = mark(&draft.file)?;
        let (files, id, bytes) = (self.d.parked.clone(), self.live.id.clone(), parked.stored_bytes);
        // Its machine is not written again before there is as much.
        self.standing.needs = bytes;
        self.d.room_to_park(&self.live.account, bytes)?;
        let (naming, account) = (files.clone(), self.live.account.clone());
        let file = match blocking(move || naming.commit(draft, &id, &account, bytes)).await {
            Ok(file) => file,
            Err(error) => {
                files.unreserve(&self.live.account, bytes);
                return Err(error);
            }
        };
        let recorded = match step("park.renamed").await {
            Ok(()) => self.record((&file, mark, key), parked, since).await,
            Err(error) => Err(error),
        };
        recorded.inspect_err(|_| files.remove(&file))
    }

    /// The commit point.
    async fn record(
        &mut self,
        (file, mark, key): (&str, String, Option<Sealed>),
        parked: &Parked,
        since: Instant,
    ) -> Result<(), ParkError> {
        let failed = |error: &dyn std::fmt::Display| ParkError::Record(error.to_string());
        let (now, views) = (self.live.clock.now(), self.asks.views());
        let mut execution = (*self.live.view()).clone();
        let happening = Happening::Parked {
            waiting: views.clone(),
            changed_bytes: parked.changed_bytes,
            stored_bytes: parked.stored_bytes,
            micros: u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        execution.apply(now, happening).map_err(|error| failed(&error))?;
        execution.waiting = views;
        let before = self.resumed.as_ref().map_or(0, |resumed| resumed.ran_micros);
        execution.parked = Some(Arc::new(waiting::Parked {
            file: file.to_owned(),
            mark,
            key,
            base: parked.base.clone(),
            stored_bytes: parked.stored_bytes,
            unread: hex::encode(&parked.unread),
            since: now,
            ran_micros: before.saturating_add(u64::try_from(parked.ran.as_micros()).unwrap_or(u64::MAX)),
            children: self.asks.children,
            calls: self.asks.calls.clone(),
            asks: self.asks.saved(),
            aux: self.aux.held(),
        }));
        let execution = Arc::new(execution);
        self.d.store.commit_accepted(|| self.live.change(&execution)).await.map_err(|error| failed(&error))?;
        self.live.saved(execution);
        Ok(())
    }
}

async fn step(step: &'static str) -> Result<(), ParkError> {
    fault::at(step).await.map_err(|source| ParkError::Io { what: "a step on the way", source })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ParkError> + Send + 'static) -> Result<T, ParkError> {
    let broken = |error: tokio::task::JoinError| ParkError::Io { what: "work on the file", source: std::io::Error::other(error) };
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}
