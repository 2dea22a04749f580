//! Changes to templates: visibility and tags.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_builds::{check_description, check_tag};
use chrono::Utc;
use hearth_ids::{BuildId, DEFAULT_TAG};
use hearth_store::{Template, TemplateAlias};

/// What is to be changed of a template; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct TemplateChange {
    /// Whether other teams may use it.
    pub public: Option<bool>,
    /// What it is for; an empty text takes it away.
    pub description: Option<String>,
}

impl Control {
    /// Lets other teams use a template, or no longer, and says what it is for. Answers with
    /// its names.
    ///
    /// # Errors
    /// `Invalid` for a description that is too long; `NotFound`; `Forbidden` for another
    /// team's.
    pub async fn template_change(
        &self,
        caller: &Caller,
        reference: &str,
        change: TemplateChange,
    ) -> Result<Vec<TemplateAlias>, Error> {
        let description = change.description.as_deref().map(check_description);
        let description = description.transpose()?;
        let mut template = self.template_own(caller, reference).await?;
        if let Some(description) = description {
            self.template_describe(&mut template, description).await?;
        }
        if let Some(public) = change.public {
            self.store
                .template_set_public(&template.id, public, Utc::now())
                .await?;
        }
        Ok(self.store.alias_list(&template.id).await?)
    }

    /// Says what a template is for.
    pub(crate) async fn template_describe(
        &self,
        template: &mut Template,
        description: Option<&str>,
    ) -> Result<(), Error> {
        if template.description.as_deref() == description {
            return Ok(());
        }
        let now = Utc::now();
        self.store
            .template_describe(&template.id, description, now)
            .await?;
        template.description = description.map(str::to_owned);
        template.updated_at = now;
        Ok(())
    }

    /// Gives tags to the build that a reference names.
    ///
    /// # Errors
    /// `Invalid` for a tag that is none, `NotFound`, `Forbidden`.
    pub async fn template_tags_assign(
        &self,
        caller: &Caller,
        target: &str,
        tags: &[String],
    ) -> Result<(BuildId, Vec<String>), Error> {
        if tags.is_empty() {
            return Err(Error::invalid("tags", "at least one is needed"));
        }
        let tags: Vec<String> = tags
            .iter()
            .map(|tag| check_tag(tag))
            .collect::<Result<_, _>>()?;
        let template = self.template_own(caller, target).await?;
        let reference = Self::template_parse("target", target)?;
        let resolved = self.template_resolve(caller, &reference).await?;
        for tag in &tags {
            self.store
                .tag_assign(&template.id, tag, resolved.build.id, Utc::now())
                .await?;
        }
        Ok((resolved.build.id, tags))
    }

    /// Takes tags away. All of them exist, or none is taken away.
    ///
    /// # Errors
    /// `Invalid` for the default tag, `NotFound`, `Forbidden`.
    pub async fn template_tags_delete(
        &self,
        caller: &Caller,
        name: &str,
        tags: &[String],
    ) -> Result<(), Error> {
        let tags: Vec<String> = tags
            .iter()
            .map(|tag| check_tag(tag))
            .collect::<Result<_, _>>()?;
        if tags.iter().any(|tag| tag == DEFAULT_TAG) {
            return Err(Error::new(Kind::Invalid, "Cannot delete the 'default' tag"));
        }
        let template = self.template_own(caller, name).await?;
        for tag in &tags {
            if self.store.tag_build(&template.id, tag).await?.is_none() {
                return Err(Error::not_found(format!(
                    "tag '{tag}' does not exist for template '{name}'"
                )));
            }
        }
        for tag in &tags {
            self.store.tag_delete(&template.id, tag).await?;
        }
        Ok(())
    }
}
