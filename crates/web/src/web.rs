//! The interface in front of the API.

use crate::session::{LIFETIME, Sessions};
use crate::{answer, assets, proof};
use axum::Router;
use axum::body::{Body, to_bytes};
use hearth_api::BySession;
use http::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE, TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;
use tower::ServiceExt as _;

/// Of the body that shows a key.
const MAX_SIGN_IN_BYTES: usize = 4096;
/// Of an answer of the API that is read here.
pub(crate) const MAX_ANSWER_BYTES: usize = 4 << 20;
const SESSION_OVER: &str = "The session is over: sign in again";

/// Serves the interface and lets the API behind it know whose a session is.
#[derive(Clone)]
pub struct Web {
    shared: Arc<Shared>,
}

struct Shared {
    api: Router,
    sessions: Sessions,
    domain: String,
}

impl Web {
    /// In front of the API, which is to know each request's source. `domain` is what SDKs
    /// are told to use.
    #[must_use]
    pub fn new(api: Router, domain: String) -> Self {
        let shared = Shared {
            api,
            sessions: Sessions::default(),
            domain,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Everything that this and the API behind it answer.
    pub fn router(&self) -> Router {
        let web = self.clone();
        let answer = move |request: Request<Body>| {
            let web = web.clone();
            async move { web.answer(request).await }
        };
        Router::new().fallback(answer)
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (method, uri) = (request.method(), request.uri());
        if let Some(path) = uri.path().strip_prefix("/web/") {
            return match path {
                "session" => self.session(request).await,
                path => assets::file(path, method, request.headers()),
            };
        }
        if is_for_people(method, uri, request.headers()) {
            return assets::index(method, request.headers());
        }
        if proof::shows_key(request.headers()) || !proof::is_ours(uri, request.headers()) {
            return self.api(request).await;
        }
        let Some(key) = self.key(request.headers()) else {
            return answer::error(StatusCode::UNAUTHORIZED, SESSION_OVER);
        };
        if uri.path() == "/teams" {
            let message = "The answer would show the API key, which a session is not told: ask \
                           GET /web/session for the team";
            return answer::error(StatusCode::FORBIDDEN, message);
        }
        let id = proof::session(request.headers()).map(str::to_owned);
        let response = self.api_by_session(request, &key).await;
        // Expired, deleted or rotated away: no later request will do better.
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(id) = id
        {
            self.shared.sessions.end(&id);
        }
        response
    }

    async fn api(&self, request: Request<Body>) -> Response<Body> {
        match self.shared.api.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn api_by_session(
        &self,
        mut request: Request<Body>,
        key: &SecretString,
    ) -> Response<Body> {
        let Ok(mut value) = HeaderValue::from_str(key.expose_secret()) else {
            return answer::error(StatusCode::UNAUTHORIZED, "Invalid API key format");
        };
        value.set_sensitive(true);
        request.headers_mut().remove(COOKIE);
        request.headers_mut().insert(proof::API_KEY, value);
        request.extensions_mut().insert(BySession);
        self.api(request).await
    }

    fn key(&self, headers: &HeaderMap) -> Option<SecretString> {
        let id = proof::session(headers)?;
        self.shared.sessions.key(id, Instant::now())
    }

    /// `/web/session`: POST signs in, GET tells who is signed in, DELETE signs out.
    async fn session(&self, request: Request<Body>) -> Response<Body> {
        if !proof::is_ours(request.uri(), request.headers()) {
            let message = "Sessions are for the pages of this server alone; programs send the \
                           X-API-Key header to the API";
            return answer::error(StatusCode::FORBIDDEN, message);
        }
        match *request.method() {
            Method::POST => self.sign_in(request).await,
            Method::GET => self.who(request).await,
            Method::DELETE => self.sign_out(request.headers()),
            _ => answer::error(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
        }
    }

    async fn sign_in(&self, request: Request<Body>) -> Response<Body> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct SignIn {
            api_key: String,
        }
        let (head, body) = request.into_parts();
        let sent = to_bytes(body, MAX_SIGN_IN_BYTES).await.ok();
        let sent = sent.and_then(|sent| serde_json::from_slice::<SignIn>(&sent).ok());
        let Some(SignIn { api_key }) = sent else {
            let message = "The body is to be JSON with the one field apiKey";
            return answer::error(StatusCode::BAD_REQUEST, message);
        };
        let key = SecretString::from(api_key.trim().to_owned());
        // Secrets of strangers do not displace anything: the old session stays until then.
        let old = proof::session(&head.headers).map(str::to_owned);
        let secure = proof::is_secure(&head.headers);
        let team = match self
            .team(Request::from_parts(head, Body::empty()), &key)
            .await
        {
            Ok(team) => team,
            Err(refused) => return refused,
        };
        if let Some(old) = old {
            self.shared.sessions.end(&old);
        }
        let id = self.shared.sessions.begin(key, Instant::now());
        let mut response = answer::json(StatusCode::CREATED, &self.told(team));
        set_cookie(&mut response, secure, &id, LIFETIME.as_secs());
        response
    }

    async fn who(&self, request: Request<Body>) -> Response<Body> {
        let Some(key) = self.key(request.headers()) else {
            return answer::error(StatusCode::UNAUTHORIZED, SESSION_OVER);
        };
        match self.team(request, &key).await {
            Ok(team) => answer::json(StatusCode::OK, &self.told(team)),
            Err(refused) => refused,
        }
    }

    fn sign_out(&self, headers: &HeaderMap) -> Response<Body> {
        if let Some(id) = proof::session(headers) {
            self.shared.sessions.end(id);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        set_cookie(&mut response, proof::is_secure(headers), "", 0);
        response
    }

    /// Asks the API for the key's team, as a client does: guesses are limited and recorded
    /// there. The error is the API's answer.
    async fn team(
        &self,
        mut request: Request<Body>,
        key: &SecretString,
    ) -> Result<Team, Response<Body>> {
        *request.method_mut() = Method::GET;
        *request.uri_mut() = Uri::from_static("/teams");
        for name in [CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING] {
            request.headers_mut().remove(name);
        }
        *request.body_mut() = Body::empty();
        let response = self.api_by_session(request, key).await;
        if response.status() != StatusCode::OK {
            return Err(response);
        }
        let read = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.ok();
        let teams = read.and_then(|read| serde_json::from_slice::<Vec<Team>>(&read).ok());
        let team = teams.and_then(|teams| teams.into_iter().next());
        team.ok_or_else(|| {
            let message = "The API did not tell the key's team";
            answer::error(StatusCode::BAD_GATEWAY, message)
        })
    }

    fn told(&self, team: Team) -> SignedIn<'_> {
        SignedIn {
            team,
            domain: &self.shared.domain,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The part of the API's `Team` that a page may see.
#[derive(Deserialize, Serialize)]
struct Team {
    #[serde(rename = "teamID")]
    team_id: String,
    name: String,
}

#[derive(Serialize)]
struct SignedIn<'a> {
    team: Team,
    domain: &'a str,
    version: &'static str,
}

fn set_cookie(response: &mut Response<Body>, secure: bool, id: &str, seconds: u64) {
    if let Some(cookie) = proof::cookie(secure, id, seconds) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}

/// Whether a browser opens one of the interface's own addresses.
fn is_for_people(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let path = uri.path();
    let ours = path == "/" || path == "/dashboard" || path.starts_with("/dashboard/");
    let accepts = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|accepts| accepts.contains("text/html"));
    // A link of the command line to a sandbox has words for people without the interface.
    let told_by_api = !assets::embedded() && path.starts_with("/dashboard/");
    [Method::GET, Method::HEAD].contains(method)
        && ours
        && accepts
        && !proof::shows_key(headers)
        && !told_by_api
}
