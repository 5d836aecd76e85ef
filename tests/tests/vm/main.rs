//! Everything that a person or a hostile program can do to a Torpor host, done to a real one. The tests share one daemon, except those that end
//! theirs or need it set up otherwise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::ExitCode;

mod attacks;
mod aux;
mod checkout;
mod clients;
mod clock;
mod crashes;
mod durable;
mod failures;
mod flood;
mod host;
mod input;
mod isolation;
mod kills;
mod needed;
mod network;
mod park;
mod park_faults;
mod portions;
mod sandbox;
mod secrets;
mod transfer;
mod usage;
mod user_mode;

fn main() -> ExitCode {
    torpor_tests::suite(&[
        usage::TESTS,
        input::TESTS,
        failures::TESTS,
        attacks::TESTS,
        crashes::TESTS,
        isolation::TESTS,
        sandbox::TESTS,
        host::TESTS,
        clients::TESTS,
        clock::TESTS,
        kills::TESTS,
        needed::TESTS,
        network::TESTS,
        durable::TESTS,
        flood::TESTS,
        user_mode::TESTS,
        park::TESTS,
        park_faults::TESTS,
        portions::TESTS,
        checkout::TESTS,
        secrets::TESTS,
        transfer::TESTS,
        aux::TESTS,
    ])
}
