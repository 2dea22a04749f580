//! The port to the part of a node that builds templates.

use crate::NodeError;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TeamId, TemplateId};
use secrecy::SecretString;
use std::time::Duration;

/// A piece of an archive of COPY sources.
#[derive(Debug, Clone)]
pub struct FilesPiece {
    pub team: TeamId,
    /// 64 hexadecimal digits.
    pub hash: String,
    /// Names the upload; a UUID.
    pub upload_id: String,
    /// Bytes sent before.
    pub offset: u64,
    pub data: Vec<u8>,
    /// Length of the whole archive in bytes.
    pub total_bytes: u64,
}

/// Who reads an image from its registry.
#[derive(Debug, Clone)]
pub enum RegistryCredentials {
    Basic {
        username: String,
        password: SecretString,
    },
    Aws {
        access_key_id: String,
        secret_access_key: SecretString,
        region: String,
    },
    Gcp {
        service_account_json: SecretString,
    },
}

/// What a build starts from.
#[derive(Debug, Clone)]
pub enum BuildSource {
    Image {
        reference: String,
        credentials: Option<RegistryCredentials>,
    },
    Build(BuildId),
}

/// One step as its author sent it; the node checks it.
#[derive(Debug, Clone)]
pub struct BuildStep {
    pub kind: String,
    pub args: Vec<String>,
    pub files_hash: String,
    pub force: bool,
}

/// A build for a node to carry out.
#[derive(Debug, Clone)]
pub struct NodeBuildSpec {
    pub build_id: BuildId,
    pub template_id: TemplateId,
    pub team: TeamId,
    pub name: String,
    pub source: BuildSource,
    pub steps: Vec<BuildStep>,
    pub start_command: String,
    pub ready_command: String,
    pub force: bool,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub min_free_disk_mib: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BuildLogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone)]
pub struct BuildLogEntry {
    pub timestamp: DateTime<Utc>,
    pub level: BuildLogLevel,
    pub message: String,
    pub step: Option<String>,
}

/// How a build on a node does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeBuildState {
    Building,
    Ready {
        disk_mib: u32,
        envd_version: String,
    },
    Failed {
        reason: String,
        step: Option<String>,
    },
}

#[derive(Debug, Clone)]
pub struct NodeBuildView {
    pub state: NodeBuildState,
    pub entries: Vec<BuildLogEntry>,
}

#[async_trait]
pub trait TemplateNode: Send + Sync {
    async fn files_present(&self, team: TeamId, hash: &str) -> Result<bool, NodeError>;
    /// Answers whether the archive is whole.
    async fn files_add(&self, piece: FilesPiece) -> Result<bool, NodeError>;
    async fn template_build_start(&self, spec: NodeBuildSpec) -> Result<(), NodeError>;
    /// The build with at most `limit` log entries from `offset` on. Waits at most
    /// `wait` for one, or for the end.
    async fn template_build_view(
        &self,
        build: BuildId,
        offset: u64,
        limit: u32,
        wait: Duration,
    ) -> Result<NodeBuildView, NodeError>;
    /// Gives a build up; answers when it holds nothing.
    async fn template_build_cancel(&self, build: BuildId, reason: &str) -> Result<(), NodeError>;
    /// Gives a build up or frees its result, and forgets its log.
    async fn template_build_remove(&self, build: BuildId) -> Result<(), NodeError>;
}
