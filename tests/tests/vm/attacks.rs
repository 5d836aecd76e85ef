//! Guests whose kernel is the attacker (`tests/kernels/hostile.c`): they do to the monitor and to KVM whatever ring 0 can. Each runs in a locked-in
//! monitor under a torpord of its own, while two machines of the shared torpord answer one request after the other.
//!
//! What must hold: an attack ends at most its own VM, for a reason that is told; both daemons answer; every answer to a neighbour is right.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use torpor_tests::daemon::{Daemon, Options, shared};
use torpor_tests::setup::root;
use torpor_tests::tasks::TaskFolder;
use torpor_tests::{Test, tests};

pub(crate) const TESTS: &[Test] =
    tests![port_scan, hole_scan, register_scan, ring_garbage, msr_writes, interrupt_storm, door_abuse, unknown_instructions, triple_faults];

/// Where the host itself runs into a guest's attack it says so as an error of this kind; the others are the guest's own ends.
const NAMED: [&str; 2] = ["guest_crashed", "guest_protocol"];

/// The kernel of one attack, in its case.
fn kernel(attack: &str, case: u32, into: &Path) -> PathBuf {
    let path = into.join(format!("{attack}-{case}"));
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-ffreestanding", "-fno-pic", "-no-pie", "-static", "-nostdlib", "-mgeneral-regs-only", "-mno-red-zone"]);
    gcc.args(["-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables", "-Wall"]);
    gcc.args(["-Wl,-Ttext-segment=0x100000", "-Wl,-e,start", "-Wl,-n", "-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]);
    gcc.arg(format!("-DATTACK={attack}")).arg(format!("-DCASE={case}")).arg("-o").arg(&path).arg(root().join("tests/kernels/hostile.c"));
    assert!(gcc.status().expect("gcc can be started").success(), "hostile.c does not compile for {attack} {case}");
    path
}

/// A torpord whose guests have this kernel.
fn attacker(kernel: PathBuf) -> Daemon {
    let daemon = Daemon::start(Options { kernel: Some(kernel), arguments: vec!["--warm".into(), "1".into()], ..Options::default() });
    daemon.push(TaskFolder::copy("shell").named("attack", &[("memory", "\"64MiB\"")]).path());
    daemon
}

/// Two neighbours at work until `attack` is over; they must have answered, and rightly.
fn beside_neighbours<T>(attack: impl FnOnce() -> T) -> T {
    let neighbours = shared();
    let over = AtomicBool::new(false);
    let work = |who: u32| {
        let mut answered = 0_u32;
        loop {
            let asked = json!({"who": who, "number": answered});
            assert_eq!(neighbours.execute("probe", &asked)["result"], asked, "a neighbour's answer is wrong");
            answered += 1;
            if over.load(Ordering::Relaxed) {
                return answered;
            }
        }
    };
    std::thread::scope(|scope| {
        let working = [scope.spawn(|| work(1)), scope.spawn(|| work(2))];
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
        over.store(true, Ordering::Relaxed);
        for neighbour in working {
            assert!(neighbour.join().expect("a neighbour that was answered") > 0);
        }
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs one attack to its end; how it ended.
fn attacked(attack: &str, case: u32, into: &Path) -> Value {
    let daemon = attacker(kernel(attack, case, into));
    let execution = daemon.execute("attack", &json!(null));
    ended(&daemon, attack, case, &execution)
}

/// Runs one attack that may go on for ever (an instruction that KVM executes again and again, a wait for nobody): then it is stopped from outside.
fn attacked_for_a_while(attack: &str, case: u32, into: &Path) {
    let daemon = attacker(kernel(attack, case, into));
    let id = daemon.submit("attack", &json!(null));
    let execution = daemon.get(&format!("/v1/executions/{id}?wait=15")).expect(200);
    if execution["finished_at"].is_string() {
        ended(&daemon, attack, case, &execution);
        return;
    }
    let _ = daemon.post(&format!("/v1/executions/{id}/cancel"), b"").expect(200);
    assert_eq!(daemon.wait_for_end(&id)["state"], "cancelled", "{attack} {case}\n{}", daemon.log());
    assert_eq!(daemon.get("/healthz").expect(200)["status"], "ok", "{attack} {case}\n{}", daemon.log());
}

fn ended(daemon: &Daemon, attack: &str, case: u32, execution: &Value) -> Value {
    let error = &execution["error"];
    let what = format!("{attack} {case}: {execution:#}\n{}", daemon.log());
    assert!(NAMED.iter().any(|kind| error["kind"] == *kind), "{what}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
    let attacking = error["console"].as_str().is_some_and(|console| console.contains("attacking"));
    // What torpord itself makes nothing of comes without the console.
    let refused = error["message"].as_str().is_some_and(|message| message.starts_with("the guest sent what is not a message"));
    assert!(attacking || refused, "it did not come to attack: {what}");
    assert_eq!(daemon.get("/healthz").expect(200)["status"], "ok", "{what}");
    error.clone()
}

/// Runs attacks one after the other, next to neighbours; how each ended.
fn all(cases: impl IntoIterator<Item = (&'static str, u32)>) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    beside_neighbours(|| cases.into_iter().map(|(attack, case)| attacked(attack, case, folder.path())).collect())
}

/// It did all that it wanted to do, and the machine still stood.
fn outlived(error: &Value) {
    let console = error["console"].as_str().expect("a console");
    assert!(console.contains("over after"), "{error:#}");
}

/// The monitor had enough of it and says of what.
fn dropped(error: &Value) {
    assert_eq!(error["kind"], "guest_protocol", "{error:#}");
}

/// All 65,536 ports, in and out, one, two and four bytes wide, and strings.
fn port_scan() {
    all([("PORTS", 0)]).iter().for_each(outlived);
}

/// All over the addresses where no RAM and no device is, and the interrupt controllers.
fn hole_scan() {
    all([("HOLES", 0)]).iter().for_each(outlived);
}

/// Registers of the devices, without regard to any rule: some of that has an answer, some gets the guest dropped.
fn register_scan() {
    let _ = all((0..8).map(|case| ("REGISTERS", case)));
}

/// Rings that no driver makes: loops, lengths and addresses beyond RAM, indirect tables, rings over holes and over each other.
fn ring_garbage() {
    let queues = [0, 20, 100];
    let ends = all(queues.into_iter().flat_map(|queue| (0..20).map(move |case| ("RINGS", queue + case))));
    assert!(ends.iter().filter(|error| error["kind"] == "guest_protocol").count() > 40, "few of them are refused: {ends:#?}");
}

fn msr_writes() {
    let _ = all([("MSRS", 0)]);
}

/// Interrupts to itself, a timer as fast as it goes, acknowledgements of what was never raised, halts.
fn interrupt_storm() {
    let _ = all([("STORM", 0)]);
}

fn door_abuse() {
    let ends = all([0, 1, 2, 3, 5].map(|case| ("DOORBELL", case)));
    dropped(&ends[1]);
    dropped(&ends[2]);
    dropped(&ends[4]);
    // It stands where a template is saved, without having said who it is: that is waited for as long as a boot may take.
    let folder = tempfile::tempdir().expect("a temporary folder");
    beside_neighbours(|| attacked_for_a_while("DOORBELL", 4, folder.path()));
}

/// What KVM's emulator or the processor does not go on from.
fn unknown_instructions() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    beside_neighbours(|| (0..7).for_each(|case| attacked_for_a_while("INSTRUCTIONS", case, folder.path())));
}

fn triple_faults() {
    for error in all([("FAULT", 0), ("FAULT", 1)]) {
        assert!(error["kind"] == "guest_crashed" && error["message"].as_str().expect("a message").contains("triple fault"), "{error:#}");
    }
}
