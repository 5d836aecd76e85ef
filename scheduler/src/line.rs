//! Those of one account that wait, in every order that is asked for. Holds numbers; the scheduler knows whose they are.

use crate::claim::{Kind, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Place among those that are wanted now: a due (where dues alone order), priority, kind, arrival, number.
pub(crate) type Rank = (Time, Reverse<i32>, Kind, u64, u64);

/// Where a job stands in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) number: u64,
    pub(crate) since: Time,
    /// Where it is wanted now.
    pub(crate) rank: Option<Rank>,
    /// The end that it must meet and still can.
    pub(crate) aim: Option<Time>,
    /// The last moment at which this is its place: then it is late for its high percentile, or for its median.
    pub(crate) lapses: Option<Time>,
}

#[derive(Debug, Default)]
pub(crate) struct Line {
    now: BTreeSet<Rank>,
    /// Of those that are wanted now: since when they wait.
    ages: BTreeSet<(Time, u64)>,
    dues: BTreeSet<(Time, u64)>,
}

impl Line {
    pub(crate) fn insert(&mut self, place: &Place) {
        if let Some(rank) = place.rank {
            self.now.insert(rank);
            self.ages.insert((place.since, place.number));
        }
        if let Some(aim) = place.aim {
            self.dues.insert((aim, place.number));
        }
    }

    pub(crate) fn remove(&mut self, place: &Place) {
        if let Some(rank) = place.rank {
            self.now.remove(&rank);
            self.ages.remove(&(place.since, place.number));
        }
        if let Some(aim) = place.aim {
            self.dues.remove(&(aim, place.number));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.now.is_empty() && self.dues.is_empty()
    }

    /// The first of those that are wanted now.
    pub(crate) fn first(&self) -> Option<u64> {
        self.now.first().map(|(.., number)| *number)
    }

    /// The one of those wanted now that has waited longest, and since when.
    pub(crate) fn oldest(&self) -> Option<(Time, u64)> {
        self.ages.first().copied()
    }

    /// Those that have a due to meet, the earliest first.
    pub(crate) fn dues(&self) -> impl Iterator<Item = u64> {
        self.dues.iter().map(|(_, number)| *number)
    }

    /// The first in each order.
    pub(crate) fn heads(&self) -> BTreeSet<u64> {
        [self.first(), self.oldest().map(|(_, number)| number), self.dues().next()].into_iter().flatten().collect()
    }
}

/// How many there are of each size.
#[derive(Debug, Default)]
pub(crate) struct Sizes<T>(BTreeMap<T, usize>);

impl<T: Copy + Ord + Default> Sizes<T> {
    pub(crate) fn add(&mut self, size: T) {
        *self.0.entry(size).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, size: T) {
        if let Some(count) = self.0.get_mut(&size) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&size);
            }
        }
    }

    /// The smallest; the default where there is none.
    pub(crate) fn least(&self) -> T {
        self.0.first_key_value().map(|(size, _)| *size).unwrap_or_default()
    }

    /// The largest; the default where there is none.
    pub(crate) fn most(&self) -> T {
        self.0.last_key_value().map(|(size, _)| *size).unwrap_or_default()
    }
}
