//! What of a device outlives the process.

use bincode::{Decode, Encode};
use thiserror::Error;

/// Why a state cannot be given, or taken back.
#[derive(Debug, Error)]
pub enum StateError {
    /// It belongs to another device.
    #[error("the state is that of a virtio device of kind {have}, and this is one of kind {want}")]
    Kind {
        /// The state's.
        have: u32,
        /// The machine's.
        want: u32,
    },
    /// The driver uses what this device does not offer.
    #[error("the guest uses features {missing:#x} of its virtio device that this one lacks")]
    Features {
        /// The bits.
        missing: u64,
    },
    /// Another number of queues, or sizes.
    #[error("the state does not fit the device: {0}")]
    Shape(&'static str),
    /// A queue that is not in memory.
    #[error("cannot take the queues back")]
    Queue(#[source] super::QueueError),
    /// What the guest has written is not safe on the disk.
    #[error("cannot flush the disk {disk}, which the state would rely on")]
    Flush {
        /// The disk's id.
        disk: String,
        /// The refusal.
        #[source]
        source: std::io::Error,
    },
    /// The device's thread has ended.
    #[error("cannot reach the device")]
    Gone(#[source] super::Gone),
}

/// Everything of one device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct State {
    /// Its kind.
    pub id: u32,
    /// The registers.
    pub registers: Registers,
    /// The queues; those of a device in use have their positions.
    pub queues: Vec<QueueState>,
    /// Interrupts that are not acknowledged.
    pub interrupts: u32,
    /// `DEVICE_NEEDS_RESET`.
    pub broken: bool,
    /// The configuration space.
    pub space: Vec<u8>,
    /// Its generation.
    pub generation: u32,
    /// What is the device's own.
    pub device: DeviceState,
}

/// What the driver has written into registers that keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Registers {
    /// Device status.
    pub status: u32,
    /// Which half of the device's features is shown.
    pub device_features_sel: u32,
    /// Which half of its own the driver writes.
    pub driver_features_sel: u32,
    /// The features the driver wants.
    pub driver_features: u64,
    /// The queue that the registers are about.
    pub queue_sel: u32,
}

/// One queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct QueueState {
    /// The largest size offered.
    pub max_size: u16,
    /// The size in use.
    pub size: u16,
    /// The driver has finished setting it up.
    pub ready: bool,
    /// `EVENT_IDX` is in use.
    pub event_idx: bool,
    /// The next entry that the driver offers.
    pub next_available: u16,
    /// The next entry that it gets back.
    pub next_used: u16,
    /// Where the descriptors are.
    pub descriptors: u64,
    /// Where the ring of the driver is.
    pub available: u64,
    /// Where the ring of the device is.
    pub used: u64,
}

impl QueueState {
    /// As it is before a driver comes.
    #[must_use]
    pub fn fresh(max_size: u16) -> Self {
        Self { max_size, size: max_size, ..Self::default() }
    }
}

impl From<&QueueState> for virtio_queue::QueueState {
    fn from(state: &QueueState) -> Self {
        Self {
            max_size: state.max_size,
            next_avail: state.next_available,
            next_used: state.next_used,
            event_idx_enabled: state.event_idx,
            size: state.size,
            ready: state.ready,
            desc_table: state.descriptors,
            avail_ring: state.available,
            used_ring: state.used,
        }
    }
}

impl From<&virtio_queue::QueueState> for QueueState {
    fn from(state: &virtio_queue::QueueState) -> Self {
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            event_idx: state.event_idx_enabled,
            next_available: state.next_avail,
            next_used: state.next_used,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
        }
    }
}

/// What is a device's own.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DeviceState {
    /// Nothing: a disk's requests are finished before it is saved, a random source has none.
    Plain,
    /// A network interface.
    Net {
        /// A packet, with its header, that the guest has no room for yet; else empty.
        packet: Vec<u8>,
        /// Somebody has pulled the cable.
        link_down: bool,
    },
    /// A balloon.
    Balloon {
        /// Pages that the guest shall do without.
        target: u32,
        /// The guest's last statistics: tag and value.
        statistics: Vec<(u16, u64)>,
    },
    /// A console with its ports.
    Console {
        /// The driver knows of ports.
        ready: bool,
        /// The ports.
        ports: Vec<PortState>,
        /// Messages on their way to the driver.
        messages: Vec<Vec<u8>>,
    },
}

/// One port of a console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct PortState {
    /// The driver has set the port up.
    pub ready: bool,
    /// A program in the guest has it open.
    pub open: bool,
    /// The driver was told that somebody is at the other end.
    pub told_connected: bool,
}
