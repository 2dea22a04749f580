//! Between the wire's types and the application's. The defaults of the two
//! generations of the API are applied here, and nowhere else.

use hearth_control::{
    Build, BuildStatus, EgressProxy, EgressProxyTls, Error, HeaderTransform, Lifecycle,
    ListedSandbox, LogEntry, LogLevel, Metric, MountRequest, NetworkRule, NetworkSettings,
    NetworkUpdate, NewSandbox, OnTimeout, SandboxAccess, SandboxView, SnapshotView, TagAssignment,
    TemplateAlias, TemplateView, VisibleState, VolumeMount,
};
use hearth_wire as wire;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The two generations of the create and connect calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    First,
    Second,
}

impl Generation {
    /// Seconds that a sandbox lives where the caller does not say.
    pub(crate) fn default_timeout(self) -> i64 {
        match self {
            Self::First => 15,
            Self::Second => 300,
        }
    }
}

pub(crate) fn new_sandbox(request: wire::NewSandbox, generation: Generation) -> NewSandbox {
    let on_timeout = if request.auto_pause.unwrap_or(false) {
        OnTimeout::Pause
    } else {
        OnTimeout::Kill
    };
    NewSandbox {
        template: request.template_id,
        timeout_seconds: request
            .timeout
            .unwrap_or_else(|| generation.default_timeout()),
        lifecycle: Lifecycle {
            on_timeout,
            auto_resume: request.auto_resume.is_some_and(|resume| resume.enabled),
            auto_pause_memory: request.auto_pause_memory.unwrap_or(true),
            initial_timeout_seconds: None,
        },
        // The second generation has no such choice: its sandboxes are always secured.
        secure: match generation {
            Generation::First => request.secure,
            Generation::Second => Some(true),
        },
        allow_internet_access: request.allow_internet_access,
        network: request.network.map(network_in),
        metadata: request.metadata.unwrap_or_default(),
        env_vars: request.env_vars.unwrap_or_default(),
        identity_tokens: request
            .iam
            .and_then(|iam| iam.tokens)
            .is_some_and(|tokens| !tokens.is_empty()),
        volume_mounts: request
            .volume_mounts
            .unwrap_or_default()
            .into_iter()
            .map(|mount| MountRequest {
                name: mount.name,
                path: mount.path,
            })
            .collect(),
    }
}

type WireRules = BTreeMap<String, Vec<wire::NetworkRule>>;

fn network_in(network: wire::NetworkConfig) -> NetworkSettings {
    NetworkSettings {
        allow_public_traffic: network.allow_public_traffic,
        allow_out: network.allow_out,
        deny_out: network.deny_out,
        dns_servers: network.dns_servers,
        egress_proxy: network.egress_proxy.map(egress_proxy_in),
        mask_request_host: network.mask_request_host,
        https_ports: network.https_ports,
        rules: network.rules.map(rules_in),
    }
}

pub(crate) fn network_update(update: wire::NetworkUpdate) -> NetworkUpdate {
    NetworkUpdate {
        allow_out: update.allow_out,
        deny_out: update.deny_out,
        dns_servers: update.dns_servers,
        egress_proxy: update.egress_proxy.map(egress_proxy_in),
        rules: update.rules.map(rules_in),
        allow_internet_access: update.allow_internet_access,
    }
}

fn egress_proxy_in(proxy: wire::EgressProxy) -> EgressProxy {
    EgressProxy {
        address: proxy.address,
        username: proxy.username,
        password: proxy.password,
        tls: proxy.tls.map(|tls| EgressProxyTls {
            enabled: tls.enabled,
            server_name: tls.server_name,
            ca_cert: tls.ca_cert,
        }),
    }
}

fn rules_in(rules: WireRules) -> BTreeMap<String, Vec<NetworkRule>> {
    let rule = |rule: wire::NetworkRule| NetworkRule {
        transform: rule.transform.map(|transform| HeaderTransform {
            headers: transform.headers.unwrap_or_default(),
        }),
    };
    rules
        .into_iter()
        .map(|(domain, list)| (domain, list.into_iter().map(rule).collect()))
        .collect()
}

fn network_out(network: NetworkSettings) -> wire::NetworkConfig {
    wire::NetworkConfig {
        allow_public_traffic: network.allow_public_traffic,
        allow_out: network.allow_out,
        deny_out: network.deny_out,
        dns_servers: network.dns_servers,
        // What the caller reads back holds no password.
        egress_proxy: network.egress_proxy.map(|proxy| wire::EgressProxy {
            address: proxy.address,
            username: proxy.username,
            password: None,
            tls: proxy.tls.map(|tls| wire::EgressProxyTls {
                enabled: tls.enabled,
                server_name: tls.server_name,
                ca_cert: tls.ca_cert,
            }),
        }),
        mask_request_host: network.mask_request_host,
        https_ports: network.https_ports,
        rules: network.rules.map(rules_out),
    }
}

fn rules_out(rules: BTreeMap<String, Vec<NetworkRule>>) -> WireRules {
    let rule = |rule: NetworkRule| wire::NetworkRule {
        transform: rule.transform.map(|transform| wire::NetworkTransform {
            headers: Some(transform.headers),
        }),
    };
    rules
        .into_iter()
        .map(|(domain, list)| (domain, list.into_iter().map(rule).collect()))
        .collect()
}

pub(crate) fn sandbox(access: SandboxAccess) -> wire::Sandbox {
    wire::Sandbox {
        template_id: access.template_id.to_string(),
        sandbox_id: access.sandbox_id.to_string(),
        client_id: wire::CLIENT_ID.to_owned(),
        envd_version: access.envd_version,
        alias: access.alias,
        envd_access_token: access
            .envd_access_token
            .map(|token| token.expose_secret().to_owned()),
        traffic_access_token: access
            .traffic_access_token
            .map(|token| token.expose_secret().to_owned()),
        domain: access.domain,
    }
}

/// One fork: a sandbox, or its error as the API would answer it.
pub(crate) fn fork(fork: Result<SandboxAccess, Error>) -> wire::ForkResult {
    match fork {
        Ok(access) => wire::ForkResult {
            sandbox: Some(sandbox(access)),
            error: None,
        },
        Err(error) => wire::ForkResult {
            sandbox: None,
            error: Some(crate::error::told(error)),
        },
    }
}

pub(crate) fn snapshot(view: SnapshotView) -> wire::SnapshotInfo {
    wire::SnapshotInfo {
        snapshot_id: view.id,
        names: view.names,
    }
}

fn state(state: VisibleState) -> wire::SandboxState {
    match state {
        VisibleState::Running => wire::SandboxState::Running,
        VisibleState::Paused => wire::SandboxState::Paused,
    }
}

fn volume_mounts(mounts: Vec<VolumeMount>) -> Option<Vec<wire::VolumeMount>> {
    let mounts: Vec<wire::VolumeMount> = mounts
        .into_iter()
        .map(|mount| wire::VolumeMount {
            name: mount.name,
            path: mount.path,
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

pub(crate) fn sandbox_detail(view: SandboxView) -> wire::SandboxDetail {
    let access = sandbox(view.access);
    wire::SandboxDetail {
        template_id: access.template_id,
        sandbox_id: access.sandbox_id,
        client_id: access.client_id,
        alias: access.alias,
        started_at: view.started_at,
        end_at: view.end_at,
        envd_version: access.envd_version,
        envd_access_token: access.envd_access_token,
        allow_internet_access: view.allow_internet_access,
        domain: access.domain,
        cpu_count: view.vcpus,
        memory_mb: view.memory_mib,
        disk_size_mb: view.disk_mib,
        metadata: view.metadata,
        state: state(view.state),
        network: view.network.map(network_out),
        lifecycle: wire::Lifecycle {
            auto_resume: view.lifecycle.auto_resume,
            on_timeout: match view.lifecycle.on_timeout {
                OnTimeout::Kill => wire::OnTimeout::Kill,
                OnTimeout::Pause => wire::OnTimeout::Pause,
            },
        },
        volume_mounts: volume_mounts(view.volume_mounts),
        pause_mode: view.paused.map(|paused| match paused.memory {
            true => wire::PauseMode::Full,
            false => wire::PauseMode::Filesystem,
        }),
    }
}

pub(crate) fn listed_sandbox(listed: ListedSandbox) -> wire::ListedSandbox {
    let end_at = listed.end_at();
    let ListedSandbox {
        summary,
        state: visible,
    } = listed;
    let summary = Arc::unwrap_or_clone(summary);
    wire::ListedSandbox {
        template_id: summary.template_id.to_string(),
        sandbox_id: summary.sandbox_id.to_string(),
        client_id: wire::CLIENT_ID.to_owned(),
        alias: summary.alias,
        started_at: summary.started_at,
        end_at,
        cpu_count: summary.vcpus,
        memory_mb: summary.memory_mib,
        disk_size_mb: summary.disk_mib,
        metadata: summary.metadata,
        state: state(visible),
        envd_version: summary.envd_version,
        volume_mounts: volume_mounts(summary.volume_mounts),
    }
}

/// The first generation's line: a JSON object of its own, with the fields beside
/// level and message.
pub(crate) fn log_line(entry: &LogEntry) -> wire::SandboxLog {
    let mut line: serde_json::Map<_, _> = entry
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect();
    line.insert("level".to_owned(), log_level(entry.level).as_str().into());
    line.insert("message".to_owned(), entry.message.clone().into());
    wire::SandboxLog {
        timestamp: entry.timestamp,
        line: serde_json::Value::Object(line).to_string(),
    }
}

pub(crate) fn log_entry(entry: LogEntry) -> wire::SandboxLogEntry {
    wire::SandboxLogEntry {
        timestamp: entry.timestamp,
        level: log_level(entry.level),
        message: entry.message,
        fields: entry.fields,
    }
}

fn log_level(level: LogLevel) -> wire::LogLevel {
    match level {
        LogLevel::Debug => wire::LogLevel::Debug,
        LogLevel::Info => wire::LogLevel::Info,
        LogLevel::Warn => wire::LogLevel::Warn,
        LogLevel::Error => wire::LogLevel::Error,
    }
}

pub(crate) fn metric(metric: &Metric) -> wire::SandboxMetric {
    wire::SandboxMetric {
        timestamp: metric.at,
        timestamp_unix: metric.at.timestamp(),
        cpu_count: metric.cpu_count,
        cpu_used_pct: metric.cpu_used_pct,
        mem_used: metric.mem_used,
        mem_total: metric.mem_total,
        mem_cache: metric.mem_cache,
        disk_used: metric.disk_used,
        disk_total: metric.disk_total,
    }
}

pub(crate) fn build_status(status: BuildStatus) -> wire::BuildStatus {
    match status {
        BuildStatus::Waiting => wire::BuildStatus::Waiting,
        BuildStatus::Building => wire::BuildStatus::Building,
        BuildStatus::Ready => wire::BuildStatus::Ready,
        BuildStatus::Error => wire::BuildStatus::Error,
    }
}

/// Names as callers write them.
pub(crate) fn names(aliases: &[TemplateAlias]) -> Vec<String> {
    let name = |alias: &TemplateAlias| match alias.namespace.as_str() {
        "" => alias.alias.clone(),
        namespace => format!("{namespace}/{}", alias.alias),
    };
    aliases.iter().map(name).collect()
}

pub(crate) fn build(build: Build) -> wire::TemplateBuild {
    wire::TemplateBuild {
        build_id: build.id.to_string(),
        status: build_status(build.status),
        created_at: build.created_at,
        updated_at: build.updated_at,
        finished_at: build.finished_at,
        cpu_count: build.vcpus,
        memory_mb: build.memory_mib,
        disk_size_mb: build.disk_mib,
        envd_version: build.envd_version,
    }
}

/// A template that another team owns shows nothing of that team's use of it.
pub(crate) fn template(view: TemplateView) -> wire::Template {
    let names = names(&view.aliases);
    let build = view.build.map(build);
    let (own, template) = (view.own, view.template);
    wire::Template {
        template_id: template.id.to_string(),
        build_id: build
            .as_ref()
            .map_or_else(|| wire::NO_BUILD.to_owned(), |build| build.build_id.clone()),
        cpu_count: build.as_ref().map_or(0, |build| build.cpu_count),
        memory_mb: build.as_ref().map_or(0, |build| build.memory_mb),
        disk_size_mb: build.as_ref().map_or(0, |build| build.disk_size_mb),
        description: template.description,
        public: template.public,
        aliases: view.aliases.into_iter().map(|alias| alias.alias).collect(),
        names,
        created_at: template.created_at,
        updated_at: template.updated_at,
        created_by: None,
        last_spawned_at: template.last_spawned_at.filter(|_| own),
        spawn_count: if own { template.spawn_count } else { 0 },
        build_count: if own { view.build_count } else { 0 },
        build_status: build
            .as_ref()
            .map_or(wire::BuildStatus::Waiting, |build| build.status),
        envd_version: build.map(|build| build.envd_version).unwrap_or_default(),
        is_default: template.is_default,
    }
}

pub(crate) fn tag(tag: TagAssignment) -> wire::TemplateTag {
    wire::TemplateTag {
        tag: tag.tag,
        build_id: tag.build_id.to_string(),
        created_at: tag.created_at,
    }
}
