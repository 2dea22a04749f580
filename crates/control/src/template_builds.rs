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

use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_node::{
    BuildLogEntry, BuildSource, BuildStep, NodeBuildSpec, NodeBuildState, TemplateNode,
};
use crate::uploads::{UploadTicket, is_files_hash};
use crate::{Control, NodeError};
use chrono::{TimeDelta, Utc};
use hearth_ids::{BuildId, DEFAULT_TAG, TemplateId, TemplateReference};
use hearth_store::{
    BuildRequest, BuildStatus, NewBuild, NewBuildRequest, NewTemplate, Template, TemplateAlias,
};
use std::sync::Arc;
use std::time::Duration;

const DEFAULT_VCPUS: u32 = 2;
const DEFAULT_MEMORY_MIB: u32 = 1024;
const MAX_VCPUS: u32 = 32;
const MIN_MEMORY_MIB: u32 = 128;
const MAX_TAGS: usize = 32;
/// A build that was not begun this long after its registration is given up.
const REGISTERED_FOR: TimeDelta = TimeDelta::hours(1);
/// How long a follower's question may wait at the node.
const FOLLOW: Duration = Duration::from_secs(20);
/// Pause of a follower after a node that did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Log entries in one answer at most.
pub(crate) const MAX_ENTRIES: u32 = 100;
/// The image by which clients mean the default template.
const BASE_IMAGE: &str = "e2bdev/base";
const INTERRUPTED: &str = "The build was interrupted: the node was restarted";

/// A template or another build of one, as a caller asks for it.
#[derive(Debug, Clone, Default)]
pub struct NewTemplateBuild {
    /// `[namespace/]name[:tag]`.
    pub name: String,
    pub tags: Vec<String>,
    pub vcpus: Option<u32>,
    pub memory_mib: Option<u32>,
    pub min_free_disk_mib: Option<u32>,
}

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
        self.check_build_limit(caller).await?;
        let template = self.template_own_or_new(caller, &reference).await?;
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

    async fn build_source(
        &self,
        caller: &Caller,
        building: &TemplateId,
        source: TemplateSource,
    ) -> Result<BuildSource, Error> {
        let name = match source {
            TemplateSource::Template(name) => name,
            TemplateSource::Image {
                reference,
                credentials: None,
            } => {
                let Some(name) = own_image(&reference) else {
                    let found = self.template_of_image(caller, building, &reference).await?;
                    return Ok(found.unwrap_or(BuildSource::Image {
                        reference,
                        credentials: None,
                    }));
                };
                name.to_owned()
            }
            TemplateSource::Image {
                reference,
                credentials,
            } => {
                return Ok(BuildSource::Image {
                    reference,
                    credentials,
                });
            }
        };
        let reference = Self::template_parse("fromTemplate", &name)?;
        let resolved = self.template_resolve(caller, &reference).await?;
        Ok(BuildSource::Build(resolved.build.id))
    }

    /// A template that the caller may use, where an image's reference could be one's:
    /// it names neither registry nor directory. Never the one that is being built: an
    /// `ubuntu` of the caller's would be built upon itself with each build.
    async fn template_of_image(
        &self,
        caller: &Caller,
        building: &TemplateId,
        reference: &str,
    ) -> Result<Option<BuildSource>, Error> {
        if reference.contains('/') {
            return Ok(None);
        }
        let Ok(reference) = Self::template_parse("fromImage", reference) else {
            return Ok(None);
        };
        match self.template_resolve(caller, &reference).await {
            Ok(found) if found.template.id == *building => Ok(None),
            Ok(found) => Ok(Some(BuildSource::Build(found.build.id))),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Forbidden) => Ok(None),
            Err(error) => Err(error),
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

    /// Writes a build's end down, once. Answers whether it has ended.
    async fn settle(&self, id: BuildId, state: &NodeBuildState) -> Result<bool, Error> {
        let now = Utc::now();
        match state {
            NodeBuildState::Building => return Ok(false),
            NodeBuildState::Ready {
                disk_mib,
                envd_version,
            } => {
                self.store
                    .build_succeed(id, *disk_mib, envd_version, now)
                    .await?;
            }
            NodeBuildState::Failed { reason, step } => {
                self.store
                    .build_fail(id, reason, step.as_deref(), now)
                    .await?;
            }
        }
        Ok(true)
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

    /// Follows every build that runs. Called once, at the start.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn template_builds_resume(self: &Arc<Self>) -> Result<(), Error> {
        for request in self.store.build_request_list_active().await? {
            if request.build.status == BuildStatus::Building {
                self.template_build_follow(request.build.id);
            }
        }
        Ok(())
    }

    fn template_build_follow(self: &Arc<Self>, id: BuildId) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let stop = this.followers_stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = this.follow(id) => {}
            }
        });
    }

    async fn follow(&self, id: BuildId) {
        loop {
            let Ok(node) = self.template_node() else {
                return;
            };
            let ended = match node.template_build_view(id, u64::MAX, 0, FOLLOW).await {
                Ok(view) => self.settle(id, &view.state).await,
                Err(NodeError::NotFound(_)) => {
                    let failed = self
                        .store
                        .build_fail(id, INTERRUPTED, None, Utc::now())
                        .await;
                    failed.map(|_| true).map_err(Error::from)
                }
                Err(error) => Err(Error::from_node(error)),
            };
            match ended {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(build = %id, %error, "a template build cannot be followed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// A build's id as it stands in a path.
fn parse_build(text: &str) -> Result<BuildId, Error> {
    text.parse()
        .map_err(|_| Error::new(Kind::Invalid, "Invalid build id"))
}

fn tags(reference: &TemplateReference, more: &[String]) -> Result<Vec<String>, Error> {
    let mut tags: Vec<String> = reference.tag.iter().cloned().collect();
    for tag in more {
        let tag = check_tag(tag)?;
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    if tags.len() > MAX_TAGS {
        return Err(Error::invalid(
            "tags",
            format_args!("at most {MAX_TAGS} are allowed"),
        ));
    }
    if tags.is_empty() {
        tags.push(DEFAULT_TAG.to_owned());
    }
    Ok(tags)
}

/// A tag as it is kept.
pub(crate) fn check_tag(text: &str) -> Result<String, Error> {
    let tag = text.trim().to_ascii_lowercase();
    let parsed = format!("x:{tag}").parse::<TemplateReference>();
    match parsed.and_then(|reference| reference.check_new_tag()) {
        Ok(()) => Ok(tag),
        Err(error) => Err(Error::invalid("tags", error)),
    }
}

fn shape(caller: &Caller, request: &NewTemplateBuild) -> Result<(u32, u32), Error> {
    let limits = caller.team.limits;
    let vcpus = request.vcpus.unwrap_or(DEFAULT_VCPUS.min(limits.max_vcpus));
    let memory = request
        .memory_mib
        .unwrap_or(DEFAULT_MEMORY_MIB.min(limits.max_memory_mib));
    if vcpus == 0 {
        return Err(Error::invalid("cpuCount", "must be at least 1, is 0"));
    }
    if vcpus > MAX_VCPUS {
        return Err(Error::new(
            Kind::Invalid,
            format!("CPU count must be at most {MAX_VCPUS}"),
        ));
    }
    if vcpus != 1 && !vcpus.is_multiple_of(2) {
        return Err(Error::new(
            Kind::Invalid,
            "CPU count must be 1 or an even number",
        ));
    }
    if vcpus > limits.max_vcpus {
        return Err(over_limit("CPU count", limits.max_vcpus, ""));
    }
    if memory < MIN_MEMORY_MIB {
        return Err(Error::invalid(
            "memoryMB",
            format_args!("must be at least {MIN_MEMORY_MIB}, is {memory}"),
        ));
    }
    if !memory.is_multiple_of(2) {
        return Err(Error::new(Kind::Invalid, "Memory must be divisible by 2"));
    }
    if memory > limits.max_memory_mib {
        return Err(over_limit("Memory", limits.max_memory_mib, " MiB"));
    }
    if request
        .min_free_disk_mib
        .is_some_and(|disk| disk > limits.max_disk_mib)
    {
        return Err(over_limit("Free disk space", limits.max_disk_mib, " MiB"));
    }
    Ok((vcpus, memory))
}

/// Clients look for how these messages begin.
fn over_limit(what: &str, most: u32, unit: &str) -> Error {
    Error::new(
        Kind::Invalid,
        format!(
            "{what} can't be higher than {most}{unit} (if you need more, have the team's limit \
             raised)"
        ),
    )
}

/// The template that an image of the hosted service stands for: clients name it
/// where their author named nothing.
fn own_image(reference: &str) -> Option<&'static str> {
    let bare = reference.trim();
    let bare = bare.strip_prefix("docker.io/").unwrap_or(bare);
    let bare = bare.strip_suffix(":latest").unwrap_or(bare);
    match bare {
        BASE_IMAGE => Some("base"),
        "e2bdev/code-interpreter" => Some("code-interpreter-v1"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_from_the_name_and_the_list() {
        let of = |name: &str, more: &[&str]| {
            let more: Vec<String> = more.iter().map(|tag| (*tag).to_owned()).collect();
            tags(&name.parse().expect("a name"), &more)
        };
        assert_eq!(of("x", &[]).expect("valid"), ["default"]);
        assert_eq!(of("x:v1", &["t2", "V1"]).expect("valid"), ["v1", "t2"]);
        assert!(of("x", &["a b"]).is_err());
        assert!(of("x", &["6e9a1d2c-0f0b-4b57-9f63-0a8f5a0a7a11"]).is_err());
    }

    #[test]
    fn sizes_have_the_documented_limits_and_texts() {
        let team = hearth_store::Team {
            id: hearth_ids::TeamId::random(),
            slug: "t".to_owned(),
            name: "T".to_owned(),
            limits: hearth_store::TeamLimits::default(),
            banned: false,
            blocked_reason: None,
            created_at: Utc::now(),
        };
        let caller = Caller {
            key_id: uuid::Uuid::new_v4(),
            team: Arc::new(team),
        };
        let of = |vcpus, memory_mib, min_free_disk_mib| {
            let request = NewTemplateBuild {
                vcpus,
                memory_mib,
                min_free_disk_mib,
                ..NewTemplateBuild::default()
            };
            shape(&caller, &request).map_err(|error| (error.kind, error.message))
        };
        assert_eq!(of(None, None, None), Ok((2, 1024)));
        assert_eq!(of(Some(8), Some(8192), Some(25_600)), Ok((8, 8192)));
        assert_eq!(of(Some(1), Some(128), None), Ok((1, 128)));
        for (vcpus, memory, disk, begin) in [
            (0, 512, 0, "validation error: cpuCount: "),
            (3, 512, 0, "CPU count must be 1 or an even number"),
            (33, 512, 0, "CPU count must be at most 32"),
            (10, 512, 0, "CPU count can't be higher than 8 ("),
            (2, 126, 0, "validation error: memoryMB: "),
            (2, 0, 0, "validation error: memoryMB: "),
            (2, 513, 0, "Memory must be divisible by 2"),
            (2, 8194, 0, "Memory can't be higher than 8192 MiB ("),
            (
                2,
                512,
                25_601,
                "Free disk space can't be higher than 25600 MiB (",
            ),
        ] {
            let (kind, message) = of(Some(vcpus), Some(memory), Some(disk)).expect_err(begin);
            assert_eq!(kind, Kind::Invalid);
            assert!(message.starts_with(begin), "{message}");
        }
    }

    #[test]
    fn the_hosted_base_image_is_the_base_template() {
        for image in ["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base"] {
            assert_eq!(own_image(image), Some("base"));
        }
        assert_eq!(own_image("e2bdev/base:1.0"), None);
        assert_eq!(own_image("python:3"), None);
    }
}
