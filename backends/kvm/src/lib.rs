//! A small virtual machine monitor for Linux guests on KVM.
//!
//! One process is one machine. It is described by a [`config::Config`], steered over QMP, and
//! confined before its guest runs. It knows nothing of kxl: kxl starts it as it starts QEMU.

pub mod acpi;
pub mod api;
pub mod boot;
pub mod bus;
pub mod config;
pub mod devices;
pub mod endpoint;
pub mod irq;
pub mod layout;
pub mod log;
pub mod machine;
pub mod memory;
pub mod sandbox;
pub mod snapshot;
#[allow(unsafe_code, reason = "calls whose wrappers are unsafe")]
mod sys;
pub mod thread;
pub mod vcpu;
pub mod virtio;
