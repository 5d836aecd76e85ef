//! One VM as the daemon sees it: a monitor and the state that it is in.
//!
//! ```text
//!   New --Prepare--> Preparing --Prepared--> Prepared --Boot----> Booting ----Running--+
//!                        |                      |                                      v
//!                        |                      +-----Restore--> Restoring --Running-> Running <--Inbox-- AtDoor --Save--> Saving
//!                        |                                           ^                    |                 ^ ^              |
//!                        +--Restore--> PreparingToRestore --Prepared-+                    +-----AtDoor------+ +----Saved-----+
//!
//!   Restore may be Resume. AtDoor --Park--> Parking --Parked, NotParked--> AtDoor
//!   any --Stop, Stopped, end of the monitor--> Stopped
//! ```
//! Commands and events not drawn do not change the state; each is allowed only where [`VmState`] says so.
//!
//! Invariant: a command is sent only in a state that allows it, and an event is handed on only where the state allows it: a monitor that says
//! something else is not believed any further.

use super::link::LinkError;
use super::monitor::Monitor;
use super::types::TaskVersion;
use std::os::fd::BorrowedFd;
use torpor_protocol::monitor::{Command, Event};
use torpor_seccomp::CgroupError;

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VmState {
    /// The process is there, nothing was said.
    New,
    /// The VM is being made.
    Preparing,
    /// The VM is being made, and a restore follows without being waited for.
    PreparingToRestore,
    /// The VM is made: what a warm monitor is.
    Prepared,
    /// The kernel is being loaded.
    Booting,
    /// The snapshot is being laid into the VM.
    Restoring,
    /// The vCPU runs.
    Running,
    /// The guest waits at the door.
    AtDoor,
    /// The machine is being written down.
    Saving,
    /// What the machine changed is being written down.
    Parking,
    /// Gone, or told to go.
    Stopped,
}

/// Something that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} does not fit a VM that is {state:?}")]
pub(super) struct Illegal {
    /// The command or event.
    pub(super) what: &'static str,
    /// The state that it met.
    pub(super) state: VmState,
}

impl VmState {
    /// The state after a command.
    pub(super) fn command(self, command: &Command) -> Result<Self, Illegal> {
        let illegal = |what| Err(Illegal { what, state: self });
        match (self, command) {
            (Self::Stopped, _) => illegal("a command"),
            (_, Command::Stop) => Ok(Self::Stopped),
            (Self::New, Command::Prepare { .. }) => Ok(Self::Preparing),
            (_, Command::Prepare { .. }) => illegal("Prepare"),
            (Self::Prepared, Command::Boot { .. }) => Ok(Self::Booting),
            (_, Command::Boot { .. }) => illegal("Boot"),
            (Self::Prepared, Command::Restore { .. } | Command::Resume { .. }) => Ok(Self::Restoring),
            (Self::Preparing, Command::Restore { .. } | Command::Resume { .. }) => Ok(Self::PreparingToRestore),
            (_, Command::Restore { .. }) => illegal("Restore"),
            (_, Command::Resume { .. }) => illegal("Resume"),
            (Self::AtDoor, Command::Park { .. }) => Ok(Self::Parking),
            (_, Command::Park { .. }) => illegal("Park"),
            (Self::AtDoor, Command::Inbox { .. }) => Ok(Self::Running),
            (_, Command::Inbox { .. }) => illegal("Inbox"),
            (Self::AtDoor, Command::Save) => Ok(Self::Saving),
            (_, Command::Save) => illegal("Save"),
            (Self::Running | Self::AtDoor, Command::Vsock { .. }) => Ok(self),
            (_, Command::Vsock { .. }) => illegal("Vsock"),
            (Self::AtDoor, Command::CodeDisk) => Ok(self),
            (_, Command::CodeDisk) => illegal("CodeDisk"),
        }
    }

    /// The state after an event.
    pub(super) fn event(self, event: &Event) -> Result<Self, Illegal> {
        let illegal = |what| Err(Illegal { what, state: self });
        match (self, event) {
            (_, Event::Stopped { .. }) => Ok(Self::Stopped),
            (Self::Stopped, _) => Ok(Self::Stopped),
            (Self::Preparing, Event::Prepared) => Ok(Self::Prepared),
            (Self::PreparingToRestore, Event::Prepared) => Ok(Self::Restoring),
            (_, Event::Prepared) => illegal("Prepared"),
            (Self::Booting | Self::Restoring, Event::Running { .. }) => Ok(Self::Running),
            (_, Event::Running { .. }) => illegal("Running"),
            (Self::Running, Event::AtDoor) => Ok(Self::AtDoor),
            (_, Event::AtDoor) => illegal("AtDoor"),
            (Self::Running, Event::Outbox { .. }) => Ok(self),
            (_, Event::Outbox { .. }) => illegal("Outbox"),
            (Self::Parking, Event::Parked { .. } | Event::NotParked { .. }) => Ok(Self::AtDoor),
            (_, Event::Parked { .. }) => illegal("Parked"),
            (_, Event::NotParked { .. }) => illegal("NotParked"),
            (Self::Running | Self::AtDoor | Self::Saving | Self::Parking, Event::VsockOpen | Event::Vsock { .. } | Event::VsockClosed) => {
                Ok(self)
            }
            (_, Event::VsockOpen | Event::Vsock { .. } | Event::VsockClosed) => illegal("a vsock event"),
            (Self::Saving, Event::Saved { .. }) => Ok(Self::AtDoor),
            (_, Event::Saved { .. }) => illegal("Saved"),
        }
    }
}

/// Why a VM is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum VmError {
    /// The monitor ended without saying why.
    #[error("the monitor ended: {0}")]
    Ended(String),
    /// The control socket failed or carried what it must not.
    #[error(transparent)]
    Link(LinkError),
    /// A command or an event out of order.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

/// A VM; dropping it kills its monitor.
#[derive(Debug)]
pub(super) struct Vm {
    state: VmState,
    monitor: Monitor,
    /// RAM that it was prepared with, or is to be.
    pub(super) memory_mib: u32,
    /// It waited in the pool.
    pub(super) warm: bool,
}

impl Vm {
    /// A VM to be, in a process that has just been started.
    pub(super) fn new(monitor: Monitor, memory_mib: u32) -> Self {
        Self { state: VmState::New, monitor, memory_mib, warm: false }
    }

    /// A VM in a given state, played by a test over the other end of its control socket.
    #[cfg(test)]
    pub(super) fn scripted(state: VmState) -> std::io::Result<(Self, std::os::unix::net::UnixStream)> {
        let (monitor, peer) = Monitor::scripted()?;
        Ok((Self { state, monitor, memory_mib: 128, warm: false }, peer))
    }

    /// Where it is.
    pub(super) fn state(&self) -> VmState {
        self.state
    }

    /// Its monitor's process id, for logs.
    pub(super) fn pid(&self) -> u32 {
        self.monitor.pid
    }

    /// A task's from here on: before its guest runs, it has no more of the host than the task may.
    pub(super) fn limited(self, task: &TaskVersion) -> Result<Self, CgroupError> {
        task.cpu_permille.map_or(Ok(()), |permille| self.limit_cpu(permille))?;
        Ok(self)
    }

    /// Limits it to thousandths of one processor's time, where the host can.
    pub(super) fn limit_cpu(&self, permille: u32) -> Result<(), CgroupError> {
        self.monitor.limit_cpu(permille)
    }

    /// Whether its process has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.monitor.is_gone()
    }

    /// Sends a command and enters the state after it.
    pub(super) async fn send(&mut self, command: &Command, fds: &[BorrowedFd<'_>]) -> Result<(), VmError> {
        let next = self.state.command(command)?;
        match self.monitor.link.send(command, fds).await {
            Ok(()) => {
                self.state = next;
                Ok(())
            }
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// The next event, the state after it entered. Safe to drop and call again.
    pub(super) async fn recv(&mut self) -> Result<Event, VmError> {
        match self.monitor.link.recv().await {
            Ok(event) => {
                self.state = self.state.event(&event)?;
                Ok(event)
            }
            Err(error) => Err(self.failed(error).await),
        }
    }

    async fn failed(&mut self, error: LinkError) -> VmError {
        match error {
            LinkError::Closed => {
                let words = self.monitor.last_words().await;
                self.state = VmState::Stopped;
                VmError::Ended(words)
            }
            error => VmError::Link(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use torpor_protocol::monitor::{Packing, StopReason};

    const STATES: [VmState; 11] = [
        VmState::New,
        VmState::Preparing,
        VmState::PreparingToRestore,
        VmState::Prepared,
        VmState::Booting,
        VmState::Restoring,
        VmState::Running,
        VmState::AtDoor,
        VmState::Saving,
        VmState::Parking,
        VmState::Stopped,
    ];

    fn commands() -> Vec<Command> {
        vec![
            Command::Prepare { memory_mib: 64 },
            Command::Boot { extra_cmdline: String::new() },
            Command::Restore { code: true, inbox: None },
            Command::Inbox { frame: vec![] },
            Command::Vsock { bytes: vec![] },
            Command::CodeDisk,
            Command::Save,
            Command::Stop,
            Command::Resume { inbox: vec![], key: None },
            Command::Park { origin: vec![], packing: Packing::None, key: None },
        ]
    }

    fn events() -> Vec<Event> {
        vec![
            Event::Prepared,
            Event::Running { micros: 1 },
            Event::AtDoor,
            Event::Outbox { frame: vec![] },
            Event::VsockOpen,
            Event::Vsock { bytes: vec![] },
            Event::VsockClosed,
            Event::Saved { memory_bytes: 1, micros: 1 },
            Event::Stopped { reason: StopReason::Asked, console: String::new() },
            Event::Parked { changed_bytes: 1, stored_bytes: 1, micros: 1 },
            Event::NotParked { reason: String::new() },
        ]
    }

    #[test]
    fn a_template_is_booted_and_saved() {
        let mut state = VmState::New;
        let [prepare, boot, _, inbox, _, _, save, stop, _, park] = <[Command; 10]>::try_from(commands()).unwrap();
        for (command, event, after) in
            [(prepare, Some(Event::Prepared), VmState::Prepared), (boot, Some(Event::Running { micros: 1 }), VmState::Running)]
        {
            state = state.command(&command).unwrap();
            state = state.event(&event.unwrap()).unwrap();
            assert_eq!(state, after);
        }
        state = state.event(&Event::AtDoor).unwrap().command(&save).unwrap();
        assert_eq!(state, VmState::Saving);
        state = state.event(&Event::Saved { memory_bytes: 1, micros: 1 }).unwrap();
        assert_eq!((state, state.command(&inbox).unwrap()), (VmState::AtDoor, VmState::Running));
        let parking = state.command(&park).unwrap();
        assert_eq!(parking.event(&Event::NotParked { reason: String::new() }).unwrap(), VmState::AtDoor);
        assert!(parking.command(&inbox).is_err(), "answers wait until it is written down");
        assert_eq!(state.command(&stop).unwrap(), VmState::Stopped);
    }

    #[test]
    fn a_restore_need_not_wait_for_the_vm_to_be_made() {
        let restore = Command::Restore { code: false, inbox: Some(vec![]) };
        let state = VmState::Preparing.command(&restore).unwrap();
        assert!(state.event(&Event::Running { micros: 1 }).is_err());
        let state = state.event(&Event::Prepared).unwrap();
        assert_eq!(state.event(&Event::Running { micros: 1 }).unwrap(), VmState::Running);
    }

    #[test]
    fn only_what_is_drawn_is_allowed() {
        let count = |allowed: &dyn Fn(VmState) -> bool| STATES.into_iter().filter(|state| allowed(*state)).count();
        let counts: Vec<usize> = commands().iter().map(|command| count(&|state| state.command(command).is_ok())).collect();
        assert_eq!(counts, [1, 1, 2, 1, 2, 1, 1, 10, 2, 1]);
        let counts: Vec<usize> =
            events().iter().map(|event| count(&|state| state != VmState::Stopped && state.event(event).is_ok())).collect();
        assert_eq!(counts, [2, 2, 1, 1, 4, 4, 4, 1, 10, 1, 1]);
        for state in STATES {
            assert_eq!(state.event(&Event::Stopped { reason: StopReason::Asked, console: String::new() }), Ok(VmState::Stopped));
            assert!(VmState::Stopped.command(&Command::Save).is_err());
        }
    }
}
