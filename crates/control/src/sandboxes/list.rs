//! Listing sandboxes, a page at a time.

use super::{SandboxView, VisibleState, visible};
use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::node::NodeSandbox;
use crate::page::{Direction, SandboxCursor};
use chrono::{DateTime, Utc};
use hearth_ids::TemplateId;
use std::collections::BTreeMap;

/// Most entries of one page.
const MAX_PAGE: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateFilter {
    pub running: bool,
    pub paused: bool,
}

impl Default for StateFilter {
    fn default() -> Self {
        Self {
            running: true,
            paused: true,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    pub states: StateFilter,
    /// Each of them must be in the sandbox's metadata.
    pub metadata: BTreeMap<String, String>,
    /// Only those that started later.
    pub started_after: Option<DateTime<Utc>>,
    /// A template's id or name, without a tag.
    pub template: Option<String>,
    pub direction: Direction,
    /// What an earlier page ended with.
    pub next_token: Option<String>,
    /// 1 to 100, which is the default.
    pub limit: Option<i64>,
}

#[derive(Debug)]
pub struct Page {
    pub sandboxes: Vec<SandboxView>,
    pub next_token: Option<String>,
    /// How many running sandboxes the filters let through on all pages; absent
    /// where running ones were not asked for.
    pub total_running: Option<usize>,
}

impl Control {
    pub async fn sandbox_list(&self, caller: &Caller, request: ListRequest) -> Result<Page, Error> {
        let limit = page_size(request.limit)?;
        let cursor = match &request.next_token {
            Some(token) => Some(
                SandboxCursor::decode(token)
                    .filter(|cursor| cursor.direction == request.direction)
                    .ok_or_else(|| Error::new(Kind::Invalid, "Invalid next token"))?,
            ),
            None => None,
        };
        let template = match &request.template {
            Some(text) => match self.template_filter(caller, text).await? {
                Some(template) => Some(template),
                None => return Ok(Page::empty(request.states)),
            },
            None => None,
        };
        let listed = self.node.list().await.map_err(Error::from_node)?;
        let mut matching: Vec<(NodeSandbox, VisibleState)> = listed
            .into_iter()
            .filter(|sandbox| sandbox.config.team_id == caller.team_id())
            .filter_map(|sandbox| visible(sandbox.state).map(|state| (sandbox, state)))
            .filter(|(sandbox, state)| request.matches(sandbox, *state, template.as_ref()))
            .collect();
        let running = matching
            .iter()
            .filter(|(_, state)| *state == VisibleState::Running)
            .count();
        matching.sort_by(|(a, _), (b, _)| sort_key(a).cmp(&sort_key(b)));
        if request.direction == Direction::Descending {
            matching.reverse();
        }
        matching.retain(|(sandbox, _)| {
            cursor.as_ref().is_none_or(|cursor| {
                cursor.precedes(sandbox.started_at, &sandbox.config.sandbox_id)
            })
        });
        let more = matching.len() > limit;
        matching.truncate(limit);
        let next_token = matching.last().filter(|_| more).map(|(sandbox, _)| {
            SandboxCursor {
                started_at: sandbox.started_at,
                sandbox_id: sandbox.config.sandbox_id.clone(),
                direction: request.direction,
            }
            .encode()
        });
        Ok(Page {
            sandboxes: matching
                .into_iter()
                .map(|(sandbox, state)| self.sandbox_view(sandbox, state))
                .collect(),
            next_token,
            total_running: request.states.running.then_some(running),
        })
    }

    /// The template that a filter names; absent where there is none, as then no
    /// sandbox can match.
    async fn template_filter(
        &self,
        caller: &Caller,
        text: &str,
    ) -> Result<Option<TemplateId>, Error> {
        let invalid = |why: &str| Error::new(Kind::Invalid, format!("Invalid template: {why}"));
        let reference =
            Self::template_parse("template", text).map_err(|error| invalid(&error.message))?;
        if reference.tag.is_some() {
            return Err(invalid("a tag cannot be given here"));
        }
        match self.template_find(caller, &reference).await {
            Ok(template) => Ok(Some(template.id)),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Forbidden) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Page {
    fn empty(states: StateFilter) -> Self {
        Self {
            sandboxes: Vec::new(),
            next_token: None,
            total_running: states.running.then_some(0),
        }
    }
}

impl ListRequest {
    fn matches(
        &self,
        sandbox: &NodeSandbox,
        state: VisibleState,
        template: Option<&TemplateId>,
    ) -> bool {
        let wanted = match state {
            VisibleState::Running => self.states.running,
            VisibleState::Paused => self.states.paused,
        };
        wanted
            && self
                .started_after
                .is_none_or(|time| sandbox.started_at > time)
            && template.is_none_or(|template| sandbox.config.template_id == *template)
            && self
                .metadata
                .iter()
                .all(|(key, value)| sandbox.config.metadata.get(key) == Some(value))
    }
}

fn sort_key(sandbox: &NodeSandbox) -> (DateTime<Utc>, &hearth_ids::SandboxId) {
    (sandbox.started_at, &sandbox.config.sandbox_id)
}

fn page_size(limit: Option<i64>) -> Result<usize, Error> {
    let limit = limit.unwrap_or(i64::from(MAX_PAGE));
    if (1..=i64::from(MAX_PAGE)).contains(&limit) {
        Ok(usize::try_from(limit).unwrap_or(1))
    } else {
        Err(Error::invalid(
            "limit",
            format_args!("must be from 1 to {MAX_PAGE}, is {limit}"),
        ))
    }
}
