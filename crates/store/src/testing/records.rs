//! A process, times and records to test with.

use crate::{
    BuildStatus, KeyGrant, KeyMask, NewApiKey, NewBuild, NewSnapshot, NewTeam, NewTemplate,
    OwnerId, Store, TeamLimits, TemplateAlias,
};
use chrono::{DateTime, TimeDelta, Utc};
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use std::sync::Arc;
use uuid::Uuid;

/// A store under test.
pub type Shared = Arc<dyn Store>;

/// The process that the tests are.
pub(super) fn us() -> OwnerId {
    OwnerId::parse("us").expect("an owner")
}

/// A fixed time, and others so many seconds later.
pub(super) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 123_000_000).expect("in range")
        + TimeDelta::seconds(seconds)
}

pub(super) async fn team(store: &Shared, slug: &str) -> TeamId {
    let team = NewTeam {
        id: TeamId::random(),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        limits: TeamLimits::default(),
        created_at: at(0),
    };
    store.team_create(team).await.expect("creates").id
}

pub(super) fn alias(namespace: &str, alias: &str) -> TemplateAlias {
    TemplateAlias {
        namespace: namespace.to_owned(),
        alias: alias.to_owned(),
    }
}

pub(super) async fn template(
    store: &Shared,
    team: TeamId,
    aliases: Vec<TemplateAlias>,
) -> TemplateId {
    let template = NewTemplate {
        id: TemplateId::random(),
        team_id: team,
        public: false,
        is_default: false,
        aliases,
        created_at: at(0),
    };
    store.template_create(template).await.expect("creates").id
}

pub(super) async fn build(store: &Shared, template: &TemplateId, created: i64) -> BuildId {
    let build = NewBuild {
        id: BuildId::random(),
        template_id: template.clone(),
        status: BuildStatus::Waiting,
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 2048,
        envd_version: "0.6.13".to_owned(),
        created_at: at(created),
    };
    store.build_create(build).await.expect("creates").id
}

pub(super) fn snapshot(
    team: TeamId,
    template: &TemplateId,
    name: Option<&str>,
    sandbox: &SandboxId,
    created: i64,
) -> NewSnapshot {
    NewSnapshot {
        template: name.map(|name| NewTemplate {
            id: template.clone(),
            team_id: team,
            public: false,
            is_default: false,
            aliases: vec![alias("a", name)],
            created_at: at(created),
        }),
        build: NewBuild {
            id: BuildId::random(),
            template_id: template.clone(),
            status: BuildStatus::Ready,
            vcpus: 2,
            memory_mib: 1024,
            disk_mib: 2048,
            envd_version: "0.6.13".to_owned(),
            created_at: at(created),
        },
        team_id: team,
        sandbox_id: sandbox.clone(),
        tag: "default".to_owned(),
        owner: us(),
    }
}

pub(super) fn key(team: TeamId, hash: &str, created: i64) -> NewApiKey {
    NewApiKey {
        id: Uuid::new_v4(),
        team_id: team,
        name: hash.to_owned(),
        hash: hash.to_owned(),
        mask: KeyMask {
            prefix: "e2b_".to_owned(),
            value_length: 40,
            first: "ab".to_owned(),
            last: "cdef".to_owned(),
        },
        grant: KeyGrant::default(),
        created_at: at(created),
    }
}
