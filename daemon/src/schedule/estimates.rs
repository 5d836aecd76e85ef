//! How long executions take, by what was seen: for each portion of each task version, its start-up, its time with a VM, the whole of it, its parks and its
//! resumes. What was seen is kept in the database, so that a new torpord knows it.
//!
//! Invariant: memory is bounded by [`MOST`] versions; what was not written within [`super::dispatch`]'s rhythm may be lost in a crash, and nothing else depends on
//! it: an estimate is a guess, and a wrong one costs time, never an execution.

use crate::state::record::Version;
use crate::state::sketch::Sketch;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most portions of versions that are remembered.
const MOST: usize = 20_000;
/// Weight of the newest in a running mean.
const WEIGHT: f64 = 0.25;
/// What a park and a resume are taken to cost before one was seen.
const COST: (f64, f64) = (0.010, 0.010);

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// From the look for a monitor until the program has its input.
    Startup,
    /// With a VM, from its start to its end or to its park.
    Run,
    /// From the start of an attempt that succeeded to its end, with the time that it was parked and waited for others.
    Whole,
    /// From the decision to a free VM.
    Park,
    /// From the memory for it to a running vCPU.
    Resume,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Startup, Self::Run, Self::Whole, Self::Park, Self::Resume];

    /// Its name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Run => "run",
            Self::Whole => "whole",
            Self::Park => "park",
            Self::Resume => "resume",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A portion of a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Of {
    /// Whose it is.
    pub account: Arc<str>,
    /// Name of the task.
    pub task: Arc<str>,
    /// Hash of the version.
    pub version: Arc<str>,
    /// Name of the portion.
    pub portion: Arc<str>,
}

impl Of {
    /// This one.
    #[must_use]
    pub fn version(version: &Version) -> Self {
        Self {
            account: version.account.as_str().into(),
            task: version.task.as_str().into(),
            version: Arc::clone(&version.version),
            portion: version.portion.as_str().into(),
        }
    }
}

/// What was seen of one kind, as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Of what.
    pub of: Of,
    /// Which kind.
    pub kind: Kind,
    /// How long it took.
    pub sketch: Sketch,
}

/// What is to be expected of an execution. Zero where nothing is known, except of resumes: then it is what those of others take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate {
    /// With a VM at a time: half of them take no longer.
    pub holds: Duration,
    /// From its start to its end: nine of ten take no longer.
    pub takes: Duration,
    /// None of this very version was ever faster than this.
    pub least: Duration,
    /// Bringing a parked one back: nine of ten take no longer.
    pub resume: Duration,
}

/// Account, task, portion.
type Portion = (Arc<str>, Arc<str>, Arc<str>);

type Sketches = BTreeMap<Kind, Sketch>;

#[derive(Debug)]
struct Known {
    sketches: HashMap<Of, Sketches>,
    /// The version of a portion that was seen last: for the next one, of which nothing is known yet.
    latest: HashMap<Portion, Arc<str>>,
    dirty: HashSet<(Of, Kind)>,
    park: f64,
    resume: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Estimates(Mutex<Known>);

impl Default for Estimates {
    fn default() -> Self {
        let (sketches, latest, dirty) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self(Mutex::new(Known { sketches, latest, dirty, park: COST.0, resume: COST.1 }))
    }
}

fn mix(mean: &mut f64, new: Duration) {
    *mean += (new.as_secs_f64() - *mean) * WEIGHT;
}

impl Known {
    fn sketches(&mut self, of: &Of) -> &mut Sketches {
        if !self.sketches.contains_key(of) && self.sketches.len() >= MOST {
            self.make_room();
        }
        self.sketches.entry(of.clone()).or_default()
    }

    /// Older versions give way, and where there are none, the tenth of what the account has that has most.
    fn make_room(&mut self) {
        let latest: HashSet<&Arc<str>> = self.latest.values().collect();
        self.sketches.retain(|of, _| latest.contains(&of.version));
        if self.sketches.len() < MOST {
            return;
        }
        let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
        self.sketches.keys().for_each(|of| *counts.entry(Arc::clone(&of.account)).or_default() += 1);
        let Some((account, count)) = counts.into_iter().max_by_key(|(_, count)| *count) else { return };
        let gone: HashSet<Of> = self.sketches.keys().filter(|of| of.account == account).take(count.div_ceil(10)).cloned().collect();
        self.sketches.retain(|of, _| !gone.contains(of));
        self.dirty.retain(|(of, _)| !gone.contains(of));
        let portion = |of: &Of| (Arc::clone(&of.account), Arc::clone(&of.task), Arc::clone(&of.portion));
        gone.iter().for_each(|of| drop(self.latest.remove(&portion(of))));
    }

    /// Its whole time is known: it stands for the next version.
    fn is_latest(&mut self, of: &Of) {
        let portion = (Arc::clone(&of.account), Arc::clone(&of.task), Arc::clone(&of.portion));
        self.latest.insert(portion, Arc::clone(&of.version));
    }

    /// What was seen of it, or of the version before it.
    fn seen(&self, of: &Of) -> Option<&Sketches> {
        let before = || {
            let portion = (Arc::clone(&of.account), Arc::clone(&of.task), Arc::clone(&of.portion));
            let version = self.latest.get(&portion)?;
            self.sketches.get(&Of { version: Arc::clone(version), ..of.clone() })
        };
        self.sketches.get(of).filter(|sketches| sketches.contains_key(&Kind::Whole)).or_else(before)
    }
}

impl Estimates {
    /// With what an earlier torpord has seen, oldest first.
    #[must_use]
    pub fn load(seen: Vec<Seen>) -> Self {
        let this = Self::default();
        for Seen { of, kind, sketch } in seen {
            let mut known = this.lock();
            known.sketches(&of).insert(kind, sketch);
            if kind == Kind::Whole {
                known.is_latest(&of);
            }
        }
        this
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something took so long.
    pub fn note(&self, version: &Version, kind: Kind, took: Duration) {
        let (of, mut known) = (Of::version(version), self.lock());
        match kind {
            Kind::Park => mix(&mut known.park, took),
            Kind::Resume => mix(&mut known.resume, took),
            Kind::Startup | Kind::Run | Kind::Whole => {}
        }
        known.sketches(&of).entry(kind).or_default().add(took);
        if kind == Kind::Whole {
            known.is_latest(&of);
        }
        known.dirty.insert((of, kind));
    }

    /// What is to be expected of an execution of a version.
    #[must_use]
    pub fn of(&self, version: &Version) -> Estimate {
        let (of, known) = (Of::version(version), self.lock());
        let usual = Duration::from_secs_f64(known.resume);
        // What another version takes is a guess, and nobody is refused for one.
        let least = known.sketches.get(&of).and_then(|own| own.get(&Kind::Whole)?.least());
        let Some(sketches) = known.seen(&of) else { return Estimate { resume: usual, ..Estimate::default() } };
        let percentile = |kind, percent| sketches.get(&kind).and_then(|sketch| sketch.percentile(percent));
        Estimate {
            holds: percentile(Kind::Run, 50).unwrap_or_default(),
            takes: percentile(Kind::Whole, 90).unwrap_or_default(),
            least: least.unwrap_or_default(),
            resume: percentile(Kind::Resume, 90).unwrap_or(usual),
        }
    }

    /// What was seen of this very version, by kind.
    #[must_use]
    pub fn seen(&self, version: &Version) -> Vec<(Kind, Sketch)> {
        let known = self.lock();
        let sketches = known.sketches.get(&Of::version(version)).into_iter().flatten();
        sketches.map(|(kind, sketch)| (*kind, sketch.clone())).collect()
    }

    /// How long an execution of a version takes: half of them no longer.
    #[must_use]
    pub fn expected(&self, version: &Version) -> Option<Duration> {
        self.lock().seen(&Of::version(version))?.get(&Kind::Whole)?.percentile(50)
    }

    /// The same, where nearly all take about as long: nine of ten at most twice of what the first of ten takes.
    #[must_use]
    pub fn steady(&self, version: &Version) -> Option<Duration> {
        let known = self.lock();
        let whole = known.seen(&Of::version(version))?.get(&Kind::Whole)?;
        let (low, middle, high) = (whole.percentile(10)?, whole.percentile(50)?, whole.percentile(90)?);
        (whole.weight() >= 10 && high <= low * 2).then_some(middle)
    }

    /// What a park and a resume take together.
    #[must_use]
    pub fn cost(&self) -> Duration {
        let known = self.lock();
        Duration::from_secs_f64((known.park + known.resume).max(0.0))
    }

    /// What the database does not have yet. Counts as written from now on.
    #[must_use]
    pub fn take_dirty(&self) -> Vec<Seen> {
        let mut known = self.lock();
        let dirty = std::mem::take(&mut known.dirty);
        let sketch = |of: &Of, kind| known.sketches.get(of)?.get(&kind).cloned();
        dirty.into_iter().filter_map(|(of, kind)| sketch(&of, kind).map(|sketch| Seen { of, kind, sketch })).collect()
    }

    /// An account is gone with all its tasks.
    pub fn forget_account(&self, account: &str) {
        let mut known = self.lock();
        known.sketches.retain(|of, _| *of.account != *account);
        known.latest.retain(|(owner, ..), _| **owner != *account);
        known.dirty.retain(|(of, _)| *of.account != *account);
    }

    /// A task is gone with all its versions.
    pub fn forget(&self, account: &str, task: &str) {
        let mut known = self.lock();
        known.sketches.retain(|of, _| *of.task != *task || *of.account != *account);
        known.latest.retain(|(owner, name, _), _| **name != *task || **owner != *account);
        known.dirty.retain(|(of, _)| *of.task != *task || *of.account != *account);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::tests::version;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn about(found: Duration, wanted: Duration) -> bool {
        found >= wanted && found <= wanted.mul_f64(1.2)
    }

    #[test]
    fn estimates_follow_what_is_seen() {
        let (estimates, a, b) = (Estimates::default(), version("t", 'a'), version("t", 'b'));
        let nothing = Estimate { resume: ms(10), ..Estimate::default() };
        assert_eq!((estimates.of(&a), estimates.expected(&a), estimates.steady(&a)), (nothing, None, None));
        for n in 0..100 {
            estimates.note(&a, Kind::Whole, ms(if n % 4 == 0 { 8000 } else { 2000 }));
            estimates.note(&a, Kind::Run, ms(500));
            estimates.note(&a, Kind::Park, ms(4));
            estimates.note(&a, Kind::Resume, ms(2));
        }
        let found = estimates.of(&a);
        assert!(about(found.takes, ms(8000)) && about(found.holds, ms(500)) && about(found.resume, ms(2)), "{found:?}");
        assert!(found.least <= ms(2000) && found.least > ms(1600), "{found:?}");
        assert!(about(estimates.expected(&a).unwrap(), ms(2000)));
        assert!((estimates.cost().as_secs_f64() - 0.006).abs() < 0.001);
        assert_eq!(estimates.steady(&a), None, "its times differ");
        let guess = Estimate { least: Duration::ZERO, ..found };
        assert_eq!(estimates.of(&b), guess, "a new version is taken to be as the last one was, which is certain of nothing");
        estimates.note(&b, Kind::Startup, ms(1));
        assert_eq!(estimates.of(&b), guess, "until it has ended once");
        (0..20).for_each(|_| estimates.note(&b, Kind::Whole, ms(100)));
        assert!(about(estimates.of(&b).takes, ms(100)) && about(estimates.steady(&b).unwrap(), ms(100)));
        assert!(about(estimates.of(&a).takes, ms(8000)), "each version has its own");
    }

    #[test]
    fn an_account_with_many_tasks_gives_way_to_others() {
        let estimates = Estimates::default();
        let few = version("few", 'a');
        let mut few = (*few).clone();
        few.account = "few".to_owned().try_into().unwrap();
        estimates.note(&few, Kind::Whole, ms(10));
        let of = |n: usize| Of { account: "many".into(), task: n.to_string().into(), version: "v".into(), portion: "main".into() };
        for n in 0..MOST {
            let mut known = estimates.lock();
            known.sketches(&of(n)).entry(Kind::Whole).or_default().add(ms(10));
            known.is_latest(&of(n));
        }
        let mut known = estimates.lock();
        assert!(known.sketches.len() <= MOST && known.latest.len() <= MOST);
        known.sketches(&of(MOST)).entry(Kind::Whole).or_default().add(ms(10));
        drop(known);
        assert!(about(estimates.expected(&few).unwrap(), ms(10)), "it has one");
    }

    #[test]
    fn what_was_seen_is_written_once_and_read_back() {
        let (estimates, a) = (Estimates::default(), version("t", 'a'));
        estimates.note(&a, Kind::Whole, ms(10));
        estimates.note(&a, Kind::Whole, ms(10));
        let written = estimates.take_dirty();
        assert_eq!((written.len(), written[0].sketch.weight()), (1, 2));
        assert!(estimates.take_dirty().is_empty());
        let loaded = Estimates::load(written);
        assert_eq!(loaded.of(&a), estimates.of(&a));
        assert!(loaded.take_dirty().is_empty());
        loaded.forget("default", "t");
        assert_eq!(loaded.of(&a).takes, Duration::ZERO);
    }
}
