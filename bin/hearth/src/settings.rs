//! The settings of all components, from one TOML file, the environment and
//! documented defaults, in rising order: default, file, environment.

use anyhow::{Context, bail};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Read when it is there; another is named with `--config`.
pub const DEFAULT_FILE: &str = "/etc/hearth/hearth.toml";

/// What `hearth.toml` may say. Every field has a default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Databases, keys, builds and the disks of sandboxes.
    pub state_dir: PathBuf,
    /// Sockets and the pid file. Emptied by a reboot.
    pub run_dir: PathBuf,
    /// Slow artefacts, kept by content, shared between installations.
    pub cache_dir: PathBuf,
    /// The guest agent's binary that `hearth up` puts into new builds, instead of the
    /// embedded one. `HEARTH_ENVD` names it, too.
    pub agent: Option<PathBuf>,
    /// One line of JSON for each request to a sandbox, when it is over.
    pub access_log: Option<PathBuf>,
    /// The code interpreter's server that `hearth template prepare` puts into its
    /// template, instead of the embedded one. `HEARTH_CODE_INTERPRETER` names it, too.
    pub interpreter: Option<PathBuf>,
    pub api: Api,
    pub tls: Tls,
    pub metrics: Metrics,
    /// Limits of the proxy towards sandboxes.
    pub edge: hearth_edge::EdgeConfig,
    /// Limits of clients' connections.
    pub connections: hearth_edge::ServerConfig,
    pub node: Node,
    pub network: Network,
    pub limits: Limits,
    pub template: Template,
    pub code_interpreter: CodeInterpreter,
    pub builds: Builds,
    /// How images of OCI registries are found.
    pub registries: hearth_oci::Registries,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Plain HTTP; serves the API and, by headers or host name, the sandboxes.
    pub address: IpAddr,
    pub port: u16,
    /// A second plain-HTTP port with the same service; 0 for none.
    pub edge_port: u16,
    /// What clients append to `{port}-{sandboxID}.`, with the TLS port unless that
    /// is 443; default `localhost:<TLS port>`.
    pub domain: Option<String>,
}

/// Prometheus metrics in plain HTTP under `/metrics`; no key is asked for, so the
/// address is best one that only the scraper reaches.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub address: IpAddr,
    /// 0 for none.
    pub port: u16,
}

/// The API and the sandboxes over HTTPS: `api.<domain>`, `<port>-<id>.<domain>`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Default: the API's address.
    pub address: Option<IpAddr>,
    /// 0 for none.
    pub port: u16,
    /// A given certificate chain (PEM, leaf first) for `*.<domain>`, and its key.
    /// Without them Hearth is its own authority. Read again when they change.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// An authority that browsers trust certifies the domain.
    pub acme: Option<Acme>,
}

/// An authority that speaks ACME. Its terms of service are taken for accepted.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acme {
    /// Address of its directory.
    pub directory: String,
    /// Where it sends warnings.
    pub contact: Option<String>,
    /// Certificates in PEM of whom to trust as that authority; default: the system's.
    pub trusted_ca_file: Option<PathBuf>,
    /// Program that puts proofs into the domain's name server; default: `hearth dns`
    /// is the domain's name server.
    pub dns_hook: Option<PathBuf>,
}

impl Tls {
    /// Whether clients trust the certificate without knowing Hearth's authority.
    pub fn is_public(&self) -> bool {
        self.certificate.is_some() || self.acme.is_some()
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    pub max_sandboxes: usize,
    pub memory_reserve_mib: u64,
    pub disk_reserve_mib: u64,
    /// Warm sandboxes kept of each template in use: a create that finds one takes a
    /// fraction of the time. Each takes some 60 MiB; 0 for none. `spares` is the name
    /// that this had before.
    #[serde(alias = "spares")]
    pub warm_pool_size: usize,
    /// The share of the host's memory, in percent, that the warm sandboxes of all
    /// templates may take together, each counted as 128 MiB; those of the template
    /// that was used the longest ago give way first.
    pub warm_pool_memory_percent: u8,
    /// Certificates, in PEM, of authorities that every sandbox's tools trust beside
    /// the usual ones, such as a company's. Builds too, unless `builds.ca_file` says
    /// otherwise.
    pub ca_file: Option<PathBuf>,
    /// Listens beyond loopback although guests are emulated. Emulation (QEMU's TCG) is
    /// for trying and testing: its makers do not promise that it keeps hostile code in.
    pub allow_emulation: bool,
    /// Keeps guests' consoles in `<run_dir>/sb/<id>/console.log`.
    pub keep_consoles: bool,
    /// TCP address of the node's gRPC service, beside its unix socket.
    pub grpc_address: Option<SocketAddr>,
    /// File that holds the token for `grpc_address`, at least 32 characters.
    pub grpc_token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Slots made ahead.
    pub pool_size: u32,
    pub max_slots: u32,
    /// Host addresses of guests; another range is chosen on a conflict.
    pub slot_range: Option<String>,
    /// Addresses of the links between the host and the slots.
    pub link_range: Option<String>,
    /// Asked for guests' names, on port 53; default: whatever the host asks.
    pub name_servers: Option<Vec<IpAddr>>,
    /// Certificates in PEM of authorities that are trusted beside the host's, where
    /// rules change requests on their way; default: `node.ca_file`.
    pub trusted_ca_file: Option<PathBuf>,
    /// Connections to the outside that one sandbox may have at a time; 0: any number.
    pub connections_max: u32,
    /// Megabits per second that one sandbox may send, and as many that it may
    /// receive; 0: any number.
    pub bandwidth_mbit: u32,
    /// Networks that no sandbox may reach, whatever it is allowed, such as
    /// `203.0.113.0/24`. Private, local and metadata addresses are denied anyhow.
    pub deny: Vec<String>,
    /// Lets sandboxes deliver mail to port 25 of others.
    pub smtp: bool,
}

/// Limits of the first team.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub concurrent_sandboxes: u32,
    pub max_length_hours: u32,
    /// Template builds in progress.
    pub concurrent_builds: usize,
}

/// Template builds on this node.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Builds {
    /// Builds that run at once; more wait.
    pub concurrent: usize,
    /// The longest that a build may take.
    pub limit_seconds: u64,
    /// The longest from a start command to a ready command that succeeds.
    pub ready_limit_seconds: u64,
    /// The disk of a template, unless it needs more.
    pub disk_mib: u64,
    /// The largest disk of a template.
    pub max_disk_mib: u64,
    /// Disk space for cached steps, and again for cached images.
    pub cache_mib: u64,
    /// The largest archive of files to copy.
    pub upload_mib: u64,
    /// Certificates, in PEM, that builds and their templates trust beside the
    /// usual ones; default: `node.ca_file`.
    pub ca_file: Option<PathBuf>,
    /// Installs sudo, curl and the like where images lack them.
    pub install_packages: bool,
    /// Variables of the commands of builds, such as `HTTP_PROXY`. Templates do not
    /// keep them.
    pub env: BTreeMap<String, String>,
}

/// Shape of the `base` template.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Template {
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
}

/// Shape of the code interpreter's template.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CodeInterpreter {
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/hearth".into(),
            run_dir: "/run/hearth".into(),
            cache_dir: "/var/cache/hearth".into(),
            agent: None,
            access_log: None,
            interpreter: None,
            api: Api::default(),
            metrics: Metrics::default(),
            tls: Tls::default(),
            edge: hearth_edge::EdgeConfig::default(),
            connections: hearth_edge::ServerConfig::default(),
            node: Node::default(),
            network: Network::default(),
            limits: Limits::default(),
            template: Template::default(),
            code_interpreter: CodeInterpreter::default(),
            builds: Builds::default(),
            registries: hearth_oci::Registries::default(),
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 3000,
            edge_port: 3002,
            domain: None,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 3004,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            address: None,
            port: 3443,
            certificate: None,
            key: None,
            acme: None,
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self {
            max_sandboxes: hearth_node::config::DEFAULT_MAX_SANDBOXES,
            memory_reserve_mib: hearth_node::config::DEFAULT_MEMORY_RESERVE_BYTES >> 20,
            disk_reserve_mib: hearth_node::config::DEFAULT_DISK_RESERVE_BYTES >> 20,
            warm_pool_size: hearth_node::config::DEFAULT_WARM_POOL_SIZE,
            warm_pool_memory_percent: hearth_node::config::DEFAULT_WARM_POOL_MEMORY_PERCENT,
            ca_file: None,
            allow_emulation: false,
            keep_consoles: false,
            grpc_address: None,
            grpc_token_file: None,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            pool_size: 8,
            max_slots: 512,
            slot_range: None,
            link_range: None,
            name_servers: None,
            trusted_ca_file: None,
            connections_max: 8192,
            bandwidth_mbit: 0,
            deny: Vec::new(),
            smtp: false,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent_sandboxes: 100,
            max_length_hours: 24,
            concurrent_builds: 20,
        }
    }
}

impl Default for Builds {
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

impl Default for Template {
    fn default() -> Self {
        Self {
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 4096,
        }
    }
}

impl Default for CodeInterpreter {
    fn default() -> Self {
        Self {
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 8192,
        }
    }
}

impl Settings {
    /// Reads the file (the default one may be absent) and the environment.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let mut settings: Self = match std::fs::read_to_string(path) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("read {}", path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
                Self::default()
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        settings.apply_environment(|name| std::env::var(name).ok())?;
        settings.check()?;
        Ok(settings)
    }

    fn apply_environment(&mut self, var: impl Fn(&str) -> Option<String>) -> anyhow::Result<()> {
        let path = |name: &str| var(name).filter(|text| !text.is_empty()).map(PathBuf::from);
        if let Some(dir) = path("HEARTH_STATE_DIR") {
            self.state_dir = dir;
        }
        if let Some(dir) = path("HEARTH_RUN_DIR") {
            self.run_dir = dir;
        }
        if let Some(dir) = path("HEARTH_CACHE_DIR") {
            self.cache_dir = dir;
        }
        if let Some(agent) = path("HEARTH_ENVD") {
            self.agent = Some(agent);
        }
        if let Some(interpreter) = path("HEARTH_CODE_INTERPRETER") {
            self.interpreter = Some(interpreter);
        }
        for (name, port) in [
            ("HEARTH_API_PORT", &mut self.api.port),
            ("HEARTH_EDGE_PORT", &mut self.api.edge_port),
            ("HEARTH_TLS_PORT", &mut self.tls.port),
            ("HEARTH_METRICS_PORT", &mut self.metrics.port),
        ] {
            if let Some(text) = var(name) {
                *port = text
                    .parse()
                    .with_context(|| format!("{name}={text} is no port"))?;
            }
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        for (name, dir) in [("state_dir", &self.state_dir), ("run_dir", &self.run_dir)] {
            if !dir.is_absolute() {
                bail!("{name} must be an absolute path, not {}", dir.display());
            }
        }
        // `<run_dir>/sb/<21 characters>/<socket name>` is to fit a unix address.
        const LONGEST_RUN_DIR: usize = 60;
        if self.run_dir.as_os_str().len() > LONGEST_RUN_DIR {
            bail!("run_dir must be at most {LONGEST_RUN_DIR} bytes long: unix sockets live in it");
        }
        if self.node.grpc_address.is_some() != self.node.grpc_token_file.is_some() {
            bail!("node.grpc_address and node.grpc_token_file go together: the port is never open");
        }
        // More than a host has descriptors for; sums with it stay far from an overflow.
        const MOST_CONNECTIONS: usize = 1 << 24;
        if !(1..=MOST_CONNECTIONS).contains(&self.connections.max_connections) {
            bail!("connections.max_connections must be between 1 and {MOST_CONNECTIONS}");
        }
        if self.node.warm_pool_memory_percent > 100 {
            bail!("node.warm_pool_memory_percent must be at most 100");
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            bail!("tls.certificate and tls.key go together");
        }
        if self.tls.certificate.is_some() && self.tls.acme.is_some() {
            bail!("tls.certificate is given: tls.acme would get another");
        }
        let host = self.domain_host();
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if host.is_empty()
            || host.starts_with('.')
            || host.ends_with('.')
            || !host.chars().all(fits)
        {
            bail!("api.domain must be a host name in lower case, with or without a port: {host:?}");
        }
        Ok(())
    }

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
        let grpc = self.node.grpc_address.map(|at| (at.ip(), at.port()));
        listens
            .into_iter()
            .chain(grpc)
            .any(|(address, port)| port != 0 && !address.is_loopback())
    }

    /// The local authority's certificate, once the daemon has made it.
    /// What `[tls.acme]` asks for.
    pub fn acme(&self) -> Option<hearth_tls::Acme> {
        let given = self.tls.acme.clone()?;
        Some(hearth_tls::Acme {
            directory: given.directory,
            contact: given.contact,
            trusted: given.trusted_ca_file,
            hook: given.dns_hook,
            domain: self.domain_host(),
            folder: self.keys_dir().join("acme"),
            proof: self.proof_file(),
        })
    }

    /// Where proofs for certificate authorities wait.
    pub fn proof_file(&self) -> PathBuf {
        self.state_dir.join("acme-challenge")
    }

    pub fn authority_file(&self) -> PathBuf {
        self.state_dir.join("ca.crt")
    }

    /// The same with the system's authorities.
    pub fn bundle_file(&self) -> PathBuf {
        self.state_dir.join("ca-bundle.crt")
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

    pub fn node_socket(&self) -> PathBuf {
        self.run_dir.join("node.sock")
    }

    /// Where this machine's owner asks the daemon for what the API does not offer.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    pub fn pid_file(&self) -> PathBuf {
        self.run_dir.join("hearth.pid")
    }

    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("hearth.log")
    }

    pub fn database(&self) -> PathBuf {
        self.state_dir.join("hearth.db")
    }

    pub fn builds_dir(&self) -> PathBuf {
        self.state_dir.join("builds")
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

    /// What guests boot from, as the last preparation left it.
    pub fn guest_file(&self) -> PathBuf {
        self.state_dir.join("guest.json")
    }

    pub fn keys_dir(&self) -> PathBuf {
        self.state_dir.join("keys")
    }

    pub fn api_key_file(&self) -> PathBuf {
        self.keys_dir().join("api-key")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_are_refused() {
        let error = toml::from_str::<Settings>("[api]\nprot = 1\n").expect_err("a misspelt field");
        assert!(error.to_string().contains("prot"), "{error}");
    }

    #[test]
    fn the_warm_pool_has_its_former_name_too() {
        for name in ["warm_pool_size", "spares"] {
            let settings: Settings = toml::from_str(&format!("[node]\n{name} = 7")).expect("valid");
            assert_eq!(settings.node.warm_pool_size, 7, "{name}");
        }
    }

    #[test]
    fn a_share_of_memory_is_at_most_all_of_it() {
        let mut settings = Settings::default();
        settings.check().expect("the defaults are fine");
        settings.node.warm_pool_memory_percent = 101;
        let error = settings.check().expect_err("is more than all");
        assert!(
            error.to_string().contains("warm_pool_memory_percent"),
            "{error}"
        );
    }

    #[test]
    fn there_is_room_for_some_connections_and_not_for_any_number() {
        let mut settings = Settings::default();
        for most in [0, usize::MAX] {
            settings.connections.max_connections = most;
            let error = settings.check().expect_err("is refused");
            assert!(error.to_string().contains("max_connections"), "{error}");
        }
    }

    #[test]
    fn what_other_machines_reach_is_known() {
        let beyond = |text: &str| {
            let settings: Settings = toml::from_str(text).expect("valid");
            settings.listens_beyond_loopback()
        };
        assert!(!beyond(""));
        assert!(beyond("[api]\naddress = \"0.0.0.0\"\n"));
        assert!(beyond("[tls]\naddress = \"192.0.2.1\"\n"));
        assert!(!beyond("[tls]\naddress = \"192.0.2.1\"\nport = 0\n"));
        assert!(beyond("[node]\ngrpc_address = \"[::]:7\"\n"));
        assert!(!beyond("[node]\ngrpc_address = \"[::1]:7\"\n"));
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let mut settings: Settings =
            toml::from_str("state_dir = \"/a\"\n[api]\nport = 1").expect("valid");
        settings
            .apply_environment(|name| (name == "HEARTH_API_PORT").then(|| "4000".to_owned()))
            .expect("valid");
        assert_eq!(
            (settings.api.port, settings.state_dir.clone()),
            (4000, PathBuf::from("/a"))
        );
        assert!(
            settings
                .clone()
                .apply_environment(|_| Some("x".to_owned()))
                .is_err()
        );
    }

    #[test]
    fn builds_trust_what_sandboxes_do_unless_told_otherwise() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("written");
            Some(path)
        };
        let pem = "-----BEGIN CERTIFICATE-----\n";
        let mut settings = Settings::default();
        assert_eq!(settings.build_certificates().expect("none"), None);
        settings.node.ca_file = file("site.pem", pem);
        assert_eq!(
            settings.build_certificates().expect("read").as_deref(),
            Some(pem)
        );
        settings.builds.ca_file = file("builds.pem", &format!("{pem}builds"));
        let builds = settings.build_certificates().expect("read");
        assert_eq!(builds, Some(format!("{pem}builds")));
        settings.node.ca_file = file("key.pem", "-----BEGIN PRIVATE KEY-----\n");
        let error = settings.certificates().expect_err("no certificate");
        assert!(error.to_string().contains("key.pem"), "{error}");
    }
}
