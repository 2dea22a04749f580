//! The audit log: who did what to which object, and how it ended.
//!
//! ```text
//!  request ─▶ AuditLog::record ─▶ bounded queue ─▶ writer thread ─▶ audit.log
//!               (never waits)                                        audit.log.1 …
//! ```
//!
//! One JSON object per line, appended, mode 0600. Records hold identifiers, never
//! credentials. Writing is off the request's path: a record that finds the queue full,
//! or the disk, is counted, and the count is itself a record ([`Event::Lost`]) as soon
//! as one can be written. A team's records past a rate are joined, with a count, so that
//! one tenant does not push the others' out of the files. The writer alone rotates files;
//! other processes only append ([`append`]).

#![forbid(unsafe_code)]

mod budget;
mod log;
mod record;

pub use log::{AuditLog, Config, Error, append};
pub use record::{Event, Outcome, Record};
