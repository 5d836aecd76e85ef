//! The door (docs/door.md): kernel registers, the doorbell page, and the window's boxes.
//!
//! The guest side is hostile: lengths are bounded before anything is copied, and one ring moves one frame.

use crate::error::VmmError;
use crate::memory::GuestMemory;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};
use torpor_protocol::door as layout;
use torpor_protocol::monitor::StopReason;
use vm_memory::{Bytes, GuestAddress};

/// What a touch of the door asks of the vCPU thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing.
    Done,
    /// Stand still until the inbox has a message.
    Wait,
    /// Pass this frame on.
    Outbox(Vec<u8>),
    /// The machine ends.
    Stop(StopReason),
}

/// The door's state. What is in the boxes is guest memory and saved with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Door {
    generation: u64,
    inbox_seq: u64,
}

fn fault(why: impl Into<String>) -> StopReason {
    StopReason::GuestFault { device: "the door".into(), why: why.into() }
}

fn fill(data: &mut [u8], value: u64, offset: u64) {
    let bytes = value.to_le_bytes();
    let from = usize::try_from(offset).unwrap_or(8);
    for (i, out) in data.iter_mut().enumerate() {
        *out = bytes.get(from + i).copied().unwrap_or(0);
    }
}

impl Door {
    /// A new life of this machine: counts the generation up and puts a fresh seed in the kernel page. Before the vCPU runs.
    pub fn open(&mut self, memory: &GuestMemory) -> Result<(), VmmError> {
        self.generation = self.generation.wrapping_add(1).max(1);
        let seed = crate::entropy::bytes::<{ layout::SEED_LEN }>()?;
        let failed = VmmError::guest_memory;
        let at = |offset| GuestAddress(memory.window() + offset);
        memory.mem.write_slice(&seed, at(layout::KPAGE_SEED)).map_err(failed("seed"))?;
        memory.mem.write_obj(self.generation, at(layout::KPAGE_GENERATION)).map_err(failed("generation"))
    }

    /// Puts a frame in the inbox.
    pub fn deliver(&mut self, memory: &GuestMemory, frame: &[u8]) -> Result<(), VmmError> {
        let len = frame.len() as u64;
        if len > layout::BOX_SIZE {
            return Err(VmmError::Command("a frame is larger than the inbox"));
        }
        let failed = VmmError::guest_memory;
        let at = |offset| GuestAddress(memory.window() + layout::USER + offset);
        memory.mem.write_slice(frame, at(layout::INBOX)).map_err(failed("inbox"))?;
        memory.mem.write_obj(len, at(layout::INBOX_LEN)).map_err(failed("inbox"))?;
        self.inbox_seq = self.inbox_seq.wrapping_add(1);
        memory.mem.write_obj(self.inbox_seq, at(layout::INBOX_SEQ)).map_err(failed("inbox"))
    }

    /// A read of either page, `offset` from the kernel registers' base.
    pub fn read(&self, memory: &GuestMemory, offset: u64, data: &mut [u8]) -> Touch {
        if offset >= layout::PAGE {
            data.fill(0);
            return if offset - layout::PAGE == layout::BELL_WAIT { Touch::Wait } else { Touch::Done };
        }
        let (register, value) = match offset & !7 {
            layout::REG_MAGIC => (layout::REG_MAGIC, u64::from(layout::MAGIC) | (u64::from(layout::VERSION) << 32)),
            layout::REG_WINDOW_BASE => (layout::REG_WINDOW_BASE, memory.window()),
            layout::REG_WINDOW_SIZE => (layout::REG_WINDOW_SIZE, layout::WINDOW_SIZE),
            layout::REG_WALLCLOCK => (layout::REG_WALLCLOCK, now()),
            other => (other, 0),
        };
        fill(data, value, offset - register);
        Touch::Done
    }

    /// A write to either page.
    pub fn write(&self, memory: &GuestMemory, offset: u64, data: &[u8]) -> Result<Touch, StopReason> {
        if offset >= layout::PAGE {
            return if offset - layout::PAGE == layout::BELL_OUTBOX { self.take(memory) } else { Ok(Touch::Done) };
        }
        if offset != layout::REG_STOP {
            return Ok(Touch::Done);
        }
        match data.first().copied().map(u32::from) {
            Some(layout::STOP_POWER_OFF) => Ok(Touch::Stop(StopReason::PowerOff)),
            Some(layout::STOP_PANIC) => Ok(Touch::Stop(StopReason::Panic)),
            other => Err(fault(format!("unknown value {other:?} in the stop register"))),
        }
    }

    fn take(&self, memory: &GuestMemory) -> Result<Touch, StopReason> {
        let at = |offset| GuestAddress(memory.window() + layout::USER + offset);
        let unreadable = |e| fault(format!("the outbox can't be read: {e}"));
        let len: u64 = memory.mem.read_obj(at(layout::OUTBOX_LEN)).map_err(unreadable)?;
        let len = usize::try_from(len).ok().filter(|len| *len as u64 <= layout::BOX_SIZE);
        let len = len.ok_or_else(|| fault("an outbox longer than the box"))?;
        let mut frame = vec![0; len];
        memory.mem.read_slice(&mut frame, at(layout::OUTBOX)).map_err(unreadable)?;
        Ok(Touch::Outbox(frame))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn boxes_are_bounded_and_carry_whole_frames() {
        let memory = GuestMemory::with_ram(2 << 20).unwrap();
        let mut door = Door::default();
        door.open(&memory).unwrap();
        door.deliver(&memory, b"hello").unwrap();
        let at = |offset| GuestAddress(memory.window() + layout::USER + offset);
        assert_eq!(memory.mem.read_obj::<u64>(at(layout::INBOX_SEQ)).unwrap(), 1);
        assert_eq!(memory.mem.read_obj::<u64>(at(layout::INBOX_LEN)).unwrap(), 5);

        let ring = |door: &Door| door.write(&memory, layout::PAGE + layout::BELL_OUTBOX, &[1]);
        memory.mem.write_slice(b"answer", at(layout::OUTBOX)).unwrap();
        memory.mem.write_obj(6u64, at(layout::OUTBOX_LEN)).unwrap();
        assert_eq!(ring(&door).unwrap(), Touch::Outbox(b"answer".to_vec()));
        for bad in [layout::BOX_SIZE + 1, u64::MAX] {
            memory.mem.write_obj(bad, at(layout::OUTBOX_LEN)).unwrap();
            ring(&door).unwrap_err();
        }
        assert!(door.deliver(&memory, &vec![0; usize::try_from(layout::BOX_SIZE).unwrap() + 1]).is_err());
    }

    #[test]
    fn registers_answer_at_any_width() {
        let memory = GuestMemory::with_ram(2 << 20).unwrap();
        let door = Door::default();
        let read = |offset, width: usize| {
            let mut data = vec![0xee; width];
            assert_eq!(door.read(&memory, offset, &mut data), Touch::Done);
            data
        };
        assert_eq!(read(layout::REG_MAGIC, 4), b"DOOR");
        assert_eq!(read(layout::REG_VERSION, 4), [1, 0, 0, 0]);
        assert_eq!(read(layout::REG_WINDOW_BASE, 8), memory.window().to_le_bytes());
        assert_eq!(read(0xff8, 8), [0; 8]);
        assert_eq!(door.read(&memory, layout::PAGE + layout::BELL_WAIT, &mut [0]), Touch::Wait);
        assert_eq!(door.write(&memory, layout::REG_STOP, &[2, 0, 0, 0]).unwrap(), Touch::Stop(StopReason::Panic));
        door.write(&memory, layout::REG_STOP, &[]).unwrap_err();
    }
}
