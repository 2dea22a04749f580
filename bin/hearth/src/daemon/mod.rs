//! The daemon: one process with every role, put together here and nowhere else.
//!
//! ```text
//!  listener ─▶ edge ─┬─▶ guests          (sandbox traffic)
//!                    └─▶ api ─▶ control ─▶ store
//!                                   └────▶ node-client ─▶ node.sock ─▶ node
//! ```

pub mod audit;
pub mod cluster;
pub mod descriptors;
pub mod emulation;
pub mod engine;
mod guest_disks;
mod left;
pub mod log;
pub mod member;
mod memory;
mod network;
pub mod node;
pub mod prepare;
pub mod privileges;
pub mod recipes;
mod routes;
pub mod secret_files;
pub mod secrets;
pub mod service_manager;
mod serving;
pub mod signals;
mod source;
mod telemetry;
mod templates;
pub mod tls;
mod volumes;

use crate::settings::Settings;
use anyhow::Context;
use hearth_api::AppState;
use hearth_audit::AuditLog;
use hearth_control::{Control, TeamConfig, TeamLimits};
use hearth_layout::lock::Lock;
use hearth_machine::Engine;
use hearth_node::{
    Node, NodeConfig,
    config::{DEFAULT_AGENT_TIMEOUT, GrpcConfig, MutualConfig, TcpConfig, secrecy_token::Token},
};
use hearth_node_client::{AgentClient, NodeClient};
use hearth_snapshot::{Host, LocalStore};
use hearth_store::{OwnerId, Store, Team};
use hearth_telemetry::Collector;
use hearth_template_build::Templates;
use hearth_volumes::Volumes;
pub use left::{end_sandboxes, quarantine};
pub use network::network_config;
use secrecy::ExposeSecret;
use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    sync::Arc,
    time::Duration,
};

/// Slug of the first team.
pub const DEFAULT_TEAM: &str = "default";
/// How long each part may take to wind down.
const STOP_LIMIT: Duration = Duration::from_secs(15);

pub struct Daemon {
    started: Started,
    control: Arc<Control>,
    admin: recipes::Admin,
    collector: Collector,
    audit: Option<Arc<AuditLog>>,
    api: AppState,
    serving: serving::Serving,
    cluster: Option<cluster::Listener>,
    settings: Settings,
    _lock: Lock,
}

impl Daemon {
    /// Starts every role. When this returns, requests are served.
    pub async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let lock = Lock::take(&settings.pid_file())?;
        memory::protect();
        // Bound before anything is changed: a port in use changes nothing.
        let listeners = serving::Listeners::bind(settings).await?;
        let nodes = cluster::bind(settings).await?;
        let tls = tls::Tls::start(settings).context("prepare TLS")?;
        make_state_dir(settings)?;
        let audit = audit::start(settings)?;
        let operator = secrets::operator_token(settings).context("read the operators' token")?;
        let share = descriptors::share(settings);
        let told = hearth_telemetry::Store::open(
            settings.telemetry_dir(),
            hearth_telemetry::Limits::default(),
        )
        .context("open what sandboxes told")?;
        prepare::end_leftovers(settings)?;
        let events = hearth_telemetry::EventLog::start(told.clone());
        let volumes = volumes::open(settings)?;
        let node_volumes = Arc::clone(&volumes);
        let started = start_node(settings, share, events, node_volumes, None).await?;
        let node = Arc::clone(&started.node);
        let rest = async {
            let here = hearth_microvm::host(&started.engine.capabilities());
            let control = start_control(settings, volumes, &here).await?;
            control.follow_events();
            control
                .start_webhooks(settings.events.webhooks(settings))
                .context("serve webhooks")?;
            let admin = recipes::Admin::start(recipes::Kitchen {
                settings: settings.clone(),
                engine: Arc::clone(&started.engine),
                slots: node.slots().clone(),
                store: started.store.clone(),
                control: Arc::clone(&control),
            })?;
            anyhow::Ok((control, admin))
        };
        let rest = rest.await.and_then(|(control, admin)| {
            let cluster = nodes
                .map(|nodes| cluster::Listener::start(settings, nodes, &control))
                .transpose()
                .context("listen for nodes")?;
            Ok((control, admin, cluster))
        });
        let (control, admin, cluster) = match rest {
            Ok(rest) => rest,
            Err(error) => {
                started.stop().await;
                return Err(error);
            }
        };
        control.connect_telemetry(Arc::new(told.clone()));
        control.connect_secrets(Arc::new(secret_files::SecretFiles::new(settings)));
        let source = Arc::new(telemetry::NodeSource(Arc::clone(&node)));
        let collector = Collector::start(source, told);
        let api = api(settings, &control, audit.as_ref()).with_operator_token(operator);
        let routes = routes::NodeRoutes::new(Arc::clone(&node), Arc::clone(&control));
        let routes = Arc::new(routes);
        let serving = serving::Serving::start(settings, share, listeners, tls, routes, api.clone());
        tracing::info!(url = settings.api_url(), "Hearth listens");
        Ok(Self {
            started,
            control,
            admin,
            collector,
            audit,
            api,
            serving,
            cluster,
            settings: settings.clone(),
            _lock: lock,
        })
    }

    /// Stops serving and lets go of the sandboxes, which run on. Returns how many.
    pub async fn stop(self) -> usize {
        self.api.drain();
        self.serving.stop(STOP_LIMIT).await;
        if let Some(cluster) = self.cluster {
            cluster.stop(STOP_LIMIT).await;
        }
        self.admin.stop(STOP_LIMIT).await;
        self.control.shutdown(STOP_LIMIT).await;
        audit::stop(self.audit, STOP_LIMIT).await;
        self.collector.stop().await;
        let left = self.started.stop().await;
        emulation::forget(&self.settings);
        tracing::info!(sandboxes = left, "Hearth has stopped");
        left
    }
}

fn api(settings: &Settings, control: &Arc<Control>, audit: Option<&Arc<AuditLog>>) -> AppState {
    let api = AppState::new(Arc::clone(control)).with_rate_limits(&settings.rate_limits.config());
    match audit {
        Some(log) => api.with_audit_log(Arc::clone(log)),
        None => api,
    }
}

/// The node's parts, and what others share with it.
struct Started {
    node: Arc<Node>,
    templates: Arc<Templates>,
    server: hearth_node::Server,
    engine: Arc<dyn Engine>,
    store: LocalStore,
}

impl Started {
    /// Ends the node's parts, and lets go of its sandboxes, which run on. Returns how many.
    async fn stop(self) -> usize {
        self.server.stop(STOP_LIMIT).await;
        self.templates.shutdown(STOP_LIMIT).await;
        let left = self
            .node
            .list()
            .iter()
            .filter(|status| status.state != hearth_node::SandboxState::Paused)
            .count();
        self.node.shutdown(STOP_LIMIT).await;
        left
    }
}

async fn start_node(
    settings: &Settings,
    share: descriptors::Share,
    events: hearth_telemetry::EventLog,
    volumes: Arc<Volumes>,
    mutual: Option<MutualConfig>,
) -> anyhow::Result<Started> {
    let mut config = node_config(settings, volumes)?;
    config.grpc.mutual = mutual;
    config.egress.limits = share.egress;
    config.egress.log = Some(Arc::new(telemetry::GuestLog(events)));
    let grpc = config.grpc.clone();
    let engine = engine::start(settings).await?;
    emulation::check(settings, &engine.capabilities().accelerator)?;
    let builds = Arc::new(LocalStore::open(settings.builds_dir())?);
    let store = LocalStore::clone(&builds);
    let network = network_config(settings)?;
    let node = Node::start(config, Arc::clone(&engine), builds, network)
        .await
        .context("start the node")?;
    let started = async {
        let slots = node.slots().clone();
        let templates = templates::start(
            settings,
            Arc::clone(&engine),
            slots,
            LocalStore::clone(&store),
        )?;
        let extend =
            |router| hearth_template_build::Service::register(Arc::clone(&templates), router);
        let server = hearth_node::Server::start_with(Arc::clone(&node), &grpc, extend)
            .await
            .context("serve the node's gRPC service")?;
        anyhow::Ok((templates, server))
    };
    match started.await {
        Ok((templates, server)) => Ok(Started {
            node,
            templates,
            server,
            engine,
            store,
        }),
        Err(error) => {
            node.shutdown(STOP_LIMIT).await;
            Err(error)
        }
    }
}

fn node_config(settings: &Settings, volumes: Arc<Volumes>) -> anyhow::Result<NodeConfig> {
    let tcp = match (settings.node.grpc_address, &settings.node.grpc_token_file) {
        (Some(address), Some(file)) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("read {}", file.display()))?;
            let token = Token::new(text.trim().to_owned())
                .with_context(|| format!("{} holds fewer than 32 characters", file.display()))?;
            Some(TcpConfig { address, token })
        }
        _ => None,
    };
    Ok(NodeConfig {
        node_id: node::name(),
        state_dir: settings.state_dir.clone(),
        run_dir: settings.run_dir.clone(),
        max_sandboxes: settings.node.max_sandboxes,
        memory_reserve_bytes: settings.node.memory_reserve_mib << 20,
        disk_reserve_bytes: settings.node.disk_reserve_mib << 20,
        disk_io: settings.node.disk_io(),
        agent_timeout: DEFAULT_AGENT_TIMEOUT,
        warm_pool_size: settings.node.warm_pool_size,
        warm_pool_memory_percent: settings.node.warm_pool_memory_percent,
        grpc: GrpcConfig {
            socket: settings.node_socket(),
            tcp,
            mutual: None,
        },
        ca_bundle: settings.certificates()?,
        egress: egress_config(settings),
        volumes,
    })
}

/// What guests find at the node: the edge is reached at the ports that it has here.
fn egress_config(settings: &Settings) -> hearth_egress::EgressConfig {
    let local = |address: IpAddr| match address {
        address if address.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        address => address,
    };
    let edge = [
        (settings.api.address, settings.api.port),
        (settings.api.address, settings.api.edge_port),
        (settings.tls_address(), settings.tls.port),
    ];
    hearth_egress::EgressConfig {
        domain: settings.domain(),
        edge: edge
            .map(|(address, port)| SocketAddr::new(local(address), port))
            .to_vec(),
        name_servers: settings.network.name_servers.clone(),
        trusted_ca_file: settings
            .network
            .trusted_ca_file
            .clone()
            .or_else(|| settings.node.ca_file.clone()),
        edge_ca_file: Some(settings.authority_file()),
        secrets: Some(Arc::new(secret_files::SecretFiles::new(settings))),
        ..hearth_egress::EgressConfig::default()
    }
}

async fn start_control(
    settings: &Settings,
    volumes: Arc<Volumes>,
    here: &Host,
) -> anyhow::Result<Arc<Control>> {
    let (control, config) = open_control(settings).await?;
    control.connect_volumes(volumes);
    control.watch_node();
    // First of all: it refuses a database that another daemon uses.
    control
        .housekeeping_start()
        .await
        .context("take up what an earlier run left")?;
    control
        .volumes_take_up()
        .await
        .context("take up volumes that an earlier run left half done")?;
    let bootstrapped = hearth_control::bootstrap(control.store().as_ref(), &config)
        .await
        .context("set up the first team")?;
    control
        .node_register(node::local(settings)?)
        .await
        .context("make this machine's node known")?;
    if let Some(key) = bootstrapped.api_key {
        secrets::write(&settings.api_key_file(), key.expose_secret())?;
    }
    prepare::publish_all(settings, &control, bootstrapped.team.id, here).await?;
    Ok(control)
}

async fn open_control(
    settings: &Settings,
) -> anyhow::Result<(Arc<Control>, hearth_control::Config)> {
    let store = open_store(settings).await?;
    let seed = secrets::random_once(&settings.token_seed_file())?;
    let mut config = hearth_control::Config::new(settings.domain(), seed.into());
    config.owner = owner(settings)?;
    config.sole = true;
    config.features.pause = true;
    config.features.egress_rules = true;
    config.features.egress_proxy = true;
    config.features.network_rules = true;
    config.team = TeamConfig {
        slug: DEFAULT_TEAM.to_owned(),
        limits: limits(settings),
        ..TeamConfig::default()
    };
    config.events = settings.events.config();
    config.max_concurrent_builds = settings.limits.concurrent_builds;
    let node = Arc::new(NodeClient::unix(settings.node_socket()));
    let agent = Arc::new(AgentClient::new());
    Ok((Control::new(config.clone(), store, node, agent), config))
}

/// Who this installation is to others that use the store. Its lock keeps two daemons
/// from running here, so whoever had the id before is gone.
fn owner(settings: &Settings) -> anyhow::Result<OwnerId> {
    let file = settings.owner_file();
    let text = secrets::random_once(&file)?;
    OwnerId::parse(&text).with_context(|| format!("{} holds no id", file.display()))
}

fn limits(settings: &Settings) -> TeamLimits {
    TeamLimits {
        max_concurrent_sandboxes: settings.limits.concurrent_sandboxes,
        max_length_hours: settings.limits.max_length_hours,
        max_total_vcpus: settings.limits.total_vcpus,
        max_total_memory_mib: settings.limits.total_memory_mib,
        max_paused_sandboxes: settings.limits.paused_sandboxes,
        max_snapshots: settings.limits.snapshots,
        max_templates: settings.limits.templates,
        max_volumes: settings.limits.volumes,
        max_stored_mib: settings.limits.stored_mib,
        ..TeamLimits::default()
    }
}

/// The team of this slug, made with the configured limits when there is none.
pub async fn team_or_new(
    store: &dyn Store,
    settings: &Settings,
    slug: &str,
) -> anyhow::Result<Team> {
    if let Some(team) = store.team_by_slug(slug).await? {
        return Ok(team);
    }
    Ok(hearth_control::team_create(store, slug, limits(settings)).await?)
}

/// The store, for commands that need no daemon.
pub async fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn Store>> {
    make_state_dir(settings)?;
    if let Some(address) = &settings.database {
        return Ok(Arc::new(hearth_store_postgres::open(address).await?));
    }
    let path = settings.database_file();
    let store = hearth_store_sqlite::open(&path)
        .await
        .with_context(|| format!("open {}", path.display()))?;
    Ok(Arc::new(store))
}

pub fn make_state_dir(settings: &Settings) -> anyhow::Result<()> {
    let dir = &settings.state_dir;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .with_context(|| format!("make {}", dir.display()))?;
    // Made with a stricter mode before, or by hand: VM processes look nothing up
    // in here, but others must not list it.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("set the mode of {}", dir.display()))
}

/// Cleans up after a daemon that died: adopts what it left only to end it.
pub async fn clean_up(settings: &Settings) -> anyhow::Result<usize> {
    if !settings.sandboxes_dir().exists() {
        return Ok(0);
    }
    let _lock = Lock::take(&settings.pid_file())?;
    let engine = engine::start(settings).await?;
    let builds = Arc::new(LocalStore::open(settings.builds_dir())?);
    let network = hearth_network::NetworkConfig {
        pool_size: 0,
        ..network_config(settings)?
    };
    let config = node_config(settings, volumes::open(settings)?)?;
    let node = Node::start(config, engine, builds, network).await?;
    let left = node
        .list()
        .iter()
        .filter(|status| status.state != hearth_node::SandboxState::Paused)
        .count();
    node.delete_all().await;
    node.shutdown(STOP_LIMIT).await;
    emulation::forget(settings);
    // Nobody serves it: its daemon is dead, and the lock keeps others from starting.
    for socket in [settings.node_socket(), settings.admin_socket()] {
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("remove the dead daemon's sockets");
            }
            _ => {}
        }
    }
    Ok(left)
}
