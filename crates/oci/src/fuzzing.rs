//! The parsers of what registries answer, for the fuzz targets.

use crate::{auth, pull};

/// Reads a manifest or an index of manifests, and a configuration.
pub fn documents(body: &[u8]) {
    pull::read_documents(body);
}

/// Reads the challenge of a registry.
#[must_use]
pub fn challenge(text: &str) -> bool {
    auth::is_challenge(text)
}
