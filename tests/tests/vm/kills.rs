//! torpord is killed, again and again, at moments that nobody chose, and started again at once.

mod load;

use load::{Book, Seen, plan};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use torpor_tests::daemon::{Daemon, Options};
use torpor_tests::http;
use torpor_tests::process::assert_no_orphans;
use torpor_tests::random::Random;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Over, Test, tests, until};

pub(crate) const TESTS: &[Test] = tests![started_at_once, killed_under_load];

/// Kills under load, unless `TORPOR_TEST_KILLS` says how many.
const KILLS: usize = 100;
/// Executions that clients submit meanwhile.
const LOAD: usize = 200;
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

/// Everything that was acknowledged ends once, with the result that it must have; nothing else is there; nothing is left on the host.
fn killed_under_load() {
    let kills = std::env::var("TORPOR_TEST_KILLS").map_or(KILLS, |kills| kills.parse().expect("a number"));
    let mut random = Random::new("TORPOR_TEST_SEED");
    let mut daemon =
        Daemon::start_with_templates(Options { arguments: ["--max-vms", "6"].map(str::to_owned).into(), ..Options::default() });
    let tree = TaskFolder::copy("tree");
    daemon.push(tree.path());
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
    let before = Left::of(&daemon);
    let begun = Instant::now();
    let (book, over) = (Book::default(), AtomicBool::new(false));
    let killed = std::sync::atomic::AtomicUsize::new(0);
    let socket = daemon.socket();
    let (mut times, mut killing) = (Vec::new(), Duration::ZERO);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut random = random.fork();
            let (book, killed, socket, over) = (&book, &killed, &socket, &over);
            scope.spawn(move || {
                // The load lasts as long as the kills.
                while book.known() < LOAD && !over.load(Ordering::Relaxed) {
                    let due = 10 + LOAD * killed.load(Ordering::Relaxed) / kills.max(1);
                    if book.known() < due {
                        book.submit(socket, plan(&mut random), over)
                    } else {
                        std::thread::sleep(Duration::from_millis(5))
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
        let stop = Over(&over);
        for _ in 0..kills {
            let start = Instant::now();
            daemon.spawn_again();
            killed.fetch_add(1, Ordering::Relaxed);
            // Some are killed on their way up.
            if random.below(4) == 0 {
                std::thread::sleep(Duration::from_millis(random.below(200)));
            } else {
                times.push(healthy(&socket, start));
                std::thread::sleep(Duration::from_millis(random.below(600)));
            }
        }
        let start = Instant::now();
        daemon.spawn_again();
        times.push(healthy(&socket, start));
        killing = begun.elapsed();
        until("the ends of all", Duration::from_secs(300), || (book.known() >= LOAD && book.open() == 0).then_some(()));
        drop(stop);
    });
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    eprintln!("{kills} kills in {:?}, all ended after {:?}", killing, begun.elapsed());
    eprintln!("from a kill to the next answer: median {:?}, p90 {:?}, max {:?}", at(50), at(90), at(100));
    until("the end of what nobody waits for", Duration::from_secs(60), || live(&daemon).is_empty().then_some(()));
    check(&daemon, &book.seen(), book.again.load(Ordering::Relaxed));
    before.nothing_more(&mut daemon);
}

/// How long it takes from `start` until torpord answers.
fn healthy(socket: &Path, start: Instant) -> Duration {
    until("an answer", Duration::from_secs(10), || {
        http::try_request(socket, "GET", "/healthz", b"").is_ok_and(|answer| answer.status == 200).then_some(())
    });
    start.elapsed()
}

fn list(daemon: &Daemon, filter: &str) -> Vec<Value> {
    daemon.get(&format!("/v1/executions?limit=1000{filter}")).expect(200)["executions"].as_array().expect("a list").clone()
}

fn live(daemon: &Daemon) -> Vec<Value> {
    list(daemon, "")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// All that is known agrees with what clients were told, and with what they asked for.
fn check(daemon: &Daemon, seen: &BTreeMap<String, Seen>, again: usize) {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for task in ["tree", "tree-auto", "twig"] {
        let some = list(daemon, &format!("&all=true&task={task}"));
        assert!(some.len() < 1000, "too many of {task} to look at all of them");
        all.extend(some.into_iter().map(|execution| (text(&execution["id"]).to_owned(), execution)));
    }
    let (mut attempts, mut parks) = (0, 0);
    for (id, Seen { plan, end }) in seen {
        let end = end.as_ref().expect("all have ended");
        assert_eq!((&end["state"], &end["result"]), (&"succeeded".into(), &plan.result.into()), "{:#}: {end:#}", plan.input);
        assert_eq!(daemon.execution(id), *end, "{id} ended twice");
    }
    for (id, execution) in &all {
        let count = |event: &str| execution["timeline"].as_array().unwrap().iter().filter(|entry| entry["event"] == event).count() as u64;
        assert_eq!((count("finished"), execution["timeline"].as_array().unwrap().last().unwrap()["event"].as_str()), (1, Some("finished")));
        let tries = execution["attempts"].as_u64().unwrap();
        assert!(tries <= 1 + RETRIES && count("starting") == tries, "{execution:#}");
        assert!(count("resuming") <= count("parked"), "a machine was run twice: {execution:#}");
        (attempts, parks) = (attempts + tries, parks + execution["parks"].as_u64().unwrap_or(0));
        let said = said(daemon, id);
        // A program is begun once an attempt, and gets to its end once; what it said last may be lost with torpord.
        assert!(said("begun") <= tries && said("done") <= said("begun").min(tries), "{execution:#}");
    }
    let roots = all.values().filter(|execution| !execution["parent"].is_string()).count();
    assert!(seen.keys().all(|id| all.contains_key(id)), "one is lost");
    assert_eq!(roots, seen.len(), "one is there that was never submitted, or twice");
    let children = all.len() - roots;
    for execution in all.values().filter(|execution| execution["parent"].is_string()) {
        assert!(all.contains_key(text(&execution["parent"])), "nobody started it: {execution:#}");
    }
    eprintln!("{roots} executions ({again} submitted again), {children} below them; {attempts} attempts, {parks} parks");
}

/// How often a program said something.
fn said(daemon: &Daemon, id: &str) -> impl Fn(&str) -> u64 + use<> {
    let logs = daemon.get(&format!("/v1/executions/{id}/logs")).expect(200);
    let text: String = logs["entries"].as_array().unwrap().iter().map(|entry| text(&entry["text"]).to_owned()).collect();
    move |what| text.lines().filter(|line| *line == what).count() as u64
}

/// What a torpord has of the host.
struct Left {
    groups: Vec<PathBuf>,
    code: Vec<String>,
    templates: Vec<String>,
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The folders of its VMs' control groups.
fn groups(monitor: Pid) -> Vec<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{monitor}/cgroup")).unwrap_or_default();
    let groups = own.lines().filter_map(|line| line.rsplit_once(':'));
    let ours = groups.filter_map(|(_, path)| path.split('/').find(|name| name.starts_with("torpor-")));
    let names: Vec<String> = ours.map(str::to_owned).collect();
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if names.iter().any(|name| entry.file_name().to_str() == Some(name)) { found.push(path) } else { open.push(path) }
            }
        }
    }
    found
}

impl Left {
    fn of(daemon: &Daemon) -> Self {
        let monitor = until("a monitor", Duration::from_secs(20), || daemon.monitors().first().copied());
        Self { groups: groups(monitor), code: names(&daemon.state().join("code")), templates: names(&daemon.state().join("templates")) }
    }

    /// All is as it was, while it runs and after its end.
    fn nothing_more(&self, daemon: &mut Daemon) {
        let monitors = daemon.monitors().len();
        for group in &self.groups {
            let vms = names(group).into_iter().filter(|name| name.starts_with("vm-")).count();
            assert!(vms <= monitors, "{vms} groups of {monitors} VMs in {}", group.display());
        }
        assert_eq!(daemon.get("/v1/host").expect(200)["parked_bytes"], 0);
        let known: Vec<String> = ["tree", "tree-auto", "twig"]
            .iter()
            .flat_map(|task| list(daemon, &format!("&all=true&task={task}")))
            .map(|execution| format!("{}.jsonl", text(&execution["id"])))
            .collect();
        daemon.signal(Signal::SIGTERM);
        daemon.wait(Duration::from_secs(60));
        assert_no_orphans();
        let state = daemon.state();
        assert_eq!(names(&state.join("parked")), Vec::<String>::new());
        assert_eq!(names(&state.join("tmp")), Vec::<String>::new());
        assert_eq!(names(&state.join("code")), self.code);
        let made: Vec<_> = names(&state.join("templates")).into_iter().filter(|name| !self.templates.contains(name)).collect();
        assert!(made.is_empty(), "templates of nobody: {made:?}");
        let foreign: Vec<_> = names(&state.join("logs")).into_iter().filter(|log| !known.contains(log)).collect();
        assert!(foreign.is_empty(), "logs of nobody: {foreign:?}");
        let kept = ["code", "lock", "logs", "parked", "templates", "tmp", "torpor.db", "torpor.db-shm", "torpor.db-wal", "torpor.reserve"];
        let more: Vec<_> = names(&state).into_iter().filter(|name| !kept.contains(&name.as_str())).collect();
        assert!(more.is_empty(), "{more:?}");
        assert_eq!(names(daemon.folder()), ["state", "torpord.log"], "sockets");
        for group in &self.groups {
            assert!(!group.exists(), "{} is left", group.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(daemon.folder().to_str().unwrap()), "{mounts}");
        let log = daemon.log();
        let errors: Vec<_> = log.lines().filter(|line| line.contains(" ERROR ")).take(20).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}
