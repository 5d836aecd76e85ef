//! How the process of a monitor begins: what it inherited is closed, and it serves the socket that it was started with.

use crate::error::VmmError;
use crate::monitor::{self, Options};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use torpor_protocol::monitor::CONTROL_FD;
use torpor_seccomp::Plan;

/// As `ps` and `top` show it: a program that was executed by descriptor has no name of its own on older kernels.
const NAME: &std::ffi::CStr = c"torpor-vmm";

/// Makes this process ready to be a monitor's, and takes its control socket. To be called once, before anything else was done in it.
pub fn begin() -> Result<UnixStream, VmmError> {
    let _ = nix::sys::prctl::set_name(NAME);
    default_faults().map_err(VmmError::io("signals"))?;
    close_inherited().map_err(VmmError::io("closing inherited descriptors"))?;
    // One heap for both threads: less private memory, and a second heap would read /proc when it shrinks, which the sandbox does not allow.
    // SAFETY: called before any other thread exists; it sets a number in malloc's parameters.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // SAFETY: the daemon starts monitors with the control socket as this descriptor, and nothing else here owns it. Where it is not open or no
    // socket, the first read of it fails and the process ends.
    Ok(unsafe { UnixStream::from_raw_fd(CONTROL_FD) })
}

/// Serves the daemon that started this process. `plan`: the sandbox that it started it in.
pub fn serve(plan: Plan) -> Result<(), VmmError> {
    monitor::run(begin()?, Options { console: false, sandbox: Some(plan) })
}

/// A fault ends the process as what it is: the handlers of Rust's runtime, which look for a full stack, would make system calls that no filter allows.
fn default_faults() -> io::Result<()> {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: puts no handler in place, but takes one away.
        unsafe { signal(fault, SigHandler::SigDfl) }?;
    }
    Ok(())
}

/// Closes whatever the daemon inherited from whoever started it and let through: of descriptors, this process has standard ones and its socket.
fn close_inherited() -> io::Result<()> {
    const FIRST: libc::c_uint = CONTROL_FD.cast_unsigned() + 1;
    // SAFETY: called before this process has opened anything, so nothing in it owns one of these descriptors; no memory is touched.
    match unsafe { libc::close_range(FIRST, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
