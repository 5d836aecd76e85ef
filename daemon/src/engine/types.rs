//! What goes into the engine and what comes out of it: tasks to run, progress, outcomes, errors.
//!
//! Plain values without behaviour of their own; everything here has been checked by whoever made it.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use torpor_protocol::agent::{AuxPlace, Runtime, Secret, Stream};
use torpor_protocol::ask::{Answer, Ask};
use torpor_protocol::aux::{FromGuest, ToGuest};
pub use torpor_protocol::monitor::{Packing, ParkKey};
use torpor_seccomp::LaunchError;
use torpor_seccomp::uids::Range;

/// Where the engine finds what it needs, and how much it keeps ready.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The `torpor-vmm` binary.
    pub monitor: PathBuf,
    /// The guest kernel, an ELF `vmlinux`.
    pub kernel: PathBuf,
    /// Folder of root disks, one a runtime: `python.erofs`, `exec.erofs`.
    pub images: PathBuf,
    /// Folder of templates; made if missing, owned by the engine.
    pub templates: PathBuf,
    /// Most warm monitors kept at once, of all sizes together.
    pub warm: usize,
    /// Templates that parked machines need.
    pub needed: Vec<String>,
    /// What monitors are locked into.
    pub sandbox: SandboxConfig,
}

/// What monitors are locked into, as far as a host's owner has a say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxConfig {
    /// User ids for VMs, where torpord may give them some.
    pub ids: Range,
    /// Name of torpord's control group, no other torpord's.
    pub group: String,
    /// Every control group controller has to be there.
    pub require_cgroups: bool,
}

/// One immutable version of a task, as far as a VM is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskVersion {
    /// Whose it is.
    pub account: String,
    /// Name of the task.
    pub task: String,
    /// Content hash of the version, lower-case hex.
    pub version: String,
    /// Portion of the task.
    pub portion: String,
    /// Services outside that it may talk to, as its machine knows them.
    pub aux: Vec<AuxPlace>,
    /// Its language host.
    pub runtime: Runtime,
    /// What the manifest says, see [`Runtime`].
    pub entry: String,
    /// RAM of its VMs.
    pub memory_mib: u32,
    /// Thousandths of one processor's time that a VM may take at most.
    pub cpu_permille: Option<u32>,
    /// Image of its code; read-only and never changed once the version exists.
    pub code: PathBuf,
}

/// One execution to run.
#[derive(Debug)]
pub struct RunRequest {
    /// Id of the execution.
    pub execution: String,
    /// What to run.
    pub task: TaskVersion,
    /// Where it begins.
    pub begin: Begin,
    /// How long the guest may run, counted from its vCPU's start.
    pub timeout: Duration,
    /// Time in which the guest stands and waits for answers counts as well.
    pub waits_count: bool,
    /// Its VM, where one is used again.
    pub reuse: Reuse,
}

/// A VM that has run an execution and waits for another of the same portion of the same version. Dropped, it ends.
pub type Kept = Box<dyn std::any::Any + Send + Sync>;

/// How an execution shares its VM with those before and after it.
#[derive(Debug, Default)]
pub struct Reuse {
    /// The VM that it is run in; none: one of its own.
    pub from: Option<Kept>,
    /// Gets its VM, where that can be used again.
    pub keep: Option<tokio::sync::oneshot::Sender<Kept>>,
}

/// Where an execution begins.
#[derive(Debug)]
pub enum Begin {
    /// At its task's template.
    Start {
        /// JSON text, at most `MAX_INPUT` bytes.
        input: Vec<u8>,
        /// Secrets that its program gets.
        secrets: Vec<Secret>,
    },
    /// Where it was parked.
    Resume {
        /// Its machine.
        file: File,
        /// The machine's key, where it is encrypted.
        key: Option<ParkKey>,
        /// Of its machine.
        base: Base,
        /// Bytes of the agent's connection that the machine had sent before and that are no whole message.
        unread: Vec<u8>,
        /// What it waits for.
        answers: Box<Reply>,
    },
}

/// What a parked machine is a difference to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// Id of the template.
    pub template: String,
    /// Hash of the template's content.
    pub content: String,
}

/// Answers on their way to a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The answers; without any, the guest looks what else there is.
    pub answers: Vec<Answer>,
    /// Payloads of the answers, one after the other.
    pub payload: Vec<u8>,
}

/// What is told to an execution that runs.
#[derive(Debug)]
pub enum Order {
    /// Give these answers to the guest.
    Answer(Reply),
    /// Tell the agent of a connection. A guest that stands and waits goes on for it.
    Aux(ToGuest),
    /// Write the machine down, if the guest stands and waits. Ends with [`Progress::Parked`] or [`Progress::NotParked`]; the guest stands
    /// still until then, and on until it gets answers or [`Self::End`].
    Park {
        /// For the machine; what it holds is overwritten.
        file: File,
        /// How its memory is written.
        packing: Packing,
        /// What the file is encrypted with: a key of this file only.
        key: Option<ParkKey>,
    },
    /// The parked machine is durable: end this one.
    End,
}

/// What happens while an execution runs, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The task had no template yet: one was made.
    TemplateMade {
        /// How long that took, a runtime template included where that was missing too.
        micros: u64,
    },
    /// It is given the VM of an execution before it.
    Reused {
        /// Until its input was in there.
        micros: u64,
    },
    /// The VM is restored, its vCPU runs.
    Restored {
        /// Since the engine began to look for a monitor.
        micros: u64,
        /// The monitor was a warm one.
        warm: bool,
    },
    /// The program's host took the input.
    Started {
        /// Since the engine began to look for a monitor.
        micros: u64,
    },
    /// Output of the program, not cut at lines.
    Log {
        /// Where it was written.
        stream: Stream,
        /// As the program wrote it.
        bytes: Vec<u8>,
    },
    /// The program asks for something.
    Asked {
        /// What.
        ask: Ask,
        /// Input of a call.
        payload: Vec<u8>,
    },
    /// Nothing runs in the guest but what waits for the answers to these; it stands.
    Blocked {
        /// Numbers of the asks.
        seqs: Vec<u64>,
        /// How many messages about connections its agent has heard, where it says so.
        aux: Option<u64>,
    },
    /// The agent says something of a connection to an auxiliary service.
    Aux(FromGuest),
    /// The machine is written down and synced.
    Parked(Parked),
    /// It could not be.
    NotParked {
        /// Why.
        reason: String,
    },
}

/// A machine that was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// What it is a difference to.
    pub base: Base,
    /// Bytes of pages that differ from the template.
    pub changed_bytes: u64,
    /// Bytes that were written.
    pub stored_bytes: u64,
    /// How long the guest stood still for it.
    pub micros: u64,
    /// Bytes of the agent's connection that came and are no whole message.
    pub unread: Vec<u8>,
    /// How much of its timeout the guest has used, since its vCPU's start.
    pub ran: Duration,
}

/// How a run of an execution ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// With a result, checked to be JSON.
    Succeeded {
        /// As the program wrote it.
        result: Box<RawValue>,
    },
    /// Without one.
    Failed(ExecutionError),
    /// The policy's timeout passed; the VM is gone.
    TimedOut,
    /// Cancelled by its caller; the VM is gone.
    Cancelled,
    /// Parked, as [`Order::End`] said; the VM is gone.
    Parked,
    /// A parked machine was not brought back. It did not run.
    NotResumed {
        /// Why.
        error: ExecutionError,
        /// Another attempt may work.
        passing: bool,
    },
}

/// Kinds of failure of an execution: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The handler raised; `exception` and `traceback` say what and where.
    Exception,
    /// The program ended with a non-zero status; `exit_code` says which.
    Exit,
    /// The program was ended by a signal; `signal` says which.
    Signal,
    /// The program needed more memory than its policy gives; `limit` says how much that is.
    OutOfMemory,
    /// What the program returned is not JSON.
    InvalidResult,
    /// The result is larger than allowed; `limit` says what is.
    ResultTooLarge,
    /// The task's code could not be loaded.
    Load,
    /// A secret that the task declares is not set any more.
    UnknownSecret,
    /// The policy's timeout passed.
    Timeout,
    /// Cancelled by its caller.
    Cancelled,
    /// The guest went down: kernel panic, triple fault, agent killed, unexpected power-off; `console` has its last lines.
    GuestCrashed,
    /// The guest broke the rules of a device or of the protocol.
    GuestProtocol,
    /// The daemon went away while the execution ran.
    Interrupted,
    /// Moved to another host, where it goes on.
    Moved,
    /// The policy's deadline passed.
    Deadline,
    /// Monitor, disk or KVM failed; the message says what to do.
    Host,
}

impl ErrorKind {
    /// Its name in JSON and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exception => "exception",
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::OutOfMemory => "out_of_memory",
            Self::InvalidResult => "invalid_result",
            Self::ResultTooLarge => "result_too_large",
            Self::Load => "load",
            Self::UnknownSecret => "unknown_secret",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::GuestCrashed => "guest_crashed",
            Self::GuestProtocol => "guest_protocol",
            Self::Interrupted => "interrupted",
            Self::Moved => "moved",
            Self::Deadline => "deadline",
            Self::Host => "host",
        }
    }
}

/// Why an execution has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error)]
#[error("{}: {message}", kind.name())]
pub struct ExecutionError {
    /// What kind of failure it is.
    pub kind: ErrorKind,
    /// For people: what happened, and what to do where there is something to do.
    pub message: String,
    /// Type of the exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<String>,
    /// Where it was raised, as the language prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    /// Exit status of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Last lines of the guest's console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// The limit that was hit, with its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl ExecutionError {
    /// An error that has nothing but a kind and a message.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), exception: None, traceback: None, exit_code: None, signal: None, console: None, limit: None }
    }
}

/// Whether a task version's template is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TemplateState {
    /// Not made yet.
    None,
    /// Being made.
    Preparing,
    /// On disk.
    Ready,
    /// The last attempt failed; the next execution tries again.
    Failed,
}

/// Counters and gauges of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EngineStats {
    /// Monitors that wait with a prepared VM.
    pub warm_monitors: usize,
    /// Monitor processes that exist, whatever they do.
    pub monitors: usize,
    /// Monitors started since the daemon's start.
    pub monitors_started: u64,
    /// Warm monitors that died while they waited.
    pub warm_monitors_lost: u64,
    /// VMs restored for executions with a warm monitor, and their microseconds up to the vCPU's start.
    pub restores_warm: u64,
    /// See [`Self::restores_warm`].
    pub restore_warm_micros: u64,
    /// VMs restored for executions with a new monitor, and their microseconds up to the vCPU's start.
    pub restores_new: u64,
    /// See [`Self::restores_new`].
    pub restore_new_micros: u64,
    /// Runtime templates made, and the microseconds from boot to the agent's first frame.
    pub boots: u64,
    /// See [`Self::boots`].
    pub boot_micros: u64,
    /// Machines parked, their microseconds, and the bytes written for them.
    pub parks: u64,
    /// See [`Self::parks`].
    pub park_micros: u64,
    /// See [`Self::parks`].
    pub park_bytes: u64,
    /// Machines resumed, and their microseconds up to the vCPU's start.
    pub resumes: u64,
    /// See [`Self::resumes`].
    pub resume_micros: u64,
    /// Templates made.
    pub templates_made: u64,
    /// Templates that could not be made.
    pub templates_failed: u64,
    /// Templates that are open for use, being made, or could not be made.
    pub templates: Vec<TemplateInfo>,
}

/// One template, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TemplateInfo {
    /// Hash of everything that it was made from.
    pub id: String,
    /// Name of the runtime that it holds.
    pub runtime: String,
    /// RAM of its VMs.
    pub memory_mib: u32,
    /// Account of that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Task whose code it holds; none for a runtime template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Version of that task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether it is there.
    pub state: TemplateState,
    /// Bytes of guest memory that it holds.
    pub memory_bytes: u64,
}

/// Why the engine can't start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// `/dev/kvm` is missing or may not be opened.
    #[error("can't open /dev/kvm: {0}; load the kvm module, or give this user access to it (group `kvm`)")]
    Kvm(std::io::Error),
    /// The monitor binary is not there.
    #[error("can't read the monitor {path}: {source}; build it with `cargo build --release -p torpor-vmm` or name it with --monitor")]
    Monitor {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Monitors can't be locked in, or not as far as is required.
    #[error(transparent)]
    Sandbox(LaunchError),
    /// The guest kernel is not there, or is none.
    #[error("can't use the guest kernel {path}: {source}; make it with `scripts/build-kernel` or name it with --kernel")]
    Kernel {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A runtime's root disk is not there, or is none.
    #[error("can't use the root disk {path}: {source}; make it with `scripts/build-rootfs {runtime}` or name its folder with --images")]
    Image {
        /// Which runtime's.
        runtime: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The folder of templates can't be used.
    #[error("can't use the template folder {path}: {source}; it must be writable by torpord")]
    Templates {
        /// Which folder.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The processor can't be told from others.
    #[error("can't read /proc/cpuinfo: {0}; is /proc mounted?")]
    Cpu(std::io::Error),
    /// The start itself broke off.
    #[error("starting the engine broke off: {0}")]
    Broken(String),
}
