//! What every handler sees.

use hearth_control::Control;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The control plane, and whether this process is about to stop.
#[derive(Clone)]
pub struct AppState {
    pub(crate) control: Arc<Control>,
    draining: Arc<AtomicBool>,
}

impl AppState {
    /// The state of a process that takes requests.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            draining: Arc::default(),
        }
    }

    /// From now on the health check says that this process is going away, so that
    /// whatever spreads the load sends nothing more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
