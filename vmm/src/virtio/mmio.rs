//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2.2): registers, negotiation, queue set-up, interrupt status.
//!
//! ```text
//! status:  0 --ACKNOWLEDGE, DRIVER--> FEATURES_OK --(queues set up)--> DRIVER_OK --> kicks are worked off
//!          ^---------------------- 0 written: reset, from anywhere ----------------------|
//! ```
//!
//! Bits of the status are only added, in this order; anything else drops the guest. FEATURES_OK sticks only when the driver took
//! VERSION_1 and nothing that was not offered. Queues become ready only between FEATURES_OK and DRIVER_OK, checked by `ring`.
//!
//! Interrupts are edges. One is raised when the status register's bit goes from 0 to 1: while it is 1, the driver has not yet acknowledged
//! the last one, and looks at its queues after it has. A snapshot may be taken between the two, so [`MmioTransport::needs_interrupt`] is to be asked
//! after a restore.

use super::ring::Setup;
use super::{Broken, Device, GuestFault, Mem, QueueState, RestoreError};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};

#[cfg(test)]
mod tests;

/// Bytes of guest physical address space that a device takes.
pub const MMIO_LEN: u64 = 0x1000;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const VENDOR: u32 = 0x5052_5254;
const TRANSPORT_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;
const CONFIG: u64 = 0x100;

/// What a snapshot keeps of a device and its transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MmioState<S> {
    kind: u32,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    queues: Vec<QueueState>,
    device: S,
}

/// A device behind its registers.
#[derive(Debug)]
pub struct MmioTransport<D> {
    device: D,
    status: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    interrupt_status: u32,
    setups: Vec<Setup>,
    queues: Vec<Queue>,
}

impl<D: Device> MmioTransport<D> {
    /// The device as it is after power-on.
    pub fn new(device: D) -> Self {
        let queues: Vec<Queue> = device.queue_max_sizes().iter().filter_map(|max| Queue::new(*max).ok()).collect();
        debug_assert_eq!(queues.len(), device.queue_max_sizes().len(), "queue sizes of a device are powers of two");
        Self {
            status: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            interrupt_status: 0,
            setups: vec![Setup::default(); queues.len()],
            queues,
            device,
        }
    }

    /// The device itself.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device itself. What it may then want to tell the guest goes out by [`Self::drive`].
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The guest reads `data.len()` bytes at `offset` of the device's page.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            self.device.read_config(offset, data);
        } else if let (Ok(data), Ok(offset)) = (<&mut [u8; 4]>::try_from(data), u32::try_from(offset)) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        let offered = self.offered();
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device.kind(),
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(offered, self.device_features_sel),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected().map_or(0, |queue| u32::from(self.queues[queue].max_size())),
            reg::VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |queue| u32::from(self.queues[queue].ready())),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            reg::VIRTIO_MMIO_STATUS => self.status,
            // There is no shared memory region: all its registers are ones.
            reg::VIRTIO_MMIO_SHM_LEN_LOW..=reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // Among them the generation of the configuration, which never changes.
            _ => 0,
        }
    }

    /// The guest writes `data` at `offset` of the device's page. `true`: raise the interrupt.
    pub fn write(&mut self, mem: &Mem, offset: u64, data: &[u8]) -> Result<bool, GuestFault> {
        let (Ok(value), Ok(register)) = (<[u8; 4]>::try_from(data), u32::try_from(offset)) else { return Ok(false) };
        let value = u32::from_le_bytes(value);
        if register == reg::VIRTIO_MMIO_QUEUE_NOTIFY {
            return self.kick(mem, value);
        }
        self.write_register(mem, register, value).map_err(|why| self.fault(why))?;
        Ok(false)
    }

    fn write_register(&mut self, mem: &Mem, register: u32, value: u32) -> Result<(), Broken> {
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => return self.set_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            reg::VIRTIO_MMIO_QUEUE_READY => return self.set_ready(mem, value),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            reg::VIRTIO_MMIO_STATUS => return self.set_status(value),
            reg::VIRTIO_MMIO_QUEUE_NUM => return self.set_up(register, |setup| setup.size = value),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => return self.set_up(register, |setup| low(&mut setup.descriptors, value)),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => return self.set_up(register, |setup| high(&mut setup.descriptors, value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => return self.set_up(register, |setup| low(&mut setup.avail, value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => return self.set_up(register, |setup| high(&mut setup.avail, value)),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => return self.set_up(register, |setup| low(&mut setup.used, value)),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => return self.set_up(register, |setup| high(&mut setup.used, value)),
            // Unknown, read-only or configuration registers; no device here has a writable configuration.
            _ => {}
        }
        Ok(())
    }

    fn offered(&self) -> u64 {
        self.device.features() | TRANSPORT_FEATURES
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel).ok().filter(|queue| *queue < self.queues.len())
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    fn negotiated(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK)
    }

    fn running(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    fn set_features(&mut self, value: u32) -> Result<(), Broken> {
        if !self.has(VIRTIO_CONFIG_S_DRIVER) || self.negotiated() {
            return Err(Broken::Register(u64::from(reg::VIRTIO_MMIO_DRIVER_FEATURES)));
        }
        match self.driver_features_sel {
            0 => low(&mut self.driver_features, value),
            1 => high(&mut self.driver_features, value),
            _ => {}
        }
        Ok(())
    }

    fn set_up(&mut self, register: u32, change: impl FnOnce(&mut Setup)) -> Result<(), Broken> {
        let Some(queue) = self.selected() else { return Ok(()) };
        if !self.negotiated() || self.running() || self.queues[queue].ready() {
            return Err(Broken::Register(u64::from(register)));
        }
        change(&mut self.setups[queue]);
        Ok(())
    }

    fn set_ready(&mut self, mem: &Mem, value: u32) -> Result<(), Broken> {
        let Some(index) = self.selected() else { return Ok(()) };
        if value == 0 {
            self.queues[index].reset();
            self.setups[index] = Setup::default();
            return Ok(());
        }
        if !self.negotiated() || self.running() || self.queues[index].ready() {
            return Err(Broken::Register(u64::from(reg::VIRTIO_MMIO_QUEUE_READY)));
        }
        self.start_queue(mem, index)
    }

    fn start_queue(&mut self, mem: &Mem, index: usize) -> Result<(), Broken> {
        let ready: Vec<bool> = self.queues.iter().map(QueueT::ready).collect();
        let others = self.setups.iter().zip(ready).filter_map(|(setup, ready)| ready.then_some(setup));
        let event_idx = self.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        self.setups[index].start(index, &mut self.queues[index], others, event_idx, mem)
    }

    fn set_status(&mut self, value: u32) -> Result<(), Broken> {
        if value == 0 {
            self.reset();
            return Ok(());
        }
        let wrong = Broken::Status { from: self.status, to: value };
        if !status_is_possible(value) || self.status & !value != 0 {
            return Err(wrong);
        }
        let added = value & !self.status;
        let mut accepted = value;
        if added & VIRTIO_CONFIG_S_FEATURES_OK != 0 && !self.features_are_fine() {
            accepted &= !VIRTIO_CONFIG_S_FEATURES_OK;
            if value & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
                return Err(wrong);
            }
        }
        self.status = accepted;
        if added & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.device.activated(self.driver_features);
        }
        Ok(())
    }

    fn features_are_fine(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & 1 << VIRTIO_F_VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.status = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.queue_sel = 0;
        self.interrupt_status = 0;
        self.setups.fill(Setup::default());
        self.queues.iter_mut().for_each(QueueT::reset);
        self.device.reset();
    }

    fn kick(&mut self, mem: &Mem, value: u32) -> Result<bool, GuestFault> {
        if !self.running() {
            // Allowed to be early; what is in the queue is found with the next kick.
            return Ok(false);
        }
        let index = usize::try_from(value).ok().filter(|index| self.queues.get(*index).is_some_and(QueueT::ready));
        let index = index.ok_or_else(|| self.fault(Broken::Kick(value)))?;
        self.drive(mem, |device, queues, mem| device.notify(index, queues, mem))
    }

    /// Lets the device work on its queues outside of a kick. `true`: raise the interrupt. Does nothing until the driver is ready.
    pub fn drive(&mut self, mem: &Mem, work: impl FnOnce(&mut D, &mut [Queue], &Mem) -> Result<bool, Broken>) -> Result<bool, GuestFault> {
        if !self.running() {
            return Ok(false);
        }
        if !work(&mut self.device, &mut self.queues, mem).map_err(|why| self.fault(why))? {
            return Ok(false);
        }
        let raise = self.interrupt_status & reg::VIRTIO_MMIO_INT_VRING == 0;
        self.interrupt_status |= reg::VIRTIO_MMIO_INT_VRING;
        Ok(raise)
    }

    /// Whether an interrupt is pending that the driver has not acknowledged: raise it again after a restore.
    pub fn needs_interrupt(&self) -> bool {
        self.interrupt_status != 0
    }

    fn fault(&self, why: Broken) -> GuestFault {
        GuestFault { device: self.device.name(), why }
    }

    /// For a snapshot.
    pub fn save(&self) -> MmioState<D::State> {
        let queues = self.setups.iter().zip(&self.queues).map(|(setup, queue)| QueueState {
            setup: setup.clone(),
            ready: queue.ready(),
            next_avail: queue.next_avail(),
            next_used: queue.next_used(),
        });
        MmioState {
            kind: self.device.kind(),
            status: self.status,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queue_sel: self.queue_sel,
            interrupt_status: self.interrupt_status,
            queues: queues.collect(),
            device: self.device.save(),
        }
    }

    /// From a snapshot, over memory that is already restored. After an error the device is of no use any more.
    pub fn restore(&mut self, state: MmioState<D::State>, mem: &Mem) -> Result<(), RestoreError> {
        let device = self.device.name();
        let mismatch = |what| Err(RestoreError::Mismatch { device, what });
        let impossible = |what| Err(RestoreError::Impossible { device, what });
        if state.kind != self.device.kind() {
            return mismatch("its kind");
        }
        if state.queues.len() != self.queues.len() {
            return mismatch("its number of queues");
        }
        self.reset();
        if !status_is_possible(state.status) && state.status != 0 {
            return impossible("its status");
        }
        self.status = state.status;
        self.driver_features = state.driver_features;
        if self.negotiated() && !self.features_are_fine() {
            return mismatch("its features");
        }
        if state.interrupt_status & !(reg::VIRTIO_MMIO_INT_VRING | reg::VIRTIO_MMIO_INT_CONFIG) != 0 {
            return impossible("its interrupt status");
        }
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.queue_sel = state.queue_sel;
        self.interrupt_status = state.interrupt_status;
        for (index, saved) in state.queues.into_iter().enumerate() {
            self.setups[index] = saved.setup;
            if !saved.ready {
                continue;
            }
            if !self.negotiated() {
                return impossible("a queue that is ready before negotiation");
            }
            self.start_queue(mem, index).map_err(|why| RestoreError::Queue { device, why })?;
            self.queues[index].set_next_avail(saved.next_avail);
            self.queues[index].set_next_used(saved.next_used);
        }
        self.device.restore(state.device)
    }
}

/// Bits of the status come in this order, each only with those before it; FAILED comes at any time.
fn status_is_possible(status: u32) -> bool {
    const ORDER: [u32; 4] = [VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER_OK];
    let mut allowed = 0;
    let status = status & !VIRTIO_CONFIG_S_FAILED;
    status == 0
        || ORDER.into_iter().any(|bit| {
            allowed |= bit;
            status == allowed
        })
}

fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn low(value: &mut u64, half: u32) {
    *value = *value & !u64::from(u32::MAX) | u64::from(half);
}

fn high(value: &mut u64, half: u32) {
    *value = *value & u64::from(u32::MAX) | u64::from(half) << 32;
}
