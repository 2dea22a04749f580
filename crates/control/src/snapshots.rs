//! Snapshots: states of running sandboxes under a name, as templates of a kind of
//! their own; and what becomes of builds that nothing refers to any more.
//!
//! A build is made on a node, its record in the store: two places, and either may
//! fail. So the build is noted as one to discard before it is made, and the note
//! goes in the transaction that records the snapshot. A deleted template's builds
//! are noted in the transaction that deletes it. Whatever is noted is deleted on
//! the node and then forgotten, at once or at the next start.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind, code};
use crate::node::{NodeError, NodeSandboxState, SandboxSummary};
use crate::page::{Page, PageRequest};
use crate::sandboxes::approach::{Approach, Owner, Reached};
use crate::sandboxes::lifecycle::Moved;
use crate::transitions::{Request, Ticket};
use chrono::Utc;
use hearth_ids::{BuildId, DEFAULT_TAG, SandboxId, TemplateId, TemplateReference};
use hearth_store::{BuildStatus, NewBuild, NewSnapshot, NewTemplate, Snapshot, TemplateAlias};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a build that cannot be deleted is tried again, and how long apart,
/// before the next process takes it up.
const DISCARD_ATTEMPTS: u32 = 6;
const DISCARD_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default)]
pub struct SnapshotRequest {
    /// `[namespace/]name[:tag]`, the namespace being the team's own.
    pub name: Option<String>,
    /// False asks for the disk alone, which is not available.
    pub memory: bool,
}

/// A snapshot as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// What a sandbox can be made from, tag included.
    pub id: String,
    /// `namespace/alias`, without a tag; empty where it has no name.
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Default)]
pub struct SnapshotFilter {
    pub sandbox: Option<String>,
    pub name: Option<String>,
    pub page: PageRequest,
}

/// Where a snapshot goes.
#[derive(Clone)]
struct Destination {
    template: TemplateId,
    /// The name of a template that is yet to be made; `None` within for one that
    /// has none.
    new: Option<Option<String>>,
    name: Option<String>,
    tag: String,
}

impl Control {
    /// Keeps the state of a running sandbox, which goes on, as something that
    /// sandboxes can be made from. A name in use gets a new build.
    ///
    /// Errors: `NotFound`; `Invalid`; `Conflict`: not running, or a name of what is
    /// no snapshot; `Unavailable`.
    pub async fn sandbox_snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SandboxId,
        request: SnapshotRequest,
    ) -> Result<SnapshotView, Error> {
        self.check_pause_enabled(caller, id).await?;
        if !request.memory {
            return Err(Error::new(
                Kind::Invalid,
                "Snapshots of the filesystem alone are not available",
            )
            .with_code(code::FILESYSTEM_SNAPSHOT_DISABLED));
        }
        let name = request
            .name
            .map(|name| snapshot_name(caller, &name))
            .transpose()?;
        let owner = Owner::Team(caller.team_id());
        let mut approach = Approach::new(self, owner, id, Request::Snapshot);
        loop {
            let (sandbox, ticket) = match approach.reach().await? {
                Reached::Go(sandbox, ticket) => (sandbox, ticket),
                Reached::Joined(_) => continue,
            };
            // Refused before the sandbox stands still for it.
            let to = self.destination(caller, name.as_ref()).await?;
            self.check_snapshots(&caller.team, to.new.is_some()).await?;
            let (control, caller, name) = (Arc::clone(self), caller.clone(), name.clone());
            let task = self.tasks.spawn(async move {
                control
                    .snapshot(&caller, &sandbox, ticket, name.as_ref())
                    .await
            });
            match task.await.map_err(Error::internal)? {
                Ok(view) => return Ok(view),
                Err(NotTaken::Refused(error)) => return Err(error),
                Err(NotTaken::Moved(error)) => approach.refused(error).await?,
            }
        }
    }

    async fn snapshot(
        self: &Arc<Self>,
        caller: &Caller,
        sandbox: &SandboxSummary,
        ticket: Option<Ticket>,
        name: Option<&TemplateReference>,
    ) -> Result<SnapshotView, NotTaken> {
        let build = BuildId::random();
        let kept = self.keep(&sandbox.sandbox_id, build, false).await;
        if let (Some(ticket), Moved::Done(outcome)) = (ticket, &kept) {
            ticket.finish(outcome.clone());
        }
        match kept {
            Moved::Done(Ok(_)) => {}
            Moved::Done(Err(error)) => return Err(NotTaken::Refused(error)),
            Moved::Again(error) => return Err(NotTaken::Moved(error)),
        }
        match self.record(caller, sandbox, build, name).await {
            Ok(view) => Ok(view),
            Err(error) => {
                self.discard_build(build);
                Err(NotTaken::Refused(error))
            }
        }
    }

    async fn record(
        &self,
        caller: &Caller,
        sandbox: &SandboxSummary,
        build: BuildId,
        name: Option<&TemplateReference>,
    ) -> Result<SnapshotView, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let to = self.destination(caller, name).await?;
            let new = self.new_snapshot(caller, sandbox, build, &to);
            match self.store.snapshot_create(new).await {
                Ok(()) => return Ok(view(caller, &to.template, to.name.as_deref(), &to.tag)),
                // Somebody made or deleted a template of that name in between.
                Err(hearth_store::Error::Conflict(_) | hearth_store::Error::Dangling)
                    if attempts < 3 => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn new_snapshot(
        &self,
        caller: &Caller,
        sandbox: &SandboxSummary,
        build: BuildId,
        to: &Destination,
    ) -> NewSnapshot {
        let now = Utc::now();
        let team_id = caller.team_id();
        let template = to.new.as_ref().map(|alias| NewTemplate {
            id: to.template.clone(),
            team_id,
            public: false,
            is_default: false,
            aliases: alias
                .iter()
                .map(|alias| TemplateAlias {
                    namespace: caller.team.slug.clone(),
                    alias: alias.clone(),
                })
                .collect(),
            created_at: now,
        });
        NewSnapshot {
            template,
            build: NewBuild {
                id: build,
                template_id: to.template.clone(),
                status: BuildStatus::Ready,
                vcpus: sandbox.vcpus,
                memory_mib: sandbox.memory_mib,
                disk_mib: sandbox.disk_mib,
                envd_version: sandbox.envd_version.clone(),
                created_at: now,
            },
            team_id,
            sandbox_id: sandbox.sandbox_id.clone(),
            tag: to.tag.clone(),
            owner: self.config.owner.clone(),
        }
    }

    async fn destination(
        &self,
        caller: &Caller,
        name: Option<&TemplateReference>,
    ) -> Result<Destination, Error> {
        let Some(name) = name else {
            return Ok(Destination {
                template: TemplateId::random(),
                new: Some(None),
                name: None,
                tag: DEFAULT_TAG.to_owned(),
            });
        };
        let tag = name.tag_or_default().to_owned();
        let alias = Some(name.alias.clone());
        let found = self
            .store
            .template_by_alias(&caller.team.slug, &name.alias)
            .await?;
        match found {
            None => Ok(Destination {
                template: TemplateId::random(),
                new: Some(alias.clone()),
                name: alias,
                tag,
            }),
            Some(template) if self.store.template_is_snapshot(&template.id).await? => {
                Ok(Destination {
                    template: template.id,
                    new: None,
                    name: alias,
                    tag,
                })
            }
            Some(_) => Err(Error::new(
                Kind::Conflict,
                format!(
                    "'{}' is the name of a template that is no snapshot",
                    name.alias
                ),
            )),
        }
    }

    /// A page of the team's snapshots, newest first. Each is there once, with its
    /// newest build of those that the filter lets through.
    pub async fn snapshot_list(
        &self,
        caller: &Caller,
        filter: SnapshotFilter,
    ) -> Result<Page<SnapshotView>, Error> {
        let query = filter.page.check::<BuildId>()?;
        let none = Page {
            entries: Vec::new(),
            next_token: None,
        };
        let sandbox = match filter.sandbox.as_deref().map(SandboxId::parse_client) {
            Some(Ok(id)) => Some(id),
            Some(Err(_)) => return Ok(none),
            None => None,
        };
        let (template, tag) = match &filter.name {
            Some(name) => {
                let reference = Self::template_parse("name", name)?;
                match self.template_find(caller, &reference).await {
                    Ok(template) => (Some(template.id), reference.tag),
                    Err(error) if matches!(error.kind, Kind::NotFound | Kind::Forbidden) => {
                        return Ok(none);
                    }
                    Err(error) => return Err(error),
                }
            }
            None => (None, None),
        };
        let mut snapshots = self
            .store
            .snapshot_list(caller.team_id(), sandbox.as_ref(), template.as_ref())
            .await?;
        let mut listed = HashSet::new();
        snapshots.retain(|snapshot| {
            tag.as_ref().is_none_or(|tag| snapshot.tag == *tag)
                && listed.insert(snapshot.template_id.clone())
        });
        let page = query.page(snapshots, |snapshot| {
            (snapshot.created_at, &snapshot.build_id)
        });
        let mut views = Vec::with_capacity(page.entries.len());
        for snapshot in page.entries {
            views.push(self.snapshot_view(caller, &snapshot).await?);
        }
        Ok(Page {
            entries: views,
            next_token: page.next_token,
        })
    }

    async fn snapshot_view(
        &self,
        caller: &Caller,
        snapshot: &Snapshot,
    ) -> Result<SnapshotView, Error> {
        let aliases = self.store.alias_list(&snapshot.template_id).await?;
        let alias = aliases.first().map(|alias| alias.alias.as_str());
        Ok(view(caller, &snapshot.template_id, alias, &snapshot.tag))
    }

    /// Deletes a template, or a snapshot: no sandbox may have been made from it
    /// that is still there.
    ///
    /// Errors: `NotFound`; `Forbidden`, another team's; `Invalid`, in use.
    pub async fn template_delete(
        self: &Arc<Self>,
        caller: &Caller,
        reference: &str,
    ) -> Result<(), Error> {
        let reference = Self::template_parse("templateID", reference)?;
        let template = self.template_find(caller, &reference).await?;
        if template.team_id != caller.team_id() || template.is_default {
            return Err(Error::new(
                Kind::Forbidden,
                format!("You don't have access to delete the template '{reference}'"),
            ));
        }
        self.template_check_tag(&template.id, &reference).await?;
        let users = self.node.of_template(&template.id).await;
        let users = users.map_err(Error::from_node)?;
        let user = users
            .iter()
            .find(|sandbox| sandbox.state != NodeSandboxState::Stopping);
        if let Some(user) = user {
            let state = match user.paused {
                Some(_) => "paused",
                None => "running",
            };
            return Err(Error::new(
                Kind::Invalid,
                format!(
                    "cannot delete template '{reference}' because there are {state} sandboxes \
                     using it"
                ),
            ));
        }
        let builds = self.store.build_list(&template.id, None, u32::MAX).await?;
        if !self
            .store
            .template_delete(&template.id, &self.config.owner)
            .await?
        {
            return Err(Error::not_found(format!(
                "template '{reference}' not found"
            )));
        }
        for build in builds {
            self.template_build_forget(build.id).await;
            self.discard_build(build.id);
        }
        Ok(())
    }

    /// Deletes what is noted to be discarded, without making anybody wait.
    pub(crate) fn discard_build(self: &Arc<Self>, build: BuildId) {
        let control = Arc::clone(self);
        self.tasks.spawn(async move {
            for attempt in 0..DISCARD_ATTEMPTS {
                match control.node.build_delete(build).await {
                    Ok(()) | Err(NodeError::NotFound(_)) => {
                        if let Err(error) = control.store.discard_remove(build).await {
                            tracing::warn!(%error, %build, "cannot forget a discarded build");
                        }
                        return;
                    }
                    Err(error) => tracing::warn!(%error, %build, "cannot discard a build"),
                }
                tokio::time::sleep(DISCARD_PAUSE * 2u32.pow(attempt)).await;
            }
        });
    }
}

enum NotTaken {
    Refused(Error),
    /// The sandbox had moved by itself.
    Moved(NodeError),
}

/// Reads a snapshot's name. Its namespace, where there is one, is the team's.
fn snapshot_name(caller: &Caller, name: &str) -> Result<TemplateReference, Error> {
    let reference = Control::template_parse_new("name", name)?;
    match &reference.namespace {
        Some(namespace) if *namespace != caller.team.slug => Err(Error::invalid(
            "name",
            format_args!(
                "the namespace must be the team's own, '{}'",
                caller.team.slug
            ),
        )),
        _ => Ok(reference),
    }
}

fn view(caller: &Caller, template: &TemplateId, alias: Option<&str>, tag: &str) -> SnapshotView {
    match alias {
        Some(alias) => {
            let name = format!("{}/{alias}", caller.team.slug);
            SnapshotView {
                id: format!("{name}:{tag}"),
                names: vec![name],
            }
        }
        None => SnapshotView {
            id: format!("{template}:{tag}"),
            names: Vec::new(),
        },
    }
}
