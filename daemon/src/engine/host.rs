//! What every VM of this host is made from: KVM, kernel, root disks, monitor. Opened and hashed once, when the engine starts.
//!
//! Invariant: what a [`Spec`]'s id was computed from is what its template is made from; files that are replaced later change nothing until
//! the next start.

use super::fingerprint::{ELF, EROFS, Hash, combine, cpu, hash_file, open_hashed};
use super::types::{EngineConfig, EngineError, TaskVersion};
use crate::manifest::DEFAULT_ACCOUNT;
use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use torpor_protocol::agent::{self, Runtime};

/// Counts up when the way templates are made changes in the daemon.
const RECIPE: u32 = 1;
const RUNTIMES: [Runtime; 2] = [Runtime::Python, Runtime::Exec];

/// A root disk.
#[derive(Debug)]
pub(super) struct Image {
    /// What it is for.
    pub(super) runtime: Runtime,
    /// The disk.
    pub(super) file: File,
    /// Hash of the disk.
    pub(super) hash: String,
    /// Hash of everything that a template of this runtime depends on besides its memory size.
    pub(super) base: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Host {
    /// `/dev/kvm`.
    pub(super) kvm: Arc<OwnedFd>,
    /// An ELF `vmlinux`.
    pub(super) kernel: File,
    /// Hash of the kernel.
    pub(super) kernel_hash: String,
    /// What identifies the processor and the host's kernel.
    pub(super) cpu: String,
    python: Arc<Image>,
    exec: Arc<Image>,
}

impl Host {
    /// Opens and hashes everything. Blocks.
    pub(super) fn open(config: &EngineConfig) -> Result<Self, EngineError> {
        let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(EngineError::Kvm)?;
        let monitor = File::open(&config.monitor)
            .and_then(|file| hash_file(&file))
            .map_err(|source| EngineError::Monitor { path: config.monitor.clone(), source })?;
        let (kernel, kernel_hash) =
            open_hashed(&config.kernel, ELF).map_err(|source| EngineError::Kernel { path: config.kernel.clone(), source })?;
        let cpu = cpu()?;
        let image = |runtime: Runtime| {
            let path = config.images.join(format!("{}.erofs", runtime.name()));
            let (file, hash) = open_hashed(&path, EROFS).map_err(|source| EngineError::Image { runtime: runtime.name(), path, source })?;
            let base = base(runtime, &[kernel_hash, hash, monitor], &cpu);
            Ok(Arc::new(Image { runtime, file, hash: hash.to_hex().to_string(), base }))
        };
        let [python, exec] = RUNTIMES.map(image);
        let kernel_hash = kernel_hash.to_hex().to_string();
        Ok(Self { kvm: Arc::new(kvm.into()), kernel, kernel_hash, cpu, python: python?, exec: exec? })
    }

    /// A host of empty files, for tests that make no VM.
    #[cfg(test)]
    pub(super) fn scripted() -> std::io::Result<Arc<Self>> {
        let null = || File::open("/dev/null");
        let image = |runtime: Runtime| {
            Ok::<_, std::io::Error>(Arc::new(Image { runtime, file: null()?, hash: String::new(), base: runtime.name().to_owned() }))
        };
        Ok(Arc::new(Self {
            kvm: Arc::new(null()?.into()),
            kernel: null()?,
            kernel_hash: String::new(),
            cpu: String::new(),
            python: image(Runtime::Python)?,
            exec: image(Runtime::Exec)?,
        }))
    }

    /// The root disk of a runtime.
    pub(super) fn image(&self, runtime: Runtime) -> &Arc<Image> {
        let image = match runtime {
            Runtime::Python => &self.python,
            Runtime::Exec => &self.exec,
        };
        debug_assert_eq!(image.runtime, runtime);
        image
    }

    /// What templates that this host can use are based on.
    pub(super) fn bases(&self) -> [String; 2] {
        RUNTIMES.map(|runtime| self.image(runtime).base.clone())
    }

    /// Id of a template.
    pub(super) fn id(&self, spec: &Spec) -> String {
        match spec {
            Spec::Runtime { runtime, memory_mib } => {
                let base = &self.image(*runtime).base;
                combine(&[b"runtime", base.as_bytes(), &memory_mib.to_le_bytes()]).to_hex().to_string()
            }
            Spec::Task(task) => {
                let below = self.id(&spec.below());
                let whole = [b"task", below.as_bytes(), task.task.as_bytes(), task.version.as_bytes(), task.entry.as_bytes()];
                let portion = (task.portion != "main").then_some(task.portion.as_bytes());
                // Templates from before there were accounts are those of the default one.
                let account = (task.account != DEFAULT_ACCOUNT).then_some([b"account", task.account.as_bytes()]);
                let parts: Vec<&[u8]> = whole.into_iter().chain(portion).chain(account.into_iter().flatten()).collect();
                combine(&parts).to_hex().to_string()
            }
        }
    }
}

fn base(runtime: Runtime, hashes: &[Hash], cpu: &str) -> String {
    let versions = [RECIPE, agent::VERSION, torpor_snapshot::state::VERSION].map(u32::to_le_bytes).concat();
    let hashes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    combine(&[runtime.name().as_bytes(), &versions, &hashes, cpu.as_bytes()]).to_hex().to_string()
}

/// What a template is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spec {
    /// A booted runtime.
    Runtime {
        /// Which.
        runtime: Runtime,
        /// RAM.
        memory_mib: u32,
    },
    /// A task with its code loaded.
    Task(TaskVersion),
}

impl Spec {
    /// The runtime template that this one is, or is made from.
    pub(super) fn below(&self) -> Self {
        Self::Runtime { runtime: self.runtime(), memory_mib: self.memory_mib() }
    }

    /// Its language host.
    pub(super) fn runtime(&self) -> Runtime {
        match self {
            Self::Runtime { runtime, .. } => *runtime,
            Self::Task(task) => task.runtime,
        }
    }

    /// RAM of its VMs.
    pub(super) fn memory_mib(&self) -> u32 {
        match self {
            Self::Runtime { memory_mib, .. } => *memory_mib,
            Self::Task(task) => task.memory_mib,
        }
    }

    /// The task, where it holds one.
    pub(super) fn task(&self) -> Option<&TaskVersion> {
        match self {
            Self::Runtime { .. } => None,
            Self::Task(task) => Some(task),
        }
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Runtime { runtime, memory_mib } => write!(f, "runtime {} with {memory_mib} MiB", runtime.name()),
            Self::Task(task) => write!(f, "task {}@{}", task.task, task.version.get(..12).unwrap_or(&task.version)),
        }
    }
}
