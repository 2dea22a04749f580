//! Template builds of this node, as the settings say.

use crate::settings::Settings;
use anyhow::Context;
use hearth_machine::Engine;
use hearth_network::SlotPool;
use hearth_snapshot::LocalStore;
use hearth_template_build::{Config, Guest, Limits, LogLimits, Templates};
use std::{sync::Arc, time::Duration};

pub fn start(
    settings: &Settings,
    engine: Arc<dyn Engine>,
    slots: SlotPool,
    store: LocalStore,
) -> anyhow::Result<Arc<Templates>> {
    let file = settings.guest_file();
    let guest = Guest::load(&file).with_context(|| {
        format!(
            "read {}: run `hearth up` or `hearth up --prepare-only`",
            file.display()
        )
    })?;
    let ca_bundle = settings.build_certificates()?;
    let builds = &settings.builds;
    let config = Config {
        state_dir: settings.templates_dir(),
        run_dir: settings.build_sockets_dir(),
        guest,
        nameservers: hearth_network::guest_nameservers(),
        ca_bundle,
        env: builds.env.clone(),
        registries: settings.registries.config(),
        install_packages: builds.install_packages,
        limits: Limits {
            concurrent: builds.concurrent.max(1),
            build_time: Duration::from_secs(builds.limit_seconds),
            ready_time: Duration::from_secs(builds.ready_limit_seconds),
            disk_mib: builds.disk_mib,
            max_disk_mib: builds.max_disk_mib,
            cache_bytes: builds.cache_mib << 20,
            upload_bytes: builds.upload_mib << 20,
            disk_reserve_bytes: settings.node.disk_reserve_mib << 20,
            disk_io: settings.node.disk_io(),
            memory_reserve_bytes: settings.node.memory_reserve_mib << 20,
            log: LogLimits::default(),
            ..Limits::default()
        },
    };
    Templates::start(config, engine, slots, store).context("get ready for template builds")
}
