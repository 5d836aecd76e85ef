//! torpord is killed, again and again, at moments that nobody chose, and started again at once.

mod check;
mod left;
mod load;

use check::{check, list};
use left::Before;
use load::{Book, plan, short};
use serde_json::Value;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::random::Random;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Over, Test, tests};

pub(crate) const TESTS: &[Test] = tests![started_at_once, killed_under_load];

/// Kills under load, unless `TORPOR_TEST_KILLS` says how many.
const KILLS: usize = 100;
/// Executions that clients submit, beside the one that each start of torpord is asked to accept.
const LOAD: usize = 200;
/// Those of them that are there before the first kill.
const FIRST: usize = 150;
/// torpord is back in service within this time, ...
const BACK: Duration = Duration::from_secs(2);
/// ... and where something else has the processors of the host, as happens now and then, within this one.
const BACK_ALWAYS: Duration = Duration::from_secs(5);
/// As the tasks of the load have it.
const RETRIES: u64 = 100;

/// Nothing is waited for between the kill and the start: neither state folder nor socket is taken for one that is in use.
fn started_at_once() {
    let mut random = Random::new("TORPOR_TEST_SEED");
    let mut daemon = Daemon::start_with_templates(Options::default());
    daemon.push(TaskFolder::copy("shell").path());
    daemon.template("shell");
    for _ in 0..20 {
        daemon.spawn_again();
        if random.below(2) == 0 {
            daemon.answers(Duration::from_secs(10));
        }
        std::thread::sleep(Duration::from_millis(random.below(120)));
    }
    daemon.spawn_again();
    daemon.answers(Duration::from_secs(10));
    assert_eq!(daemon.result("shell", &serde_json::json!("echo 1")), 1);
}

/// A daemon in a session of its own, with the tasks of the load.
fn start(folder: &Path) -> Daemon {
    let mut daemon = Daemon::start_with_templates(Options {
        arguments: ["--max-vms", "6"].map(str::to_owned).into(),
        wrapper: vec!["setsid".into()],
        environment: vec![("TMPDIR".into(), folder.to_str().expect("UTF-8").into())],
        ..Options::default()
    });
    daemon.push(TaskFolder::copy("tree").path());
    let auto = [
        ("calls", "[\"*\"]"),
        ("memory", "\"128MiB\""),
        ("timeout", "\"5m\""),
        ("park", "\"auto\""),
        ("retries", "100"),
        ("replay", "\"none\""),
    ];
    daemon.push(TaskFolder::copy("tree").named("tree-auto", &auto).path());
    daemon.push(TaskFolder::copy("twig").path());
    for task in ["tree", "tree-auto", "twig"] {
        daemon.template(task);
    }
    daemon.answers(Duration::from_secs(10));
    daemon
}

/// Everything that was acknowledged ends once, with the result that it must have; nothing else is there; nothing is left on the host.
fn killed_under_load() {
    let kills = std::env::var("TORPOR_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let mut random = Random::new("TORPOR_TEST_SEED");
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let mut daemon = start(temporary.path());
    let before = Before::of(&daemon, temporary.path());
    let (book, over, begun) = (Book::default(), AtomicBool::new(false), Instant::now());
    let (killed, given) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let socket = daemon.socket();
    let (mut times, mut former) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let stop = Over(&over);
        for _ in 0..2 {
            let mut random = random.fork();
            let (book, killed, given, socket, over) = (&book, &killed, &given, &socket, &over);
            scope.spawn(move || {
                // The load lasts as long as the kills.
                while given.load(Ordering::Relaxed) < LOAD && !over.load(Ordering::Relaxed) {
                    if given.load(Ordering::Relaxed) < FIRST + (LOAD - FIRST) * killed.load(Ordering::Relaxed) / kills.max(1) {
                        given.fetch_add(1, Ordering::Relaxed);
                        book.submit(socket, plan(&mut random), || over.load(Ordering::Relaxed));
                    } else {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        for wait in [true, false] {
            let (book, over, socket) = (&book, &over, &socket);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    book.look(socket, wait);
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        soon(&daemon, "the load before the first kill", Duration::from_secs(60), || book.known() >= FIRST);
        eprintln!("{} open at the first kill", book.open());
        for kill in 0..=kills {
            former.push(daemon.pid());
            let start = Instant::now();
            daemon.spawn_again();
            killed.fetch_add(1, Ordering::Relaxed);
            // Some are killed on their way up.
            if kill < kills && random.below(4) == 0 {
                std::thread::sleep(Duration::from_millis(random.below(200)));
                continue;
            }
            let accepted = book.submit(&socket, short(&mut random), || start.elapsed() > 2 * BACK_ALWAYS);
            assert!(accepted, "torpord accepts nothing\n{}", daemon.log());
            times.push(start.elapsed());
            if kill % 10 == 0 {
                soon(&daemon, "the end of what a killed torpord had started", BACK_ALWAYS, || {
                    before.living(&former, daemon.pid()).is_empty()
                });
            }
            if kill < kills {
                std::thread::sleep(Duration::from_millis(random.below(600)));
            }
        }
        eprintln!("{kills} kills in {:?}, {} open after the last one", begun.elapsed(), book.open());
        soon(&daemon, "the ends of all", Duration::from_secs(300), || given.load(Ordering::Relaxed) >= LOAD && book.open() == 0);
        drop(stop);
    });
    eprintln!("all ended after {:?}", begun.elapsed());
    soon(&daemon, "the end of what nobody waits for", Duration::from_secs(60), || list(&daemon, "").is_empty());
    check(&daemon, &book.seen(), book.again.load(Ordering::Relaxed));
    before.nothing_more(&mut daemon, former);
    in_service(times);
}

/// torpord accepts executions soon after each kill.
fn in_service(mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    eprintln!("from a kill to the next submission's answer: median {:?}, p95 {:?}, max {:?}", at(50), at(95), at(100));
    assert!(at(95) <= BACK && at(100) <= BACK_ALWAYS, "not back in service in time: p95 {:?}, max {:?}", at(95), at(100));
}

/// Waits until it is so. Where that takes too long, what all executions that have not ended are at is told.
fn soon(daemon: &Daemon, what: &str, limit: Duration, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        if start.elapsed() > limit {
            let open: Vec<String> = list(daemon, "").iter().map(told).collect();
            panic!("{what}: not within {limit:?}; {} have not ended:\n{}", open.len(), open.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// An execution in a line, and the last that happened to it.
fn told(execution: &Value) -> String {
    let timeline = execution["timeline"].as_array().map_or(&[][..], Vec::as_slice);
    let last: Vec<String> = timeline.iter().skip(timeline.len().saturating_sub(3)).map(Value::to_string).collect();
    let (id, task, parent) = (&execution["id"], &execution["task"], &execution["parent"]);
    format!("{id} {task} of {parent}: {}, not_before {}: {}", execution["state"], execution["not_before"], last.join(" "))
}
