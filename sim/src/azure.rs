//! A trace in the shape of the Azure Functions trace of 2019, reproduced from published percentiles. **It is not that trace.**
//!
//! The figures are those of Shahrad et al., "Serverless in the Wild: Characterizing and Optimizing the Serverless Workload at a Large Cloud Provider", USENIX ATC 2020
//! (<https://www.usenix.org/conference/atc20/presentation/shahrad>, arXiv 2003.03423), over two weeks of July 2019:
//!
//! | published | here |
//! |---|---|
//! | Figure 1: 54% of applications have one function, 95% at most 10 | functions of an application: 1 (54%), 2 (16%), 3 (10%), 4 to 5 (8%), 6 to 10 (7%), 11 to 20 (5%) |
//! | Figure 2: triggers, of functions and of invocations: HTTP 55.0% and 35.9%, queue 15.2% and 33.5%, event 2.2% and 24.7%, timer 15.6% and 2.0%, orchestration 6.9% and 2.3%, others 5.1% and 1.6% | both |
//! | Figure 5(a): 45% of applications are invoked at most once an hour, 81% at most once a minute | log-normal rates through both points (see `RATE`) |
//! | Figure 5(b): the 18.6% most popular make 99.6% of the invocations | follows: 99.9% by that fit |
//! | Figure 6: 40% of applications have inter-arrival times of a coefficient of variation above 1; timers of 0 | gamma renewals: 0 for timers, 1 for half of the others, 1 to 6 for the rest |
//! | Figure 7: average execution times are log-normal, log mean -0.38, sigma 2.36, in seconds; half of the functions have a maximum below about 3 s | that for the averages; single executions log-normal around theirs, sigma 0.5 |
//! | Figure 8: average memory of applications is Burr, c = 11.652, k = 0.221, lambda = 107.083, in MB | that, in whole MiB |
//!
//! The trigger shares of the last classes, where the paper's text has no figure, are read off a summary of Figure 2
//! (<https://mikhail.io/2020/05/serverless-in-the-wild-azure-functions-usage-stats/>).
//!
//! What the paper does not have, and this needs, is made up: no function has more than 2% of the invocations, so that a trace of a few hours is not about one of
//! them; an execution takes at most 300 s; popularity and time are independent; there is no daily pattern; applications belong to accounts evenly; who calls whom,
//! and who needs what by when (`Function::job`). Load is set by the rate of arrivals.

use crate::trace::{Job, Request, Trace, micros};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma, StandardNormal};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Log mean and sigma of invocations a day: through 45% at 24 and 81% at 1,440.
const RATE: (f64, f64) = (3.69, 4.08);
/// Log mean and sigma of the average execution time in seconds.
const TIME: (f64, f64) = (-0.38, 2.36);
/// Sigma of the times of one function around its average.
const SPREAD: f64 = 0.5;
const LONGEST: f64 = 300.0;
const LARGEST_PART: f64 = 0.02;
const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trigger {
    Http,
    Queue,
    Event,
    Timer,
    Orchestration,
    Other,
}

/// Of each trigger: its part of the functions, and of the invocations.
const TRIGGERS: [(Trigger, f64, f64); 6] = [
    (Trigger::Http, 0.550, 0.359),
    (Trigger::Queue, 0.152, 0.335),
    (Trigger::Event, 0.022, 0.247),
    (Trigger::Timer, 0.156, 0.020),
    (Trigger::Orchestration, 0.069, 0.023),
    (Trigger::Other, 0.051, 0.016),
];

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Executions in all.
    pub executions: u64,
    /// Functions.
    pub functions: usize,
    /// Accounts.
    pub accounts: u32,
    /// Processors that are kept busy on average.
    pub processors: f64,
    /// The same seed makes the same trace.
    pub seed: u64,
}

#[derive(Debug, Clone)]
struct Function {
    task: u32,
    account: u32,
    trigger: Trigger,
    /// Average time in seconds.
    average: f64,
    bytes: u64,
    /// Its part of all invocations from outside.
    part: f64,
    variation: f64,
    /// Of executions that it starts.
    children: Vec<usize>,
}

/// Requests of the shape. They are made while they are asked for.
#[must_use]
pub fn trace(shape: Shape) -> Trace {
    let mut random = ChaCha8Rng::seed_from_u64(shape.seed);
    let functions = functions(shape, &mut random);
    let rate = shape.processors / average_work(&functions, shape.seed);
    let mut arrivals = BinaryHeap::new();
    for (index, function) in functions.iter().enumerate() {
        let interval = 1.0 / (rate * function.part);
        arrivals.push(Reverse((micros(interval * random.random::<f64>()), index)));
    }
    Box::new(Requests { functions, rate, arrivals, random, left: shape.executions }.map(Ok))
}

struct Requests {
    functions: Vec<Function>,
    /// Invocations from outside a second.
    rate: f64,
    arrivals: BinaryHeap<Reverse<(u64, usize)>>,
    random: ChaCha8Rng,
    left: u64,
}

impl Iterator for Requests {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        if self.left == 0 {
            return None;
        }
        let Reverse((at, index)) = self.arrivals.pop()?;
        let function = &self.functions[index];
        let interval = interval(function.variation, &mut self.random) / (self.rate * function.part);
        self.arrivals.push(Reverse((at.saturating_add(micros(interval)), index)));
        let mut job = function.job(&self.functions, 0, &mut self.random);
        if job.executions() > self.left {
            (job.calls, job.spawns) = (Vec::new(), Vec::new());
        }
        self.left -= job.executions();
        Some(Request { at, account: function.account, job })
    }
}

/// A time between two arrivals, of mean 1.
fn interval(variation: f64, random: &mut impl Rng) -> f64 {
    if variation == 0.0 {
        return 1.0;
    }
    if (variation - 1.0).abs() < f64::EPSILON {
        return Exp1.sample(random);
    }
    let square = variation * variation;
    Gamma::new(1.0 / square, square).map_or(1.0, |gamma| gamma.sample(random))
}

fn functions(shape: Shape, random: &mut ChaCha8Rng) -> Vec<Function> {
    let mut functions = Vec::with_capacity(shape.functions);
    let mut applications = Applications { account: 0, bytes: 0, left: 0 };
    let wanted = shape.functions.max(TRIGGERS.len());
    for (trigger, of_functions, of_invocations) in TRIGGERS {
        let first = functions.len();
        let count = micros(of_functions * wanted as f64 / 1e6).max(1);
        for _ in 0..count {
            let (account, bytes) = applications.next(shape.accounts, random);
            let task = u32::try_from(functions.len()).unwrap_or(u32::MAX);
            let part = normal(RATE, random).exp();
            let variation = match trigger {
                Trigger::Timer => 0.0,
                _ if random.random_bool(0.5) => 1.0,
                _ => 6f64.powf(random.random::<f64>()),
            };
            functions.push(Function { task, account, trigger, average: 0.0, bytes, part, variation, children: Vec::new() });
        }
        share_out(&mut functions[first..], of_invocations);
    }
    set_times(&mut functions, random);
    set_children(&mut functions, random);
    functions
}

/// Applications one after the other, each with as many functions as it has.
struct Applications {
    account: u32,
    bytes: u64,
    left: u32,
}

impl Applications {
    fn next(&mut self, accounts: u32, random: &mut ChaCha8Rng) -> (u32, u64) {
        if self.left == 0 {
            self.left = match random.random::<f64>() {
                part if part < 0.54 => 1,
                part if part < 0.70 => 2,
                part if part < 0.80 => 3,
                part if part < 0.88 => random.random_range(4..=5),
                part if part < 0.95 => random.random_range(6..=10),
                _ => random.random_range(11..=20),
            };
            self.account = random.random_range(0..accounts.max(1));
            // The inverse of the Burr distribution.
            let below: f64 = random.random();
            let megabytes = 107.083 * ((1.0 - below).powf(-1.0 / 0.221) - 1.0).powf(1.0 / 11.652);
            self.bytes = micros(megabytes / 1e6).clamp(16, 1_536) * MIB;
        }
        self.left -= 1;
        (self.account, self.bytes)
    }
}

/// Makes the parts of these add up to a part of all, none above the largest that one may have.
fn share_out(functions: &mut [Function], all: f64) {
    let largest = LARGEST_PART.max(all / functions.len().max(1) as f64);
    for _ in 0..20 {
        let sum: f64 = functions.iter().map(|function| function.part).sum();
        for function in &mut *functions {
            function.part = (function.part * all / sum).min(largest);
        }
    }
}

/// Average times: the most popular ones get evenly spread quantiles, so that no seed has them all short or all long.
fn set_times(functions: &mut [Function], random: &mut ChaCha8Rng) {
    let mut by_part: Vec<usize> = (0..functions.len()).collect();
    by_part.sort_by(|one, other| functions[*other].part.total_cmp(&functions[*one].part));
    let mut quantile: f64 = random.random();
    for index in by_part {
        quantile = (quantile + 0.618_033_988_749_895) % 1.0;
        functions[index].average = (TIME.0 + TIME.1 * inverse_normal(quantile)).exp().clamp(0.001, LONGEST / 2.0);
    }
}

/// Orchestrations start three to five others, one in ten HTTP functions one or two: of the same kind of times, by chance.
fn set_children(functions: &mut [Function], random: &mut ChaCha8Rng) {
    let short: Vec<usize> = (0..functions.len()).filter(|index| functions[*index].average < 20.0).collect();
    for function in functions {
        let count = match function.trigger {
            Trigger::Orchestration => random.random_range(3..=5),
            Trigger::Http if random.random_bool(0.1) => random.random_range(1..=2),
            _ => 0,
        };
        function.children = (0..count).filter_map(|_| short.get(random.random_range(0..short.len().max(1)))).copied().collect();
    }
}

impl Function {
    /// An execution of it. Half of the children are called, the others are spawned and needed within 3 to 20 times their average and 1 to 10 s; of those that no person
    /// waits for (all but HTTP) 60% are needed within 2 to 20 times their average and 1 to 120 s.
    fn job(&self, functions: &[Self], depth: u32, random: &mut ChaCha8Rng) -> Job {
        let mean = self.average.ln() - SPREAD * SPREAD / 2.0;
        let seconds = normal((mean, SPREAD), random).exp().min(LONGEST);
        let asynchronous = self.trigger != Trigger::Http && depth == 0 && random.random_bool(0.6);
        let need_by = asynchronous.then(|| self.average * between(2.0, 20.0, random) + between(1.0, 120.0, random));
        let mut job = Job {
            task: self.task,
            work: micros(seconds).max(1),
            bytes: self.bytes,
            cpu: 1_000,
            priority: 0,
            need_by: need_by.map(micros),
            calls: Vec::new(),
            spawns: Vec::new(),
        };
        for child in self.children.iter().filter(|_| depth < 3).map(|index| &functions[*index]) {
            let mut part = child.job(functions, depth + 1, random);
            if random.random_bool(0.5) {
                job.calls.push(part);
            } else {
                part.need_by = Some(micros(child.average * between(3.0, 20.0, random) + between(1.0, 10.0, random)));
                job.spawns.push(part);
            }
        }
        job
    }
}

/// Seconds of a processor that a request takes, with what it starts: from many of them.
fn average_work(functions: &[Function], seed: u64) -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let of_one = |function: &Function, random: &mut ChaCha8Rng| {
        let times = 20u32;
        let all: f64 = (0..times).map(|_| function.job(functions, 0, random).processor_time() as f64 / 1e6).sum();
        all / f64::from(times) * function.part
    };
    functions.iter().map(|function| of_one(function, &mut random)).sum()
}

fn normal((mean, sigma): (f64, f64), random: &mut impl Rng) -> f64 {
    let one: f64 = StandardNormal.sample(random);
    mean + sigma * one
}

/// Between two positive numbers, evenly in their logarithms.
fn between(least: f64, most: f64, random: &mut impl Rng) -> f64 {
    least * (most / least).powf(random.random::<f64>())
}

/// The point below which so much of a standard normal distribution lies.
fn inverse_normal(quantile: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if below_normal(middle) < quantile { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// How much of a standard normal distribution lies below a point (Abramowitz and Stegun 26.2.17; to 7.5e-8).
fn below_normal(point: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * point.abs());
    let density = (-point * point / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let series = t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    if point < 0.0 { density * series } else { 1.0 - density * series }
}
