//! Small simulations: the same seed gives the same figures, everything ends once, and Torpor's order meets as many dues as the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use torpor_scheduler::{Budget, Order};
use torpor_sim::azure::{self, Shape};
use torpor_sim::stats::Stats;
use torpor_sim::trace::{Job, Request, Trace, micros};
use torpor_sim::{engine, file};

const ORDERS: [Order; 3] = [Order::LeastSlack, Order::Fifo, Order::EarliestDeadline];
const SECOND: u64 = 1_000_000;
const MIB: u64 = 1 << 20;

fn hosts(count: usize) -> engine::Hosts {
    engine::Hosts { count, budget: Budget { bytes: 4_096 * MIB, vms: None, cpu: Some(8_000) }, seed: 7 }
}

fn shape(executions: u64, load: f64, accounts: u32, seed: u64) -> Shape {
    Shape { executions, functions: 400, accounts, processors: load * 32.0, seed }
}

fn run(trace: Trace, order: Order, hosts: engine::Hosts) -> Stats {
    let progress = AtomicU64::new(0);
    let stats = engine::run(trace, order, hosts, &progress).unwrap();
    assert_eq!(progress.load(Ordering::Relaxed), stats.ended);
    stats
}

#[test]
fn everything_ends_once_in_every_order() {
    for order in ORDERS {
        let stats = run(azure::trace(shape(5_000, 0.8, 20, 3)), order, hosts(4));
        assert_eq!((stats.submitted, stats.ended), (5_000, 5_000));
        assert_eq!(stats.wanted_now.len() + stats.put_off.len(), 5_000, "each starts once");
        assert_eq!(stats.resumes.len(), stats.parks, "what is parked goes on once");
        assert!(stats.parks > 0 && stats.with_due > 500, "{} parks, {} dues", stats.parks, stats.with_due);
        assert!(stats.utilisation(4, 8_000) <= 1.0);
    }
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let figures = |seed| {
        let stats = run(azure::trace(shape(2_000, 0.9, 20, seed)), Order::LeastSlack, hosts(4));
        (stats.met, stats.parks, stats.computed, stats.span)
    };
    assert_eq!(figures(1), figures(1));
    assert_ne!(figures(1), figures(2));
}

/// Tasks that take from 0.1 to 6.4 s, exactly, at random moments on eight processors; half of them are needed within twice to six times that, and 4 s.
fn steady(seed: u64) -> Vec<Request> {
    let mut state = seed;
    let mut random = move |below: u64| {
        // An LCG of Knuth's: what matters is that the trace is the same everywhere.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut at = 0;
    let mut one = || {
        at += random(520_000);
        let task = u32::try_from(random(7)).unwrap();
        let work = 100_000 << task;
        let need_by = (random(2) == 0).then(|| work * (2 + random(5)) + 4 * SECOND);
        let job = Job { task, work, bytes: MIB, cpu: 1_000, priority: 0, need_by, calls: Vec::new(), spawns: Vec::new() };
        Request { at, account: 0, job }
    };
    (0..3_000).map(|_| one()).collect()
}

/// One account, so that no share of another one stands in the way, and dues that can be met.
#[test]
fn as_many_dues_are_met_as_in_any_other_order() {
    let mut missed_by_fifo = 0.0;
    for seed in 1..=8 {
        let run = |order| run(Box::new(steady(seed).into_iter().map(Ok)), order, hosts(1)).hit_rate();
        let [ours, fifo, earliest] = ORDERS.map(run);
        assert!(ours >= fifo && ours >= earliest, "seed {seed}: {ours} {fifo} {earliest}");
        missed_by_fifo += 1.0 - fifo;
    }
    assert!(missed_by_fifo > 0.0, "no order would miss any");
}

/// Where bursts make many dues impossible, nearly as many are met as if they always went first, and many more than by arrival.
#[test]
fn in_bursts_most_dues_are_met_that_go_first_elsewhere() {
    let met = ORDERS.map(|order| {
        let of_seed = |seed| run(azure::trace(shape(10_000, 0.6, 1, seed)), order, hosts(4)).met;
        (1..=4).map(of_seed).sum::<u64>()
    });
    assert!(met[0] > met[1], "{met:?}");
    assert!(met[0] * 100 >= met[2] * 98, "{met:?}");
}

/// The same task over and over, known exactly after the first ones: all dues can be met with what is wanted now in front, and are.
#[test]
fn dues_that_can_be_met_are_and_do_not_hold_up_others() {
    let requests = || {
        (0..2_400u64).map(|number| {
            let wanted_now = number % 2 == 0;
            let need_by = (!wanted_now).then_some(60 * SECOND);
            let job = Job { task: 0, work: SECOND, bytes: MIB, cpu: 1_000, priority: 0, need_by, calls: Vec::new(), spawns: Vec::new() };
            // 24 at once on eight processors, every 3.3 s.
            Ok(Request { at: number / 24 * 3_300_000, account: 0, job })
        })
    };
    let [ours, fifo, earliest] = ORDERS.map(|order| run(Box::new(requests()), order, hosts(1)));
    assert_eq!(ours.hit_rate(), 1.0);
    assert!(ours.wanted_now.percentiles().p99 < fifo.wanted_now.percentiles().p99);
    assert!(ours.wanted_now.percentiles().p99 < earliest.wanted_now.percentiles().p99);
}

/// What the paper publishes, of many functions: see the table of `azure`.
#[test]
fn the_shape_is_that_of_the_published_percentiles() {
    let requests: Vec<Request> = azure::trace(Shape { executions: 60_000, functions: 20_000, accounts: 50, processors: 700.0, seed: 5 })
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(requests.is_sorted_by_key(|request| request.at));
    assert_eq!(requests.iter().map(|request| request.job.executions()).sum::<u64>(), 60_000);
    // Of functions, whatever their popularity: half take less than a second; 170 MB is the median of what is reserved at most, and the average lies below.
    let mut seen = BTreeSet::new();
    let functions: Vec<&Job> = requests.iter().map(|request| &request.job).filter(|job| seen.insert(job.task)).collect();
    assert!(functions.len() > 1_000);
    let part = |of: &dyn Fn(&Job) -> bool| functions.iter().filter(|job| of(job)).count() as f64 / functions.len() as f64;
    let below_a_second = part(&|job| job.work < SECOND);
    assert!((0.45..0.65).contains(&below_a_second), "{below_a_second}");
    let below_a_minute = part(&|job| job.work < 60 * SECOND);
    assert!((0.94..0.995).contains(&below_a_minute), "{below_a_minute}");
    let below_170 = part(&|job| job.bytes <= 170 * MIB);
    assert!((0.5..0.9).contains(&below_170), "{below_170}");
}

#[test]
fn a_file_is_read_as_documented() {
    let mut path = std::env::temp_dir();
    path.push(format!("torpor-sim-{}.csv", std::process::id()));
    let put = |text: &str| std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    put("task,arrival,account,duration,need_by,memory\nt,0,a,1.5,,\nu,0.5,b,2,10,64\nt,3,a,0.25,1,\n");
    let requests: Vec<Request> = file::trace(&path, 10).unwrap().collect::<Result<_, _>>().unwrap();
    let request = |at, account, task, work, memory, need_by: Option<f64>| {
        let (bytes, need_by) = (memory * MIB, need_by.map(micros));
        let job = Job { task, work: micros(work), bytes, cpu: 1_000, priority: 0, need_by, calls: Vec::new(), spawns: Vec::new() };
        Request { at: micros(at), account, job }
    };
    let expected = [request(0.0, 0, 0, 1.5, 128, None), request(0.5, 1, 1, 2.0, 64, Some(10.0)), request(3.0, 0, 0, 0.25, 128, Some(1.0))];
    assert_eq!(requests, expected);
    assert_eq!(run(file::trace(&path, 2).unwrap(), Order::LeastSlack, hosts(2)).ended, 2);
    for (text, message) in [
        ("arrival,account,task,duration\n1,a,t,1\n0,a,t,1\n", "line 3"),
        ("arrival,account,task,duration\n-1,a,t,1\n", "not negative"),
        ("arrival,account,task\n1,a,t\n", "duration"),
        ("arrival,account,task,duration\nx,a,t,1\n", "invalid float"),
    ] {
        put(text);
        let error = file::trace(&path, 10).and_then(Iterator::collect::<Result<Vec<_>, _>>).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(file::trace(&path, 10).is_err());
}
