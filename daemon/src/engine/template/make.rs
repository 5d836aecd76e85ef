//! Making a template: a VM is brought to the door and saved there.
//!
//! ```text
//!   runtime: Prepare -> Boot ------------------------------> Hello checked, AtDoor --+
//!   task:    Prepare -> Restore (runtime, code disk, Load) -> Loaded, AtDoor --------+-> Save -> Saved
//! ```
//! What the guest says and the vCPU's arrival at the door may come in either order; both are waited for, within a deadline.

use super::Template;
use crate::engine::guest::{event_name, message_name};
use crate::engine::host::{Host, Spec};
use crate::engine::pool::Pool;
use crate::engine::stats::micros;
use crate::engine::types::{ErrorKind, ExecutionError, TaskVersion};
use crate::engine::verdict;
use crate::engine::vm::{Vm, VmState};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use torpor_protocol::agent::{self, FailureKind, GuestMessage, Hello, HostMessage, Load, MessageError, Runtime};
use torpor_protocol::frame::{Decoder, Frame};
use torpor_protocol::monitor::{Command, Event};
use torpor_seccomp::CgroupError;

/// A host without hardware virtualization boots in 10 s to 20 s; one whose cores are taken by others needs many times that.
const BOOT_TIMEOUT: Duration = Duration::from_secs(300);
/// Reading and importing a task's code.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Thousandths of a processor.
const WHOLE: u32 = 1000;
const SAVE_TIMEOUT: Duration = Duration::from_secs(60);
/// For the console of a guest that did not get there.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Boots a runtime and saves it. Returns the bytes of memory saved and the microseconds from boot to the agent's first frame.
pub(super) async fn runtime(host: &Host, pool: &Pool, spec: &Spec, out: (&File, &File)) -> Result<(u64, u64), ExecutionError> {
    let runtime = spec.runtime();
    let mut vm = pool.prepared(spec.memory_mib()).await?;
    let boot = Command::Boot { extra_cmdline: String::new() };
    vm.send(&boot, &[host.kernel.as_fd(), host.image(runtime).file.as_fd()]).await?;
    let since = Instant::now();
    let mut first_frame = 0;
    let there = to_door(&mut vm, |message| match message {
        GuestMessage::Hello(hello) => {
            first_frame = micros(since.elapsed());
            fits(&hello, runtime).map(|()| true)
        }
        other => Err(out_of_turn(&other)),
    });
    let there = tokio::time::timeout(BOOT_TIMEOUT, there).await;
    arrived(there, &mut vm, ErrorKind::Host, &format!("runtime {} did not boot within {} s", runtime.name(), BOOT_TIMEOUT.as_secs()))
        .await?;
    Ok((save(&mut vm, out).await?, first_frame))
}

/// Loads a task's code over its runtime and saves it. Returns the bytes of memory saved.
pub(super) async fn task(
    pool: &Pool,
    task: &TaskVersion,
    below: &Template,
    code: &File,
    out: (&File, &File),
) -> Result<u64, ExecutionError> {
    let load = Load {
        entry: task.entry.clone(),
        task: task.task.clone(),
        version: task.version.clone(),
        portion: task.portion.clone(),
        aux: task.aux.clone(),
    };
    let frame = HostMessage::Load(load).to_frame().and_then(|frame| Ok(frame.encode()?));
    let frame = frame.map_err(|error| ExecutionError::new(ErrorKind::Load, error.to_string()))?;
    // Its own code runs while it is imported: with no more of the host than its policy says, and as much longer.
    let limit_failed = |error: CgroupError| ExecutionError::new(ErrorKind::Host, error.to_string());
    let mut vm = pool.fresh(task.memory_mib).await?.limited(task).map_err(limit_failed)?;
    let load_timeout = LOAD_TIMEOUT * WHOLE / task.cpu_permille.unwrap_or(WHOLE).clamp(1, WHOLE);
    let restore = Command::Restore { code: true, inbox: Some(frame) };
    vm.send(&restore, &[below.state.as_fd(), below.memory.as_fd(), below.image.file.as_fd(), code.as_fd()]).await?;
    let there = to_door(&mut vm, |message| match message {
        GuestMessage::Loaded => Ok(true),
        GuestMessage::LoadFailed(mut failure) => {
            if failure.kind != FailureKind::OutOfMemory {
                failure.kind = FailureKind::Load;
            }
            Err(verdict::failure(failure, task.memory_mib))
        }
        // What a program prints while it is imported belongs to no execution.
        GuestMessage::Log { .. } => Ok(false),
        other => Err(out_of_turn(&other)),
    });
    let there = tokio::time::timeout(load_timeout, there).await;
    let late = format!("the code was not loaded within {} s", load_timeout.as_secs());
    arrived(there, &mut vm, ErrorKind::Load, &late).await?;
    if task.cpu_permille.is_some() {
        // Saving it is torpord's work.
        vm.limit_cpu(WHOLE).map_err(limit_failed)?;
    }
    save(&mut vm, out).await
}

/// Until the guest said what `heard` waits for and stands at the door.
async fn to_door(vm: &mut Vm, mut heard: impl FnMut(GuestMessage) -> Result<bool, ExecutionError>) -> Result<(), ExecutionError> {
    let (mut decoder, mut said) = (Decoder::default(), false);
    let broken =
        |error: MessageError| ExecutionError::new(ErrorKind::GuestProtocol, format!("the guest sent what is not a message: {error}"));
    while !(said && vm.state() == VmState::AtDoor) {
        match vm.recv().await? {
            Event::Vsock { bytes } => {
                decoder.push(&bytes);
                while let Some(frame) = decoder.next_frame().map_err(|error| broken(error.into()))? {
                    said |= heard(GuestMessage::from_frame(frame).map_err(broken)?)?;
                }
            }
            Event::Outbox { frame } => {
                let frame = Frame::decode_exact(&frame).map_err(|error| broken(error.into()))?;
                said |= heard(GuestMessage::from_frame(frame).map_err(broken)?)?;
            }
            Event::Stopped { reason, console } => return Err(verdict::stopped(&reason, console, vm.memory_mib)),
            Event::VsockClosed => return Err(verdict::agent_gone()),
            Event::Prepared
            | Event::Running { .. }
            | Event::AtDoor
            | Event::VsockOpen
            | Event::Saved { .. }
            | Event::Parked { .. }
            | Event::NotParked { .. } => {}
        }
    }
    Ok(())
}

/// Turns a passed deadline into an error that has the guest's console.
async fn arrived(
    there: Result<Result<(), ExecutionError>, tokio::time::error::Elapsed>,
    vm: &mut Vm,
    kind: ErrorKind,
    late: &str,
) -> Result<(), ExecutionError> {
    if let Ok(there) = there {
        return there;
    }
    let mut error = ExecutionError::new(kind, late);
    let console = async {
        vm.send(&Command::Stop, &[]).await?;
        loop {
            if let Event::Stopped { console, .. } = vm.recv().await? {
                return Ok::<_, ExecutionError>(console);
            }
        }
    };
    if let Ok(Ok(console)) = tokio::time::timeout(STOP_TIMEOUT, console).await {
        error.console = Some(console);
    }
    Err(error)
}

async fn save(vm: &mut Vm, (state, memory): (&File, &File)) -> Result<u64, ExecutionError> {
    vm.send(&Command::Save, &[state.as_fd(), memory.as_fd()]).await?;
    let saved = async {
        loop {
            match vm.recv().await? {
                Event::Saved { memory_bytes, .. } => return Ok(memory_bytes),
                Event::Stopped { reason, console } => return Err(verdict::stopped(&reason, console, vm.memory_mib)),
                Event::Vsock { .. } | Event::VsockOpen | Event::VsockClosed => {}
                other => return Err(ExecutionError::new(ErrorKind::Host, format!("unexpected {} while saving", event_name(&other)))),
            }
        }
    };
    let late = || {
        ExecutionError::new(ErrorKind::Host, format!("the template was not saved within {} s; is the disk slow?", SAVE_TIMEOUT.as_secs()))
    };
    tokio::time::timeout(SAVE_TIMEOUT, saved).await.unwrap_or_else(|_| Err(late()))
}

fn fits(hello: &Hello, runtime: Runtime) -> Result<(), ExecutionError> {
    let why = if hello.protocol != agent::VERSION {
        format!("its agent ({}) speaks version {} of the protocol, torpord {}", hello.agent, hello.protocol, agent::VERSION)
    } else if hello.runtime != runtime {
        format!("it is for runtime {}", hello.runtime.name())
    } else {
        return Ok(());
    };
    let name = runtime.name();
    Err(ExecutionError::new(ErrorKind::Host, format!("the root disk of {name} does not fit: {why}; run `scripts/build-rootfs {name}`")))
}

fn out_of_turn(message: &GuestMessage) -> ExecutionError {
    ExecutionError::new(ErrorKind::GuestProtocol, format!("the guest sent {} out of turn", message_name(message)))
}

#[cfg(test)]
mod tests;
