//! Address ranges and the devices behind them: one bus for ports, one for memory-mapped registers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A device on a bus. Called from the thread of whichever processor makes the access, under the
/// device's own lock.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes (1, 2, 4 or 8) at `offset` of the device's range. What
    /// is left untouched reads as all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset` of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several owners share.
pub type Shared<T> = Arc<Mutex<T>>;

/// One address space. Filled before the first processor runs and never changed afterwards, so that
/// an access takes no lock but the device's.
#[derive(Default)]
pub struct Bus {
    ranges: BTreeMap<u64, (u64, Shared<dyn BusDevice>)>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.ranges.iter().map(|(base, (length, _))| (base, length));
        f.debug_map().entries(ranges).finish()
    }
}

impl Bus {
    /// Puts a device at `base .. base + length`.
    ///
    /// # Panics
    /// When the range meets another: the ranges are chosen in this program.
    pub fn insert(&mut self, base: u64, length: u64, device: Shared<dyn BusDevice>) {
        let clear =
            self.find(base).is_none() && self.ranges.range(base..base + length).next().is_none();
        assert!(clear, "two devices at {base:#x}");
        self.ranges.insert(base, (length, device));
    }

    fn find(&self, address: u64) -> Option<(u64, &Shared<dyn BusDevice>)> {
        let (base, (length, device)) = self.ranges.range(..=address).next_back()?;
        let offset = address - base;
        (offset < *length).then_some((offset, device))
    }

    /// A read of the guest; all ones where there is no device.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address) {
            // A device whose thread panicked is still a device: its registers are plain values.
            device.lock().unwrap_or_else(PoisonError::into_inner).read(offset, data);
        }
    }

    /// A write of the guest; lost where there is no device.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address) {
            device.lock().unwrap_or_else(PoisonError::into_inner).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Cell(u8);

    impl BusDevice for Cell {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = self.0 + u8::try_from(offset).unwrap();
        }

        fn write(&mut self, _offset: u64, data: &[u8]) {
            self.0 = data[0];
        }
    }

    #[test]
    fn an_access_reaches_the_device_of_its_range_and_no_other() {
        let mut bus = Bus::default();
        bus.insert(0x10, 4, Arc::new(Mutex::new(Cell(1))));
        bus.insert(0x14, 1, Arc::new(Mutex::new(Cell(9))));
        let read = |address| {
            let mut data = [0];
            bus.read(address, &mut data);
            data[0]
        };
        assert_eq!([0xf, 0x10, 0x13, 0x14, 0x15].map(read), [0xff, 1, 4, 9, 0xff]);
        bus.write(0x12, &[5]);
        bus.write(0x15, &[7]);
        assert_eq!([0x10, 0x14].map(read), [5, 9]);
    }

    #[test]
    #[should_panic(expected = "two devices")]
    fn two_devices_cannot_share_an_address() {
        let mut bus = Bus::default();
        bus.insert(0x10, 4, Arc::new(Mutex::new(Cell(1))));
        bus.insert(0x0e, 3, Arc::new(Mutex::new(Cell(1))));
    }
}
