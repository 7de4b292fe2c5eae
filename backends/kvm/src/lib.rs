//! A small virtual machine monitor for Linux guests on KVM.
//!
//! One process is one machine. It is described by a [`config::Config`], steered over QMP, and
//! confined before its guest runs. It knows nothing of kxl: kxl starts it as it starts QEMU.

pub mod api;
pub mod bus;
pub mod config;
pub mod endpoint;
pub mod machine;
pub mod memory;
pub mod sandbox;
pub mod thread;
pub mod virtio;
