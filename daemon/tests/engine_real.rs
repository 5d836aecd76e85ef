//! The engine with real monitors, kernels and guests. Needs /dev/kvm. Times are printed, not asserted.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod engine_setup;

use engine_setup::{Bench, Ran, eventually, no_orders};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torpor_daemon::engine::{Begin, ErrorKind, Outcome, Progress, Reuse, RunRequest, TaskVersion, TemplateState};
use torpor_protocol::agent::Runtime;

const PYTHON: &str = r#"
import os, time
def handler(input, context):
    return globals()[input[0]](*input[1:]) if input else input
def fail(what):
    raise ValueError(what)
def spin():
    while True: pass
def nap(seconds):
    time.sleep(seconds)
def flood():
    while True: print("x" * 1000)
def leave(code):
    os._exit(code)
def say(what):
    print(what)
    return len(what)
def nan():
    return float("nan")
"#;

const SHELL: &str = r#"#!/bin/sh
read line
case $line in
null) echo '{"ok": true}' ;;
3) echo oops >&2; exit 3 ;;
*) echo not json ;;
esac
"#;

const ROUNDS: usize = 12;
const WARM: usize = 2;

fn made(ran: &Ran) -> bool {
    ran.progress.iter().any(|progress| matches!(progress, Progress::TemplateMade { .. }))
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A no-op many times, its times printed.
async fn no_ops(bench: &Bench, what: &str, task: &TaskVersion, result: &str) {
    let (mut restored, mut started, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        eventually("the pool is full", || bench.engine.stats().warm_monitors == WARM).await;
        let since = Instant::now();
        let ran = bench.run(task, "null").await;
        all.push(u64::try_from(since.elapsed().as_micros()).unwrap());
        assert_eq!(ran.result(), result);
        restored.push(ran.restored().unwrap().0);
        started.push(ran.started().unwrap());
    }
    println!("{what}: median us: running {}, first frame {}, answer {}", median(restored), median(started), median(all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_guests() {
    let mut bench = Bench::new(WARM).await;
    let python = bench.task(Runtime::Python, 128, PYTHON);
    templates_are_made_once(&bench, &python).await;
    eventually("warm monitors", || bench.engine.stats().warm_monitors == WARM).await;
    no_ops(&bench, "python", &python, "null").await;
    programs_fail_as_they_should(&bench, &python).await;
    endless_programs_end(&bench, &python).await;
    dead_monitors_hurt_nobody_else(&bench, &python).await;
    code_that_does_not_load_says_why(&bench).await;
    let exec = bench.task(Runtime::Exec, 64, SHELL);
    programs_of_any_kind(&bench, &exec).await;
    a_restart_keeps_whole_templates_and_no_others(&mut bench, &python).await;
    templates_that_no_task_needs_go(&mut bench, &python, &exec).await;

    bench.engine.forget(&python);
    assert_eq!(bench.engine.template_state(&python), TemplateState::None);
    println!("{:#?}", bench.engine.stats());
    bench.engine.shutdown().await;
    assert_eq!(bench.engine.stats().monitors, 0);
    assert!(Bench::monitors().is_empty(), "a monitor outlives its engine");
}

async fn templates_are_made_once(bench: &Bench, task: &TaskVersion) {
    assert_eq!(bench.engine.template_state(task), TemplateState::None);
    let since = Instant::now();
    let (a, b, prepared) = tokio::join!(bench.run(task, "null"), bench.run(task, "[]"), bench.engine.prepare(task));
    println!("first run, templates made: {:?}", since.elapsed());
    prepared.unwrap();
    assert_eq!((a.result(), b.result(), made(&a), made(&b)), ("null", "[]", true, true));
    assert_eq!(bench.engine.template_state(task), TemplateState::Ready);
    let stats = bench.engine.stats();
    assert_eq!((stats.templates_made, stats.boots, stats.templates.len()), (2, 1, 2));
    println!("boot to the agent's first frame: {} ms", stats.boot_micros / 1000);
    assert!(!made(&bench.run(task, "null").await));
}

async fn programs_fail_as_they_should(bench: &Bench, task: &TaskVersion) {
    let ran = bench.run(task, r#"["fail", "no good"]"#).await;
    let error = ran.error();
    assert_eq!((error.kind, error.exception.as_deref(), error.message.as_str()), (ErrorKind::Exception, Some("ValueError"), "no good"));
    assert!(error.traceback.as_ref().unwrap().contains("main.py"), "{error:?}");

    let ran = bench.run(task, r#"["say", "hello"]"#).await;
    assert_eq!((ran.result(), ran.log().as_str()), ("5", "hello\n"));
    let ran = bench.run(task, r#"["leave", 4]"#).await;
    assert_eq!((ran.error().kind, ran.error().exit_code), (ErrorKind::Exit, Some(4)));
    let ran = bench.run(task, r#"["nan"]"#).await;
    assert_eq!(ran.error().kind, ErrorKind::InvalidResult);
}

async fn endless_programs_end(bench: &Bench, task: &TaskVersion) {
    let short = Duration::from_millis(500);
    for program in [r#"["spin"]"#, r#"["nap", 100]"#] {
        let since = Instant::now();
        let ran = bench.run_for(task, program, short, CancellationToken::new()).await;
        println!("timeout of 0.5 s: {program} ended after {:?}", since.elapsed());
        assert!(matches!(ran.outcome, Outcome::TimedOut), "{ran:?}");
    }
    let cancel = CancellationToken::new();
    let later = cancel.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        later.cancel();
    });
    let ran = bench.run_for(task, r#"["nap", 100]"#, Duration::from_secs(60), cancel).await;
    assert!(matches!(ran.outcome, Outcome::Cancelled), "{ran:?}");

    // Nobody reads what the program prints: it is held back, and its timeout holds all the same.
    let (progress, unread) = mpsc::channel(4);
    let begin = Begin::Start { input: r#"["flood"]"#.into(), secrets: Vec::new() };
    let request =
        RunRequest { execution: "ex_flood".into(), task: task.clone(), begin, timeout: short, waits_count: false, reuse: Reuse::default() };
    let outcome = bench.engine.run(request, progress, no_orders(), CancellationToken::new()).await;
    assert!(matches!(outcome, Outcome::TimedOut), "{outcome:?}");
    assert!(unread.len() <= 4);
    eventually("only warm monitors are left", || bench.engine.stats().monitors == WARM).await;
}

async fn dead_monitors_hurt_nobody_else(bench: &Bench, task: &TaskVersion) {
    eventually("the pool is full", || bench.engine.stats().warm_monitors == WARM).await;
    let waiting = Bench::monitors();
    assert_eq!(waiting.len(), WARM);
    let reaper = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // The one that runs is the one that waited before: the refill's are newer.
        let running = waiting.iter().filter(|pid| Bench::monitors().contains(pid)).max_by_key(|pid| threads_cpu(**pid)).unwrap();
        kill(Pid::from_raw(*running), Signal::SIGKILL).unwrap();
    };
    let (ran, neighbour, ()) = tokio::join!(bench.run(task, r#"["spin"]"#), bench.run(task, r#"["nap", 2]"#), reaper);
    assert_eq!(ran.error().kind, ErrorKind::Host, "{ran:?}");
    assert!(ran.error().message.contains("SIGKILL"), "{ran:?}");
    assert_eq!(neighbour.result(), "null");

    eventually("the pool is full", || bench.engine.stats().warm_monitors == WARM).await;
    let lost = bench.engine.stats().warm_monitors_lost;
    let waiting = Bench::monitors();
    for pid in &waiting {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    assert_eq!(bench.run(task, "null").await.result(), "null", "a run does not notice that the warm monitors died");
    eventually("the dead are noticed", || bench.engine.stats().warm_monitors_lost > lost).await;
    eventually("the dead are replaced", || bench.engine.stats().warm_monitors == WARM).await;
    assert!(Bench::monitors().iter().all(|pid| !waiting.contains(pid)));
}

/// User and system time of a process so far, in ticks.
fn threads_cpu(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

async fn code_that_does_not_load_says_why(bench: &Bench) {
    let broken = bench.task(Runtime::Python, 128, "import nonesuch\ndef handler(input, context): pass\n");
    for _ in 0..2 {
        let ran = bench.run(&broken, "null").await;
        let error = ran.error();
        assert_eq!((error.kind, error.exception.as_deref()), (ErrorKind::Load, Some("ModuleNotFoundError")), "{error:?}");
        assert!(error.traceback.as_ref().unwrap().contains("nonesuch"), "{error:?}");
        assert_eq!(bench.engine.template_state(&broken), TemplateState::Failed);
    }
    assert_eq!(bench.engine.prepare(&broken).await.unwrap_err().kind, ErrorKind::Load);
}

async fn programs_of_any_kind(bench: &Bench, task: &TaskVersion) {
    let since = Instant::now();
    assert_eq!(bench.run(task, "null").await.result(), r#"{"ok": true}"#);
    println!("first run of exec, templates made: {:?}", since.elapsed());
    no_ops(bench, "exec", task, r#"{"ok": true}"#).await;
    let ran = bench.run(task, "3").await;
    assert_eq!((ran.error().kind, ran.error().exit_code, ran.log().as_str()), (ErrorKind::Exit, Some(3), "oops\n"));
    let ran = bench.run(task, "0").await;
    assert_eq!(ran.error().kind, ErrorKind::InvalidResult);
}

async fn a_restart_keeps_whole_templates_and_no_others(bench: &mut Bench, task: &TaskVersion) {
    let half_made = bench.config.templates.join(".making-x-0");
    std::fs::create_dir(&half_made).unwrap();
    bench.restart().await;
    assert!(!half_made.exists());
    assert_eq!(bench.engine.template_state(task), TemplateState::Ready);
    let ran = bench.run(task, "null").await;
    assert!(!made(&ran) && ran.result() == "null", "{ran:?}");

    let id = bench.engine.stats().templates.iter().find(|info| info.task.is_some()).unwrap().id.clone();
    bench.restart().await;
    let memory = std::fs::OpenOptions::new().write(true).open(bench.config.templates.join(id).join("memory")).unwrap();
    memory.write_all_at(b"damage", 16 << 20).unwrap();
    let ran = bench.run(task, "null").await;
    assert!(made(&ran) && ran.result() == "null", "a damaged template is noticed and made anew: {ran:?}");
}

/// What a daemon leaves that dies between a task's removal and that of its template.
async fn templates_that_no_task_needs_go(bench: &mut Bench, python: &TaskVersion, exec: &TaskVersion) {
    bench.restart().await;
    let ready = |bench: &Bench, task| bench.engine.template_state(task) == TemplateState::Ready;
    assert!(ready(bench, python) && ready(bench, exec));
    bench.engine.collect(std::slice::from_ref(python), &[]);
    assert!(ready(bench, python) && !ready(bench, exec));
    let folders = || std::fs::read_dir(&bench.config.templates).unwrap().count();
    eventually("only the runtime's and the task's templates are left", || folders() == 2).await;
    assert!(!made(&bench.run(python, "null").await));
}
