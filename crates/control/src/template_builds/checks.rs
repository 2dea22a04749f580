//! What a request for a build may ask for: tags and sizes.

use crate::auth::Caller;
use crate::error::{Error, Kind};
use hearth_ids::{DEFAULT_TAG, TemplateReference};

const DEFAULT_VCPUS: u32 = 2;
const DEFAULT_MEMORY_MIB: u32 = 1024;
const MAX_VCPUS: u32 = 32;
const MIN_MEMORY_MIB: u32 = 128;
const MAX_TAGS: usize = 32;

/// A template or another build of one, as a caller asks for it.
#[derive(Debug, Clone, Default)]
pub struct NewTemplateBuild {
    /// `[namespace/]name[:tag]`.
    pub name: String,
    /// What the template is for; an empty text takes it away, none leaves it.
    pub description: Option<String>,
    pub tags: Vec<String>,
    pub vcpus: Option<u32>,
    pub memory_mib: Option<u32>,
    pub min_free_disk_mib: Option<u32>,
}

pub(super) fn tags(reference: &TemplateReference, more: &[String]) -> Result<Vec<String>, Error> {
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

/// The longest description of a template, in characters.
const MAX_DESCRIPTION: usize = 1000;

/// A description as it is kept; `None` for an empty one.
pub(crate) fn check_description(text: &str) -> Result<Option<&str>, Error> {
    let text = text.trim();
    let length = text.chars().count();
    if length > MAX_DESCRIPTION {
        return Err(Error::invalid(
            "description",
            format_args!("must have at most {MAX_DESCRIPTION} characters, has {length}"),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(
            "description",
            "must not contain a NUL character",
        ));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
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

pub(super) fn shape(caller: &Caller, request: &NewTemplateBuild) -> Result<(u32, u32), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Utc;
    use std::sync::Arc;

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
            limits_set_by: hearth_store::LimitsSetBy::Settings,
            banned: false,
            blocked_reason: None,
            created_at: Utc::now(),
        };
        let caller = Caller {
            key_id: uuid::Uuid::new_v4(),
            team: Arc::new(team),
            grant: Arc::default(),
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
}
