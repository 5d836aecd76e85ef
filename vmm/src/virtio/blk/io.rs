//! Reading a file straight into guest memory.

use crate::virtio::{Broken, Mem};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use crate::virtio::chain::Span;

/// Fills the spans from the file at `offset`; what is beyond the end of the file, or without a file everything, becomes zeros.
/// The outer error is the guest's fault, the inner one the host's.
pub(super) fn fill(mem: &Mem, file: Option<&File>, offset: u64, spans: impl Iterator<Item = Span>) -> Result<io::Result<()>, Broken> {
    let mut slices: Vec<VolatileSlice<'_, ()>> = Vec::new();
    for span in spans {
        for slice in mem.get_slices(span.addr, span.len as usize, Permissions::Write)? {
            slices.push(slice?);
        }
    }
    let mut todo = slices.as_mut_slice();
    if let Some(file) = file {
        let mut offset = offset;
        while !todo.is_empty() {
            match read(file, offset, todo) {
                Ok(0) => break,
                Ok(count) => {
                    offset += count as u64;
                    todo = advance(todo, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Err(error)),
            }
        }
    }
    todo.iter().for_each(zero);
    Ok(Ok(()))
}

/// One `preadv`: the file's own position is shared with other processes and never used.
fn read(file: &File, offset: u64, slices: &[VolatileSlice<'_, ()>]) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> =
        guards.iter().map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() }).collect();
    let count = libc::c_int::try_from(vectors.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: `vectors` holds `count` entries and lives through the call. Each names bytes of a `VolatileSlice`, which its guard keeps mapped
    // and writable; they are guest memory, which no Rust reference points to, so the kernel may write them at any time.
    let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// What is left of the slices after their first `count` bytes.
fn advance<'s, 'm>(slices: &'s mut [VolatileSlice<'m, ()>], count: usize) -> &'s mut [VolatileSlice<'m, ()>] {
    let mut rest = count;
    let mut whole = 0;
    for slice in slices.iter_mut() {
        if rest < slice.len() {
            if let Ok(tail) = slice.offset(rest) {
                *slice = tail;
            }
            break;
        }
        rest -= slice.len();
        whole += 1;
    }
    &mut slices[whole..]
}

fn zero(slice: &VolatileSlice<'_, ()>) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut at = 0;
    while let Ok(tail) = slice.offset(at)
        && !tail.is_empty()
    {
        let step = tail.len().min(ZEROS.len());
        tail.copy_from(&ZEROS[..step]);
        at += step;
    }
}
