//! The guest's side of the door (docs/door.md): the shared window and the doorbell page.
//!
//! Owns the two mappings of `/dev/door`. Whoever holds a [`Door`] is the only one at the door: the monitor writes the inbox only while
//! [`Door::wait`] stands still, and reads the outbox only inside [`Door::ring`]. So between calls both boxes are plain memory of ours, and no call of
//! the kernel is needed to talk.

use crate::error::AgentError;
use nix::fcntl::{OFlag, open};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap};
use nix::sys::stat::Mode;
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use torpor_protocol::agent::{GuestMessage, HostMessage, Start, Stream};
use torpor_protocol::door as layout;
use torpor_protocol::frame::{Frame, FrameError, HEADER_LEN};
use torpor_protocol::limits::{MAX_INPUT, MAX_LOG_CHUNK};

/// The device that the guest kernel's driver makes.
pub(crate) const DEVICE: &str = "/dev/door";
/// Bytes of a frame before the payload of a `Log` or a `Result`: the header and one tag.
pub(crate) const PREFIX_LEN: usize = HEADER_LEN + 1;

const WINDOW_LEN: usize = at(layout::WINDOW_SIZE - layout::USER);
const PAGE: usize = at(layout::PAGE);
const INBOX: usize = at(layout::INBOX);
const OUTBOX: usize = at(layout::OUTBOX);
const BOX_SIZE: usize = at(layout::BOX_SIZE);

/// A window offset as an index: the guest is a 64-bit machine.
#[allow(clippy::cast_possible_truncation)]
const fn at(offset: u64) -> usize {
    offset as usize
}

/// For messages about what comes in the wrong place.
pub(crate) const fn name(message: &HostMessage) -> &'static str {
    match message {
        HostMessage::Load(_) => "Load",
        HostMessage::Start { .. } => "Start",
        HostMessage::Taken(_) => "Taken",
        HostMessage::Answers { .. } => "Answers",
        HostMessage::Aux(_) => "Aux",
    }
}

/// The first bytes of a frame whose payload is written behind them in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix([u8; PREFIX_LEN]);

impl Prefix {
    /// From a message with an empty payload.
    fn of(message: &GuestMessage) -> Result<Self, AgentError> {
        let bytes = message.to_frame()?.encode()?;
        let found = bytes.first_chunk().copied().ok_or(AgentError::DoorSize(0))?;
        Ok(Self(found))
    }

    /// Of a `Log`.
    pub(crate) fn log(stream: Stream) -> Result<Self, AgentError> {
        Self::of(&GuestMessage::Log { stream, bytes: Vec::new() })
    }

    /// Of a `Result`; `drain`: a `Drained` follows.
    pub(crate) fn result(drain: bool) -> Result<Self, AgentError> {
        Self::of(&GuestMessage::Result { drain, json: Vec::new() })
    }

    fn with_len(self, payload: usize) -> [u8; PREFIX_LEN] {
        let mut bytes = self.0;
        let body = u32::try_from(payload + PREFIX_LEN - HEADER_LEN).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&body.to_le_bytes());
        bytes
    }
}

/// `/dev/door`, mapped.
#[derive(Debug)]
pub(crate) struct Door {
    device: OwnedFd,
    window: NonNull<u8>,
    bell: NonNull<u8>,
    seen: u64,
}

impl Door {
    /// Opens and maps the device.
    pub(crate) fn open(path: &str) -> Result<Self, AgentError> {
        let device =
            open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| AgentError::io("open", path, errno.into()))?;
        Self::map(device)
    }

    /// Maps an open device, or a file of the same shape.
    pub(crate) fn map(device: OwnedFd) -> Result<Self, AgentError> {
        let window = map(device.as_fd(), WINDOW_LEN, 0)?;
        let bell = map(device.as_fd(), PAGE, layout::MMAP_DOORBELL)?;
        let mut door = Self { device, window, bell, seen: 0 };
        door.seen = door.sequence();
        Ok(door)
    }

    /// For handing it to the language host.
    pub(crate) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn word(&self, offset: u64) -> &AtomicU64 {
        // SAFETY: `offset` is one of the fields at the start of the window (all below its first page's end), so it lies in the mapping.
        let field = unsafe { self.window.add(at(offset)) };
        // SAFETY: the field is 8-byte aligned (page-aligned mapping, offsets that are multiples of 8), mapped as long as `self` lives, and every
        // access that we make to it is atomic.
        unsafe { AtomicU64::from_ptr(field.cast().as_ptr()) }
    }

    /// How many messages have been in the inbox.
    pub(crate) fn sequence(&self) -> u64 {
        self.word(layout::INBOX_SEQ).load(Ordering::Acquire)
    }

    /// Stands at the door until a message is in the inbox. The whole guest stands still meanwhile.
    pub(crate) fn wait(&mut self) {
        while self.sequence() == self.seen {
            // SAFETY: `BELL_WAIT` lies in the doorbell page.
            let register = unsafe { self.bell.add(at(layout::BELL_WAIT)) };
            // SAFETY: mapped and readable as long as `self` lives; a read of it has no effect on our memory.
            let _ = unsafe { register.read_volatile() };
        }
        self.seen = self.sequence();
    }

    /// What came so far was for somebody else.
    pub(crate) fn take_over(&mut self) {
        self.seen = self.sequence();
    }

    /// The inbox, as far as it is filled.
    pub(crate) fn inbox(&self) -> Result<&[u8], AgentError> {
        let len = self.word(layout::INBOX_LEN).load(Ordering::Acquire);
        let bytes = usize::try_from(len).ok().filter(|len| *len <= BOX_SIZE).ok_or(AgentError::DoorSize(len))?;
        // SAFETY: `INBOX` lies in the window.
        let start = unsafe { self.window.add(INBOX) };
        // SAFETY: `bytes <= BOX_SIZE`, so the slice lies in the mapping; the monitor writes there only inside `wait`, which needs `&mut self`.
        Ok(unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) })
    }

    /// The message in the inbox.
    pub(crate) fn message(&self) -> Result<HostMessage, AgentError> {
        Ok(HostMessage::from_frame(Frame::decode_exact(self.inbox()?)?)?)
    }

    /// The `Start` in the inbox, and where in the inbox its input is: a copy of it would cost the kernel a page fault for each of its pages.
    pub(crate) fn start(&self) -> Result<(Start, Range<usize>), AgentError> {
        let inbox = self.inbox()?;
        let cut_off = || FrameError::Length { have: inbox.len(), want: HEADER_LEN + size_of::<u32>() };
        let (header, body) = inbox.split_first_chunk::<HEADER_LEN>().ok_or_else(cut_off)?;
        let (head_len, _) = body.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let announced = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let head_end = (u32::from_le_bytes(*head_len) as usize).saturating_add(size_of::<u32>());
        let (head, input) = body.split_at_checked(head_end).ok_or_else(cut_off)?;
        if announced != body.len() || input.len() > MAX_INPUT {
            return Err(FrameError::Length { have: inbox.len(), want: HEADER_LEN + announced }.into());
        }
        match HostMessage::from_frame(Frame { kind: header[4], body: head.to_vec() })? {
            HostMessage::Start { start, .. } => Ok((start, inbox.len() - input.len()..inbox.len())),
            other => Err(AgentError::Order { got: name(&other), want: "Start" }),
        }
    }

    /// The outbox as memory.
    pub(crate) fn outbox(&mut self) -> &mut [u8] {
        // SAFETY: `OUTBOX` lies in the window.
        let start = unsafe { self.window.add(OUTBOX) };
        // SAFETY: `OUTBOX + BOX_SIZE` lies in the mapping; the monitor reads there only inside `ring`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), BOX_SIZE) }
    }

    /// Gives the frame in the first `len` bytes of the outbox to the monitor.
    fn ring(&mut self, len: usize) {
        self.word(layout::OUTBOX_LEN).store(len as u64, Ordering::Release);
        // SAFETY: `BELL_OUTBOX` lies in the doorbell page.
        let register = unsafe { self.bell.add(at(layout::BELL_OUTBOX)) };
        // SAFETY: mapped and writable as long as `self` lives; the monitor reads the outbox and touches no other memory of ours.
        unsafe { register.write_volatile(1) };
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &GuestMessage) -> Result<(), AgentError> {
        let bytes = message.to_frame()?.encode()?;
        let too_long = AgentError::DoorSize(bytes.len() as u64);
        self.outbox().get_mut(..bytes.len()).ok_or(too_long)?.copy_from_slice(&bytes);
        self.ring(bytes.len());
        Ok(())
    }

    /// Where the payload of a `Log` is put before [`Door::send_in_place`].
    pub(crate) fn log_payload(&mut self) -> &mut [u8] {
        &mut self.outbox()[PREFIX_LEN..PREFIX_LEN + MAX_LOG_CHUNK]
    }

    /// Sends a message whose payload of `len` bytes is already in the outbox, [`PREFIX_LEN`] bytes after its start.
    pub(crate) fn send_in_place(&mut self, prefix: Prefix, len: usize) {
        self.outbox()[..PREFIX_LEN].copy_from_slice(&prefix.with_len(len));
        self.ring(PREFIX_LEN + len);
    }

    /// Tells the language host that raw output is about to be taken out of the pipes, or was.
    pub(crate) fn count_raw_output(&self, bytes: u64) {
        self.word(layout::RAW_OUTPUT).fetch_add(bytes, Ordering::AcqRel);
    }

    /// Sets the guest's wall clock.
    pub(crate) fn sync_clock(&self) -> Result<(), AgentError> {
        // SAFETY: `DOOR_SYNC` takes no argument and touches no memory of ours.
        let answer = unsafe { libc::ioctl(self.device.as_raw_fd(), layout::IOCTL_SYNC.into()) };
        nix::errno::Errno::result(answer).map(drop).map_err(AgentError::sys("set the clock at the door"))
    }
}

fn map(device: BorrowedFd<'_>, len: usize, offset: u64) -> Result<NonNull<u8>, AgentError> {
    let sys = |what| AgentError::sys(what);
    let len = NonZeroUsize::new(len).ok_or(AgentError::DoorSize(0))?;
    let offset = i64::try_from(offset).map_err(|_| AgentError::DoorSize(offset))?;
    // SAFETY: a new mapping at an address that the kernel chooses; nothing of ours is replaced.
    let start: NonNull<c_void> =
        unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, device, offset) }
            .map_err(sys("map the door"))?;
    // SAFETY: the range is the mapping just made; a child that is forked has no use for it.
    unsafe { madvise(start, len.get(), MmapAdvise::MADV_DONTFORK) }.map_err(sys("keep the door from children"))?;
    Ok(start.cast())
}

#[cfg(test)]
#[path = "door/tests.rs"]
pub(crate) mod tests;
