//! What Hearth remembers: teams, API keys, templates with their builds and tags, volumes,
//! what happened and where that is told, what was used, nodes and who may be one, and the
//! outcomes of idempotent requests. Which sandboxes run is not here: the nodes know that.
//!
//! One file per resource: its records, and the trait of what can be done with them.
//! [`Store`] is all of those traits together. `hearth-store-sqlite` is the backend for
//! one machine, `hearth-store-postgres` the one for many. Every method is one
//! transaction: it happens whole or not at all, and it is on disk when it returns.
//! Times come from the caller, but for those of [leases](LeaseStore),
//! [nodes](NodeStore) and [who may be one](NodeIdentityStore). The suite in
//! `testing` (feature `testing`) says what any backend must do.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod api_key;
mod build;
mod build_request;
mod delivery;
mod discard;
mod error;
mod event;
mod idempotency;
mod lease;
mod node;
mod node_identity;
mod snapshot;
mod tag;
mod team;
mod template;
#[cfg(feature = "testing")]
pub mod testing;
mod usage;
mod volume;
mod webhook;

pub use api_key::{ApiKey, ApiKeyStore, KeyGrant, KeyMask, NewApiKey, Scope};
pub use build::{Build, BuildStatus, BuildStore, NewBuild, TagAssignment};
pub use build_request::{BuildRequest, NewBuildRequest, TemplateBuildStore};
pub use delivery::{
    Attempt, AttemptStats, Delivery, DeliveryPage, DeliveryPlace, DeliveryQuery, DeliveryState,
    DeliveryStore, DueDelivery, Redelivery, Verdict,
};
pub use discard::DiscardStore;
pub use error::{Error, Result};
pub use event::{Event, EventQuery, EventStore};
pub use idempotency::{IdempotencyClaim, IdempotencyHolder, IdempotencyRequest, IdempotencyStore};
pub use lease::{LeaseName, LeaseStore, OwnerId};
pub use node::{
    NodeMode, NodeRecord, NodeRegistration, NodeRemoval, NodeRun, NodeState, NodeStore,
};
pub use node_identity::{NodeIdentity, NodeIdentityStore, TokenUse};
pub use snapshot::{NewSnapshot, Snapshot, SnapshotStore};
pub use tag::{TagEvent, TagLatest, TagOrder, TagQuery, TagStore};
pub use team::{LimitsSetBy, NewTeam, Team, TeamLimits, TeamStore};
pub use template::{NewTemplate, Template, TemplateAlias, TemplateStore};
pub use usage::{Execution, Load, LoadStep, OpenExecution, Span, Usage, UsageStore};
pub use volume::{Volume, VolumeState, VolumeStore};
pub use webhook::{NewWebhook, Webhook, WebhookChange, WebhookStore};

/// The port to whatever keeps Hearth's records.
pub trait Store:
    TeamStore
    + ApiKeyStore
    + TemplateStore
    + BuildStore
    + TagStore
    + TemplateBuildStore
    + SnapshotStore
    + DiscardStore
    + IdempotencyStore
    + LeaseStore
    + NodeStore
    + NodeIdentityStore
    + VolumeStore
    + EventStore
    + WebhookStore
    + DeliveryStore
    + UsageStore
    + 'static
{
}

impl<S> Store for S where
    S: TeamStore
        + ApiKeyStore
        + TemplateStore
        + BuildStore
        + TagStore
        + TemplateBuildStore
        + SnapshotStore
        + DiscardStore
        + IdempotencyStore
        + LeaseStore
        + NodeStore
        + NodeIdentityStore
        + VolumeStore
        + EventStore
        + WebhookStore
        + DeliveryStore
        + UsageStore
        + 'static
{
}
