//! The other end of a control socket, without async: for running a VM by hand, for tests and for benches. The daemon has its own.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use torpor_protocol::monitor::{Command, ControlError, Event, body_len, decode, encode};
use torpor_seccomp::LaunchError;
use torpor_seccomp::cgroup::Cgroups;
use torpor_seccomp::host::may_use_ids;
use torpor_seccomp::launch::{Confined, Launcher, MONITOR, Start};
use torpor_seccomp::uids::{LOCK, Range, Uids};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client(UnixStream);

/// User ids for monitors, where this process may give them some.
pub fn ids() -> Result<Option<Arc<Uids>>, LaunchError> {
    may_use_ids(Range::DEFAULT).then(|| Uids::open(Range::DEFAULT, Path::new(LOCK))).transpose()
}

fn invalid(error: ControlError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Client {
    /// Over a connected socket.
    #[must_use]
    pub const fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// Starts `torpor-vmm monitor` in a sandbox of its own, without limits, and connects to it. It is killed when the calling thread ends.
    pub fn spawn(monitor: &Path) -> Result<(Self, Confined), LaunchError> {
        let launcher = Launcher::open(monitor, ids()?, Cgroups::none())?;
        Self::start(&launcher, &MONITOR)
    }

    /// Starts a monitor with these arguments and connects to it.
    pub fn start(launcher: &Launcher, arguments: &[&str]) -> Result<(Self, Confined), LaunchError> {
        let failed = |source| LaunchError::Step { step: "its control socket", source };
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let stderr = io::stderr();
        let start = Start { control: theirs.as_fd(), stderr: stderr.as_fd(), arguments, memory: None };
        Ok((Self(ours), launcher.start(&start)?))
    }

    /// Sends a command with its descriptors.
    pub fn send(&self, command: &Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(command).map_err(invalid)?;
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::empty(), None)?;
        (&self.0).write_all(bytes.get(sent..).unwrap_or(&[]))
    }

    /// Waits for the next event.
    pub fn receive(&self) -> io::Result<Event> {
        let mut prefix = [0; 4];
        (&self.0).read_exact(&mut prefix)?;
        let mut body = vec![0; body_len(prefix).map_err(invalid)?];
        (&self.0).read_exact(&mut body)?;
        decode(&body).map_err(invalid)
    }

    /// A bound for [`Self::receive`], and for [`Self::send`] where the monitor does not read.
    pub fn set_timeout(&self, timeout: std::time::Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(timeout))?;
        self.0.set_write_timeout(Some(timeout))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
