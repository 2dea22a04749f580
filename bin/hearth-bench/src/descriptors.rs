//! Room for all connections of a measurement.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Lets this process, and those that it starts, have as many descriptors as they may.
pub fn raise() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
