//! A read-only disk: virtio-blk over a file, or over nothing (zeros) until a file is put in.
//!
//! The capacity is fixed when the device is made, and goes with it into snapshots; a file that is shorter is followed by zeros, of a longer one the rest can't be reached.
//! Each kick works off what is in the queue, in the caller's thread: `preadv` from the file into the guest's buffers.
//!
//! Invariant: a request that has room for a status gets one, whatever else is wrong with its contents; a chain that breaks the rules of queues
//! drops the guest. One kick does at most one queue of requests, each of at most [`SEG_MAX`] times [`SIZE_MAX`] bytes.

use super::chain::{self, Chain};
use super::ring::wants_interrupt;
use super::{Broken, Device, Mem, RestoreError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_queue::{Queue, QueueT};

mod io;
#[cfg(test)]
mod tests;

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// Buffers in one request, header and status apart.
pub const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes in one of a request's buffers.
pub const SIZE_MAX: u32 = 64 << 10;

const QUEUE_SIZE: u16 = 64;
const HEADER_LEN: u32 = 16;
/// What `pread` can reach.
const MAX_SECTORS: u64 = i64::MAX as u64 / SECTOR;
const NAME: &str = "virtio-blk";

/// What a snapshot keeps of a disk. Its contents are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkState {
    sectors: u64,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

/// A read-only disk.
#[derive(Debug)]
pub struct Blk {
    backing: Option<File>,
    sectors: u64,
    id: [u8; VIRTIO_BLK_ID_BYTES as usize],
}

impl Blk {
    /// A disk of `capacity` bytes; a last part of a sector is left out. The guest reads the first 20 bytes of `id` as its serial number.
    #[must_use]
    pub fn new(capacity: u64, id: &str, backing: Option<File>) -> Self {
        let mut bytes = [0; VIRTIO_BLK_ID_BYTES as usize];
        bytes.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Self { backing, sectors: (capacity / SECTOR).min(MAX_SECTORS), id: bytes }
    }

    /// Changes what the disk reads from. The guest is not told: it is up to the caller that it has not read, or reads again.
    pub fn set_backing(&mut self, backing: Option<File>) {
        self.backing = backing;
    }

    /// Bytes on the disk.
    pub fn capacity(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }

    /// Answers one request; the number of bytes written to its buffers.
    fn serve(&self, chain: &Chain, mem: &Mem) -> Result<u32, Broken> {
        let data = chain.writable_len().checked_sub(1).ok_or(Broken::NoStatus)?;
        let (status, written) = self.answer(chain, data, mem)?;
        let [status, ..] = status.to_le_bytes();
        chain.write(mem, data, &[status])?;
        Ok(written + 1)
    }

    /// Status and bytes of data; `data` is how much room there is before the status.
    fn answer(&self, chain: &Chain, data: u32, mem: &Mem) -> Result<(u32, u32), Broken> {
        const REFUSED: (u32, u32) = (VIRTIO_BLK_S_IOERR, 0);
        if chain.readable_len() < HEADER_LEN {
            return Ok(REFUSED);
        }
        let mut header = [0; HEADER_LEN as usize];
        chain.read(mem, 0, &mut header)?;
        let [a, b, c, d, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([a, b, c, d]) {
            VIRTIO_BLK_T_IN => {
                let bytes = u64::from(data);
                let fits = sector.checked_add(bytes / SECTOR).is_some_and(|end| end <= self.sectors);
                if !fits || bytes % SECTOR != 0 || data > SEG_MAX * SIZE_MAX {
                    return Ok(REFUSED);
                }
                match io::fill(mem, self.backing.as_ref(), sector * SECTOR, chain.writable(0, data))? {
                    Ok(()) => Ok((VIRTIO_BLK_S_OK, data)),
                    Err(_) => Ok(REFUSED),
                }
            }
            VIRTIO_BLK_T_GET_ID => match chain.write(mem, 0, &self.id[..self.id.len().min(data as usize)]) {
                Ok(()) => Ok((VIRTIO_BLK_S_OK, data.min(VIRTIO_BLK_ID_BYTES))),
                Err(why) => Err(why),
            },
            VIRTIO_BLK_T_FLUSH => Ok((VIRTIO_BLK_S_OK, 0)),
            VIRTIO_BLK_T_OUT => Ok(REFUSED),
            _ => Ok((VIRTIO_BLK_S_UNSUPP, 0)),
        }
    }

    fn config(&self) -> [u8; 16] {
        let mut config = [0; 16];
        config[..8].copy_from_slice(&self.sectors.to_le_bytes());
        config[8..12].copy_from_slice(&SIZE_MAX.to_le_bytes());
        config[12..].copy_from_slice(&SEG_MAX.to_le_bytes());
        config
    }
}

impl Device for Blk {
    type State = BlkState;

    fn name(&self) -> &'static str {
        NAME
    }

    fn kind(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_BLK_F_RO | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_SIZE_MAX
    }

    fn queue_max_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_bytes(&self.config(), offset, data);
    }

    fn activated(&mut self, _driver_features: u64) {}

    fn reset(&mut self) {}

    fn notify(&mut self, _queue: usize, queues: &mut [Queue], mem: &Mem) -> Result<bool, Broken> {
        let [queue] = queues else { return Ok(false) };
        let mut served = false;
        for _ in 0..queue.size() {
            let Some(chain) = chain::pop(queue, mem)? else { break };
            let written = self.serve(&chain, mem)?;
            queue.add_used(mem, chain.head(), written)?;
            served = true;
        }
        // The vCPU stands still during a kick, so nothing comes in between the last look and this.
        queue.enable_notification(mem)?;
        Ok(served && wants_interrupt(queue, mem)?)
    }

    fn save(&self) -> BlkState {
        BlkState { sectors: self.sectors, id: self.id }
    }

    fn restore(&mut self, state: BlkState) -> Result<(), RestoreError> {
        // The guest counts on the size that it saw. Any is safe: what the backing does not have is zeros.
        if state.sectors > MAX_SECTORS {
            return Err(RestoreError::Impossible { device: NAME, what: "the disk's size" });
        }
        self.sectors = state.sectors;
        self.id = state.id;
        Ok(())
    }
}
