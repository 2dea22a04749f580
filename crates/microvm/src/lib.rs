//! The host of a VM: what a sandbox, a step of a template build and a template in the
//! making take on this machine, and give back.
//!
//! ```text
//!            serve                boot, restore             agent on the console, /init
//! SlotHeld ────────▶ DiskServed ───────────────▶ Launched ──────────────▶ AgentReady
//!    │  ▲                                            │                        │
//!    │  └──────────────── power_off ─────────────────┴────────────────────────┘
//!    └── release ──▶ nothing is held
//! ```
//!
//! Each stage consumes the one before. A stage that cannot be reached undoes what it
//! began, VM first, then disk, and hands back the [`SlotHeld`] that it started from, in
//! [`Failed`]; its owner releases that or tries again. [`boot`] goes from a slot to an
//! agent that listens, and boots once more where the guest falls silent on the way.
//!
//! Every step is told to a [`Journal`] before the next begins. What happens to a stage
//! that is dropped is its [`Lifetime`]: a VM with a journal outlives its daemon, any
//! other is undone.
//!
//! An engine that opens its disk as a block device gets one: the kernel is made the client
//! of the disk's server before the VM is launched, and gives the device back after its end.
//! One that cannot map a memory in pieces gets it put together in a file of the VM's own.
//!
//! Names on the host, limits and allowances of all VMs are in [`names`] and [`limits`];
//! how a VM process is confined is said once, in `spec`.

#![forbid(unsafe_code)]

mod boot;
mod console;
mod disk;
mod error;
mod host;
mod host_device;
mod journal;
pub mod limits;
mod memory;
pub mod names;
mod parts;
mod spec;
mod stages;

pub use boot::{Boot, boot};
pub use disk::{Disk, Opening, ServedDisk};
pub use error::{Error, NotReleased, after_console};
pub use host::host;
pub use host_device::release_device;
pub use journal::{Cause, Journal, NoJournal};
pub use limits::BootLimits;
pub use memory::composed_image;
pub use names::Owner;
pub use parts::{Lifetime, end_leftovers};
pub use spec::{Kernel, SavedVm};
pub use stages::{AgentReady, DiskServed, Failed, Launched, SlotHeld};
