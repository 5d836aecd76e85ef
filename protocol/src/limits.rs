//! Every size cap of the wire, in bytes unless said.

/// Largest input of an execution.
pub const MAX_INPUT: usize = 6 << 20;
/// Largest result of an execution.
pub const MAX_RESULT: usize = 6 << 20;
/// Largest body of a frame: an input or a result and its header.
pub const MAX_FRAME_BODY: usize = MAX_INPUT + MAX_SECRETS + (64 << 10);
/// Largest piece of log output in one frame.
pub const MAX_LOG_CHUNK: usize = 64 << 10;
/// Largest text in a [`crate::agent::Failure`]: its message or its traceback.
pub const MAX_FAILURE_TEXT: usize = 64 << 10;
/// Largest control message between daemon and monitor.
pub const MAX_CONTROL: usize = MAX_FRAME_BODY + (64 << 10);
/// Largest code of a task, all files together.
pub const MAX_CODE: u64 = 64 << 20;
/// Smallest memory of a VM, in MiB.
pub const MIN_MEMORY_MIB: u32 = 64;
/// Largest memory of a VM, in MiB. Its RAM stays below the 32-bit MMIO hole.
pub const MAX_MEMORY_MIB: u32 = 2048;
/// How much of the guest's console the monitor keeps.
pub const CONSOLE_TAIL: usize = 8 << 10;
/// Longest secret.
pub const MAX_SECRET: usize = 16 << 10;
/// All secrets of an execution together, as JSON.
pub const MAX_SECRETS: usize = 896 << 10;
