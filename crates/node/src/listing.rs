//! Pages of the sandboxes of this node, as a pure choice over their statuses.
//!
//! A page ends before it would pass [`PAGE_BYTES`], so that what one team keeps in
//! its sandboxes cannot make a list fail, neither its own nor anybody else's. Pages
//! follow the sandboxes' ids: one that begins or ends meanwhile moves no other.

use crate::spec::{SandboxSpec, SandboxState, Status};
use hearth_ids::{SandboxId, TeamId, TemplateId};

/// What a page may hold of texts whose length others choose, unless a single
/// sandbox holds more.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// What a summary takes beyond those texts, at most.
const SUMMARY_BYTES: usize = 512;
/// What an entry of the metadata takes beyond its key and value, at most.
const ENTRY_BYTES: usize = 16;

/// Which sandboxes are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query {
    pub team: Option<TeamId>,
    pub template: Option<TemplateId>,
    pub skip_paused: bool,
    pub with_metadata: bool,
    /// The last sandbox of the page before.
    pub after: Option<SandboxId>,
}

impl Query {
    fn matches(&self, status: &Status) -> bool {
        let spec = &status.spec;
        self.team.is_none_or(|team| spec.team_id == team)
            && self
                .template
                .as_ref()
                .is_none_or(|template| spec.template_id == *template)
            && !(self.skip_paused && status.state == SandboxState::Paused)
            && self
                .after
                .as_ref()
                .is_none_or(|after| spec.sandbox_id > *after)
    }

    fn size(&self, spec: &SandboxSpec) -> usize {
        summary_bytes(spec, self.with_metadata)
    }
}

/// What the summary of a sandbox takes in a message, at most.
pub(crate) fn summary_bytes(spec: &SandboxSpec, with_metadata: bool) -> usize {
    let metadata = spec.metadata.iter().filter(|_| with_metadata);
    let metadata: usize = metadata
        .map(|(key, value)| key.len() + value.len() + ENTRY_BYTES)
        .sum();
    let alias = spec.alias.as_ref().map_or(0, String::len);
    SUMMARY_BYTES + metadata + alias + spec.volume_mounts_json.len()
}

#[derive(Debug)]
pub(crate) struct Page {
    /// By id.
    pub sandboxes: Vec<Status>,
    /// Where the next page begins, if there is one: after this sandbox.
    pub next: Option<SandboxId>,
}

/// The page that a query asks for; `statuses` are all there are, in any order.
pub(crate) fn page(statuses: Vec<Status>, query: &Query) -> Page {
    let mut matching: Vec<Status> = statuses
        .into_iter()
        .filter(|status| query.matches(status))
        .collect();
    matching.sort_by(|a, b| a.spec.sandbox_id.cmp(&b.spec.sandbox_id));
    let mut bytes = 0;
    let mut fitting = 0;
    for status in &matching {
        bytes += query.size(&status.spec);
        if fitting > 0 && bytes > PAGE_BYTES {
            break;
        }
        fitting += 1;
    }
    let more = fitting < matching.len();
    matching.truncate(fitting);
    let last = matching.last().filter(|_| more);
    Page {
        next: last.map(|status| status.spec.sandbox_id.clone()),
        sandboxes: matching,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spec::TimeoutAction;
    use chrono::Utc;
    use hearth_ids::{BuildId, ExecutionId};
    use proptest::prelude::*;
    use std::sync::Arc;

    pub(crate) fn status(team: TeamId, state: SandboxState, metadata_bytes: usize) -> Status {
        let spec = SandboxSpec {
            sandbox_id: SandboxId::random(),
            template_id: TemplateId::random(),
            build_id: BuildId::random(),
            team_id: team,
            alias: None,
            metadata: [("key".to_owned(), "m".repeat(metadata_bytes))].into(),
            env_vars: [("NAME".to_owned(), "e".repeat(1 << 20))].into(),
            envd_access_token: Some("secret-token".to_owned()),
            traffic_access_token: None,
            allow_internet_access: None,
            network_json: "n".repeat(4 << 20),
            lifecycle_json: String::new(),
            volume_mounts_json: String::new(),
            timeout_action: TimeoutAction::Kill,
        };
        Status {
            spec: Arc::new(spec),
            state,
            execution_id: ExecutionId::random(),
            started_at: Utc::now(),
            end_at: Utc::now(),
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 4096,
            envd_version: "0.6.13".to_owned(),
            address: None,
            paused: None,
            sequence: 1,
        }
    }

    /// Reads all pages, one after the other.
    fn read(statuses: &[Status], mut query: Query) -> Vec<Vec<Status>> {
        let mut pages = Vec::new();
        loop {
            let page = page(statuses.to_vec(), &query);
            pages.push(page.sandboxes);
            match page.next {
                Some(next) => query.after = Some(next),
                None => return pages,
            }
        }
    }

    #[test]
    fn filters_choose() {
        let (one, other) = (TeamId::random(), TeamId::random());
        let statuses = [
            status(one, SandboxState::Running, 1),
            status(one, SandboxState::Paused, 1),
            status(other, SandboxState::Running, 1),
        ];
        let ids = |query: Query| -> Vec<SandboxId> {
            let pages = read(&statuses, query).concat();
            pages.iter().map(|s| s.spec.sandbox_id.clone()).collect()
        };
        assert_eq!(ids(Query::default()).len(), 3);
        let team = Some(one);
        assert_eq!(
            ids(Query {
                team,
                ..Query::default()
            })
            .len(),
            2
        );
        let running = Query {
            team,
            skip_paused: true,
            ..Query::default()
        };
        assert_eq!(ids(running), [statuses[0].spec.sandbox_id.clone()]);
        let template = Some(statuses[2].spec.template_id.clone());
        let made_from = ids(Query {
            template,
            ..Query::default()
        });
        assert_eq!(made_from, [statuses[2].spec.sandbox_id.clone()]);
    }

    #[test]
    fn one_sandbox_is_a_page_however_large() {
        let team = TeamId::random();
        let large = [0, 1, 2].map(|_| status(team, SandboxState::Paused, 2 * PAGE_BYTES));
        let with_metadata = Query {
            with_metadata: true,
            ..Query::default()
        };
        let pages = read(&large, with_metadata);
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
        // What is not told does not count.
        assert_eq!(read(&large, Query::default()).len(), 1);
        assert_eq!(read(&[], Query::default()), [Vec::new()]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pages_hold_everything_once_and_are_bounded(
            sizes in proptest::collection::vec(0usize..PAGE_BYTES / 2, 0..12),
        ) {
            let team = TeamId::random();
            let statuses: Vec<Status> = sizes
                .iter()
                .map(|bytes| status(team, SandboxState::Running, *bytes))
                .collect();
            let query = Query { with_metadata: true, ..Query::default() };
            let pages = read(&statuses, query.clone());
            for page in &pages {
                let bytes: usize = page.iter().map(|status| query.size(&status.spec)).sum();
                prop_assert!(bytes <= PAGE_BYTES || page.len() == 1);
            }
            let read: Vec<_> = pages.concat().iter().map(|s| s.spec.sandbox_id.clone()).collect();
            let mut all: Vec<_> = statuses.iter().map(|s| s.spec.sandbox_id.clone()).collect();
            all.sort();
            prop_assert_eq!(read, all);
        }
    }
}
