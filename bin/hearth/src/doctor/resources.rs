//! Checks of addresses, ports, memory and disk space.

use super::Check;
use crate::{daemon, guest_programs::GuestProgram, settings::Settings};
use hearth_layout::lock;
use std::{io::ErrorKind, net::TcpListener, path::Path};

/// Space that the guest artefacts and the base template need, in bytes.
const NEEDED_DISK: u64 = 4 << 30;
/// Memory that a first sandbox and the daemon need, in bytes.
const NEEDED_MEMORY: u64 = 1 << 30;

pub(super) fn network(settings: &Settings) -> Vec<Check> {
    let config = match daemon::network_config(settings) {
        Ok(config) => config,
        Err(error) => {
            let fix = "correct the [network] section of hearth.toml";
            return vec![Check::failed("network settings", format!("{error:#}"), fix)];
        }
    };
    let mut found = hearth_network::doctor::check_tools();
    // Our own ranges and rules would look like conflicts while the daemon runs.
    if lock::holder(&settings.pid_file()).is_none() {
        found.extend(hearth_network::doctor::check_conflicts(&config));
    }
    found
        .into_iter()
        .map(|found| {
            if found.ok {
                Check::ok(found.name, found.detail)
            } else {
                Check::failed(found.name, found.detail, found.fix.unwrap_or_default())
            }
        })
        .collect()
}

/// Without an agent nothing boots; without the other program one template is missing.
pub(super) fn guest_programs(settings: &Settings) -> Check {
    const NAME: &str = "guest programs";
    const FIX: &str = "make build";
    match GuestProgram::ALL.map(|program| program.origin(settings)) {
        [Ok(agent), Ok(interpreter)] => Check::ok(NAME, format!("{agent}, {interpreter}")),
        [Ok(_), Err(error)] => Check::warning(NAME, error.to_string(), FIX),
        [Err(error), _] => Check::failed(NAME, error.to_string(), FIX),
    }
}

pub(super) fn ports(settings: &Settings) -> Vec<Check> {
    if let Some(pid) = lock::holder(&settings.pid_file()) {
        return vec![Check::ok(
            "ports",
            format!("held by Hearth itself (process {pid})"),
        )];
    }
    let api = settings.api.address;
    [
        ("API port", api, settings.api.port),
        ("edge port", api, settings.api.edge_port),
        ("TLS port", settings.tls_address(), settings.tls.port),
        (
            "metrics port",
            settings.metrics.address,
            settings.metrics.port,
        ),
    ]
    .into_iter()
    .filter(|(_, _, port)| *port != 0)
    .map(
        |(name, address, port)| match TcpListener::bind((address, port)) {
            Ok(_) => Check::ok(name, format!("{port} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Check::failed(
                name,
                format!("{port} is in use"),
                format!("ss -ltnp 'sport = :{port}' shows by whom; or set another in hearth.toml"),
            ),
            Err(error) => Check::failed(
                name,
                format!("{port}: {error}"),
                "set api.address in hearth.toml",
            ),
        },
    )
    .collect()
}

pub(super) fn memory(settings: &Settings) -> Check {
    const NAME: &str = "memory";
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024;
    let needed = NEEDED_MEMORY + (settings.node.memory_reserve_mib << 20);
    let detail = format!("{} MiB available", available >> 20);
    if available >= needed {
        Check::ok(NAME, detail)
    } else {
        let fix = format!(
            "free memory: {} MiB are needed for a first sandbox",
            needed >> 20
        );
        Check::failed(NAME, detail, fix)
    }
}

pub(super) fn disk(settings: &Settings) -> Vec<Check> {
    let prepared = settings.builds_dir().exists();
    [
        ("disk space", &settings.state_dir),
        ("cache space", &settings.cache_dir),
    ]
    .into_iter()
    .map(|(name, dir)| {
        let needed = if prepared {
            settings.node.disk_reserve_mib << 20
        } else {
            NEEDED_DISK
        };
        let place = existing(dir);
        match rustix::fs::statvfs(place) {
            Ok(stat) => {
                let free = stat.f_bavail.saturating_mul(stat.f_frsize);
                let detail = format!("{} MiB free in {}", free >> 20, place.display());
                if free >= needed {
                    Check::ok(name, detail)
                } else {
                    let fix = format!(
                        "free {} MiB there, or set another directory in hearth.toml",
                        needed >> 20
                    );
                    Check::failed(name, detail, fix)
                }
            }
            Err(error) => Check::failed(
                name,
                format!("{}: {error}", place.display()),
                "set another directory in hearth.toml",
            ),
        }
    })
    .collect()
}

/// What the limits add up to in descriptors.
pub(super) fn descriptors(settings: &Settings) -> Check {
    const NAME: &str = "open files";
    let there_are = daemon::descriptors::raise();
    let (least, all) = daemon::descriptors::needed(settings);
    let fix = format!(
        "raise the hard limit: `ulimit -Hn {all}`, or LimitNOFILE={all} of the service; or lower \
         node.max_sandboxes and connections.max_connections"
    );
    if there_are < least {
        let detail = format!("{there_are} are allowed, and at least {least} are needed");
        return Check::failed(NAME, detail, fix);
    }
    if there_are < all {
        let detail = format!(
            "{there_are} are allowed, and the settings add up to {all}: there will be fewer \
             connections"
        );
        return Check::warning(NAME, detail, fix);
    }
    Check::ok(NAME, format!("{there_are} are allowed, {all} are needed"))
}

/// What Hearth cannot read, and therefore left as it is.
pub(super) async fn quarantine(settings: &Settings) -> Vec<Check> {
    let sandboxes = match daemon::quarantine(settings) {
        Ok(found) if found.is_empty() => Check::ok("sandboxes", "all can be read"),
        Ok(found) => {
            let found = found
                .iter()
                .map(|one| format!("{} ({})", one.sandbox_id, one.why));
            Check::warning(
                "sandboxes",
                format!("left as they are: {}", found.collect::<Vec<_>>().join("; ")),
                format!(
                    "start the version of Hearth that wrote them; to give one up, stop Hearth \
                     and remove {}/<ID>",
                    settings.sandboxes_dir().display()
                ),
            )
        }
        Err(error) => Check::warning("sandboxes", format!("{error:#}"), "run as root"),
    };
    let mut checks = vec![sandboxes];
    if settings.builds_dir().exists() {
        checks.push(builds(settings).await);
    }
    checks
}

async fn builds(settings: &Settings) -> Check {
    const NAME: &str = "builds";
    let found = async {
        let store = hearth_snapshot::LocalStore::open(settings.builds_dir())?;
        Ok::<_, hearth_snapshot::Error>((store.unreadable().await?, store.holds().await?))
    };
    let (unreadable, holds) = match found.await {
        Ok(found) => found,
        Err(error) => return Check::warning(NAME, error.to_string(), "run as root"),
    };
    if unreadable.is_empty() && holds.is_empty() {
        return Check::ok(NAME, "all can be read");
    }
    let mut details = Vec::new();
    if !unreadable.is_empty() {
        let left = unreadable.iter().map(|(id, why)| format!("{id} ({why})"));
        let left = left.collect::<Vec<_>>().join("; ");
        details.push(format!("left as they are: {left}"));
    }
    // Disk space that comes back only when somebody settles it.
    details.extend(holds.iter().map(|hold| {
        format!(
            "garbage collection leaves {} builds from before {} that {} may need",
            hold.builds.len(),
            hold.since.format("%Y-%m-%d %H:%M:%S UTC"),
            hold.holder
        )
    }));
    Check::warning(
        NAME,
        details.join("; "),
        format!(
            "start the version of Hearth that wrote them; to give one up, stop Hearth and remove \
             {}/<ID> of a build, or {}/<ID> of a sandbox",
            settings.builds_dir().display(),
            settings.sandboxes_dir().display()
        ),
    )
}

/// The nearest directory above `path` that exists.
fn existing(path: &Path) -> &Path {
    path.ancestors()
        .find(|ancestor| ancestor.is_dir())
        .unwrap_or(Path::new("/"))
}
