//! What the scheduler is told of a task: learned from the executions of it that have ended, much as the daemon learns it.

/// How many of the last executions count.
const KEPT: usize = 32;

#[derive(Debug, Clone, Default)]
struct Window {
    values: Vec<u64>,
    next: usize,
}

impl Window {
    fn add(&mut self, value: u64) {
        if self.values.len() < KEPT {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
            self.next = (self.next + 1) % KEPT;
        }
    }

    /// The value below which so many of a hundred are; 0 where there is none.
    fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.values.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or(0)
    }
}

/// Of one task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Estimate {
    holds: Window,
    takes: Window,
    told: (u64, u64),
    news: usize,
}

impl Estimate {
    /// An execution held its VM so long at first, and took so long from its start to its end.
    pub(crate) fn learn(&mut self, held: u64, took: u64) {
        self.holds.add(held);
        self.takes.add(took);
        self.news += 1;
        if self.news * 8 >= self.holds.values.len() {
            self.news = 0;
            self.told = (self.holds.percentile(50), self.takes.percentile(95));
        }
    }

    /// The median time of holding its VM, and a high percentile of the time to its end; 0 where unknown.
    pub(crate) const fn told(&self) -> (u64, u64) {
        self.told
    }
}
