//! Templates: finding what a reference names, listing, publishing.
//!
//! A bare name is looked for among the caller's own names, then among those that
//! need no namespace (`base`), then as a template's id.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::page::{Page, PageRequest};
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, DEFAULT_TAG, TeamId, TemplateId, TemplateReference};
use hearth_store::{
    Build, BuildStatus, NewBuild, NewTemplate, Store, TagAssignment, Template, TemplateAlias,
};

/// The tag that a reference of an image has where it names none.
const LATEST: &str = "latest";

/// A template with what lists show of it.
#[derive(Debug, Clone)]
pub struct TemplateView {
    pub template: Template,
    pub aliases: Vec<TemplateAlias>,
    /// What the default tag names, or the newest build where it names none;
    /// absent while there is no build at all.
    pub build: Option<Build>,
    pub build_count: u32,
    /// Whether the caller's team owns it.
    pub own: bool,
}

/// What asking for an alias tells.
#[derive(Debug, Clone)]
pub struct TemplateAccess {
    pub template_id: TemplateId,
    pub public: bool,
}

/// A build to be started from under a name.
#[derive(Debug, Clone)]
pub struct TemplatePublication {
    pub team: TeamId,
    /// Empty for a name that needs none.
    pub namespace: String,
    pub alias: String,
    pub public: bool,
    pub is_default: bool,
    pub tag: String,
    pub build_id: BuildId,
    pub vcpus: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    pub envd_version: String,
}

/// What a reference was found to name.
pub(crate) struct Resolved {
    pub(crate) template: Template,
    pub(crate) build: Build,
    pub(crate) alias: Option<String>,
}

impl Control {
    /// Reads a caller's reference, as lenient in case and spaces as the contract.
    pub(crate) fn template_parse(field: &str, text: &str) -> Result<TemplateReference, Error> {
        text.trim()
            .to_ascii_lowercase()
            .parse()
            .map_err(|error| Error::invalid(field, error))
    }

    /// The template that a reference names, if the caller may use it.
    pub(crate) async fn template_find(
        &self,
        caller: &Caller,
        reference: &TemplateReference,
    ) -> Result<Template, Error> {
        let store = self.store.as_ref();
        let alias = &reference.alias;
        let found = match &reference.namespace {
            Some(namespace) => store.template_by_alias(namespace, alias).await?,
            None => self.template_find_bare(caller, alias).await?,
        };
        let template =
            found.ok_or_else(|| Error::not_found(format!("template '{reference}' not found")))?;
        if template.team_id != caller.team_id() && !template.public {
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "Team '{}' does not have access to the template '{reference}'",
                    caller.team.slug
                ),
            ));
        }
        Ok(template)
    }

    async fn template_find_bare(
        &self,
        caller: &Caller,
        alias: &str,
    ) -> Result<Option<Template>, Error> {
        for namespace in [caller.team.slug.as_str(), ""] {
            if let Some(template) = self.store.template_by_alias(namespace, alias).await? {
                return Ok(Some(template));
            }
        }
        match alias.parse() {
            Ok(id) => Ok(self.store.template(&id).await?),
            Err(_) => Ok(None),
        }
    }

    /// The build that a tag names. `latest`, as references of images have it, is the
    /// default tag where the template has no tag of that name.
    pub(crate) async fn template_tagged(
        &self,
        template: &TemplateId,
        tag: &str,
    ) -> Result<Option<Build>, Error> {
        let store = self.store.as_ref();
        match store.tag_build(template, tag).await? {
            None if tag == LATEST => Ok(store.tag_build(template, DEFAULT_TAG).await?),
            found => Ok(found),
        }
    }

    /// Reads a reference whose tag, where there is one, is to be assigned.
    pub(crate) fn template_parse_new(field: &str, text: &str) -> Result<TemplateReference, Error> {
        let reference = Self::template_parse(field, text)?;
        match reference.check_new_tag() {
            Ok(()) => Ok(reference),
            Err(error) => Err(Error::invalid(field, error)),
        }
    }

    /// The build of a template that a reference's tag names: by a tag that was
    /// assigned, or by the build's own id.
    pub(crate) async fn template_build_named(
        &self,
        template: &TemplateId,
        reference: &TemplateReference,
    ) -> Result<Option<Build>, Error> {
        let tag = reference.tag_or_default();
        let tagged = self.template_tagged(template, tag).await?;
        match (tagged, reference.build()) {
            (None, Some(id)) => {
                let build = self.store.build(id).await?;
                Ok(build.filter(|build| build.template_id == *template))
            }
            (tagged, _) => Ok(tagged),
        }
    }

    /// Refuses a reference whose tag names no build of the template.
    pub(crate) async fn template_check_tag(
        &self,
        template: &TemplateId,
        reference: &TemplateReference,
    ) -> Result<(), Error> {
        match &reference.tag {
            Some(tag)
                if self
                    .template_build_named(template, reference)
                    .await?
                    .is_none() =>
            {
                Err(Error::not_found(format!(
                    "tag '{tag}' does not exist for template '{}'",
                    reference.alias
                )))
            }
            _ => Ok(()),
        }
    }

    /// The build that a reference names, ready to be started from.
    pub(crate) async fn template_resolve(
        &self,
        caller: &Caller,
        reference: &TemplateReference,
    ) -> Result<Resolved, Error> {
        let template = self.template_find(caller, reference).await?;
        let build = self
            .template_build_named(&template.id, reference)
            .await?
            .filter(|build| build.status == BuildStatus::Ready);
        let Some(build) = build else {
            return Err(Error::not_found(match &reference.tag {
                Some(tag) => format!(
                    "tag '{tag}' does not exist for template '{}'",
                    reference.alias
                ),
                None => format!("template '{reference}' has no build that is ready"),
            }));
        };
        let alias = if template.id.as_str() == reference.alias {
            let aliases = self.store.alias_list(&template.id).await?;
            aliases.into_iter().next().map(|alias| alias.alias)
        } else {
            Some(reference.alias.clone())
        };
        Ok(Resolved {
            template,
            build,
            alias,
        })
    }

    /// A page of the caller's templates, newest first.
    pub async fn template_page(
        &self,
        caller: &Caller,
        request: &PageRequest,
    ) -> Result<Page<TemplateView>, Error> {
        let query = request.check::<TemplateId>()?;
        let templates = self.template_list_own(caller).await?;
        let page = query.page(templates, |template| (template.created_at, &template.id));
        Ok(Page {
            entries: self.template_views(caller, page.entries).await?,
            next_token: page.next_token,
        })
    }

    /// The caller's templates, newest first.
    pub async fn template_list(&self, caller: &Caller) -> Result<Vec<TemplateView>, Error> {
        let templates = self.template_list_own(caller).await?;
        self.template_views(caller, templates).await
    }

    /// What the team made itself. The default templates are everybody's, that team's
    /// too in whose name they are kept.
    async fn template_list_own(&self, caller: &Caller) -> Result<Vec<Template>, Error> {
        let mut templates = self.store.template_list(caller.team_id()).await?;
        templates.retain(|template| !template.is_default);
        Ok(templates)
    }

    /// The templates that everybody has, newest first.
    pub async fn template_list_default(&self, caller: &Caller) -> Result<Vec<TemplateView>, Error> {
        let templates = self.store.template_list_default().await?;
        self.template_views(caller, templates).await
    }

    async fn template_views(
        &self,
        caller: &Caller,
        templates: Vec<Template>,
    ) -> Result<Vec<TemplateView>, Error> {
        let mut views = Vec::with_capacity(templates.len());
        for template in templates {
            views.push(self.template_view(caller, template).await?);
        }
        Ok(views)
    }

    async fn template_view(
        &self,
        caller: &Caller,
        template: Template,
    ) -> Result<TemplateView, Error> {
        let store = self.store.as_ref();
        let mut build = store.tag_build(&template.id, DEFAULT_TAG).await?;
        if build.is_none() {
            build = store.build_list(&template.id, None, 1).await?.pop();
        }
        Ok(TemplateView {
            aliases: store.alias_list(&template.id).await?,
            build,
            build_count: store.build_count(&template.id).await?,
            own: template.team_id == caller.team_id(),
            template,
        })
    }

    /// One template with a page of its builds, newest first.
    pub async fn template_detail(
        &self,
        caller: &Caller,
        reference: &str,
        request: &PageRequest,
    ) -> Result<(TemplateView, Page<Build>), Error> {
        let query = request.check::<BuildId>()?;
        let reference = Self::template_parse("templateID", reference)?;
        let template = self.template_find(caller, &reference).await?;
        let before = query.cursor.as_ref().map(|cursor| (cursor.at, cursor.id));
        let one_over = u32::try_from(query.limit + 1).unwrap_or(u32::MAX);
        let builds = self
            .store
            .build_list(&template.id, before, one_over)
            .await?;
        let page = query.cut(builds, |build| (build.created_at, &build.id));
        Ok((self.template_view(caller, template).await?, page))
    }

    /// What a name stands for. `Template.exists` of the SDKs asks this.
    pub async fn template_access(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<TemplateAccess, Error> {
        let reference = Self::template_parse("alias", reference)?;
        let template = self.template_find(caller, &reference).await?;
        self.template_check_tag(&template.id, &reference).await?;
        Ok(TemplateAccess {
            template_id: template.id,
            public: template.public,
        })
    }

    /// A template's tags with the builds they name, by name.
    pub async fn template_tags(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Vec<TagAssignment>, Error> {
        let reference = Self::template_parse("templateID", reference)?;
        let template = self.template_find(caller, &reference).await?;
        Ok(self.store.tag_list(&template.id).await?)
    }

    /// Makes a build startable under a name. Idempotent: what is already so
    /// stays, so it may be called at every start.
    pub async fn template_publish(
        &self,
        publication: TemplatePublication,
    ) -> Result<TemplateId, Error> {
        publish(self.store.as_ref(), publication).await
    }
}

async fn publish(store: &dyn Store, wanted: TemplatePublication) -> Result<TemplateId, Error> {
    let now = Utc::now();
    let template = ensure_template(store, &wanted, now).await?;
    if template.public != wanted.public {
        store
            .template_set_public(&template.id, wanted.public, now)
            .await?;
    }
    ensure_build(store, &template.id, &wanted, now).await?;
    let assigned = store.tag_build(&template.id, &wanted.tag).await?;
    if assigned.is_none_or(|build| build.id != wanted.build_id) {
        store
            .tag_assign(&template.id, &wanted.tag, wanted.build_id, now)
            .await?;
    }
    Ok(template.id)
}

async fn ensure_template(
    store: &dyn Store,
    wanted: &TemplatePublication,
    now: DateTime<Utc>,
) -> Result<Template, Error> {
    let found = store
        .template_by_alias(&wanted.namespace, &wanted.alias)
        .await?;
    match found {
        Some(template) if template.team_id == wanted.team => Ok(template),
        Some(_) => Err(Error::new(
            Kind::Conflict,
            format!("template alias '{}' is another team's", wanted.alias),
        )),
        None => Ok(store
            .template_create(NewTemplate {
                id: TemplateId::random(),
                team_id: wanted.team,
                public: wanted.public,
                is_default: wanted.is_default,
                aliases: vec![TemplateAlias {
                    namespace: wanted.namespace.clone(),
                    alias: wanted.alias.clone(),
                }],
                created_at: now,
            })
            .await?),
    }
}

async fn ensure_build(
    store: &dyn Store,
    template: &TemplateId,
    wanted: &TemplatePublication,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    match store.build(wanted.build_id).await? {
        None => {
            store
                .build_create(NewBuild {
                    id: wanted.build_id,
                    template_id: template.clone(),
                    status: BuildStatus::Ready,
                    vcpus: wanted.vcpus,
                    memory_mib: wanted.memory_mib,
                    disk_mib: wanted.disk_mib,
                    envd_version: wanted.envd_version.clone(),
                    created_at: now,
                })
                .await?;
        }
        Some(build) if build.template_id != *template => {
            return Err(Error::new(
                Kind::Conflict,
                format!("build {} is another template's", wanted.build_id),
            ));
        }
        Some(build) if build.status != BuildStatus::Ready => {
            store
                .build_set_status(wanted.build_id, BuildStatus::Ready, now)
                .await?;
        }
        Some(_) => {}
    }
    Ok(())
}
