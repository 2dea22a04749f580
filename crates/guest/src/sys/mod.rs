//! The operating system's edges that safe libraries do not cover. All `unsafe`
//! code of the agent is in this module's files.

pub mod clock;
pub mod disk;
pub mod entropy;
pub mod exec;
pub mod heap;
pub mod inherit;
pub mod interfaces;
pub mod pipes;
pub mod readiness;
pub mod spawn;
pub mod terminal;
