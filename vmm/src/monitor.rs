//! The monitor's event loop: commands from the daemon in, orders to the vCPU thread out; input for the console; nothing else.
//!
//! ```text
//! empty -- Prepare --> prepared -- Boot, Restore, Resume --> live -- Stop, end of the guest, daemon gone --> over
//! ```

use crate::changed::PageMap;
use crate::control::{self, Descriptors, Reader, Writer};
use crate::error::VmmError;
use crate::machine::{Machine, SharedDevices, lock};
use crate::vcpu::{self, Bell, Order};
use kvm_ioctls::VmFd;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;
use torpor_protocol::limits::MAX_CONTROL;
use torpor_protocol::monitor::{Command, Event, StopReason};

const CONTROL: Token = Token(0);
const BELL: Token = Token(1);
const STDIN: Token = Token(2);
/// Held back for the guest before the daemon has to wait.
const MAX_PENDING: usize = 2 * MAX_CONTROL;
/// The vCPU thread's stack: it recurses nowhere, its largest frame holds a few copies of the vector state.
const STACK: usize = 256 << 10;

/// What a monitor is started with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Copy the guest's console to standard output and standard input to it.
    pub console: bool,
    /// Close the sandbox before the first command is read. Not for a monitor that shares its process.
    pub sandbox: bool,
}

enum Phase {
    Empty,
    Prepared(Vm),
    Live(Vm),
}

struct Vm {
    orders: Sender<Order>,
    devices: SharedDevices,
    lines: Arc<VmFd>,
    thread: JoinHandle<()>,
}

struct Monitor {
    phase: Phase,
    writer: Writer,
    bell: Bell,
    options: Options,
    /// vsock bytes that the guest has no room for yet.
    pending: Vec<u8>,
    /// For the machine. A host without it runs machines that can't be parked.
    pages: Option<PageMap>,
}

/// Serves one VM over a control socket until it is over.
pub fn run(socket: UnixStream, options: Options) -> Result<(), VmmError> {
    let pages = PageMap::open().ok();
    if options.sandbox {
        torpor_seccomp::enter()?;
    }
    let (mut reader, writer) = control::split(socket)?;
    let failed = VmmError::io;
    let mut poll = Poll::new().map_err(failed("epoll"))?;
    let waker = Waker::new(poll.registry(), BELL).map_err(failed("eventfd"))?;
    poll.registry().register(&mut SourceFd(&reader.raw_fd()), CONTROL, Interest::READABLE).map_err(failed("epoll"))?;
    if options.console {
        // Standard input that can't be polled (a file, /dev/null) is no console.
        let _ = poll.registry().register(&mut SourceFd(&0), STDIN, Interest::READABLE);
    }
    let mut monitor = Monitor { phase: Phase::Empty, writer, bell: Bell::new(waker), options, pending: Vec::new(), pages };
    let result = monitor.events(&mut poll, &mut reader);
    if let Err(error) = &result
        && !matches!(error, VmmError::DaemonGone)
    {
        let reason = match error {
            VmmError::Guest(reason) => reason.clone(),
            other => StopReason::Failed(other.to_string()),
        };
        let _ = monitor.writer.send(&Event::Stopped { reason, console: monitor.console_tail() });
    }
    match result {
        Err(VmmError::DaemonGone) => Ok(()),
        other => other,
    }
}

impl Monitor {
    fn events(&mut self, poll: &mut Poll, reader: &mut Reader) -> Result<(), VmmError> {
        let mut events = Events::with_capacity(8);
        loop {
            if let Err(e) = poll.poll(&mut events, None) {
                if e.kind() == std::io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(VmmError::Io { what: "epoll", source: e });
            }
            for event in &events {
                match event.token() {
                    BELL => {
                        if self.guest_is_over() {
                            return Ok(());
                        }
                        self.flush_vsock()?;
                    }
                    STDIN => self.console_input()?,
                    _ => {}
                }
            }
            // mio is edge-triggered: read until nothing is left. While the guest has no room for much of what came, nothing more is read. A guest that
            // stands at the door makes no room, and needs the order that follows: the daemon sends it nothing else by then.
            while (self.pending.len() < MAX_PENDING || self.bell.at_door()) && reader.fill()? {
                while let Some((command, fds)) = reader.next_command()? {
                    if command == Command::Stop {
                        return self.stop();
                    }
                    self.command(command, fds)?;
                }
            }
        }
    }

    fn command(&mut self, command: Command, mut fds: Descriptors) -> Result<(), VmmError> {
        let since = Instant::now();
        match command {
            Command::Prepare { memory_mib } => self.prepare(fds.take()?, memory_mib),
            Command::Boot { extra_cmdline } => {
                let order = Order::Boot { kernel: fds.file()?, root: fds.file()?, extra_cmdline, since };
                self.begin(order)
            }
            Command::Restore { code, inbox } => {
                let (state, memory, root) = (fds.file()?, fds.file()?, fds.file()?);
                let code = if code { Some(fds.file()?) } else { None };
                self.begin(Order::Restore { state, memory, root, code, inbox, since })
            }
            Command::Resume { inbox, key } => {
                let (parked, template, root, code) = (fds.file()?, fds.file()?, fds.file()?, fds.file()?);
                self.begin(Order::Resume { parked, template, root, code, inbox, key, since })
            }
            Command::Inbox { frame } => self.order(Order::Inbox(frame)),
            Command::Save => {
                let (state, memory) = (fds.file()?, fds.file()?);
                self.order(Order::Save { state, memory, since })
            }
            Command::Park { origin, packing, key } => {
                let file = fds.file()?;
                self.live()?;
                if !self.pending.is_empty() {
                    let reason = "bytes for its agent are still on their way".into();
                    return self.writer.send(&Event::NotParked { reason });
                }
                self.order(Order::Park { file, origin, packing, key, since })
            }
            Command::CodeDisk => {
                lock(&self.live()?.devices).set_code(Some(fds.file()?));
                Ok(())
            }
            Command::Vsock { bytes } => {
                self.live()?;
                self.pending.extend_from_slice(&bytes);
                self.flush_vsock()
            }
            Command::Stop => Ok(()),
        }
    }

    fn prepare(&mut self, kvm: std::os::fd::OwnedFd, memory_mib: u32) -> Result<(), VmmError> {
        if !matches!(self.phase, Phase::Empty) {
            return Err(VmmError::Command("this monitor has a VM already"));
        }
        let machine = Machine::new(kvm, memory_mib, self.options.console, self.pages.take())?;
        let (devices, lines) = (Arc::clone(&machine.devices), Arc::clone(&machine.vm));
        let (orders, inbox) = channel();
        let (writer, bell, sandbox) = (self.writer.clone(), self.bell.clone(), self.options.sandbox);
        let thread = std::thread::Builder::new()
            .name("vcpu".into())
            .stack_size(STACK)
            .spawn(move || vcpu::thread(machine, &inbox, &writer, &bell, sandbox))
            .map_err(VmmError::io("starting the vCPU thread"))?;
        self.phase = Phase::Prepared(Vm { orders, devices, lines, thread });
        self.writer.send(&Event::Prepared)
    }

    fn begin(&mut self, order: Order) -> Result<(), VmmError> {
        match std::mem::replace(&mut self.phase, Phase::Empty) {
            Phase::Prepared(vm) => self.phase = Phase::Live(vm),
            Phase::Empty => return Err(VmmError::Command("this monitor has no prepared VM")),
            Phase::Live(vm) => {
                self.phase = Phase::Live(vm);
                return Err(VmmError::Command("this monitor's VM runs already"));
            }
        }
        self.order(order)
    }

    fn live(&self) -> Result<&Vm, VmmError> {
        match &self.phase {
            Phase::Live(vm) => Ok(vm),
            Phase::Empty | Phase::Prepared(_) => Err(VmmError::Command("this monitor's VM does not run")),
        }
    }

    fn order(&self, order: Order) -> Result<(), VmmError> {
        // A vCPU thread that is gone has said why, and rings the bell.
        let _ = self.live()?.orders.send(order);
        Ok(())
    }

    fn flush_vsock(&mut self) -> Result<(), VmmError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.bell.want_room(true);
        let (vm, pending) = match &self.phase {
            Phase::Live(vm) => (vm, &mut self.pending),
            Phase::Empty | Phase::Prepared(_) => return Ok(()),
        };
        let mut devices = lock(&vm.devices);
        let (taken, lines) = devices.vsock_send(pending).map_err(VmmError::Guest)?;
        lines.pulse(&devices, &vm.lines)?;
        drop(devices);
        pending.drain(..taken.min(pending.len()));
        self.bell.want_room(!self.pending.is_empty());
        Ok(())
    }

    fn console_input(&mut self) -> Result<(), VmmError> {
        let mut bytes = [0; 256];
        let n = std::io::stdin().read(&mut bytes).map_err(VmmError::io("reading standard input"))?;
        if let Phase::Live(vm) = &self.phase {
            let mut devices = lock(&vm.devices);
            if devices.console.input(&bytes[..n]) {
                crate::devices::Lines::serial().pulse(&devices, &vm.lines)?;
            }
        }
        Ok(())
    }

    fn guest_is_over(&self) -> bool {
        match &self.phase {
            Phase::Live(vm) | Phase::Prepared(vm) => vm.thread.is_finished() || Arc::strong_count(&vm.devices) == 1,
            Phase::Empty => false,
        }
    }

    fn console_tail(&self) -> String {
        match &self.phase {
            Phase::Live(vm) | Phase::Prepared(vm) => lock(&vm.devices).console.tail(),
            Phase::Empty => String::new(),
        }
    }

    fn stop(&self) -> Result<(), VmmError> {
        self.writer.send(&Event::Stopped { reason: StopReason::Asked, console: self.console_tail() })
    }
}
