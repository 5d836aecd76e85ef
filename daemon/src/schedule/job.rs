//! What wants a VM, and what the queue is told of it. The queue itself is the crate `torpor-scheduler`, which knows neither executions nor clocks.

use super::estimates::Estimate;
use crate::state::id::ExecutionId;
use crate::state::record::{Execution, Version};
use crate::state::time::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};
use torpor_scheduler::{Claim, Group, Kind, Time};

/// What wants a VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// An execution, new or parked.
    Execution(ExecutionId),
    /// The template of a task version, made ahead of its first execution. A number of its own, since a version may be pushed again.
    Template(u64),
    /// A VM that is kept for the next execution of its kind.
    Kept(u64),
}

/// The queue's clock: it goes on evenly, whatever becomes of the host's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(micros(self.started.elapsed()))
    }

    /// A moment of another clock, by what is left until then.
    #[must_use]
    pub fn moment(&self, moment: Timestamp, now: Timestamp) -> Time {
        self.now().after(micros(moment.since(now)))
    }

    /// When that is.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        self.started.checked_add(Duration::from_micros(time.0))
    }

    /// How long ago that was.
    #[must_use]
    pub fn since(&self, time: Time) -> Duration {
        Duration::from_micros(self.now().since(time))
    }
}

/// What an execution claims; `now` is on its own clock. Of one that has begun what it has used of its time is left out.
#[must_use]
pub fn claim((clock, now): (&Clock, Timestamp), execution: &Execution, version: &Version, bytes: u64, expected: Estimate) -> Claim {
    let begun = execution.begun_at().filter(|_| execution.state != crate::state::machine::State::Queued);
    let used = begun.map_or(Duration::ZERO, |begun| now.since(begun));
    let name = || format!("{}/{}/{}", version.account, version.task, version.portion).into();
    Claim {
        group: version.policy.max_parallel.map(|most| Group { name: name(), most }),
        kind: if begun.is_some() { Kind::Resume } else { Kind::New },
        due: execution.must_end().map(|due| clock.moment(due, now)),
        // Nobody knows how late one may begin of which none was seen.
        deferrable: begun.is_none() && execution.need_by.is_some() && !expected.takes.is_zero(),
        holds: micros(expected.holds),
        takes: micros(expected.takes.saturating_sub(used).max(expected.holds.min(expected.takes))),
        ..background(version, bytes)
    }
}

/// What is made ahead claims.
#[must_use]
pub fn background(version: &Version, bytes: u64) -> Claim {
    Claim {
        bytes,
        cpu: version.policy.vcpus_permille,
        account: Arc::from(version.account.as_str()),
        group: None,
        kind: Kind::Background,
        priority: version.policy.priority,
        due: None,
        deferrable: false,
        holds: 0,
        takes: 0,
    }
}
