//! `[builds]` and `[registries]`: template builds, and where their images come from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Template builds on this node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildSettings {
    /// Builds that run at once; more wait.
    pub concurrent: usize,
    /// Seconds that a build may take at most, from its turn to its end.
    pub limit_seconds: u64,
    /// Seconds at most from a start command to a ready command that succeeds.
    pub ready_limit_seconds: u64,
    /// The disk of a template, in MiB, unless it needs more.
    pub disk_mib: u64,
    /// The largest disk of a template, in MiB.
    pub max_disk_mib: u64,
    /// Disk space, in MiB, for cached steps, and again for cached images.
    pub cache_mib: u64,
    /// The largest archive of files to copy, in MiB.
    pub upload_mib: u64,
    /// File with certificates (PEM) that builds and their templates trust beside the
    /// usual ones. Without it: `node.ca_file`.
    #[schemars(example = "/etc/hearth/company-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Installs sudo, curl and the like where images lack them.
    pub install_packages: bool,
    /// Variables of the commands of builds, such as `HTTP_PROXY`. Templates do not keep
    /// them.
    pub env: BTreeMap<String, String>,
}

impl Default for BuildSettings {
    fn default() -> Self {
        let limits = hearth_template_build::Limits::default();
        Self {
            concurrent: limits.concurrent,
            limit_seconds: limits.build_time.as_secs(),
            ready_limit_seconds: limits.ready_time.as_secs(),
            disk_mib: limits.disk_mib,
            max_disk_mib: limits.max_disk_mib,
            cache_mib: limits.cache_bytes >> 20,
            upload_mib: limits.upload_bytes >> 20,
            ca_file: None,
            install_packages: true,
            env: BTreeMap::new(),
        }
    }
}

/// How images of OCI registries are found.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrySettings {
    /// Asked before the registry itself, in this order.
    pub mirrors: Vec<MirrorSettings>,
    /// `host[:port]` of registries that are spoken to without TLS.
    pub insecure: Vec<String>,
    /// `host[:port]` or networks (`10.1.0.0/16`) of registries at private addresses.
    /// Those of `mirrors`, `insecure` and `aws_endpoint` need not be listed again. No
    /// other private or local address, nor one of this host, is asked on behalf of a tenant.
    pub private: Vec<String>,
    /// File with certificates (PEM) that registries may present beside the usual ones.
    #[schemars(example = "/etc/hearth/registry-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// URL of the service that gives out passwords for AWS's registries. Without it: the
    /// region's public endpoint.
    #[schemars(example = "https://api.ecr.internal")]
    pub aws_endpoint: Option<String>,
}

/// Another place with a registry's images.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MirrorSettings {
    /// `host[:port]` of the registry, such as `docker.io`, or `*` for all. Required.
    #[schemars(example = "docker.io")]
    pub registry: String,
    /// `host[:port][/path]` of the mirror. Required.
    #[schemars(example = "mirror.example.com")]
    pub location: String,
    /// User name for a mirror that asks for one.
    #[schemars(example = &"hearth")]
    pub username: Option<String>,
    /// File that holds the password in its first line.
    #[schemars(example = "/etc/hearth/mirror-password")]
    pub password_file: Option<PathBuf>,
}

impl RegistrySettings {
    /// The registry client's own form.
    pub fn config(&self) -> hearth_oci::Registries {
        let mirror = |mirror: &MirrorSettings| hearth_oci::Mirror {
            registry: mirror.registry.clone(),
            location: mirror.location.clone(),
            username: mirror.username.clone(),
            password_file: mirror.password_file.clone(),
        };
        hearth_oci::Registries {
            mirrors: self.mirrors.iter().map(mirror).collect(),
            insecure: self.insecure.clone(),
            private: self.private.clone(),
            ca_file: self.ca_file.clone(),
            aws_endpoint: self.aws_endpoint.clone(),
        }
    }
}
