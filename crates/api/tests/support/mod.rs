//! An API in this process: an in-memory store, a node and an agent that only
//! pretend, and requests without a socket.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod fake;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use fake::{FakeAgent, FakeNode};
use hearth_api::AppState;
use hearth_control::{
    Config, Control, Features, OperatorToken, TemplatePublication, bootstrap, keys,
};
use hearth_ids::{BuildId, TeamId};
use hearth_store::{NewTeam, OwnerId, Store, TeamLimits};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tower::ServiceExt;

/// What operators show.
pub const OPERATOR: &str = "an operator's token, of enough length";

pub struct Api {
    pub router: Router,
    pub state: AppState,
    pub control: Arc<Control>,
    pub store: Arc<dyn Store>,
    pub node: Arc<FakeNode>,
    pub agent: Arc<FakeAgent>,
    pub team: TeamId,
    pub key: String,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("{error}: {} answered {:?}", self.status, self.text))
    }

    /// The message of an error, whose body must be the contract's.
    pub fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        assert_eq!(body["code"], status, "{body}");
        let content_type = self.headers["content-type"].to_str().expect("text");
        assert_eq!(content_type, "application/json");
        body["message"].as_str().expect("a message").to_owned()
    }

    /// Checks a 404 whose body is a bare text, or none where `text` is empty.
    pub fn plain_not_found(&self, text: &str) {
        assert_eq!(self.status, StatusCode::NOT_FOUND, "{}", self.text);
        assert_eq!(self.text, text);
        let expected = (!text.is_empty()).then_some("text/plain; charset=utf-8");
        assert_eq!(self.header("content-type"), expected);
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }
}

impl Api {
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut Config)) -> Self {
        let store = Arc::new(hearth_store_sqlite::in_memory().await.expect("opens"));
        Self::over(store, Arc::default(), configure).await
    }

    /// An API whose node tells it nothing unasked.
    pub async fn unwatched(configure: impl FnOnce(&mut Config)) -> Self {
        let store = Arc::new(hearth_store_sqlite::in_memory().await.expect("opens"));
        let node = Arc::new(FakeNode::default());
        node.unwatchable.store(true, Ordering::SeqCst);
        Self::over(store, node, configure).await
    }

    /// An API over a store and a node that may have a past.
    pub async fn over(
        store: Arc<dyn Store>,
        node: Arc<FakeNode>,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new("localhost:3443", SecretString::from("seed"));
        config.features = Features {
            egress_rules: true,
            network_rules: true,
            ..Features::default()
        };
        // Whoever comes after a process takes its place.
        config.owner = OwnerId::parse("test").expect("an owner");
        configure(&mut config);
        let first = bootstrap(store.as_ref(), &config)
            .await
            .expect("bootstraps");
        let team = first.team.id;
        let key = match first.api_key {
            Some(key) => key.expose_secret().to_owned(),
            None => new_key(&store, team).await,
        };
        let agent = Arc::new(FakeAgent::default());
        let control = Control::new(config, store.clone(), node.clone(), agent.clone());
        control.housekeeping_start().await.expect("takes up");
        control
            .template_publish(base(team))
            .await
            .expect("publishes");
        control.watch_node();
        if !node.unwatchable.load(Ordering::SeqCst) {
            node.watched().await;
        }
        let token = OperatorToken::new(OPERATOR).expect("is long enough");
        let state = AppState::new(control.clone()).with_operator_token(token);
        Self {
            router: hearth_api::router(state.clone()),
            state,
            control,
            store,
            node,
            agent,
            team,
            key,
        }
    }

    /// Another team, with its key.
    pub async fn other_team(&self, slug: &str) -> (TeamId, String) {
        let team = NewTeam {
            id: TeamId::random(),
            slug: slug.to_owned(),
            name: slug.to_owned(),
            limits: TeamLimits::default(),
            created_at: chrono::Utc::now(),
        };
        let team = self.store.team_create(team).await.expect("creates").id;
        (team, new_key(&self.store, team).await)
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        // What a test has done to the node behind the API's back is known by now.
        self.node.caught_up().await;
        let response = self
            .router
            .clone()
            .oneshot(request)
            .await
            .expect("the router cannot fail");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).expect("UTF-8"),
        }
    }

    pub async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answer {
        self.call_as(&self.key, method, path, body).await
    }

    pub async fn call_as(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("X-API-KEY", key)
            .header("content-type", "application/json")
            .body(body.into())
            .expect("a request");
        self.send(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, Body::empty()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, body.to_string()).await
    }

    /// Asks without a key.
    pub async fn anonymous(&self, path: &str) -> Answer {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        self.send(request).await
    }

    /// Asks as an operator.
    pub async fn operate(&self, method: Method, path: &str, body: &Value) -> Answer {
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        let request = Request::builder().method(method).uri(path);
        let request = request.header("x-admin-token", OPERATOR).body(body);
        self.send(request.expect("a request")).await
    }

    /// A new sandbox's id.
    pub async fn sandbox(&self, body: &Value) -> String {
        let answer = self.post("/v2/sandboxes", body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        answer.json()["sandboxID"]
            .as_str()
            .expect("an id")
            .to_owned()
    }
}

async fn new_key(store: &Arc<dyn Store>, team: TeamId) -> String {
    let (_, key) = keys::create(store.as_ref(), team, "test")
        .await
        .expect("creates");
    key.expose_secret().to_owned()
}

pub fn base(team: TeamId) -> TemplatePublication {
    TemplatePublication {
        team,
        namespace: String::new(),
        alias: "base".to_owned(),
        public: true,
        is_default: true,
        tag: "default".to_owned(),
        build_id: BuildId::from_uuid(uuid::Uuid::from_u128(7)),
        vcpus: 2,
        memory_mib: 1024,
        disk_mib: 2048,
        envd_version: "0.6.13".to_owned(),
    }
}
