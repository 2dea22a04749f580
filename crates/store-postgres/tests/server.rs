//! The store over a real PostgreSQL: the suite of every backend, and what is this one's
//! own.

mod support;

use chrono::Utc;
use hearth_ids::{BuildId, SandboxId, TeamId, TemplateId};
use hearth_store::{
    BuildStatus, Error, KeyGrant, KeyMask, LeaseName, NewApiKey, NewBuild, NewSnapshot, NewTeam,
    NewTemplate, NodeMode, NodeRegistration, OwnerId, Store, TeamLimits, TemplateAlias,
};
use hearth_store_postgres::PostgresStore;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;
use support::Server;
use uuid::Uuid;

async fn open(server: &Server, database: &str) -> PostgresStore {
    let url = server.url("hearth", database);
    hearth_store_postgres::open(&url).await.expect("opens")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_of_every_backend() {
    let server = Server::start().await;
    let fresh = async || {
        let database = server.database().await;
        let store: Arc<dyn Store> = Arc::new(open(&server, &database).await);
        store
    };
    hearth_store::store_suite!(in_turn fresh);
}

/// The text of a refusal, all of its causes.
async fn refusal(url: &str) -> String {
    let error = hearth_store_postgres::open(url)
        .await
        .expect_err("is refused");
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_refuses_a_connection_is_told_with_what_helps() {
    let mut server = Server::start().await;
    let database = server.database().await;
    server
        .administer("postgres", "CREATE ROLE narrow LOGIN PASSWORD 'right'")
        .await;
    let none = refusal(&server.url("hearth", "missing")).await;
    assert!(none.contains("createdb"), "{none}");
    let wrong = refusal(&server.url("narrow:wrong", &database)).await;
    assert!(wrong.contains("refuses user or password"), "{wrong}");
    assert!(!wrong.contains("wrong@"), "no password is shown: {wrong}");
    // The right password, and no right to make tables.
    let rights = refusal(&server.url("narrow:right", &database)).await;
    assert!(rights.contains("CREATE on the schema"), "{rights}");
    let malformed = refusal("postgres://h:port/d").await;
    assert!(
        malformed.contains("postgres://user:password@host"),
        "{malformed}"
    );

    let store = open(&server, &database).await;
    let team = new_team("a");
    let shared: &dyn Store = &store;
    shared.team_create(team.clone()).await.expect("creates");
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    server.administer("postgres", &read_only).await;
    let fresh = server.database().await;
    let read_only = format!("ALTER DATABASE {fresh} SET default_transaction_read_only = on");
    server.administer("postgres", &read_only).await;
    let refused = refusal(&server.url("hearth", &fresh)).await;
    assert!(refused.contains("read-only"), "{refused}");
    // One that has its schema can be read.
    let store = open(&server, &database).await;
    let shared: &dyn Store = &store;
    assert!(shared.team(team.id).await.expect("reads").is_some());
    let refused = shared.team_create(new_team("b")).await;
    assert!(matches!(refused, Err(Error::ReadOnly)), "{refused:?}");

    server.stop();
    let away = shared.team(team.id).await;
    assert!(matches!(away, Err(Error::Unreachable(_))), "{away:?}");
    let away = refusal(&server.url("hearth", &database)).await;
    assert!(away.contains("no PostgreSQL answers"), "{away}");
    // Nobody has to start anew when the server is back.
    server.run().await;
    let found = shared.team(team.id).await;
    assert!(found.expect("reads").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_start_together_and_hear_of_each_others_changes() {
    let server = Server::start().await;
    let database = server.database().await;
    let url = server.url("hearth", &database);
    let opening: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { hearth_store_postgres::open(&url).await })
        })
        .collect();
    let mut stores: Vec<Arc<dyn Store>> = Vec::new();
    for store in opening {
        let store = store.await.expect("no panic").expect("opens");
        stores.push(Arc::new(store));
    }
    let (one, other) = (&stores[0], &stores[1]);
    let team = one.team_create(new_team("a")).await.expect("creates");
    let key = one.api_key_create(new_key(team.id)).await.expect("creates");
    let heard = async |limit| {
        let heard = tokio::time::timeout(limit, other.api_keys_changed()).await;
        heard.is_ok()
    };
    let (long, short) = (Duration::from_secs(60), Duration::from_millis(500));
    // That it listens now, and what happened before it did.
    assert!(heard(long).await);
    while heard(short).await {}
    one.api_key_touch(key.id, Utc::now()).await.expect("writes");
    assert!(!heard(short).await, "a use is no change");
    one.api_key_revoke(team.id, key.id, Utc::now())
        .await
        .expect("writes");
    assert!(heard(long).await, "a revoked key is");
    while heard(short).await {}
    one.team_set_standing(team.id, true, None)
        .await
        .expect("writes");
    assert!(heard(long).await, "so is a banned team");
}

fn new_team(slug: &str) -> NewTeam {
    NewTeam {
        id: TeamId::random(),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        limits: TeamLimits::default(),
        created_at: Utc::now(),
    }
}

fn new_key(team_id: TeamId) -> NewApiKey {
    NewApiKey {
        id: Uuid::new_v4(),
        team_id,
        name: "é".to_owned(),
        hash: "h".to_owned(),
        mask: KeyMask {
            prefix: "e2b_".to_owned(),
            value_length: 40,
            first: "ab".to_owned(),
            last: "cdef".to_owned(),
        },
        grant: KeyGrant {
            read_only: true,
            networks: vec!["198.51.100.0/24".parse().expect("a network")],
            ..KeyGrant::default()
        },
        created_at: Utc::now(),
    }
}

/// A team with a key, a template with a tag, and a snapshot.
async fn fill(store: &dyn Store) -> (TeamId, TemplateId) {
    let team = store.team_create(new_team("a")).await.expect("creates").id;
    store.api_key_create(new_key(team)).await.expect("creates");
    let template = NewTemplate {
        id: TemplateId::random(),
        team_id: team,
        public: true,
        is_default: false,
        aliases: vec![TemplateAlias {
            namespace: "a".to_owned(),
            alias: "x".to_owned(),
        }],
        created_at: Utc::now(),
    };
    let id = store.template_create(template).await.expect("creates").id;
    let owner = OwnerId::random();
    let build = NewBuild {
        id: BuildId::random(),
        template_id: id.clone(),
        status: BuildStatus::Ready,
        vcpus: 2,
        memory_mib: 512,
        disk_mib: 1024,
        envd_version: "0.6.13".to_owned(),
        created_at: Utc::now(),
    };
    let noted = store.discard_add(build.id, &owner).await;
    noted.expect("writes");
    let snapshot = NewSnapshot {
        template: None,
        build,
        team_id: team,
        sandbox_id: SandboxId::random(),
        tag: "default".to_owned(),
        owner: owner.clone(),
    };
    store.snapshot_create(snapshot).await.expect("creates");
    let lease = LeaseName::presence(&owner);
    let held = store.lease_acquire(&lease, &owner, Duration::from_secs(60));
    assert!(held.await.expect("writes"));
    let noted = store.discard_add(BuildId::random(), &owner).await;
    noted.expect("writes");
    drained_node(store).await;
    (team, id)
}

/// A node that is drained, in a cluster that has its id.
async fn drained_node(store: &dyn Store) {
    let node = NodeRegistration {
        id: Uuid::new_v4(),
        instance: Uuid::new_v4(),
        name: "n".to_owned(),
        address: "unix:/run/node.sock".to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        version: "1".to_owned(),
        revision: String::new(),
    };
    let id = node.id;
    let lease = Duration::from_secs(60);
    store.node_register(node, lease).await.expect("writes");
    let drained = store.node_set_mode(id, NodeMode::Draining).await;
    assert!(drained.expect("writes").is_some());
    store.cluster_id(Uuid::new_v4()).await.expect("writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_store_moves_from_sqlite() {
    let server = Server::start().await;
    let database = server.database().await;
    let source = hearth_store_sqlite::in_memory().await.expect("opens");
    let from: &dyn Store = &source;
    let (team, template) = fill(from).await;
    let target = open(&server, &database).await;
    let copied = hearth_store_sql::copy(&source, &target)
        .await
        .expect("copies");
    let rows: u64 = copied.iter().map(|table| table.rows).sum();
    assert_eq!(rows, 10, "{copied:?}");
    let to: &dyn Store = &target;
    assert_eq!(
        from.team_list().await.expect("reads"),
        to.team_list().await.expect("reads")
    );
    assert_eq!(
        from.api_key_by_hash("h").await.expect("reads"),
        to.api_key_by_hash("h").await.expect("reads")
    );
    assert_eq!(
        from.template_by_alias("a", "x").await.expect("reads"),
        to.template_by_alias("a", "x").await.expect("reads")
    );
    let snapshots = to.snapshot_list(team, None, None).await.expect("reads");
    assert_eq!(
        from.snapshot_list(team, None, None).await.expect("reads"),
        snapshots
    );
    assert_eq!(
        from.discard_list().await.expect("reads"),
        to.discard_list().await.expect("reads")
    );
    assert_eq!(
        from.node_list().await.expect("reads"),
        to.node_list().await.expect("reads")
    );
    let other = Uuid::new_v4();
    assert_eq!(
        from.cluster_id(other).await.expect("reads"),
        to.cluster_id(other).await.expect("reads")
    );
    // Numbers go on where those that were copied end.
    let build = snapshots[0].build_id;
    let tagged = to.tag_assign(&template, "next", build, Utc::now()).await;
    tagged.expect("writes");

    // What holds something takes nothing, and stays as it is.
    let again = hearth_store_sql::copy(&source, &target).await;
    assert!(matches!(again, Err(Error::Conflict("teams"))), "{again:?}");
    assert_eq!(to.tag_list(&template).await.expect("reads").len(), 2);
}
