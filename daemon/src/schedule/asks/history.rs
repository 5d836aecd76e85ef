//! How long things took lately: runs of each task, parks and resumes. Running means, in memory: a guess may be wrong, and costs little then (see
//! [`super::decide`]).

use crate::manifest::TaskName;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Weight of the newest.
const WEIGHT: f64 = 0.25;
/// Most tasks that are remembered.
const TASKS: usize = 10_000;
/// What a park and a resume are taken to cost before one was seen.
const COST: (f64, f64) = (0.010, 0.010);

#[derive(Debug)]
struct Means {
    runs: HashMap<TaskName, f64>,
    park: f64,
    resume: f64,
}

/// See the module.
#[derive(Debug)]
pub struct History(Mutex<Means>);

impl Default for History {
    fn default() -> Self {
        Self(Mutex::new(Means { runs: HashMap::new(), park: COST.0, resume: COST.1 }))
    }
}

fn mix(mean: &mut f64, new: Duration) {
    *mean += (new.as_secs_f64() - *mean) * WEIGHT;
}

impl History {
    fn lock(&self) -> MutexGuard<'_, Means> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An execution of a task took so long, from its submission to its result.
    pub fn ran(&self, task: &TaskName, took: Duration) {
        let mut means = self.lock();
        if let Some(mean) = means.runs.get_mut(task) {
            mix(mean, took);
        } else if means.runs.len() < TASKS {
            means.runs.insert(task.clone(), took.as_secs_f64());
        }
    }

    /// A park took so long, from the decision to a free VM.
    pub fn parked(&self, took: Duration) {
        mix(&mut self.lock().park, took);
    }

    /// A resume took so long, up to the running vCPU.
    pub fn resumed(&self, took: Duration) {
        mix(&mut self.lock().resume, took);
    }

    /// How long an execution of a task takes.
    #[must_use]
    pub fn expected(&self, task: &TaskName) -> Option<Duration> {
        self.lock().runs.get(task).map(|mean| Duration::from_secs_f64(mean.max(0.0)))
    }

    /// What a park and a resume take together.
    #[must_use]
    pub fn cost(&self) -> Duration {
        let means = self.lock();
        Duration::from_secs_f64((means.park + means.resume).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn means_follow_what_is_seen() {
        let (history, task) = (History::default(), TaskName::try_from("t".to_owned()).unwrap());
        assert_eq!(history.expected(&task), None);
        for _ in 0..50 {
            history.ran(&task, Duration::from_secs(2));
            history.parked(Duration::from_millis(4));
            history.resumed(Duration::from_millis(2));
        }
        assert!((history.expected(&task).unwrap().as_secs_f64() - 2.0).abs() < 0.01);
        assert!((history.cost().as_secs_f64() - 0.006).abs() < 0.001);
    }
}
