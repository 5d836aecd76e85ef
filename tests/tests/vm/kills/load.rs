//! Executions that call others, sleep and wait, with the results that they must have; and clients that submit them and look after them.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use torpor_tests::http;
use torpor_tests::random::Random;

/// As in `tests/tasks/tree` and `tests/tasks/twig`.
const MODULUS: u64 = 1_000_003;
/// Deepest nesting of trees.
const DEPTH: u64 = 2;

/// One execution: what is submitted and what it gives.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) task: &'static str,
    pub(super) input: Value,
    pub(super) result: u64,
    /// What it starts, in this order.
    pub(super) children: Vec<Plan>,
}

fn mix(total: u64, more: u64) -> u64 {
    (total * 31 + more) % MODULUS
}

fn twig(number: u64) -> Plan {
    let children = if number.is_multiple_of(2) { vec![twig(number + 1)] } else { Vec::new() };
    let helped = children.first().map_or(1, |child| child.result);
    Plan { task: "twig", input: json!(number), result: (number * 17 + helped * 7 + 3) % MODULUS, children }
}

fn tree(random: &mut Random, depth: u64) -> Plan {
    let value = random.below(MODULUS);
    let (mut steps, mut total, mut spawned, mut children) = (Vec::new(), value, Vec::new(), Vec::new());
    for _ in 0..1 + random.below(2) {
        let below = |random: &mut Random| {
            if depth < DEPTH && random.below(3) == 0 { tree(random, depth + 1) } else { twig(random.below(10_000)) }
        };
        match random.below(4) {
            0 => {
                let child = below(random);
                steps.push(json!(["call", child.task, child.input]));
                total = mix(total, child.result);
                children.push(child);
            }
            1 => {
                for _ in 0..2 {
                    let child = below(random);
                    steps.push(json!(["spawn", child.task, child.input]));
                    spawned.push(child.result);
                    children.push(child);
                }
            }
            2 => steps.push(json!(["sleep", 0.05 * (1 + random.below(10)) as f64])),
            _ => steps.push(json!(["busy", 0.02 * (1 + random.below(5)) as f64])),
        }
    }
    if !spawned.is_empty() {
        steps.push(json!(["gather"]));
        total = spawned.into_iter().fold(total, mix);
    }
    let task = if random.below(2) == 0 { "tree" } else { "tree-auto" };
    Plan { task, input: json!({"value": value, "do": steps}), result: total, children }
}

/// Any of them.
pub(super) fn plan(random: &mut Random) -> Plan {
    if random.below(2) == 0 { twig(random.below(10_000)) } else { tree(random, 0) }
}

/// The shortest of them.
pub(super) fn short(random: &mut Random) -> Plan {
    twig(random.below(5000) * 2 + 1)
}

/// What a client saw of an execution: the end that it was told first.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) plan: Plan,
    pub(super) end: Option<Value>,
}

/// What clients know together.
#[derive(Debug, Default)]
pub(super) struct Book {
    seen: Mutex<BTreeMap<String, Seen>>,
    keys: AtomicUsize,
    /// Submissions that had been accepted, and whose answer was lost.
    pub(super) again: AtomicUsize,
}

impl Book {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self) -> BTreeMap<String, Seen> {
        self.lock().clone()
    }

    pub(super) fn known(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn open(&self) -> usize {
        self.lock().values().filter(|seen| seen.end.is_none()).count()
    }

    /// Submits one under a key, as often as it takes until that is acknowledged; whether it was.
    pub(super) fn submit(&self, socket: &Path, plan: Plan, over: impl Fn() -> bool) -> bool {
        let key = format!("Idempotency-Key: {}\r\n", self.keys.fetch_add(1, Ordering::Relaxed));
        let (path, body) = (format!("/v1/tasks/{}/executions", plan.task), plan.input.to_string());
        while !over() {
            match http::try_request_with(socket, "POST", &path, &key, body.as_bytes()) {
                Ok(answer) if [200, 201].contains(&answer.status) => {
                    if answer.status == 200 {
                        self.again.fetch_add(1, Ordering::Relaxed);
                    }
                    let id = answer.json()["id"].as_str().expect("an id").to_owned();
                    let before = self.lock().insert(id.clone(), Seen { plan, end: None });
                    assert!(before.is_none(), "two submissions are {id}");
                    return true;
                }
                Ok(answer) => panic!("refused: {} {}", answer.status, answer.body),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        false
    }

    /// Asks after all that have not ended, one after the other: as it is now, or for a moment until it ends.
    pub(super) fn look(&self, socket: &Path, wait: bool) {
        let open: Vec<String> = self.lock().iter().filter(|(_, seen)| seen.end.is_none()).map(|(id, _)| id.clone()).collect();
        for id in open {
            let path = format!("/v1/executions/{id}{}", if wait { "?wait=1" } else { "" });
            match http::try_request(socket, "GET", &path, b"") {
                Ok(answer) if answer.status == 200 => self.told(&id, answer.json()),
                Ok(answer) => panic!("{id}: {} {}", answer.status, answer.body),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Whoever is told of an end is told of the same one.
    fn told(&self, id: &str, execution: Value) {
        if !execution["finished_at"].is_string() {
            return;
        }
        if let Some(seen) = self.lock().get_mut(id) {
            let first = seen.end.get_or_insert_with(|| execution.clone());
            assert_eq!(*first, execution, "{id} ended twice");
        }
    }
}
