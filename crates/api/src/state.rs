//! What every handler sees.

use crate::audit::{Entry, Trail};
use crate::content_permits::ContentPermits;
use crate::rate_limit::{Limiter, RateLimits};
use axum::extract::Request;
use hearth_audit::AuditLog;
use hearth_control::{Control, OperatorToken};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The control plane, and whether this process is about to stop.
#[derive(Clone)]
pub struct AppState {
    pub(crate) control: Arc<Control>,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) content: ContentPermits,
    pub(crate) counting: ContentPermits,
    operator: Option<OperatorToken>,
    trail: Option<Arc<Trail>>,
    draining: Arc<AtomicBool>,
}

impl AppState {
    /// Without limits of the rate of requests, and without an audit log.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self {
            control,
            limiter: Arc::new(Limiter::new(&RateLimits::unlimited())),
            content: ContentPermits::for_content(),
            counting: ContentPermits::for_counting(),
            operator: None,
            trail: None,
            draining: Arc::default(),
        }
    }

    /// The same with limits of the rate of requests.
    #[must_use]
    pub fn with_rate_limits(self, limits: &RateLimits) -> Self {
        Self {
            limiter: Arc::new(Limiter::new(limits)),
            ..self
        }
    }

    /// The same with an audit log.
    #[must_use]
    pub fn with_audit_log(self, log: Arc<AuditLog>) -> Self {
        Self {
            trail: Some(Arc::new(Trail::new(log))),
            ..self
        }
    }

    /// The same with operators, who show this token.
    #[must_use]
    pub fn with_operator_token(self, token: OperatorToken) -> Self {
        Self {
            operator: Some(token),
            ..self
        }
    }

    /// Whether this is the operators' token.
    pub(crate) fn is_operator(&self, shown: &str) -> bool {
        self.operator.as_ref().is_some_and(|token| token.is(shown))
    }

    /// What teams used, in Prometheus' text format.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn usage_metrics(&self) -> Result<String, hearth_control::Error> {
        self.control.usage_metrics().await
    }

    /// Begins the record of a request, where there is a log.
    pub(crate) fn begin(&self, request: &Request, request_id: &str) -> Option<Entry> {
        let trail = self.trail.as_ref()?;
        Some(Entry::begin(trail, request, request_id))
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
