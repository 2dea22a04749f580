//! Signing in as E2B's command line does: its page, its tokens, and their end.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hearth_control::keys;
use hearth_store::KeyGrant;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;
use support::{Answer, Api};

const NEXT: &str = "http%3A%2F%2Flocalhost%3A40123";

async fn post(api: &Api, path: &str, form: &[(&str, &str)]) -> Answer {
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(form)
        .finish();
    let request = Request::post(path)
        .header("host", "hearth.example.com:3000")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form));
    api.send(request.expect("a request")).await
}

async fn with_token(api: &Api, token: &str, path: &str) -> Answer {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    api.send(request.body(Body::empty()).expect("a request"))
        .await
}

/// What the tool hears when a key is given to the page.
async fn sign_in(api: &Api, key: &str) -> BTreeMap<String, String> {
    let form = [("next", "http://localhost:40123"), ("key", key)];
    let answer = post(api, "/docs/api/cli", &form).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text);
    let location = answer.header("location").expect("a location");
    let (base, query) = location.split_once('?').expect("a query");
    assert_eq!(base, "http://localhost:40123/");
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

#[tokio::test]
async fn a_tool_gets_tokens_a_key_and_the_end_of_both_tokens() {
    let api = Api::start().await;
    let page = format!("/docs/api/cli?next={NEXT}&cliVersion=2.19.0");
    let page = api.anonymous(&page).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("name=\"key\""));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    let form = "form-action 'self' http://localhost:40123;";
    assert!(policy.contains(form), "{policy}");

    let told = sign_in(&api, &api.key).await;
    for name in ["email", "accessToken", "refreshToken", "clientId"] {
        assert!(!told[name].is_empty(), "{name}");
    }
    let origin = "http://hearth.example.com:3000";
    assert_eq!(told["tokenEndpoint"], format!("{origin}/oauth/token"));
    assert_eq!(told["revokeEndpoint"], format!("{origin}/oauth/revoke"));

    let teams = with_token(&api, &told["accessToken"], "/teams").await;
    assert_eq!(teams.status, StatusCode::OK, "{}", teams.text);
    assert_eq!(teams.header("cache-control"), Some("no-store"));
    let team = &teams.json()[0];
    assert_eq!(team["teamID"], api.team.to_string());
    assert_eq!(team["isDefault"], true);
    let key = team["apiKey"].as_str().expect("a key").to_owned();
    assert_ne!(key, api.key);
    let used = api
        .call_as(&key, Method::GET, "/v2/sandboxes", Body::empty())
        .await;
    assert_eq!(used.status, StatusCode::OK);
    let listed = api.get("/api-keys").await;
    assert!(listed.text.contains("CLI login/configure"));
    // It is good for nothing else, nor is the other token for this.
    with_token(&api, &told["accessToken"], "/v2/sandboxes")
        .await
        .error(401);
    with_token(&api, &told["refreshToken"], "/teams")
        .await
        .error(401);

    let refresh = |token: String| {
        let api = &api;
        async move {
            let form = [("grant_type", "refresh_token"), ("refresh_token", &token)];
            post(api, "/oauth/token", &form).await
        }
    };
    let fresh = refresh(told["refreshToken"].clone()).await;
    assert_eq!(fresh.status, StatusCode::OK, "{}", fresh.text);
    assert_eq!(fresh.json()["expires_in"], 3600);
    let access = fresh.json()["access_token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let wrong = refresh(access.clone()).await;
    assert_eq!(
        (wrong.status, &wrong.json()["error"]),
        (StatusCode::BAD_REQUEST, &"invalid_grant".into())
    );
    let odd = post(&api, "/oauth/token", &[("grant_type", "password")]).await;
    assert_eq!(odd.json()["error"], "unsupported_grant_type");

    for token in [told["refreshToken"].as_str(), "nonsense"] {
        let ended = post(&api, "/oauth/revoke", &[("token", token)]).await;
        assert_eq!(ended.status, StatusCode::OK);
    }
    with_token(&api, &access, "/teams").await.error(401);
    let late = refresh(told["refreshToken"].clone()).await;
    assert_eq!(late.json()["error"], "invalid_grant");
    let used = api
        .call_as(&key, Method::GET, "/v2/sandboxes", Body::empty())
        .await;
    assert_eq!(used.status, StatusCode::OK, "the tool's key is its own");
}

#[tokio::test]
async fn a_session_may_do_what_its_key_may() {
    let api = Api::start().await;
    let grant = KeyGrant {
        scopes: [hearth_store::Scope::Templates].into(),
        ..KeyGrant::default()
    };
    let narrow = keys::issue(api.store.as_ref(), api.team, "narrow", grant).await;
    let (_, narrow) = narrow.expect("issues");
    let told = sign_in(&api, narrow.expose_secret()).await;
    let teams = with_token(&api, &told["accessToken"], "/teams")
        .await
        .json();
    let key = teams[0]["apiKey"].as_str().expect("a key");
    let call = |path: &'static str| api.call_as(key, Method::GET, path, Body::empty());
    assert_eq!(call("/templates").await.status, StatusCode::OK);
    call("/v2/sandboxes").await.error(403);

    let read_only = KeyGrant {
        read_only: true,
        ..KeyGrant::default()
    };
    let read_only = keys::issue(api.store.as_ref(), api.team, "looks", read_only).await;
    let (_, read_only) = read_only.expect("issues");
    let form = [
        ("next", "http://localhost:1"),
        ("key", read_only.expose_secret()),
    ];
    let refused = post(&api, "/docs/api/cli", &form).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    // A banned team's tokens get no key.
    let told = sign_in(&api, &api.key).await;
    let banned = api.store.team_set_standing(api.team, true, None).await;
    assert!(banned.expect("bans"));
    with_token(&api, &told["accessToken"], "/teams")
        .await
        .error(403);
}

#[tokio::test]
async fn the_page_gives_nothing_away() {
    let api = Api::start().await;
    for next in [
        "",
        "https://example.com",
        "http://localhost:1@example.com:80",
    ] {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("next", next)
            .finish();
        let page = api.anonymous(&format!("/docs/api/cli?{query}")).await;
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{next}");
        assert!(!page.text.contains("example.com"), "{}", page.text);
        let form = [("next", next), ("key", &api.key)];
        let sent = post(&api, "/docs/api/cli", &form).await;
        assert_eq!(sent.status, StatusCode::BAD_REQUEST);
        assert_eq!(sent.header("location"), None);
    }
    let form = [("next", "http://localhost:1"), ("key", "e2b_00<script>")];
    let guess = post(&api, "/docs/api/cli", &form).await;
    assert_eq!(guess.status, StatusCode::UNAUTHORIZED);
    assert!(!guess.text.contains("<script>"));
    let done = api.anonymous("/docs/api/cli?state=success").await;
    assert!(done.text.contains("Signed in"));
    with_token(&api, "nonsense", "/teams").await.error(401);
}
