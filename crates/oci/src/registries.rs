//! Where images are found: mirrors, registries without TLS, certificates. What
//! an offline site configures.

use std::path::PathBuf;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<Mirror>,
    /// `host[:port]` of registries that are spoken to without TLS.
    pub insecure: Vec<String>,
    /// `host[:port]` or networks (`10.1.0.0/16`) of registries at private addresses.
    /// Those of `mirrors`, `insecure` and `aws_endpoint` need not be listed again. No
    /// other private or local address is asked on behalf of a tenant.
    pub private: Vec<String>,
    /// A file of certificates, in PEM, that registries may present beside the
    /// usual ones.
    pub ca_file: Option<PathBuf>,
    /// Where AWS's passwords for registries are asked for, such as
    /// `https://api.ecr.internal`; the region's public endpoint when absent.
    pub aws_endpoint: Option<String>,
}

/// Another place with a registry's images.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// `host[:port]` of the registry, such as `docker.io`, or `*` for all.
    pub registry: String,
    /// `host[:port][/path]` of the mirror.
    pub location: String,
    /// Who we are there, for a mirror that wants to know.
    pub username: Option<String>,
    /// Holds the password in its first line.
    pub password_file: Option<PathBuf>,
}
