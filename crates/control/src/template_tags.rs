//! What the tags of a team's templates named in the course of time.
//!
//! Cursors are opaque to callers: the order of the list and the last entry that it showed.

use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::template_builds::check_tag;
use chrono::{DateTime, Utc};
use hearth_ids::{BuildId, TemplateId};
use hearth_store::{TagEvent, TagLatest, TagOrder, TagQuery, Template};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Longest text to look for in tags, in bytes.
const MAX_SEARCH: usize = 128;

/// A build that had a tag, or has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedBuild {
    /// The assignment's own id, the same for ever.
    pub assignment_id: Uuid,
    pub build_id: BuildId,
    pub assigned_at: DateTime<Utc>,
    pub build_created_at: DateTime<Utc>,
    pub build_finished_at: Option<DateTime<Utc>>,
}

/// A page of a tag's assignments, or the first ones of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagHistory {
    pub tag: String,
    /// The latest first.
    pub assignments: Vec<TaggedBuild>,
    /// Where there are more: where to go on.
    pub next_cursor: Option<String>,
}

/// Which tags are wanted, and how many assignments of each.
#[derive(Debug, Clone, Default)]
pub struct TagGroupsQuery {
    /// A part of the tag; empty for all.
    pub search: String,
    pub order: TagOrder,
    /// From the page before.
    pub cursor: Option<String>,
    /// Tags of one page.
    pub tags: u32,
    /// Assignments of each.
    pub assignments: u32,
}

/// A page of a template's tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagGroups {
    pub tags: Vec<TagHistory>,
    pub next_cursor: Option<String>,
}

impl Control {
    /// A page of a template's tags, each with its latest assignments.
    ///
    /// # Errors
    /// `NotFound`, also for another team's; `Invalid` for a cursor of another list.
    pub async fn template_tag_groups(
        &self,
        caller: &Caller,
        template: &str,
        query: TagGroupsQuery,
    ) -> Result<TagGroups, Error> {
        if query.search.len() > MAX_SEARCH {
            return Err(Error::invalid(
                "search",
                format_args!("must have at most {MAX_SEARCH} bytes"),
            ));
        }
        let cursor = query.cursor.as_deref();
        let after = cursor.map(|text| read_cursor(query.order, text));
        let template = self.template_own_or_none(caller, template).await?;
        let wanted = TagQuery {
            search: query.search.trim().to_ascii_lowercase(),
            order: query.order,
            after: after.transpose()?,
            limit: query.tags.saturating_add(1),
        };
        let mut found = self.store.tag_search(&template.id, &wanted).await?;
        let next_cursor = cut(&mut found, query.tags).map(|last| cursor_text(query.order, last));
        let mut tags = Vec::with_capacity(found.len());
        for TagLatest { tag, .. } in found {
            let history = self
                .tag_history(&template.id, tag, None, query.assignments)
                .await?;
            tags.push(history);
        }
        Ok(TagGroups { tags, next_cursor })
    }

    /// A page of a tag's assignments; without any where the template has no such tag.
    ///
    /// # Errors
    /// `NotFound`, also for another team's; `Invalid` for what is no tag or no cursor.
    pub async fn template_tag_assignments(
        &self,
        caller: &Caller,
        template: &str,
        tag: &str,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<TagHistory, Error> {
        let tag = check_tag(tag)?;
        let before = cursor.map(|text| place(text).ok_or_else(|| bad_cursor("cursor")));
        let template = self.template_own_or_none(caller, template).await?;
        self.tag_history(&template.id, tag, before.transpose()?, limit)
            .await
    }

    /// How many tags a template has that name a ready build.
    ///
    /// # Errors
    /// `NotFound`, also for another team's.
    pub async fn template_tag_count(&self, caller: &Caller, template: &str) -> Result<u32, Error> {
        let template = self.template_own_or_none(caller, template).await?;
        Ok(self.store.tag_count(&template.id).await?)
    }

    /// The tag as it is kept, and whether it names a ready build.
    ///
    /// # Errors
    /// `NotFound`, also for another team's; `Invalid` for what is no tag.
    pub async fn template_tag_exists(
        &self,
        caller: &Caller,
        template: &str,
        tag: &str,
    ) -> Result<(String, bool), Error> {
        let tag = check_tag(tag)?;
        let template = self.template_own_or_none(caller, template).await?;
        let events = self.store.tag_events(&template.id, &tag, None, 1).await?;
        Ok((tag, !events.is_empty()))
    }

    /// The caller's template. The history of another team's is as unknown as one that there
    /// is not.
    async fn template_own_or_none(
        &self,
        caller: &Caller,
        reference: &str,
    ) -> Result<Template, Error> {
        match self.template_own(caller, reference).await {
            Err(error) if error.kind == Kind::Forbidden => Err(Error::not_found(format!(
                "template '{}' not found",
                reference.trim().to_ascii_lowercase()
            ))),
            found => found,
        }
    }

    async fn tag_history(
        &self,
        template: &TemplateId,
        tag: String,
        before: Option<u64>,
        limit: u32,
    ) -> Result<TagHistory, Error> {
        let one_over = limit.saturating_add(1);
        let mut events = self
            .store
            .tag_events(template, &tag, before, one_over)
            .await?;
        let next_cursor = cut(&mut events, limit).map(|last| last.sequence.to_string());
        let tagged = |event: TagEvent| TaggedBuild {
            assignment_id: assignment_id(template, event.sequence),
            build_id: event.build_id,
            assigned_at: event.assigned_at,
            build_created_at: event.build_created_at,
            build_finished_at: event.build_finished_at,
        };
        Ok(TagHistory {
            tag,
            assignments: events.into_iter().map(tagged).collect(),
            next_cursor,
        })
    }
}

/// Leaves `limit` entries; where there were more, answers the last that is left.
fn cut<T>(entries: &mut Vec<T>, limit: u32) -> Option<&T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if entries.len() <= limit {
        return None;
    }
    entries.truncate(limit);
    entries.last()
}

/// The contract has UUIDs here, the store a number.
fn assignment_id(template: &TemplateId, sequence: u64) -> Uuid {
    let digest = Sha256::digest(format!("{template}/{sequence}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// What a cursor is good for.
fn order_word(order: TagOrder) -> &'static str {
    match order {
        TagOrder::LatestFirst => "latest_desc",
        TagOrder::LatestLast => "latest_asc",
        TagOrder::NameAscending => "name_asc",
        TagOrder::NameDescending => "name_desc",
    }
}

fn cursor_text(order: TagOrder, last: &TagLatest) -> String {
    format!("{}:{}:{}", order_word(order), last.sequence, last.tag)
}

fn read_cursor(order: TagOrder, text: &str) -> Result<TagLatest, Error> {
    let read = || {
        let rest = text.strip_prefix(order_word(order))?.strip_prefix(':')?;
        let (sequence, tag) = rest.split_once(':')?;
        Some(TagLatest {
            tag: check_tag(tag).ok()?,
            sequence: place(sequence)?,
        })
    };
    read().ok_or_else(|| bad_cursor("tagsCursor"))
}

/// A place in the order of assignments, which no store counts further than this.
fn place(text: &str) -> Option<u64> {
    let sequence: i64 = text.parse().ok()?;
    u64::try_from(sequence).ok()
}

fn bad_cursor(field: &str) -> Error {
    Error::invalid(field, "is none that this list, in this order, has answered")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_order_alone() {
        let last = TagLatest {
            tag: "v1.0".to_owned(),
            sequence: 7,
        };
        let text = cursor_text(TagOrder::NameAscending, &last);
        let read = read_cursor(TagOrder::NameAscending, &text);
        assert_eq!(read.expect("is its own"), last);
        let orders = [
            TagOrder::LatestFirst,
            TagOrder::LatestLast,
            TagOrder::NameDescending,
        ];
        for order in orders {
            read_cursor(order, &text).expect_err("is another's");
        }
        for bad in [
            "",
            "name_asc",
            "name_asc:",
            "name_asc:7",
            "name_asc:x:v1",
            "name_asc:7:",
            "name_asc:18446744073709551615:v1",
            "name_asc:7:a b",
        ] {
            read_cursor(TagOrder::NameAscending, bad).expect_err(bad);
        }
    }

    #[test]
    fn an_assignment_keeps_its_id() {
        let template: TemplateId = "abcdefghij0123456789".parse().expect("an id");
        let id = assignment_id(&template, 7);
        assert_eq!(id, assignment_id(&template, 7));
        assert_ne!(id, assignment_id(&template, 8));
        assert_eq!(id.get_version_num(), 4);
    }
}
