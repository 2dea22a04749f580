//! What a build starts from: which template or image is meant.

use super::TemplateSource;
use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_node::BuildSource;
use hearth_ids::TemplateId;

/// The image by which clients mean the default template.
const BASE_IMAGE: &str = "e2bdev/base";

impl Control {
    pub(super) async fn build_source(
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
    fn the_hosted_base_image_is_the_base_template() {
        for image in ["e2bdev/base", "e2bdev/base:latest", "docker.io/e2bdev/base"] {
            assert_eq!(own_image(image), Some("base"));
        }
        assert_eq!(own_image("e2bdev/base:1.0"), None);
        assert_eq!(own_image("python:3"), None);
    }
}
