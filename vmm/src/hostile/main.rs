//! `torpor-vmm-hostile`: a monitor that turns on its host, for tests. It is started and locked in as `torpor-vmm` is, and then does what a monitor that a
//! guest has taken over might do. It is built with the feature `hostile` only and is no part of Torpor.
//!
//! - `denied`, `layers`, `rare`: starts itself in a sandbox once for each attempt and says what came of it, a line each
//! - `orderly`: a monitor that may end by itself
//! - `trace`: which recorded system calls a policy does not allow, and which rules none of them needed
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a tool of tests: it fails by panicking")]

mod attempts;
mod orderly;
mod trace;

use attempts::{Attempt, LAYERS, denied, rare};
use clap::{Parser, Subcommand};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use torpor_seccomp::cgroup::Cgroups;
use torpor_seccomp::launch::{Launcher, Start};
use torpor_seccomp::{Plan, Role, enter, narrow};
use torpor_vmm::process;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// System calls that must end the process, whatever the other layers do.
    Denied,
    /// Attempts with everything but the filter in place.
    Layers,
    /// What the policies call rare.
    Rare,
    /// Reads `ROLE CALL ARG...` (numbers in hexadecimal) from standard input.
    Trace,
    /// Starts a real monitor and lets it end by itself.
    Orderly { monitor: std::path::PathBuf },
    /// One attempt, locked in. Started by the others.
    #[command(hide = true)]
    Monitor {
        #[arg(long)]
        sandbox: Plan,
        #[arg(long)]
        role: String,
        #[arg(long)]
        unfiltered: bool,
        #[arg(long)]
        list: String,
        #[arg(long)]
        attempt: usize,
    },
}

fn main() {
    match Cli::parse().command {
        Action::Denied => all("denied", false),
        Action::Layers => attempts::with_neighbours(|| all("layers", true)),
        Action::Rare => all("rare", false),
        Action::Trace => trace::check(),
        Action::Orderly { monitor } => orderly::end(&monitor),
        Action::Monitor { sandbox, role, unfiltered, list, attempt } => {
            let role = Role::ALL.into_iter().find(|known| name(*known) == role).expect("a role");
            turn(sandbox, role, unfiltered, named(&list)[attempt]);
        }
    }
}

fn named(list: &str) -> Vec<Attempt> {
    match list {
        "denied" => denied(),
        "layers" => LAYERS.to_vec(),
        _ => rare(),
    }
}

const fn name(role: Role) -> &'static str {
    match role {
        Role::EventLoop => "event_loop",
        Role::Vcpu => "vcpu",
    }
}

/// Every attempt of a list, in each role that it is for: `ROLE NAME: how it ended`.
fn all(list: &str, unfiltered: bool) {
    let attempts = named(list);
    let ids = torpor_vmm::client::ids().expect("user ids");
    let own = std::env::current_exe().expect("this program");
    let launcher = Launcher::open(&own, ids, Cgroups::none()).expect("a launcher");
    for role in Role::ALL {
        for (number, attempt) in attempts.iter().enumerate().filter(|(_, attempt)| attempt.only.is_none_or(|only| only == role)) {
            println!("{} {}: {}", name(role), attempt.name, once(&launcher, role, unfiltered, list, number));
        }
    }
}

fn once(launcher: &Launcher, role: Role, unfiltered: bool, list: &str, number: usize) -> String {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let number = number.to_string();
    let mut arguments = vec!["monitor", "--sandbox", "{plan}", "--role", name(role), "--list", list, "--attempt", &number];
    arguments.extend(unfiltered.then_some("--unfiltered"));
    let null = std::fs::File::options().write(true).open("/dev/null").expect("/dev/null");
    let start = Start { control: theirs.as_fd(), stderr: null.as_fd(), arguments: &arguments, memory: None };
    let mut confined = launcher.start(&start).expect("a start");
    drop(theirs);
    let mut said = String::new();
    let _ = ours.read_to_string(&mut said);
    let status = confined.process.wait().expect("an end");
    match status.signal() {
        Some(libc::SIGSYS) => format!("{said}SIGSYS"),
        Some(signal) => format!("{said}signal {signal}"),
        None => format!("{said}exit {}", status.code().unwrap_or(-1)),
    }
}

/// Locks itself in as a monitor does, each thread with its role, and makes the attempt on that role's thread.
fn turn(plan: Plan, role: Role, unfiltered: bool, attempt: Attempt) {
    let _socket = process::begin().expect("a control socket");
    enter(plan).expect("a sandbox");
    let narrowed = move |role| if unfiltered { Ok(()) } else { narrow(role) };
    let body = move |mine: Role| {
        say("locked in, ");
        if role == mine {
            let outcome = (attempt.make)();
            say(&format!("{outcome}, "));
        }
    };
    let vcpu = std::thread::Builder::new().name("vcpu".into()).spawn(move || {
        narrowed(Role::Vcpu).expect("a filter");
        if role == Role::Vcpu {
            body(Role::Vcpu);
        }
        // The process ends with the other thread.
    });
    if role == Role::EventLoop {
        narrowed(Role::EventLoop).expect("a filter");
        body(Role::EventLoop);
        return;
    }
    vcpu.expect("a thread").join().expect("the thread's end");
}

/// Over the control socket, by the one call that both roles have for it.
fn say(text: &str) {
    // SAFETY: sends from memory of the stated size.
    unsafe { libc::send(3, text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL) };
}
