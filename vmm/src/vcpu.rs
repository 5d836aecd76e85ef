//! The vCPU thread: runs the guest, and between two runs does what an exit asks for.
//!
//! ```text
//!           Boot, Restore, Resume     exit: wait at the door
//! prepared ---------------> running ------------------------> at the door --+-- Save, Park (stays)
//!                              ^                                            |
//!                              +------------------- Inbox ------------------+
//!            running -- power-off, reboot, panic, triple fault, fault of the guest, KVM error --> stopped
//! ```
//! Orders are taken only while the guest stands still, so nothing here races with the guest.

use crate::control::Writer;
use crate::cpu::vector;
use crate::devices::door::Touch;
use crate::error::VmmError;
use crate::machine::{Machine, lock};
use crate::virtio::vsock::VsockEvent;
use kvm_ioctls::VcpuExit;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;
use torpor_protocol::monitor::{Event, Packing, ParkKey, StopReason};
use torpor_snapshot::parked::Written;

/// What the event loop tells the vCPU thread.
pub enum Order {
    /// Boot and run.
    Boot {
        /// The kernel.
        kernel: File,
        /// The root disk.
        root: File,
        /// Added to the command line.
        extra_cmdline: String,
        /// When the command came.
        since: Instant,
    },
    /// Restore and run.
    Restore {
        /// The snapshot's state.
        state: File,
        /// The snapshot's memory.
        memory: File,
        /// The root disk.
        root: File,
        /// The code disk.
        code: Option<File>,
        /// A frame for the inbox.
        inbox: Option<Vec<u8>>,
        /// When the command came.
        since: Instant,
    },
    /// Resume and run.
    Resume {
        /// What the machine changed in its template.
        parked: File,
        /// The template's memory.
        template: File,
        /// The root disk.
        root: File,
        /// The code disk.
        code: File,
        /// A frame for the inbox.
        inbox: Vec<u8>,
        /// Of the parked machine, where it is encrypted.
        key: Option<ParkKey>,
        /// When the command came.
        since: Instant,
    },
    /// Put a frame in the inbox and run on.
    Inbox(Vec<u8>),
    /// Write a snapshot.
    Save {
        /// Empty file.
        state: File,
        /// Empty file.
        memory: File,
        /// When the command came.
        since: Instant,
    },
    /// Write down what the machine changed in its template.
    Park {
        /// For it.
        file: File,
        /// Kept in it.
        origin: Vec<u8>,
        /// How memory is written.
        packing: Packing,
        /// What it is encrypted with.
        key: Option<ParkKey>,
        /// When the command came.
        since: Instant,
    },
}

/// How the event loop learns of what the vCPU thread did for it. Each thread writes one of the flags and then reads the other, so both are in one order.
#[derive(Clone)]
pub struct Bell {
    waker: Arc<mio::Waker>,
    room: Arc<AtomicBool>,
    door: Arc<AtomicBool>,
}

impl Bell {
    /// A bell that wakes this waker.
    #[must_use]
    pub fn new(waker: mio::Waker) -> Self {
        Self { waker: Arc::new(waker), room: Arc::default(), door: Arc::default() }
    }

    /// The event loop waits for room in the guest's vsock receive queue, or no longer does.
    pub fn want_room(&self, wanted: bool) {
        self.room.store(wanted, Ordering::SeqCst);
    }

    /// The guest stands at the door: it makes no room until an order came.
    #[must_use]
    pub fn at_door(&self) -> bool {
        self.door.load(Ordering::SeqCst)
    }

    fn stands(&self, stands: bool) {
        self.door.store(stands, Ordering::SeqCst);
        if stands {
            self.room();
        }
    }

    /// The guest touched its queues: there may be room.
    fn room(&self) {
        if self.room.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    fn ring(&self) {
        // A waker that fails is a broken epoll descriptor: the control socket's end tells the event loop as well.
        let _ = self.waker.wake();
    }
}

/// What an exit led to.
enum Next {
    Run,
    Wait,
    Stop(StopReason),
}

/// The thread's body: from the first order to the machine's end. `sandbox`: narrow the thread's system calls first.
pub fn thread(mut machine: Machine, orders: &Receiver<Order>, writer: &Writer, bell: &Bell, sandbox: bool) {
    let narrowed = if sandbox { torpor_seccomp::narrow(torpor_seccomp::Role::Vcpu).map_err(VmmError::from) } else { Ok(()) };
    let reason = match narrowed.and_then(|()| live(&mut machine, orders, writer, bell)) {
        Ok(reason) => reason,
        Err(VmmError::DaemonGone) => StopReason::Asked,
        Err(error) => StopReason::Failed(error.to_string()),
    };
    let console = lock(&machine.devices).console.tail();
    let _ = writer.send(&Event::Stopped { reason, console });
    drop(machine);
    bell.ring();
}

fn live(machine: &mut Machine, orders: &Receiver<Order>, writer: &Writer, bell: &Bell) -> Result<StopReason, VmmError> {
    let since = match orders.recv() {
        Ok(Order::Boot { kernel, root, extra_cmdline, since }) => {
            machine.boot(&kernel, root, &extra_cmdline)?;
            since
        }
        Ok(Order::Restore { state, memory, root, code, inbox, since }) => {
            machine.restore(&state, memory, root, code)?;
            if let Some(frame) = inbox {
                lock(&machine.devices).door.deliver(&machine.memory, &frame)?;
            }
            since
        }
        Ok(Order::Resume { parked, template, root, code, inbox, key, since }) => {
            machine.resume(parked, key.as_ref(), template, root, code)?;
            lock(&machine.devices).door.deliver(&machine.memory, &inbox)?;
            since
        }
        Ok(Order::Inbox(_) | Order::Save { .. } | Order::Park { .. }) => return Err(VmmError::Command("the VM has not run yet")),
        Err(_) => return Ok(StopReason::Asked),
    };
    writer.send(&Event::Running { micros: micros(since) })?;
    loop {
        match step(machine, writer, bell)? {
            Next::Run => {}
            Next::Wait => {
                complete_exit(machine)?;
                if let Some(reason) = at_door(machine, orders, writer, bell)? {
                    return Ok(reason);
                }
            }
            Next::Stop(reason) => return Ok(reason),
        }
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Runs the guest to its next exit and does what that asks for.
fn step(machine: &mut Machine, writer: &Writer, bell: &Bell) -> Result<Next, VmmError> {
    let exit = match machine.vcpu.run() {
        Ok(exit) => exit,
        Err(e) if e.errno() == libc::EINTR || e.errno() == libc::EAGAIN => return Ok(Next::Run),
        Err(source) => return Ok(Next::Stop(StopReason::Kvm(format!("KVM_RUN: {source}")))),
    };
    let touch = match exit {
        VcpuExit::MmioRead(address, data) => lock(&machine.devices).mmio_read(address, data),
        VcpuExit::MmioWrite(address, data) => {
            let mut devices = lock(&machine.devices);
            match devices.mmio_write(address, data) {
                Ok((touch, lines)) => {
                    lines.pulse(&devices, &machine.vm)?;
                    touch
                }
                Err(reason) => return Ok(Next::Stop(reason)),
            }
        }
        VcpuExit::IoIn(port, data) => {
            lock(&machine.devices).port_read(port, data);
            return Ok(Next::Run);
        }
        VcpuExit::IoOut(port, data) => {
            let mut devices = lock(&machine.devices);
            let (touch, lines) = devices.port_write(port, data);
            lines.pulse(&devices, &machine.vm)?;
            touch
        }
        VcpuExit::Shutdown => return Ok(Next::Stop(StopReason::TripleFault)),
        VcpuExit::InternalError => {
            if vector::complete(&machine.vcpu, &machine.memory.mem)? {
                return Ok(Next::Run);
            }
            return Ok(Next::Stop(StopReason::Kvm(describe_internal_error(machine))));
        }
        VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen => return Ok(Next::Run),
        other => return Ok(Next::Stop(StopReason::Kvm(format!("unexpected exit {other:?}")))),
    };
    match touch {
        Touch::Done => {
            if let Err(stop) = forward_vsock(machine, writer, bell)? {
                return Ok(Next::Stop(stop));
            }
            Ok(Next::Run)
        }
        Touch::Wait => Ok(Next::Wait),
        Touch::Outbox(frame) => {
            writer.send(&Event::Outbox { frame })?;
            Ok(Next::Run)
        }
        Touch::Stop(reason) => Ok(Next::Stop(reason)),
    }
}

/// Passes on what the agent's connection brought, and only then gives the guest credit for more.
fn forward_vsock(machine: &Machine, writer: &Writer, bell: &Bell) -> Result<Result<(), StopReason>, VmmError> {
    let events = lock(&machine.devices).vsock_events();
    // Before the daemon is waited for: it may itself wait for the room.
    bell.room();
    for event in events {
        match event {
            VsockEvent::Open { .. } => writer.send(&Event::VsockOpen)?,
            VsockEvent::Closed { .. } => writer.send(&Event::VsockClosed)?,
            VsockEvent::Data { bytes, .. } => {
                let n = bytes.len();
                writer.send(&Event::Vsock { bytes })?;
                let mut devices = lock(&machine.devices);
                match devices.vsock_consumed(n) {
                    Ok(lines) => lines.pulse(&devices, &machine.vm)?,
                    Err(reason) => return Ok(Err(reason)),
                }
                drop(devices);
                bell.room();
            }
        }
    }
    Ok(Ok(()))
}

/// Lets KVM finish the access that ended the last run, so that the registers are those after it.
fn complete_exit(machine: &mut Machine) -> Result<(), VmmError> {
    machine.vcpu.set_kvm_immediate_exit(1);
    let completed = match machine.vcpu.run() {
        Err(e) if e.errno() == libc::EINTR => Ok(()),
        Err(source) => Err(VmmError::Kvm { call: "KVM_RUN to complete an exit", source }),
        Ok(_) => Err(VmmError::Command("KVM ran the guest though it was told not to")),
    };
    machine.vcpu.set_kvm_immediate_exit(0);
    completed
}

/// Takes orders until a message is in the inbox. A reason: the machine ends here.
fn at_door(machine: &mut Machine, orders: &Receiver<Order>, writer: &Writer, bell: &Bell) -> Result<Option<StopReason>, VmmError> {
    bell.stands(true);
    writer.send(&Event::AtDoor)?;
    loop {
        match orders.recv() {
            Ok(Order::Inbox(frame)) => {
                bell.stands(false);
                lock(&machine.devices).door.deliver(&machine.memory, &frame)?;
                return Ok(None);
            }
            Ok(Order::Save { state, memory, since }) => {
                let memory_bytes = machine.save(&state, &memory)?;
                writer.send(&Event::Saved { memory_bytes, micros: micros(since) })?;
            }
            Ok(Order::Park { file, origin, packing, key, since }) => {
                let event = match machine.park(&file, &origin, packing, key.as_ref()) {
                    Ok(Written { changed_bytes, stored_bytes }) => Event::Parked { changed_bytes, stored_bytes, micros: micros(since) },
                    Err(error) => Event::NotParked { reason: error.to_string() },
                };
                writer.send(&event)?;
            }
            Ok(Order::Boot { .. } | Order::Restore { .. } | Order::Resume { .. }) => return Err(VmmError::Command("the VM runs already")),
            Err(_) => return Ok(Some(StopReason::Asked)),
        }
    }
}

fn describe_internal_error(machine: &mut Machine) -> String {
    let mut code = [0; 15];
    let mut rip = 0;
    let mut fetched = 0;
    if let (Ok(regs), Ok(sregs)) = (machine.vcpu.get_regs(), machine.vcpu.get_sregs()) {
        rip = regs.rip;
        fetched = crate::paging::Walker::new(&machine.memory.mem, &sregs).read_some(rip, &mut code);
    }
    let run = machine.vcpu.get_kvm_run();
    // SAFETY: the last exit was KVM_EXIT_INTERNAL_ERROR, for which KVM fills this member; all bit patterns are valid.
    let suberror = unsafe { run.__bindgen_anon_1.internal.suberror };
    format!("internal error {suberror} at {rip:#x}, instruction bytes {:02x?}", &code[..fetched])
}
