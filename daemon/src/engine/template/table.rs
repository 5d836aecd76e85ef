//! Which templates this daemon knows, and where each is in its life. Pure: files and VMs are its owner's.
//!
//! ```text
//!   (none) --begin--> Making --settle--> Ready --suspect, forget, or too many are open--> (none)
//!                        |                                  on disk it may still be there, checked or not
//!                        +-----settle--> Failed --begin--> Making
//! ```
//! An attempt that is forgotten, or that nobody waits for any more, is told to stop. Invariants: one attempt at a time for each id; an end that comes for an attempt that was forgotten changes nothing; at most [`MAX_OPEN`]
//! templates are open at once besides those in use.

use crate::engine::host::Spec;
use crate::engine::types::{ExecutionError, TemplateState};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Most templates kept open: each holds three descriptors.
pub(super) const MAX_OPEN: usize = 64;

/// A template, and whether it had to be made.
pub(super) type Got<T> = Result<(Arc<T>, bool), ExecutionError>;
/// Tells an attempt's end to all who wait for it.
pub(super) type End<T> = watch::Receiver<Option<Got<T>>>;

/// An attempt under way.
#[derive(Debug)]
pub(super) struct Attempt<T> {
    number: u64,
    /// Where its end is to be told; its receivers are those who wait.
    pub(super) told: watch::Sender<Option<Got<T>>>,
    /// Cancelled when nobody wants what comes of it.
    pub(super) unwanted: CancellationToken,
}

#[derive(Debug)]
enum State<T> {
    Making(Arc<Attempt<T>>),
    Ready(Arc<T>),
    Failed,
}

#[derive(Debug)]
struct Slot<T> {
    spec: Spec,
    attempt: u64,
    used: u64,
    state: State<T>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: HashMap<String, Slot<T>>,
    checked: HashSet<String>,
    clock: u64,
}

/// What is known of an id.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// Open, ready for use.
    Ready(Arc<T>),
    /// Being made.
    Making(End<T>),
    /// To be loaded or made: [`Table::begin`].
    Nothing,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { slots: HashMap::new(), checked: HashSet::new(), clock: 0 }
    }
}

impl<T> Table<T> {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Looks a template up for use.
    pub(super) fn find(&mut self, id: &str) -> Found<T> {
        let now = self.tick();
        let Some(slot) = self.slots.get_mut(id) else { return Found::Nothing };
        match &slot.state {
            State::Ready(template) => {
                slot.used = now;
                Found::Ready(template.clone())
            }
            State::Making(attempt) => Found::Making(attempt.told.subscribe()),
            State::Failed => Found::Nothing,
        }
    }

    /// An attempt begins, for one who waits for its end.
    pub(super) fn begin(&mut self, id: &str, spec: Spec) -> (Arc<Attempt<T>>, End<T>) {
        let number = self.tick();
        let (told, end) = watch::channel(None);
        let attempt = Arc::new(Attempt { number, told, unwanted: CancellationToken::new() });
        self.slots.insert(id.to_owned(), Slot { spec, attempt: number, used: number, state: State::Making(attempt.clone()) });
        (attempt, end)
    }

    /// Forgets an attempt that nobody waits for; false if somebody does. Who comes later begins another.
    pub(super) fn abandon(&mut self, id: &str, attempt: &Attempt<T>) -> bool {
        if attempt.told.receiver_count() > 0 {
            return false;
        }
        if self.slots.get(id).is_some_and(|slot| slot.attempt == attempt.number) {
            self.slots.remove(id);
        }
        attempt.unwanted.cancel();
        true
    }

    /// An attempt ended. False: it was forgotten meanwhile, and nobody wants what came of it.
    pub(super) fn settle(&mut self, id: &str, attempt: &Attempt<T>, got: &Got<T>) -> bool {
        let now = self.tick();
        match self.slots.get_mut(id) {
            Some(slot) if slot.attempt == attempt.number => {
                slot.used = now;
                slot.state = match got {
                    Ok((template, _)) => State::Ready(template.clone()),
                    Err(_) => State::Failed,
                };
                if got.is_ok() {
                    self.checked.insert(id.to_owned());
                    self.close_surplus();
                }
                true
            }
            // Another attempt began after this one was forgotten: what is on disk is that one's.
            Some(_) => true,
            None => false,
        }
    }

    fn close_surplus(&mut self) {
        let mut open: Vec<(u64, String)> = Vec::new();
        for (id, slot) in &self.slots {
            if matches!(slot.state, State::Ready(_)) {
                open.push((slot.used, id.clone()));
            }
        }
        open.sort_unstable();
        for (_, id) in open.iter().take(open.len().saturating_sub(MAX_OPEN)) {
            self.slots.remove(id);
        }
    }

    /// Whether this daemon has checked or made what is on disk under this id.
    pub(super) fn is_checked(&self, id: &str) -> bool {
        self.checked.contains(id)
    }

    /// This very template could not be used: it is to be checked before its next use.
    pub(super) fn suspect(&mut self, id: &str, template: &T) {
        self.checked.remove(id);
        let same = matches!(self.slots.get(id), Some(Slot { state: State::Ready(ready), .. }) if std::ptr::eq(ready.as_ref(), template));
        if same {
            self.slots.remove(id);
        }
    }

    /// Its task is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.checked.remove(id);
        if let Some(Slot { state: State::Making(attempt), .. }) = self.slots.remove(id) {
            attempt.unwanted.cancel();
        }
    }

    /// Where it is in its life; `None` where only the disk knows.
    pub(super) fn state(&self, id: &str) -> Option<TemplateState> {
        self.slots.get(id).map(|slot| slot.state.public())
    }

    /// All of them, in no order.
    pub(super) fn list(&self) -> impl Iterator<Item = (&str, &Spec, TemplateState, Option<&T>)> {
        self.slots.iter().map(|(id, slot)| (id.as_str(), &slot.spec, slot.state.public(), slot.state.ready()))
    }
}

impl<T> State<T> {
    const fn public(&self) -> TemplateState {
        match self {
            Self::Making(_) => TemplateState::Preparing,
            Self::Ready(_) => TemplateState::Ready,
            Self::Failed => TemplateState::Failed,
        }
    }

    fn ready(&self) -> Option<&T> {
        match self {
            Self::Ready(template) => Some(template),
            Self::Making(_) | Self::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::types::ErrorKind;
    use torpor_protocol::agent::Runtime;

    const SPEC: Spec = Spec::Runtime { runtime: Runtime::Exec, memory_mib: 64 };

    fn ready(table: &mut Table<u32>, id: &str, value: u32) {
        let (attempt, _) = table.begin(id, SPEC);
        assert!(table.settle(id, &attempt, &Ok((Arc::new(value), true))));
    }

    #[test]
    fn those_who_come_while_it_is_made_wait_for_the_same_end() {
        let mut table = Table::<u32>::default();
        assert!(matches!(table.find("a"), Found::Nothing));
        let (attempt, _end) = table.begin("a", SPEC);
        let Found::Making(end) = table.find("a") else { unreachable!("an attempt is under way") };
        assert_eq!(table.state("a"), Some(TemplateState::Preparing));
        let got = Ok((Arc::new(7), true));
        assert!(table.settle("a", &attempt, &got));
        attempt.told.send_replace(Some(got));
        assert_eq!(*end.borrow().as_ref().unwrap().as_ref().unwrap().0, 7);
        assert!(matches!(table.find("a"), Found::Ready(value) if *value == 7));
    }

    #[test]
    fn a_failure_is_remembered_until_the_next_attempt() {
        let mut table = Table::<u32>::default();
        let (attempt, _) = table.begin("a", SPEC);
        table.settle("a", &attempt, &Err(ExecutionError::new(ErrorKind::Load, "no")));
        assert_eq!(table.state("a"), Some(TemplateState::Failed));
        assert!(matches!(table.find("a"), Found::Nothing) && !table.is_checked("a"));
        ready(&mut table, "a", 1);
        assert_eq!(table.state("a"), Some(TemplateState::Ready));
    }

    #[test]
    fn the_end_of_a_forgotten_attempt_changes_nothing() {
        let mut table = Table::<u32>::default();
        let (first, _) = table.begin("a", SPEC);
        table.forget("a");
        assert!(!table.settle("a", &first, &Ok((Arc::new(1), true))), "nobody wants it");
        let (second, _) = table.begin("a", SPEC);
        assert!(table.settle("a", &first, &Ok((Arc::new(1), true))));
        assert_eq!(table.state("a"), Some(TemplateState::Preparing), "the second attempt goes on");
        table.settle("a", &second, &Ok((Arc::new(2), true)));
        assert!(matches!(table.find("a"), Found::Ready(value) if *value == 2));
    }

    #[test]
    fn an_attempt_stops_when_the_last_who_waits_is_gone_or_it_is_forgotten() {
        let mut table = Table::<u32>::default();
        let (first, end) = table.begin("a", SPEC);
        let Found::Making(other) = table.find("a") else { unreachable!("an attempt is under way") };
        drop(end);
        assert!(!table.abandon("a", &first) && !first.unwanted.is_cancelled(), "somebody waits");
        drop(other);
        assert!(table.abandon("a", &first) && first.unwanted.is_cancelled());
        assert_eq!(table.state("a"), None);

        let (second, _end) = table.begin("a", SPEC);
        assert!(table.abandon("a", &first), "what is said of the first is not of the second");
        assert!(matches!(table.find("a"), Found::Making(_)) && !second.unwanted.is_cancelled());
        table.forget("a");
        assert!(second.unwanted.is_cancelled());
    }

    #[test]
    fn those_used_least_lately_are_closed_but_stay_checked() {
        let mut table = Table::<u32>::default();
        ready(&mut table, "first", 0);
        for number in 0..MAX_OPEN {
            assert!(matches!(table.find("first"), Found::Ready(_)));
            ready(&mut table, &format!("{number}"), 1);
        }
        assert_eq!(table.list().count(), MAX_OPEN);
        assert!(matches!(table.find("first"), Found::Ready(_)), "used all the time");
        assert!(matches!(table.find("0"), Found::Nothing) && table.is_checked("0"));
    }

    #[test]
    fn a_suspect_is_checked_again() {
        let mut table = Table::<u32>::default();
        ready(&mut table, "a", 1);
        let Found::Ready(old) = table.find("a") else { unreachable!("it is ready") };
        table.suspect("a", &old);
        assert!(matches!(table.find("a"), Found::Nothing) && !table.is_checked("a"));
        ready(&mut table, "a", 2);
        table.suspect("a", &old);
        assert!(matches!(table.find("a"), Found::Ready(value) if *value == 2), "another template is not meant");
    }
}
