//! Builds of templates: registered, begun, watched to their end.
//!
//! ```text
//!  register ─▶ waiting ──start──▶ building ──node──▶ ready, under its tags
//!                 └──────── given up ─────────┴───▶ error, with the step
//! ```
//!
//! The node carries a build out and keeps its log; the store keeps what became
//! of it. Every build that runs has a follower here, a task that writes its end
//! down; a status that shows an end writes it down first, so that whoever sees
//! `ready` can start a sandbox.

mod checks;
mod follow;
mod log;
mod source;

pub use checks::NewTemplateBuild;
pub(crate) use checks::{check_description, check_tag};
pub use log::{BuildLogCursor, BuildLogQuery};

use checks::{shape, tags};

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_node::{BuildLogEntry, BuildStep, NodeBuildSpec, TemplateNode};
use crate::uploads::{UploadTicket, is_files_hash};
use crate::{Control, NodeError};
use chrono::{TimeDelta, Utc};
use hearth_ids::{BuildId, TemplateId, TemplateReference};
use hearth_store::{
    BuildRequest, BuildStatus, NewBuild, NewBuildRequest, NewTemplate, Template, TemplateAlias,
};
use std::sync::Arc;
use std::time::Duration;

/// A build that was not begun this long after its registration is given up.
const REGISTERED_FOR: TimeDelta = TimeDelta::hours(1);
/// Log entries in one answer at most.
pub(crate) const MAX_ENTRIES: u32 = 100;
const INTERRUPTED: &str = "The build was interrupted: the node was restarted";

#[derive(Debug, Clone)]
pub struct RegisteredBuild {
    pub template: Template,
    pub build: hearth_store::Build,
    pub aliases: Vec<TemplateAlias>,
    pub tags: Vec<String>,
}

/// What a build is to do.
#[derive(Debug, Clone)]
pub struct TemplateBuildSpec {
    pub source: TemplateSource,
    pub steps: Vec<BuildStep>,
    pub start_command: String,
    pub ready_command: String,
    pub force: bool,
}

#[derive(Debug, Clone)]
pub enum TemplateSource {
    Image {
        reference: String,
        credentials: Option<crate::RegistryCredentials>,
    },
    Template(String),
}

#[derive(Debug, Clone)]
pub struct TemplateBuildView {
    pub template_id: TemplateId,
    pub build_id: BuildId,
    pub status: BuildStatus,
    pub entries: Vec<BuildLogEntry>,
    /// Of a build that failed: why, and the step.
    pub reason: Option<(String, Option<String>)>,
}

impl Control {
    pub(crate) fn template_node(&self) -> Result<&dyn TemplateNode, Error> {
        self.node.templates().ok_or_else(|| {
            Error::new(Kind::Unimplemented, "This node cannot build templates").never_retry()
        })
    }

    /// Registers a build, and its template where that is new.
    ///
    /// # Errors
    /// `Invalid` for a name, tag or size that is not allowed, `Forbidden` for
    /// another team's namespace, `LimitReached` with too many builds in progress.
    pub async fn template_build_register(
        &self,
        caller: &Caller,
        request: NewTemplateBuild,
    ) -> Result<RegisteredBuild, Error> {
        self.template_node()?;
        if request.name.trim().is_empty() {
            return Err(Error::new(Kind::Invalid, "Name is required"));
        }
        let reference = Self::template_parse_new("name", &request.name)?;
        let tags = tags(&reference, &request.tags)?;
        let (vcpus, memory_mib) = shape(caller, &request)?;
        let description = request.description.as_deref().map(check_description);
        let description = description.transpose()?;
        self.check_build_limit(caller).await?;
        self.check_stored(&caller.team).await?;
        let mut template = self.template_own_or_new(caller, &reference).await?;
        if let Some(description) = description {
            self.template_describe(&mut template, description).await?;
        }
        let build = NewBuild {
            id: BuildId::random(),
            template_id: template.id.clone(),
            status: BuildStatus::Waiting,
            vcpus,
            memory_mib,
            disk_mib: 0,
            envd_version: String::new(),
            created_at: Utc::now(),
        };
        let build = self
            .store
            .build_request_create(NewBuildRequest {
                build,
                team_id: caller.team_id(),
                tags: tags.clone(),
                min_free_disk_mib: request.min_free_disk_mib.unwrap_or(0),
            })
            .await?;
        Ok(RegisteredBuild {
            aliases: self.store.alias_list(&template.id).await?,
            template,
            build,
            tags,
        })
    }

    /// The caller's template of this name, made when there is none.
    async fn template_own_or_new(
        &self,
        caller: &Caller,
        reference: &TemplateReference,
    ) -> Result<Template, Error> {
        let slug = &caller.team.slug;
        if let Some(namespace) = &reference.namespace
            && namespace != slug
        {
            return Err(Error::new(
                Kind::Forbidden,
                format!("The namespace '{namespace}' is not that of the team '{slug}'"),
            ));
        }
        let alias = &reference.alias;
        if let Some(template) = self.store.template_by_alias(slug, alias).await? {
            return Ok(template);
        }
        if let Ok(id) = alias.parse::<TemplateId>()
            && let Some(template) = self.store.template(&id).await?
            && template.team_id == caller.team_id()
        {
            return Ok(template);
        }
        self.check_templates(&caller.team).await?;
        let new = NewTemplate {
            id: TemplateId::random(),
            team_id: caller.team_id(),
            public: false,
            is_default: false,
            aliases: vec![TemplateAlias {
                namespace: slug.clone(),
                alias: alias.clone(),
            }],
            created_at: Utc::now(),
        };
        match self.store.template_create(new).await {
            // Somebody else of the team was faster.
            Err(hearth_store::Error::Conflict(_)) => self
                .store
                .template_by_alias(slug, alias)
                .await?
                .ok_or_else(|| Error::new(Kind::Conflict, "the template alias is in use")),
            created => Ok(created?),
        }
    }

    async fn check_build_limit(&self, caller: &Caller) -> Result<(), Error> {
        let now = Utc::now();
        let mut count = 0;
        for request in self.store.build_request_list_active().await? {
            let waits = request.build.status == BuildStatus::Waiting;
            if waits && now - request.build.created_at > REGISTERED_FOR {
                let reason = "The build was registered but never started";
                self.store
                    .build_fail(request.build.id, reason, None, now)
                    .await?;
            } else if request.team_id == caller.team_id() {
                count += 1;
            }
        }
        let most = self.config.max_concurrent_builds;
        if count >= most {
            return Err(Error::new(
                Kind::LimitReached,
                format!(
                    "you have reached the maximum number of concurrent template builds ({most}); \
                     wait for one to end, or delete its template"
                ),
            ));
        }
        Ok(())
    }

    /// The template of this id or name, if it is the caller's own.
    pub(crate) async fn template_own(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Template, Error> {
        let reference = Self::template_parse("templateID", reference)?;
        let template = self.template_find(caller, &reference).await?;
        if template.team_id == caller.team_id() {
            return Ok(template);
        }
        Err(Error::new(
            Kind::Forbidden,
            format!("The template '{reference}' is another team's"),
        ))
    }

    /// Whether an archive of COPY sources is there, and leave to upload it.
    ///
    /// # Errors
    /// `Invalid` for a hash that is none.
    pub async fn template_files(
        &self,
        caller: &Caller,
        template: &str,
        hash: &str,
    ) -> Result<(bool, UploadTicket), Error> {
        if !is_files_hash(hash) {
            return Err(Error::new(Kind::Invalid, "Invalid files hash"));
        }
        self.template_own(caller, template).await?;
        let hash = hash.to_ascii_lowercase();
        let team = caller.team_id();
        let present = self
            .template_node()?
            .files_present(team, &hash)
            .await
            .map_err(Error::from_node)?;
        Ok((present, self.upload_ticket(team, &hash, Utc::now())))
    }

    /// Begins a registered build. Other builds of the template that run are given
    /// up: the last one that was asked for counts.
    ///
    /// # Errors
    /// `Invalid` for a build that does not wait and for steps that cannot be
    /// carried out, `Unavailable` for a node without room.
    pub async fn template_build_start(
        self: &Arc<Self>,
        caller: &Caller,
        template: &str,
        build: &str,
        spec: TemplateBuildSpec,
    ) -> Result<(), Error> {
        let build = parse_build(build)?;
        let template = self.template_own(caller, template).await?;
        let request = self.build_of(&template, build).await?;
        let not_waiting = || Error::new(Kind::Invalid, "build is not in waiting state");
        if request.build.status != BuildStatus::Waiting {
            return Err(not_waiting());
        }
        let source = self.build_source(caller, &template.id, spec.source).await?;
        self.give_up_others(&template, request.build.id).await?;
        // Until the node has it, nobody else asks after it and finds it interrupted.
        let Some(starting) = self.followed.begin(request.build.id) else {
            return Err(not_waiting());
        };
        if !self.store.build_begin(request.build.id, Utc::now()).await? {
            return Err(not_waiting());
        }
        let id = request.build.id;
        let aliases = self.store.alias_list(&template.id).await?;
        let wanted = NodeBuildSpec {
            build_id: id,
            template_id: template.id,
            team: caller.team_id(),
            name: aliases
                .first()
                .map(|alias| alias.alias.clone())
                .unwrap_or_default(),
            source,
            steps: spec.steps,
            start_command: spec.start_command,
            ready_command: spec.ready_command,
            force: spec.force,
            vcpus: request.build.vcpus,
            memory_mib: request.build.memory_mib,
            min_free_disk_mib: request.min_free_disk_mib,
        };
        match self.template_node()?.template_build_start(wanted).await {
            Ok(()) => {
                drop(starting);
                self.template_build_follow(id);
                Ok(())
            }
            Err(error) => {
                let reason = error.to_string();
                self.store.build_fail(id, &reason, None, Utc::now()).await?;
                Err(Error::from_node(error))
            }
        }
    }

    async fn give_up_others(&self, template: &Template, but: BuildId) -> Result<(), Error> {
        for other in self.store.build_request_list_active().await? {
            let build = &other.build;
            let runs = build.status == BuildStatus::Building;
            if runs && build.template_id == template.id && build.id != but {
                let reason = "The build was given up for a newer one of the same template";
                self.give_up(build.id, reason).await?;
            }
        }
        Ok(())
    }

    /// Ends a build that waits or runs.
    pub(crate) async fn give_up(&self, build: BuildId, reason: &str) -> Result<(), Error> {
        match self
            .template_node()?
            .template_build_cancel(build, reason)
            .await
        {
            Ok(()) | Err(NodeError::NotFound(_)) => {}
            Err(error) => return Err(Error::from_node(error)),
        }
        self.store
            .build_fail(build, reason, None, Utc::now())
            .await?;
        Ok(())
    }

    async fn build_of(&self, template: &Template, build: BuildId) -> Result<BuildRequest, Error> {
        self.store
            .build_request(build)
            .await?
            .filter(|request| request.build.template_id == template.id)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("Build '{build}' not found")))
    }

    /// Gives up one of the caller's builds. Fine when it has ended.
    ///
    /// # Errors
    /// `Invalid` when there is no such build.
    pub async fn template_build_cancel(
        &self,
        caller: &Caller,
        template: &str,
        build: &str,
    ) -> Result<(), Error> {
        let build = parse_build(build)?;
        let template = self.template_own(caller, template).await?;
        let request = self.build_of(&template, build).await?;
        match request.build.status {
            BuildStatus::Waiting | BuildStatus::Building => {
                self.give_up(request.build.id, "The build was cancelled")
                    .await
            }
            BuildStatus::Ready | BuildStatus::Error => Ok(()),
        }
    }

    /// How a build does, with its log from an entry on.
    ///
    /// # Errors
    /// `Invalid` when there is no such build.
    pub async fn template_build_status(
        &self,
        caller: &Caller,
        template: &str,
        build: &str,
        offset: u64,
        limit: u32,
    ) -> Result<TemplateBuildView, Error> {
        let build = parse_build(build)?;
        let template = self.template_own(caller, template).await?;
        let mut request = self.build_of(&template, build).await?;
        let id = request.build.id;
        let mut entries = Vec::new();
        if request.build.status != BuildStatus::Waiting {
            let limit = limit.min(MAX_ENTRIES);
            let node = self.template_node()?;
            let view = node
                .template_build_view(id, offset, limit, Duration::ZERO)
                .await;
            match view {
                Ok(view) => {
                    entries = view.entries;
                    if self.settle(id, &view.state).await? {
                        request = self.build_of(&template, build).await?;
                    }
                }
                Err(NodeError::NotFound(_)) if self.followed.contains(id) => {}
                Err(NodeError::NotFound(_)) if request.build.status == BuildStatus::Building => {
                    self.store
                        .build_fail(id, INTERRUPTED, None, Utc::now())
                        .await?;
                    request = self.build_of(&template, build).await?;
                }
                // Its log is gone; what became of it is not.
                Err(NodeError::NotFound(_)) => {}
                Err(error) => return Err(Error::from_node(error)),
            }
        }
        Ok(TemplateBuildView {
            template_id: template.id,
            build_id: id,
            status: request.build.status,
            entries,
            reason: request.reason.map(|reason| (reason, request.reason_step)),
        })
    }

    /// Gives a build up and lets its node forget its log. The template is gone:
    /// nobody waits for this to succeed.
    pub(crate) async fn template_build_forget(&self, build: BuildId) {
        let Some(node) = self.node.templates() else {
            return;
        };
        match node.template_build_remove(build).await {
            Ok(()) | Err(NodeError::NotFound(_)) => {}
            Err(error) => {
                tracing::warn!(%build, %error, "a deleted template's build is left on the node");
            }
        }
    }
}

/// A build's id as it stands in a path.
fn parse_build(text: &str) -> Result<BuildId, Error> {
    text.parse()
        .map_err(|_| Error::new(Kind::Invalid, "Invalid build id"))
}
