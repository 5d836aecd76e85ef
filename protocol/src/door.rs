//! Layout of the door (docs/door.md): guest physical addresses, registers and window offsets.

/// Kernel registers of the door, one page of MMIO.
pub const KERNEL_REGS: u64 = 0xd001_0000;
/// Doorbell page, one page of MMIO that user mode may touch.
pub const DOORBELL: u64 = 0xd001_1000;
/// Size of each of the two MMIO pages.
pub const PAGE: u64 = 0x1000;
/// "DOOR", read at [`REG_MAGIC`].
pub const MAGIC: u32 = 0x524f_4f44;
/// Version of this layout, read at [`REG_VERSION`].
pub const VERSION: u32 = 1;

/// u32, read: [`MAGIC`].
pub const REG_MAGIC: u64 = 0x00;
/// u32, read: [`VERSION`].
pub const REG_VERSION: u64 = 0x04;
/// u64, read: guest physical address of the window.
pub const REG_WINDOW_BASE: u64 = 0x08;
/// u64, read: size of the window.
pub const REG_WINDOW_SIZE: u64 = 0x10;
/// u64, read: CLOCK_REALTIME of the host, in ns.
pub const REG_WALLCLOCK: u64 = 0x18;
/// u32, write: one of the `STOP_` values.
pub const REG_STOP: u64 = 0x80;
/// [`REG_STOP`]: the guest powered off.
pub const STOP_POWER_OFF: u32 = 1;
/// [`REG_STOP`]: the guest's kernel panicked.
pub const STOP_PANIC: u32 = 2;

/// Doorbell page, u8, write: the outbox holds one frame.
pub const BELL_OUTBOX: u64 = 0x00;
/// Doorbell page, u8, read: wait until the inbox has a new message.
pub const BELL_WAIT: u64 = 0x08;

/// Size of the window, kernel page included.
pub const WINDOW_SIZE: u64 = 16 << 20;
/// Kernel page: u64 generation.
pub const KPAGE_GENERATION: u64 = 0x00;
/// Kernel page: seed of this generation.
pub const KPAGE_SEED: u64 = 0x08;
/// Bytes of [`KPAGE_SEED`].
pub const SEED_LEN: usize = 32;
/// Offset of the user part in the window.
pub const USER: u64 = 0x1000;

/// User part: u64, counts the messages put in the inbox.
pub const INBOX_SEQ: u64 = 0x00;
/// User part: u64, bytes in the inbox.
pub const INBOX_LEN: u64 = 0x08;
/// User part: u64, bytes in the outbox.
pub const OUTBOX_LEN: u64 = 0x10;
/// User part: u64, bytes of raw program output that the agent has seen.
pub const RAW_OUTPUT: u64 = 0x18;
/// User part: the inbox.
pub const INBOX: u64 = 0x1000;
/// User part: the outbox.
pub const OUTBOX: u64 = 0x70_1000;
/// Size of the inbox, and of the outbox.
pub const BOX_SIZE: u64 = 7 << 20;

/// `mmap` offset of the doorbell page in `/dev/door`.
pub const MMAP_DOORBELL: u64 = 0x1000_0000;
/// `ioctl` of `/dev/door`: set the guest's wall clock from the monitor's.
pub const IOCTL_SYNC: u32 = 0x4401;

const _: () = assert!(USER + OUTBOX + BOX_SIZE <= WINDOW_SIZE);
const _: () = assert!(INBOX + BOX_SIZE <= OUTBOX);
const _: () =
    assert!((crate::frame::HEADER_LEN + crate::limits::MAX_FRAME_BODY) as u64 <= BOX_SIZE, "a frame of the largest size fits a box");
