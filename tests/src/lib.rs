//! Helpers of the integration tests: a real torpord in a folder of its own, with real guests, driven through the CLI and over HTTP.
//!
//! - [`setup`]: where binaries, kernel and images are; made when they are missing
//! - [`daemon`]: one torpord, its state folder and its end
//! - [`cli`]: runs of `torpor`; [`http`]: requests that no well-behaved client would send
//! - [`tasks`]: folders to push
//! - [`services`]: what programs talk to outside
//! - [`process`]: which monitors are alive; [`guest`]: faults put into running guests
//! - [`random`]: random numbers that can be had again
//!
//! A helper that can't do its work panics: that is how a test fails.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cli;
pub mod daemon;
pub mod guest;
pub mod http;
pub mod process;
pub mod random;
pub mod services;
pub mod setup;
pub mod tasks;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A test: its name and what it does.
pub type Test = (&'static str, fn());

/// Lists functions as tests, each under its own name.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((concat!(module_path!(), "::", stringify!($name)), $name as fn())),*] };
}

/// Runs tests as `cargo test` would, a few at a time, then takes the shared daemon down and checks that nothing of it is left.
#[must_use]
pub fn suite(groups: &[&[Test]]) -> ExitCode {
    process::adopt_orphans();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    let listing = arguments.list;
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(name.strip_prefix("vm::").unwrap_or(name), move || {
            let start = Instant::now();
            test();
            if start.elapsed() > Duration::from_secs(60) {
                eprintln!("took {} s", start.elapsed().as_secs());
            }
            Ok(())
        })
    };
    let trials = groups.iter().copied().flatten().map(trial).collect();
    if !listing {
        setup::prepare();
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !listing {
        daemon::end_shared();
    }
    conclusion.exit_code()
}

/// Tells other threads of a test that it is over: when it is dropped, also where the test fails.
#[derive(Debug)]
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks again and again until there is an answer; panics after `limit`.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(30));
    }
}
