//! The settings of all components, from one TOML file, the environment and
//! documented defaults, in rising order: default, file, environment.
//!
//! One file per section holds the form in which `hearth.toml` is written, its defaults
//! and its checks. Components have configurations of their own and read neither files
//! nor the environment; what fills those in is beside what starts the component, or,
//! where the two forms agree, a `config` method of the section.

mod api;
mod audit;
mod builds;
mod cluster;
mod edge;
mod environment;
mod events;
mod file;
mod network;
mod node;
mod paths;
mod problem;
mod rate_limits;
pub mod reference;
mod templates;
#[cfg(test)]
mod tests;
mod tls;
mod web;

pub use api::{ApiSettings, LimitSettings, MetricsSettings};
pub use audit::AuditSettings;
pub use builds::{BuildSettings, RegistrySettings};
pub use cluster::ClusterSettings;
pub use edge::{ConnectionSettings, EdgeSettings};
pub use events::EventSettings;
pub use network::NetworkSettings;
pub use node::{EngineChoice, NodeSettings};
pub use problem::{FileProblem, Problem};
pub use rate_limits::RateLimitSettings;
pub use templates::{CodeInterpreterSettings, TemplateSettings};
pub use tls::TlsSettings;
pub use web::WebSettings;

use anyhow::{Context, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

/// Read when it is there; another is named with `--config`.
pub const DEFAULT_FILE: &str = "/etc/hearth/hearth.toml";

/// Folders and files; the sections follow.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Databases, keys, builds and the disks of sandboxes. An absolute path.
    pub state_dir: PathBuf,
    /// Sockets and the pid file. Emptied by a reboot. An absolute path of at most 60
    /// bytes.
    pub run_dir: PathBuf,
    /// Artefacts that are slow to make, kept by content, shared between installations.
    pub cache_dir: PathBuf,
    /// Address of the PostgreSQL database of teams, keys, templates and snapshots; one daemon
    /// at a time uses it. Without it they are in a SQLite file in `state_dir`.
    /// `hearth migrate` copies what is there. A password is better kept in `~/.pgpass` or
    /// `PGPASSWORD`; `sslmode=verify-full` asks for TLS.
    #[schemars(example = "postgres://hearth@db.example.com/hearth?sslmode=verify-full")]
    pub database: Option<String>,
    /// The guest agent's binary that `hearth up` puts into new builds, instead of the
    /// embedded one.
    #[schemars(example = "/usr/local/lib/hearth/envd")]
    pub agent: Option<PathBuf>,
    /// File that gets one line of JSON for each request to a sandbox, when it is over.
    /// Without it there is no access log.
    #[schemars(example = "/var/log/hearth/access.log")]
    pub access_log: Option<PathBuf>,
    /// The code interpreter's server that `hearth template prepare` puts into its
    /// template, instead of the embedded one.
    #[schemars(example = "/usr/local/lib/hearth/code-interpreter")]
    pub interpreter: Option<PathBuf>,
    /// `[api]`
    pub api: ApiSettings,
    /// `[tls]`
    pub tls: TlsSettings,
    /// `[metrics]`
    pub metrics: MetricsSettings,
    /// `[edge]`
    pub edge: EdgeSettings,
    /// `[connections]`
    pub connections: ConnectionSettings,
    /// `[cluster]`
    pub cluster: ClusterSettings,
    /// `[node]`
    pub node: NodeSettings,
    /// `[network]`
    pub network: NetworkSettings,
    /// `[limits]`
    pub limits: LimitSettings,
    /// `[template]`
    pub template: TemplateSettings,
    /// `[code_interpreter]`
    pub code_interpreter: CodeInterpreterSettings,
    /// `[builds]`
    pub builds: BuildSettings,
    /// `[registries]`
    pub registries: RegistrySettings,
    /// `[audit]`
    pub audit: AuditSettings,
    /// `[rate_limits]`
    pub rate_limits: RateLimitSettings,
    /// `[events]`
    pub events: EventSettings,
    /// `[web]`
    pub web: WebSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: hearth_layout::DEFAULT_STATE_DIR.into(),
            run_dir: hearth_layout::DEFAULT_RUN_DIR.into(),
            cache_dir: "/var/cache/hearth".into(),
            database: None,
            agent: None,
            access_log: None,
            interpreter: None,
            api: ApiSettings::default(),
            metrics: MetricsSettings::default(),
            tls: TlsSettings::default(),
            edge: EdgeSettings::default(),
            connections: ConnectionSettings::default(),
            cluster: ClusterSettings::default(),
            node: NodeSettings::default(),
            network: NetworkSettings::default(),
            limits: LimitSettings::default(),
            template: TemplateSettings::default(),
            code_interpreter: CodeInterpreterSettings::default(),
            builds: BuildSettings::default(),
            registries: RegistrySettings::default(),
            audit: AuditSettings::default(),
            rate_limits: RateLimitSettings::default(),
            events: EventSettings::default(),
            web: WebSettings::default(),
        }
    }
}

impl Settings {
    /// Reads the file (the default one may be absent) and the environment.
    ///
    /// # Errors
    /// A [`FileProblem`] names the line and the key; a [`Problem`] names the key, where
    /// its value is the environment's or the default.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
                String::new()
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Self::from_text(path, &text, |name| std::env::var(name).ok())
    }

    /// The settings of a file with this text and of an environment.
    fn from_text(
        path: &Path,
        text: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let mut settings = file::parse(path, text)?;
        environment::apply(&mut settings, &environment)?;
        let Err(problem) = settings.check() else {
            return Ok(settings);
        };
        if let Some(name) = environment::source(problem.key, environment) {
            return Err(problem).with_context(|| format!("{name} in the environment"));
        }
        match file::locate(path, text, problem) {
            Ok(found) => Err(found.into()),
            Err(of_default) => Err(of_default.into()),
        }
    }

    /// What types cannot say of values.
    fn check(&self) -> Result<(), Problem> {
        for (key, dir) in [("state_dir", &self.state_dir), ("run_dir", &self.run_dir)] {
            if !dir.is_absolute() {
                let message = format!("must be an absolute path, not {}", dir.display());
                return Err(Problem::new(key, message));
            }
        }
        // `<run_dir>/sb/<21 characters>/<socket name>` is to fit a unix address.
        const LONGEST_RUN_DIR: usize = 60;
        if self.run_dir.as_os_str().len() > LONGEST_RUN_DIR {
            return Err(Problem::new(
                "run_dir",
                format!("must be at most {LONGEST_RUN_DIR} bytes long: unix sockets live in it"),
            ));
        }
        check_database(self.database.as_deref())?;
        self.cluster.check()?;
        self.node.check()?;
        self.network.check()?;
        self.connections.check()?;
        self.tls.check()?;
        self.audit.check()?;
        self.rate_limits.check()?;
        self.events.check()?;
        api::check_domain(&self.domain_host())
    }

    /// The base domain of the sandboxes' host names, with a port unless that is 443.
    pub fn domain(&self) -> String {
        self.api.domain.clone().unwrap_or_else(|| {
            let port = match self.tls.port {
                0 => self.api.port,
                port => port,
            };
            format!("localhost:{port}")
        })
    }

    /// The domain without its port.
    pub fn domain_host(&self) -> String {
        let domain = self.domain();
        match domain.split_once(':') {
            Some((host, _)) => host.to_owned(),
            None => domain,
        }
    }

    /// Where HTTPS listens.
    pub fn tls_address(&self) -> IpAddr {
        self.tls.address.unwrap_or(self.api.address)
    }

    /// Whether any port of the API, of sandboxes or of the node is open to other
    /// machines.
    pub fn listens_beyond_loopback(&self) -> bool {
        let listens = [
            (self.api.address, self.api.port),
            (self.api.address, self.api.edge_port),
            (self.tls_address(), self.tls.port),
        ];
        let node = [self.node.grpc_address, self.node.listen];
        let node = node.into_iter().flatten().map(|at| (at.ip(), at.port()));
        listens
            .into_iter()
            .chain(node)
            .any(|(address, port)| port != 0 && !address.is_loopback())
    }

    /// What `[tls.acme]` asks for.
    pub fn acme(&self) -> Option<hearth_tls::Acme> {
        let given = self.tls.acme.clone()?;
        Some(hearth_tls::Acme {
            directory: given.directory,
            contact: given.contact,
            trusted: given.trusted_ca_file,
            hook: given.dns_hook,
            domain: self.domain_host(),
            folder: self.acme_dir(),
            proof: self.proof_file(),
        })
    }

    /// Base URL of the API for clients on this machine.
    pub fn api_url(&self) -> String {
        let host = match self.api.address {
            address if address.is_loopback() || address.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(address) => format!("[{address}]"),
            IpAddr::V4(address) => address.to_string(),
        };
        format!("http://{host}:{}", self.api.port)
    }

    /// The certificates of `node.ca_file`, in PEM.
    pub fn certificates(&self) -> anyhow::Result<Option<String>> {
        self.node
            .ca_file
            .as_deref()
            .map(read_certificates)
            .transpose()
    }

    /// Those that builds trust.
    pub fn build_certificates(&self) -> anyhow::Result<Option<String>> {
        let own = self.builds.ca_file.as_deref();
        let file = own.or(self.node.ca_file.as_deref());
        file.map(read_certificates).transpose()
    }
}

fn check_database(address: Option<&str>) -> Result<(), Problem> {
    let known = ["postgres://", "postgresql://"];
    match address {
        Some(address) if !known.iter().any(|scheme| address.starts_with(scheme)) => {
            Err(Problem::new(
                "database",
                "must be an address such as postgres://user@host/database; leave it out for SQLite",
            ))
        }
        _ => Ok(()),
    }
}

/// Certificates in PEM; a file without any is a mistake.
fn read_certificates(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    if !text.contains("-----BEGIN CERTIFICATE-----") {
        bail!("{} holds no certificate in PEM", path.display());
    }
    Ok(text)
}
