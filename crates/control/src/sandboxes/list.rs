//! Listing sandboxes, a page at a time.

use super::{VisibleState, visible};
use crate::Control;
use crate::auth::Caller;
use crate::error::{Error, Kind};
use crate::node::SandboxSummary;
use crate::page::PageRequest;
use chrono::{DateTime, Utc};
use hearth_ids::{SandboxId, TemplateId};
use std::collections::BTreeMap;
use std::sync::Arc;

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
    pub page: PageRequest,
}

/// A sandbox in a list.
#[derive(Debug, Clone)]
pub struct ListedSandbox {
    pub summary: Arc<SandboxSummary>,
    pub state: VisibleState,
}

impl ListedSandbox {
    /// A paused one ended when it was paused.
    #[must_use]
    pub fn end_at(&self) -> DateTime<Utc> {
        let paused = self.summary.paused;
        paused.map_or(self.summary.end_at, |paused| paused.at)
    }
}

#[derive(Debug)]
pub struct SandboxPage {
    pub sandboxes: Vec<ListedSandbox>,
    pub next_token: Option<String>,
    /// How many running sandboxes the filters let through on all pages; absent
    /// where running ones were not asked for.
    pub total_running: Option<usize>,
}

impl Control {
    pub async fn sandbox_list(
        &self,
        caller: &Caller,
        request: ListRequest,
    ) -> Result<SandboxPage, Error> {
        let query = request.page.check::<SandboxId>()?;
        let matching = self.sandbox_matching(caller, &request).await?;
        let running = matching
            .iter()
            .filter(|listed| listed.state == VisibleState::Running)
            .count();
        let page = query.page(matching, |listed| {
            (listed.summary.started_at, &listed.summary.sandbox_id)
        });
        Ok(SandboxPage {
            sandboxes: page.entries,
            next_token: page.next_token,
            total_running: request.states.running.then_some(running),
        })
    }

    /// All running sandboxes with this metadata, newest first.
    pub async fn sandbox_list_running(
        &self,
        caller: &Caller,
        metadata: BTreeMap<String, String>,
    ) -> Result<Vec<ListedSandbox>, Error> {
        let request = ListRequest {
            states: StateFilter {
                running: true,
                paused: false,
            },
            metadata,
            ..ListRequest::default()
        };
        let mut listed = self.sandbox_matching(caller, &request).await?;
        listed.sort_by_key(|listed| std::cmp::Reverse(listed.summary.started_at));
        Ok(listed)
    }

    async fn sandbox_matching(
        &self,
        caller: &Caller,
        request: &ListRequest,
    ) -> Result<Vec<ListedSandbox>, Error> {
        let template = match &request.template {
            Some(text) => match self.template_filter(caller, text).await? {
                Some(template) => Some(template),
                None => return Ok(Vec::new()),
            },
            None => None,
        };
        let listed = self.node.of_team(caller.team_id()).await;
        let listed = listed.map_err(Error::from_node)?;
        Ok(listed
            .into_iter()
            .filter(|summary| {
                let made_from = |template: &TemplateId| summary.template_id == *template;
                template.as_ref().is_none_or(made_from)
            })
            .filter_map(|summary| {
                let state = visible(summary.state)?;
                Some(ListedSandbox { summary, state })
            })
            .filter(|listed| request.matches(listed))
            .collect())
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

impl ListRequest {
    fn matches(&self, listed: &ListedSandbox) -> bool {
        let wanted = match listed.state {
            VisibleState::Running => self.states.running,
            VisibleState::Paused => self.states.paused,
        };
        let sandbox = &listed.summary;
        wanted
            && self
                .started_after
                .is_none_or(|time| sandbox.started_at > time)
            && self
                .metadata
                .iter()
                .all(|(key, value)| sandbox.metadata.get(key) == Some(value))
    }
}
