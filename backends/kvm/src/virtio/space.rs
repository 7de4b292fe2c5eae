//! The configuration space of a device: a few bytes that both sides read and some that the driver
//! writes, with a generation that tells it when it has read across a change.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
struct Content {
    bytes: Vec<u8>,
    generation: u32,
}

/// A configuration space.
#[derive(Debug)]
pub struct Space {
    content: Mutex<Content>,
    writable: Range<usize>,
}

impl Space {
    /// A space that the driver only reads.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self::with_writable(bytes, 0..0)
    }

    /// A space of which the driver may write one part.
    #[must_use]
    pub fn with_writable(bytes: Vec<u8>, writable: Range<usize>) -> Self {
        Self { content: Mutex::new(Content { bytes, generation: 0 }), writable }
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Zeros behind the end: a driver may ask for fields of features that are not offered.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let content = self.content();
        let from = usize::try_from(offset).ok().and_then(|offset| content.bytes.get(offset..));
        for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
            *to = *from;
        }
    }

    /// A write of the driver; whether anything of it was taken.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) -> bool {
        let Ok(offset) = usize::try_from(offset) else { return false };
        let mut content = self.content();
        let mut taken = false;
        for (add, byte) in data.iter().enumerate() {
            let at = offset.saturating_add(add);
            if self.writable.contains(&at)
                && let Some(to) = content.bytes.get_mut(at)
            {
                *to = *byte;
                taken = true;
            }
        }
        taken
    }

    /// Changes bytes from `offset` on, on the device's side.
    pub fn set(&self, offset: usize, data: &[u8]) {
        let mut content = self.content();
        if let Some(to) = content.bytes.get_mut(offset..).and_then(|to| to.get_mut(..data.len())) {
            to.copy_from_slice(data);
            content.generation = content.generation.wrapping_add(1);
        }
    }

    /// A 32-bit field as it is now.
    #[must_use]
    pub fn get_u32(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.content().generation
    }

    pub(crate) fn snapshot(&self) -> (Vec<u8>, u32) {
        let content = self.content();
        (content.bytes.clone(), content.generation)
    }

    /// Takes what the driver had written, and goes on counting behind a saved generation: the
    /// driver must notice that it is elsewhere if it was reading when the state was taken.
    pub(crate) fn continue_from(&self, bytes: &[u8], generation: u32) {
        let mut content = self.content();
        for at in self.writable.clone() {
            if let (Some(to), Some(from)) = (content.bytes.get_mut(at), bytes.get(at)) {
                *to = *from;
            }
        }
        content.generation = generation.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_writes_what_it_may_and_reads_zeros_behind_the_end() {
        let space = Space::with_writable(vec![1, 2, 3, 4], 2..4);
        assert!(!space.write(0, &[9, 9]));
        assert!(space.write(1, &[8, 8, 8, 8]));
        assert!(!space.write(u64::MAX, &[7]));
        let mut data = [0xff; 6];
        space.read(0, &mut data);
        assert_eq!(data, [1, 2, 8, 8, 0, 0]);
        space.read(u64::MAX - 1, &mut data);
        assert_eq!(data, [0; 6]);
    }

    #[test]
    fn a_change_of_the_device_moves_the_generation() {
        let space = Space::new(vec![0; 8]);
        space.set(4, &7u32.to_le_bytes());
        assert_eq!((space.get_u32(4), space.generation()), (7, 1));
        space.set(6, &[0; 4]);
        assert_eq!((space.get_u32(4), space.generation()), (7, 1), "beyond the end: nothing");
    }
}
