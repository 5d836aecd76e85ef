//! A file read by position, straight into guest memory: monitors that boot at the same time share one open file, and so its offset, which is not used.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice};

/// A file with an offset of its own. It has its size from the beginning: what is added later is not read.
pub(super) struct ByPosition<'a> {
    file: &'a File,
    size: u64,
    at: u64,
}

impl<'a> ByPosition<'a> {
    pub(super) const fn new(file: &'a File, size: u64) -> Self {
        Self { file, size, at: 0 }
    }

    fn left(&self, wanted: usize) -> usize {
        usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX).min(wanted)
    }
}

impl Read for ByPosition<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let left = self.left(out.len());
        let count = self.file.read_at(&mut out[..left], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ByPosition<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl ReadVolatile for ByPosition<'_> {
    fn read_volatile<B: BitmapSlice>(&mut self, out: &mut VolatileSlice<'_, B>) -> Result<usize, VolatileMemoryError> {
        let count = self.left(out.len());
        let failed = |_| VolatileMemoryError::IOError(io::ErrorKind::InvalidInput.into());
        let at = libc::off_t::try_from(self.at).map_err(failed)?;
        let into = out.ptr_guard_mut();
        // SAFETY: `into` is memory of at least `count` bytes that may be written, as whoever made the slice had to see to; the guard keeps it. The file is open.
        let count = unsafe { libc::pread(self.file.as_raw_fd(), into.as_ptr().cast(), count, at) };
        let count = usize::try_from(count).map_err(|_| VolatileMemoryError::IOError(io::Error::last_os_error()))?;
        out.bitmap().mark_dirty(0, count);
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn it_reads_what_a_file_reads_and_leaves_the_offset_alone() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut read = ByPosition::new(&file, 8);
        assert_eq!(read.seek(SeekFrom::End(-3)).unwrap(), 5);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        assert_eq!(text, "567");
        read.seek(SeekFrom::Start(2)).unwrap();
        let mut bytes = [0; 8];
        let count = read.read_volatile(&mut VolatileSlice::from(&mut bytes[..])).unwrap();
        assert_eq!((count, &bytes[..6], read.stream_position().unwrap()), (6, &b"234567"[..], 8));
        assert_eq!(read.read_volatile(&mut VolatileSlice::from(&mut bytes[..])).unwrap(), 0);
        read.seek(SeekFrom::Start(u64::MAX)).unwrap();
        assert!(read.read_volatile(&mut VolatileSlice::from(&mut bytes[..])).is_err());
        assert!(read.seek(SeekFrom::Current(-1)).is_ok() && read.seek(SeekFrom::End(-9)).is_err());
        assert_eq!((&file).stream_position().unwrap(), 10);
    }
}
