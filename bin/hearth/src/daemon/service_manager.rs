//! What a service manager is told of the daemon's state, by the protocol of
//! `sd_notify(3)`. Without one (`NOTIFY_SOCKET` is not set) nothing is said.

use sd_notify::NotifyState;

/// Requests are served at `url` from now on.
pub fn ready(url: &str) {
    tell(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serves {url}")),
    ]);
}

/// The daemon winds down; the sandboxes run on.
pub fn stopping() {
    tell(&[
        NotifyState::Stopping,
        NotifyState::Status("winds down; sandboxes run on"),
    ]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "notify the service manager failed");
    }
}
