//! The records, free of any backend.

use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use uuid::Uuid;

/// What a team may use. The defaults are those of the contract's free tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TeamLimits {
    pub max_concurrent_sandboxes: u32,
    /// The longest time a sandbox may be given to live, counted from now.
    pub max_length_hours: u32,
    pub max_vcpus: u32,
    pub max_memory_mib: u32,
    pub max_disk_mib: u32,
}

impl Default for TeamLimits {
    fn default() -> Self {
        Self {
            max_concurrent_sandboxes: 20,
            max_length_hours: 1,
            max_vcpus: 8,
            max_memory_mib: 8192,
            max_disk_mib: 25_600,
        }
    }
}

#[derive(Debug, Clone)]
pub struct NewTeam {
    pub id: TeamId,
    /// The namespace of the team's templates.
    pub slug: String,
    pub name: String,
    pub limits: TeamLimits,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    pub id: TeamId,
    pub slug: String,
    pub name: String,
    pub limits: TeamLimits,
    pub banned: bool,
    pub blocked_reason: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// What may be shown of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMask {
    pub prefix: String,
    /// Length of what follows the prefix.
    pub value_length: u32,
    pub first: String,
    pub last: String,
}

#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub id: Uuid,
    pub team_id: TeamId,
    pub name: String,
    /// `$sha256$` and the unpadded base64 of the key's hash.
    pub hash: String,
    pub mask: KeyMask,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: Uuid,
    pub team_id: TeamId,
    pub name: String,
    pub hash: String,
    pub mask: KeyMask,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub id: TemplateId,
    pub team_id: TeamId,
    pub public: bool,
    pub is_default: bool,
    /// Its first names.
    pub aliases: Vec<TemplateAlias>,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub id: TemplateId,
    pub team_id: TeamId,
    pub public: bool,
    /// One of the templates that every installation has.
    pub is_default: bool,
    pub spawn_count: u64,
    pub last_spawned_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateAlias {
    /// Empty for names that need none.
    pub namespace: String,
    pub alias: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStatus {
    Waiting,
    Building,
    Ready,
    Error,
}

#[derive(Debug, Clone)]
pub struct NewBuild {
    pub id: BuildId,
    pub template_id: TemplateId,
    pub status: BuildStatus,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub id: BuildId,
    pub template_id: TemplateId,
    pub status: BuildStatus,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagAssignment {
    pub tag: String,
    pub build_id: BuildId,
    pub created_at: DateTime<Utc>,
}

/// A build that was made of a running sandbox, and the name it gets.
#[derive(Debug, Clone)]
pub struct NewSnapshot {
    /// Made first, where it is a new one; the build's template otherwise exists.
    pub template: Option<NewTemplate>,
    pub build: NewBuild,
    pub team_id: TeamId,
    pub sandbox_id: SandboxId,
    pub tag: String,
}

/// A name of a snapshot: a tag of a template whose builds are of sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub template_id: TemplateId,
    pub build_id: BuildId,
    /// What it was made of.
    pub sandbox_id: SandboxId,
    pub tag: String,
    /// When the tag was given.
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct IdempotencyRequest {
    pub team_id: TeamId,
    pub key: String,
    pub request_hash: String,
    /// The id that the sandbox gets if this claim succeeds.
    pub sandbox_id: SandboxId,
    pub now: DateTime<Utc>,
    /// Until when nobody else may take the claim over.
    pub lease_until: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyClaim {
    /// The key is the caller's, who now carries the request out.
    Fresh,
    /// The key is the caller's; an earlier holder did not finish and may or may
    /// not have made this sandbox.
    TakenOver { sandbox_id: SandboxId },
    /// Somebody is carrying the same request out.
    InProgress,
    /// The same request was carried out, with this outcome.
    Done { outcome: String },
    /// The key was used for another request.
    Mismatch,
}
