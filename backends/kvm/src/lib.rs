//! A small virtual machine monitor for Linux guests on KVM.
//!
//! One process is one machine. It is described by a [`config::Config`], steered over QMP, and
//! confined before its guest runs. It knows nothing of kxl: kxl starts it as it starts QEMU.
//!
//! ```text
//!  main: config ─► Resources (opens all files) ─► sandbox ─► Machine ─► api::serve
//!
//!  api-channel ──► main thread: Machine ── stop, run ──► vcpu threads ── ports, registers ──► Bus
//!       ▲               │  ▲                              │ (Ending: the guest has ended)    │
//!       └── Notices ────┘  └──────────── attend ◄─────────┘                                 ▼
//!                          └──────────── attend ◄──── save thread ──► stream or file    device threads
//! ```
//!
//! The main thread owns the machine; nobody else changes what it is. A processor's thread runs the
//! guest and carries out its accesses; a device's thread alone touches what is behind a device; a
//! save reads memory beside them and asks the main thread for the rest. An order of pause: first the
//! processors, then the devices, so that nothing touches guest memory afterwards; on the way back
//! the other way round. A reset makes KVM's part ([`machine::engine`]) anew around the same memory
//! and devices.

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
