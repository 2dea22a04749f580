//! Measurements that more than one program makes, and the statistics of all of them:
//! time to interactive through the API, and restores by the engine alone.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod engine;
mod report;
mod tti;

pub use report::{Report, Row, Samples};
pub use tti::{TtiError, TtiPlan, tti};
