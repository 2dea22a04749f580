//! Changes to templates: visibility and tags.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_builds::check_tag;
use chrono::Utc;
use hearth_ids::{BuildId, DEFAULT_TAG};
use hearth_store::TemplateAlias;

impl Control {
    /// Lets other teams use a template, or no longer. Answers with its names.
    ///
    /// # Errors
    /// `NotFound`; `Forbidden` for another team's.
    pub async fn template_set_public(
        &self,
        caller: &Caller,
        reference: &str,
        public: Option<bool>,
    ) -> Result<Vec<TemplateAlias>, Error> {
        let template = self.template_own(caller, reference).await?;
        if let Some(public) = public {
            self.store
                .template_set_public(&template.id, public, Utc::now())
                .await?;
        }
        Ok(self.store.alias_list(&template.id).await?)
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
