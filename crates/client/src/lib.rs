//! The Rust SDK: the control plane's REST API and, through the edge, the agent in
//! each sandbox.
//!
//! ```no_run
//! # async fn example() -> Result<(), hearth_client::Error> {
//! use hearth_client::{Command, ControlClient, NewSandbox};
//! let control = ControlClient::new("http://localhost:3000", "e2b_…")?;
//! let created = control
//!     .sandbox_create(&NewSandbox { template_id: "base".into(), ..Default::default() })
//!     .await?;
//! let sandbox = control.sandbox_client(&created)?;
//! let output = sandbox.run(Command::shell("echo hi")).await?;
//! assert_eq!(output.stdout, b"hi\n");
//! # Ok(()) }
//! ```
//!
//! All calls of a [`ControlClient`] and of the [`SandboxClient`]s made from it share
//! one pool of kept connections. Plain HTTP only: it is meant for the same machine
//! and for tunnels.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod control;
mod events;
mod nodes;
mod sandbox;
mod templates;
mod volumes;

pub use control::{ControlClient, ListQuery, LogQuery, Page};
pub use hearth_agent_client::{
    AgentClient, Command, CommandEvent, CommandStream, Error, Exit, Output, ProcessInfo, PtySize,
    Result, Signal,
};
pub use hearth_ids::SandboxId;
pub use hearth_wire::{
    AliasInfo, BuildLogEntry, BuildStatus, BuildStatusReason, DeliveryStatus, FilesUpload,
    ForkResult, FromImageRegistry, ListedSandbox, LogLevel, NewSandbox, NewTemplateBuild,
    NewWebhook, Node, NodeStatus, OnTimeout, RequestedTemplate, Sandbox, SandboxDetail,
    SandboxEvent, SandboxLogEntry, SandboxState, SnapshotInfo, StartTemplateBuild, Template,
    TemplateBuild, TemplateBuildInfo, TemplateStep, TemplateTag, TemplateWithBuilds, Volume,
    VolumeAndToken, VolumeState, VolumeUsage, Webhook, WebhookDelivery,
};
pub use sandbox::SandboxClient;
