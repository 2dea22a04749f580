//! Measurements of a running Hearth, as a user would see it.

mod report;
mod tti;

pub use report::{Report, Row, Samples};
pub use tti::{TtiError, TtiPlan, tti};
