//! Signing in for E2B's command line (`e2b auth login`, `auth configure`, `auth logout`):
//! a page that takes an API key, and the endpoints of the tokens that it gives for that
//! (RFC 6749, RFC 7009).
//!
//! ```text
//!  e2b ── browser ──▶ GET page ──▶ POST key ──▶ 303 to http://localhost:PORT with tokens
//!  e2b ── POST /oauth/token, /oauth/revoke; GET /teams with the access token
//! ```
//!
//! The page sends its visitors to this machine's own ports alone.

use super::pages::STYLE;
use super::uploads::Origin;
use crate::audit;
use crate::error::{Failure, Result};
use crate::query::Query;
use crate::source::Source;
use crate::state::AppState;
use axum::Json;
use axum::extract::{RawForm, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION};
use axum::http::{Extensions, HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use chrono::Utc;
use hearth_control::{Error, Kind, LoginTokens};
use secrecy::ExposeSecret;
use serde_json::json;
use utoipa_axum::router::OpenApiRouter;

const PAGE: &str = "/docs/api/cli";
const TOKEN: &str = "/oauth/token";
const REVOKE: &str = "/oauth/revoke";
/// Who may use the tokens; nothing depends on it.
const CLIENT: &str = "hearth-cli";
const MAX_FORM_BYTES: usize = 16 * 1024;
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Not part of the documented API.
pub(crate) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .route(PAGE, get(page).post(sign_in))
        .route(TOKEN, post(token))
        .route(REVOKE, post(revoke))
}

/// Where a tool on the visitor's own machine waits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Next {
    host: &'static str,
    port: u16,
    path: String,
}

impl Next {
    /// Put together anew from what was understood: nothing else of the text goes on.
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let plain = uri.scheme_str() == Some("http") && !authority.as_str().contains('@');
        let host = ["localhost", "127.0.0.1"];
        let host = host.into_iter().find(|host| *host == authority.host())?;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        let path = uri.path();
        (plain && path.chars().all(fits) && uri.query().is_none()).then_some(Self {
            host,
            port: authority.port_u16()?,
            path: path.to_owned(),
        })
    }

    fn origin(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    fn url(&self) -> String {
        self.origin() + &self.path
    }
}

/// A document in which nothing is that a request said, but a checked address.
fn document(status: StatusCode, next: Option<&Next>, title: &str, body: &str) -> Response {
    // Browsers hold what a form leads to against this, redirections too.
    let form = next.map_or_else(
        || "'none'".to_owned(),
        |next| format!("'self' {}", next.origin()),
    );
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; form-action {form}; base-uri 'none'; \
         frame-ancestors 'none'"
    );
    let text = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\
         <h1>{title}</h1>{body}</main></body></html>\n"
    );
    let mut response = (status, Html(text)).into_response();
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn form(status: StatusCode, next: &Next, refused: Option<&'static str>) -> Response {
    let refused = refused.map_or_else(String::new, |why| {
        format!("<p role=\"alert\"><strong>{why}</strong></p>")
    });
    let body = format!(
        "<p>A tool on your machine wants to use this Hearth. It gets what the API key may do, \
         until <code>e2b auth logout</code> or for 30 days.</p>{refused}\
         <form method=\"post\" action=\"{PAGE}\">\
         <input type=\"hidden\" name=\"next\" value=\"{}\">\
         <p><label>API key <input name=\"key\" type=\"password\" required autofocus \
         autocomplete=\"off\" placeholder=\"e2b_…\"></label> \
         <button>Sign in</button></p></form>\
         <p><code>sudo hearth env</code> on the server shows a key, \
         <code>hearth key create</code> makes one.</p>",
        next.url()
    );
    document(status, Some(next), "Sign in", &body)
}

fn no_next() -> Response {
    let body = "<p>This page is for <code>e2b auth login</code>, which waits for its answer at \
                <code>http://localhost:PORT</code>. The address that it was opened with leads \
                elsewhere, so nothing is sent there.</p>";
    document(StatusCode::BAD_REQUEST, None, "Nothing to sign in to", body)
}

async fn page(query: Query) -> Response {
    match query.text("state") {
        Some("success") => {
            let body = "<p>The tool has what it needs. This page can be closed.</p>";
            return document(StatusCode::OK, None, "Signed in", body);
        }
        Some(_) => {
            let body = "<p>The tool could not use what it got; its output says why. Start again \
                        with <code>e2b auth login</code>.</p>";
            return document(StatusCode::OK, None, "Not signed in", body);
        }
        None => {}
    }
    match query.text("next").and_then(Next::parse) {
        Some(next) => form(StatusCode::OK, &next, None),
        None => no_next(),
    }
}

/// The fields of a form, each once.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(RawForm(body): RawForm) -> Result<Self> {
        if body.len() > MAX_FORM_BYTES {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Failure::http(status, "The form is too large"));
        }
        let pairs = form_urlencoded::parse(&body).into_owned();
        Ok(Self(pairs.collect()))
    }

    fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.trim())
    }
}

async fn sign_in(
    State(state): State<AppState>,
    origin: Origin,
    extensions: Extensions,
    body: RawForm,
) -> Result<Response> {
    let fields = Fields::read(body)?;
    let Some(next) = Next::parse(fields.text("next")) else {
        return Ok(no_next());
    };
    let caller = match state.control.authenticate(fields.text("key")).await {
        Ok(caller) => caller,
        Err(error) if error.kind == Kind::Unauthenticated => {
            let why = "There is no such API key.";
            return Ok(form(StatusCode::UNAUTHORIZED, &next, Some(why)));
        }
        Err(error) => return Err(error.into()),
    };
    audit::team(caller.team_id());
    let source = Source::of(&extensions).address();
    let began = match caller.check_use(Utc::now(), source) {
        Ok(()) => state.control.login_begin(&caller).await,
        Err(refused) => Err(refused),
    };
    let tokens = match began {
        Ok(tokens) => tokens,
        Err(error) if matches!(error.kind, Kind::Forbidden | Kind::Unauthenticated) => {
            let why = "This API key cannot sign in: it is over, read-only, for other networks, \
                       or its team is banned or blocked.";
            return Ok(form(StatusCode::FORBIDDEN, &next, Some(why)));
        }
        Err(error) => return Err(error.into()),
    };
    let domain = state.control.domain();
    let host = domain.split(':').next().unwrap_or(domain);
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("email", &format!("{}@{host}", caller.team.slug))
        .append_pair("accessToken", tokens.access.expose_secret())
        .append_pair("refreshToken", tokens.refresh.expose_secret())
        .append_pair("tokenEndpoint", &format!("{}{TOKEN}", origin.as_str()))
        .append_pair("revokeEndpoint", &format!("{}{REVOKE}", origin.as_str()))
        .append_pair("clientId", CLIENT)
        .finish();
    let to = HeaderValue::from_str(&format!("{}?{query}", next.url())).map_err(Error::internal)?;
    let headers = HeaderMap::from_iter([(LOCATION, to), (CACHE_CONTROL, NO_STORE)]);
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

/// An error as RFC 6749 writes it.
fn oauth_error(error: &str, description: &str) -> Response {
    let body = Json(json!({"error": error, "error_description": description}));
    (StatusCode::BAD_REQUEST, [(CACHE_CONTROL, NO_STORE)], body).into_response()
}

async fn token(State(state): State<AppState>, body: RawForm) -> Result<Response> {
    let fields = Fields::read(body)?;
    if fields.text("grant_type") != "refresh_token" {
        let why = "grant_type must be refresh_token";
        return Ok(oauth_error("unsupported_grant_type", why));
    }
    let shown = fields.text("refresh_token");
    let tokens: LoginTokens = match state.control.login_refresh(shown).await {
        Ok(tokens) => tokens,
        Err(error) if matches!(error.kind, Kind::Forbidden | Kind::Unauthenticated) => {
            return Ok(oauth_error("invalid_grant", &error.message));
        }
        Err(error) => return Err(error.into()),
    };
    let body = json!({
        "access_token": tokens.access.expose_secret(),
        "refresh_token": tokens.refresh.expose_secret(),
        "token_type": "Bearer",
        "expires_in": tokens.expires_in.num_seconds(),
    });
    Ok(([(CACHE_CONTROL, NO_STORE)], Json(body)).into_response())
}

/// Says the same of what is no token: RFC 7009.
async fn revoke(State(state): State<AppState>, body: RawForm) -> Result<StatusCode> {
    let fields = Fields::read(body)?;
    state.control.login_end(fields.text("token")).await?;
    Ok(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_sent_to_their_own_machine_alone() {
        for (text, url) in [
            ("http://localhost:40123", "http://localhost:40123/"),
            ("http://127.0.0.1:1/callback", "http://127.0.0.1:1/callback"),
        ] {
            let next = Next::parse(text).expect(text);
            assert_eq!(next.url(), url);
        }
        for text in [
            "",
            "/",
            "localhost:40123",
            "http://localhost",
            "https://localhost:40123",
            "http://localhost.example.com:80",
            "http://example.com:80",
            "http://localhost:80@example.com",
            "http://localhost:80@example.com:80/",
            "http://user@localhost:80",
            "http://localhost:80\\@example.com",
            "http://localhost:80/\"><script>",
            "http://localhost:80/?a=b",
            "http://localhost:80/%0d%0aSet-Cookie:x",
            "javascript:alert(1)",
            "//example.com:80",
        ] {
            assert_eq!(Next::parse(text), None, "{text}");
        }
    }
}
