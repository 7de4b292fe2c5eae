//! Nothing is lost on the way into an image and back: whatever is killed, whatever the disk says,
//! whoever comes at the same time.

mod ahead;
mod bad_disk;
mod crash;
mod damage;
mod disks;
mod qemu;
mod race;
mod reboot;
mod space;
mod world;

pub(super) use crash::VERBS;
