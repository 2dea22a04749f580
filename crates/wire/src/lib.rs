//! The REST contract's request and response types: what crosses the wire, as
//! serde sees it, with the schemas of the generated OpenAPI document. No rule
//! lives here: a request type says what can be read, not what is allowed.
//!
//! Requests tolerate unknown keys, as clients of other generations send more;
//! where a value may be left out, `null` means the same as absence.

#![forbid(unsafe_code)]

mod admin;
mod api_key;
mod error;
mod event;
mod log;
mod metric;
mod network;
mod node;
mod sandbox;
mod secret;
mod team;
mod template;
mod template_build;
mod template_tag;
mod time;
mod usage;
mod volume;
mod webhook;

pub use admin::{
    CancelledBuilds, KilledSandboxes, NewTeam, TeamAllocated, TeamDetail, TeamLimits,
    TeamLimitsChange, UpdateTeam,
};
pub use api_key::{ApiKeyMask, CreatedApiKey, NewApiKey, TeamApiKey, UpdateApiKey};
pub use error::ApiError;
pub use event::SandboxEvent;
pub use log::{LogLevel, SandboxLog, SandboxLogEntry, SandboxLogs, SandboxLogsV2};
pub use metric::{SandboxMetric, SandboxesWithMetrics};
pub use network::{
    EgressProxy, EgressProxyTls, NetworkConfig, NetworkRule, NetworkTransform, NetworkUpdate,
};
pub use node::{DiskMetrics, MachineInfo, Node, NodeMetrics, NodeStatus, NodeStatusChange};
pub use sandbox::{
    AutoResume, ConnectSandbox, ForkResult, ForkSandbox, Iam, IamToken, Lifecycle, ListedSandbox,
    NewSandbox, OnTimeout, PauseMode, PauseSandbox, RefreshSandbox, ResumeSandbox, RollbackSandbox,
    Sandbox, SandboxDetail, SandboxState, SnapshotInfo, SnapshotSandbox, TimeoutSandbox,
    VolumeMount,
};
pub use secret::{NewSecret, Secret, SecretUpdate};
pub use team::Team;
pub use template::{
    AliasInfo, BuildStatus, TeamUser, Template, TemplateBuild, TemplateTag, TemplateWithBuilds,
};
pub use template_build::{
    AssignTemplateTags, AssignedTemplateTags, BuildLogEntry, BuildStatusReason, DeleteTemplateTags,
    FilesUpload, FromImageRegistry, NewTemplateBuild, NewTemplateBuildV2, RequestedTemplate,
    RequestedTemplateLegacy, StartTemplateBuild, TemplateBuildInfo, TemplateBuildLogs,
    TemplateNames, TemplateStep, TemplateUpdate,
};
pub use template_tag::{
    TemplateTagAssignment, TemplateTagAssignments, TemplateTagExists, TemplateTagGroup,
    TemplateTagGroups, TemplateTagsCount,
};
pub use usage::{MaxTeamMetric, SandboxUsage, TeamMetric, TeamUsage, Usage};

pub use time::{parse_rfc3339, rfc3339_millis};
pub use webhook::{
    DeliveryAttempt, DeliveryBucket, DeliveryStatus, DurationStats, NewWebhook, UpdateWebhook,
    Webhook, WebhookDeliveries, WebhookDelivery, WebhookStats,
};

pub use volume::{
    CopyVolume, NewVolume, SetVolumePath, Volume, VolumeAndToken, VolumeContentError, VolumeEntry,
    VolumeEntryType, VolumeState, VolumeUsage,
};

/// The `clientID` of every response: the contract keeps the field, nothing
/// reads it any more.
pub const CLIENT_ID: &str = "6532622b";

/// The `buildID` of a template that has no build yet.
pub const NO_BUILD: &str = "00000000-0000-0000-0000-000000000000";
