//! Samples, and the table that they are printed in.

use serde::Serialize;
use std::time::{Duration, Instant};

/// Samples of one figure.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) const EMPTY: Self = Self(Vec::new());

    pub(crate) fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn add_ms(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1e3);
    }

    pub(crate) fn time<T, E>(&mut self, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let done = f()?;
        self.add_ms(start.elapsed());
        Ok(done)
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
    }

    /// The value that 99 of 100 do not exceed.
    pub(crate) fn p99(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        match n {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    median: f64,
    min: f64,
    max: f64,
    samples: usize,
}

/// All lines so far. Each is shown as it comes, since the whole takes minutes.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    rows: Vec<Row>,
    #[serde(skip)]
    json: bool,
}

impl Table {
    pub(crate) fn new(json: bool) -> Self {
        if !json {
            println!("{:<70} {:>10} {:>10} {:>10}  {:<6} {:>4}", "", "median", "min", "max", "", "n");
        }
        Self { rows: Vec::new(), json }
    }

    pub(crate) fn add(&mut self, what: &str, unit: &'static str, samples: &Samples) {
        let (min, max) = samples.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        let row = Row { what: what.to_owned(), unit, median: samples.median(), min, max, samples: samples.0.len() };
        if !self.json {
            println!("{:<70} {:>10.2} {:>10.2} {:>10.2}  {:<6} {:>4}", row.what, row.median, row.min, row.max, row.unit, row.samples);
        }
        self.rows.push(row);
    }

    /// A single figure.
    pub(crate) fn one(&mut self, what: &str, unit: &'static str, value: f64) {
        let mut one = Samples::default();
        one.add(value);
        self.add(what, unit, &one);
    }

    /// The ratio of two figures' medians.
    pub(crate) fn ratio(&mut self, what: &str, a: &Samples, b: &Samples) {
        let mut ratio = Samples::default();
        ratio.add(a.median() / b.median());
        self.add(what, "x", &ratio);
    }

    pub(crate) fn finish(&self) -> Result<(), serde_json::Error> {
        if self.json {
            println!("{}", serde_json::to_string_pretty(self)?);
        }
        Ok(())
    }
}
