//! The other end of a control socket, without async: for running a VM by hand, for tests and for benches. The daemon has its own.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use torpor_protocol::monitor::{CONTROL_FD, Command, ControlError, Event, body_len, decode, encode};

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client(UnixStream);

fn invalid(error: ControlError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Client {
    /// Over a connected socket.
    #[must_use]
    pub const fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    /// Starts `torpor-vmm monitor` and connects to it.
    pub fn spawn(monitor: &Path) -> io::Result<(Self, Child)> {
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = theirs.into_raw_fd();
        let mut command = std::process::Command::new(monitor);
        command.arg("monitor").stdin(Stdio::null());
        // SAFETY: between fork and exec the child calls only dup2 and fcntl, which are async-signal-safe, on descriptors that it has.
        #[expect(clippy::multiple_unsafe_ops_per_block, reason = "one argument covers the closure and its calls")]
        unsafe {
            command.pre_exec(move || {
                let done = if theirs == CONTROL_FD { libc::fcntl(CONTROL_FD, libc::F_SETFD, 0) } else { libc::dup2(theirs, CONTROL_FD) };
                if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        let child = command.spawn();
        // SAFETY: `into_raw_fd` gave this descriptor up to us, and it is closed once.
        unsafe { libc::close(theirs) };
        Ok((Self(ours), child?))
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
