//! Virtio devices behind memory-mapped registers (virtio 1.2, section 4.2, version 2 only).
