//! The guest's start, when the agent is PID 1.
//!
//! ```text
//!  kernel ─▶ /init (initramfs): modules, root disk, copy of itself, switch root
//!                 │ exec
//!                 ▼
//!            stage two (root disk): mounts, network ─▶ the agent, reaping
//!                 └──▶ or the template's own init, with the agent beside it
//! ```

pub mod beside;
pub mod certificates;
pub mod devices;
pub mod identity;
pub mod initramfs;
pub mod modules;
pub mod system;
pub mod volumes;
