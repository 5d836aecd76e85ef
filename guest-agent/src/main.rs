//! `torpor-agent`: PID 1 of a guest. It makes the guest a place where a program can live, starts the runtime's language host or the program
//! itself, and speaks `protocol::agent` for it.
//!
//! ```text
//!  boot --> Hello --> settled --(door: runtime template)--> Load --> Loaded --(door: task template)--> Start --> Result | Failed
//!                                                            \--> LoadFailed
//!  boot, no door --> Hello --connection ended--> Hello --> ...
//! ```
//!
//! Without a door (a kernel command line without `torpor_door=`) there is nothing to stand at and no program can be run: the agent only says Hello,
//! and again on a new connection whenever the last one ended. So a monitor that is not ours can be measured with this very image (bench/).
//!
//! - [`setup`]: what a program expects of a machine: mounts, loopback, limits
//! - [`door`], [`link`]: the two ways out: the shared window, and vsock
//! - [`children`]: every process that ends
//! - [`launch`]: how a program is started as an unprivileged user
//! - [`python`]: runtime `python`: the language host stands at the door, the agent listens
//! - [`exec`]: runtime `exec`: the program is stopped before its first instruction, the agent stands at the door
//! - [`secrets`]: files of the secrets that a program gets
//! - [`stopped`]: that stopped program: its memory, and letting it go
//! - [`verdict`]: from the way a program ended to the message about it; pure
//! - [`broker`]: the socket at which programs ask for what they wait for; [`clients`], [`request`]: its connections and its lines
//! - [`idle`]: whether nothing can run but those waits
//! - [`command`]: the same program as the command `torpor`, a client of that socket
//! - [`memory`]: whether the kernel ended something because memory was short
//!
//! Invariant: nothing that a program does makes the agent panic, wait for ever on that program's goodwill or hold more than a fixed amount of
//! memory. What the agent itself can't repair ends the machine, with the reason on its console.

mod broker;
mod children;
mod clients;
mod command;
mod door;
mod error;
mod exec;
mod idle;
mod launch;
mod link;
mod memory;
mod python;
mod request;
mod secrets;
mod setup;
mod stopped;
mod verdict;

use error::AgentError;
use nix::sys::reboot::{RebootMode, reboot};
use std::convert::Infallible;
use std::io::ErrorKind;
use torpor_protocol::agent::{GuestMessage, Hello, Runtime, VERSION};

/// File on the root image that names its runtime.
const RUNTIME_FILE: &str = "/etc/torpor/runtime";

fn runtime() -> Result<Runtime, AgentError> {
    let name = std::fs::read_to_string(RUNTIME_FILE).map_err(|source| AgentError::io("read", RUNTIME_FILE, source))?;
    [Runtime::Python, Runtime::Exec]
        .into_iter()
        .find(|runtime| runtime.name() == name.trim())
        .ok_or_else(|| AgentError::UnknownRuntime { name: name.trim().to_owned() })
}

fn run() -> Result<Infallible, AgentError> {
    setup::devices()?;
    let runtime = runtime()?;
    let kernel = nix::sys::utsname::uname().map(|uts| uts.release().to_string_lossy().into_owned()).unwrap_or_default();
    let hello = GuestMessage::Hello(Hello { protocol: VERSION, runtime, agent: env!("CARGO_PKG_VERSION").to_owned(), kernel });
    let mut link = link::Link::connect()?;
    link.send(&hello)?;
    let door = match door::Door::open(door::DEVICE) {
        Err(AgentError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return greet(link, &hello),
        opened => opened?,
    };
    let place = setup::place()?;
    match runtime {
        Runtime::Python => python::serve(door, link, &place),
        Runtime::Exec => exec::serve(door, link, &place),
    }
}

/// All that there is to do without a door. A connection ends where its monitor restores the machine, or where the host closes it.
fn greet(mut link: link::Link, hello: &GuestMessage) -> Result<Infallible, AgentError> {
    loop {
        link.ended();
        link = link::Link::connect()?;
        match link.send(hello) {
            Ok(()) | Err(AgentError::HostGone) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Nothing is left to do: the host ends this machine. The kernel alone runs on, and has nothing to run.
fn rest() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn main() {
    if let Some(arguments) = command::called() {
        command::main(arguments);
    }
    if std::process::id() != 1 {
        eprintln!("torpor-agent runs as PID 1 of a guest; boot a root image with `torpor-vmm boot` instead");
        std::process::exit(2);
    }
    let Err(error) = run();
    setup::say(&format!("torpor-agent: {error}"));
    let _ = reboot(RebootMode::RB_POWER_OFF);
    // PID 1 must not end by itself: the kernel's panic would hide the reason above.
    rest()
}
