//! Floods meet 429, by key, by team and by source; health checks and everybody else
//! do not. The buckets of these tests refill so slowly that no test waits for one.

mod support;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hearth_api::{Rate, RateLimits, Source};
use hearth_ids::SandboxId;
use serde_json::json;
use support::{Answer, Api};

/// So many at once, and then one a second.
const fn rate(burst: u32) -> Rate {
    Rate {
        per_second: 1,
        burst,
    }
}

/// Far more than a test on the slowest machine waits for a token of.
const FLOOD: u32 = 200;

async fn api(limits: RateLimits) -> Api {
    let mut api = Api::start().await;
    api.state = api.state.clone().with_rate_limits(&limits);
    api.router = hearth_api::router(api.state.clone());
    api
}

/// The first answer of a flood that is a 429.
async fn flood(api: &Api, key: &str, path: &str) -> Option<Answer> {
    for _ in 0..FLOOD {
        let answer = api.call_as(key, Method::GET, path, Body::empty()).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            return Some(answer);
        }
    }
    None
}

fn number(answer: &Answer, name: &str) -> u64 {
    let text = answer.header(name);
    let text = text.unwrap_or_else(|| panic!("{name} is missing"));
    text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

#[tokio::test]
async fn a_flood_of_one_key_is_refused_as_the_contract_says() {
    let api = api(RateLimits {
        read: rate(3),
        ..RateLimits::unlimited()
    })
    .await;
    let first = api.get("/v2/sandboxes").await;
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!(number(&first, "ratelimit-limit"), 3);
    assert_eq!(number(&first, "ratelimit-remaining"), 2);
    assert_eq!(number(&first, "ratelimit-reset"), 1);
    let refused = flood(&api, &api.key, "/v2/sandboxes").await;
    let refused = refused.expect("a limit");
    assert_eq!(refused.error(429), "Rate limit exceeded");
    assert_eq!(
        refused.json(),
        json!({"code": 429, "message": "Rate limit exceeded"})
    );
    assert_eq!(number(&refused, "ratelimit-limit"), 3);
    assert_eq!(number(&refused, "ratelimit-remaining"), 0);
    assert!((1..=3).contains(&number(&refused, "ratelimit-reset")));
    assert!(number(&refused, "retry-after") >= 1);
    // Other kinds of requests, other teams, and health checks go on.
    let id = api.sandbox(&json!({"templateID": "base"})).await;
    assert_eq!(api.delete(&format!("/sandboxes/{id}")).await.status, 204);
    let (_, other) = api.other_team("other").await;
    let answer = api.call_as(&other, Method::GET, "/v2/sandboxes", "").await;
    assert_eq!(answer.status, StatusCode::OK);
    for _ in 0..FLOOD {
        let health = api.anonymous("/health").await;
        assert!(health.status.is_success());
        assert_eq!(health.header("ratelimit-limit"), None);
    }
}

#[tokio::test]
async fn making_sandboxes_has_a_limit_of_its_own() {
    let api = api(RateLimits {
        create: rate(2),
        ..RateLimits::unlimited()
    })
    .await;
    let mut made = 0;
    let body = json!({"templateID": "base"});
    let refused = loop {
        let answer = api.post("/v2/sandboxes", &body).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            break answer;
        }
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text);
        made += 1;
        assert!(made < FLOOD);
    };
    assert_eq!(refused.error(429), "Rate limit exceeded");
    // What was refused was not made.
    assert_eq!(api.node.count(), made as usize);
    assert!(flood(&api, &api.key, "/v2/sandboxes").await.is_none());
}

#[tokio::test]
async fn a_team_with_many_keys_has_the_limit_of_a_team() {
    let api = api(RateLimits {
        read: rate(10),
        team_multiple: 2,
        ..RateLimits::unlimited()
    })
    .await;
    let mut passed = 0;
    for number in 0..10 {
        let name = format!("key {number}");
        let created = hearth_control::keys::create(api.store.as_ref(), api.team, &name).await;
        let key = secrecy::ExposeSecret::expose_secret(&created.expect("created").1).to_owned();
        for _ in 0..8 {
            let answer = api.call_as(&key, Method::GET, "/v2/sandboxes", "").await;
            passed += u32::from(answer.status == StatusCode::OK);
        }
    }
    // No key met its own limit; what is beyond the team's burst came in meanwhile.
    assert!((20..80).contains(&passed), "{passed}");
}

fn request(source: &Source, key: &str) -> Request<Body> {
    let mut request = Request::get("/v2/sandboxes").header("x-api-key", key);
    if key.is_empty() {
        request = Request::get("/v2/sandboxes");
    }
    let mut request = request.body(Body::empty()).expect("a request");
    request.extensions_mut().insert(source.clone());
    request
}

#[tokio::test]
async fn guesses_are_limited_by_source_and_keep_nobody_else_out() {
    let api = api(RateLimits {
        unauthenticated: rate(5),
        ..RateLimits::unlimited()
    })
    .await;
    let source = Source::Address("198.51.100.7".parse().expect("an address"));
    let good = api.send(request(&source, &api.key)).await;
    assert_eq!(good.status, StatusCode::OK);
    let mut refused = None;
    for number in 0..FLOOD {
        // Each guess is another, and some requests show nothing.
        let guess = match number % 2 {
            0 => format!("e2b_{number:040x}"),
            _ => String::new(),
        };
        let answer = api.send(request(&source, &guess)).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
            break;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let refused = refused.expect("a limit");
    assert_eq!(refused.error(429), "Rate limit exceeded");
    assert!(number(&refused, "retry-after") >= 1);
    for _ in 0..20 {
        // Whoever works from there works on.
        assert_eq!(api.send(request(&source, &api.key)).await.status, 200);
    }
    for other in [
        Source::Address("198.51.100.8".parse().expect("an address")),
        Source::Sandbox(SandboxId::random()),
    ] {
        assert_eq!(api.send(request(&other, "")).await.status, 401, "{other}");
    }
}

#[tokio::test]
async fn a_revoked_key_is_a_guess_like_any_other() {
    let api = api(RateLimits {
        unauthenticated: rate(3),
        ..RateLimits::unlimited()
    })
    .await;
    assert_eq!(api.get("/v2/sandboxes").await.status, StatusCode::OK);
    let keys = hearth_control::keys::list(api.store.as_ref(), api.team).await;
    for key in keys.expect("listed") {
        api.control
            .key_revoke(api.team, key.id)
            .await
            .expect("revoked");
    }
    let refused = flood(&api, &api.key, "/v2/sandboxes").await;
    assert_eq!(refused.expect("a limit").error(429), "Rate limit exceeded");
}

#[tokio::test]
async fn links_for_uploads_cannot_be_guessed_at_any_rate() {
    let api = api(RateLimits {
        write: rate(1),
        team_multiple: 3,
        ..RateLimits::unlimited()
    })
    .await;
    let mut statuses = Vec::new();
    for _ in 0..FLOOD {
        let request = Request::put(format!(
            "/template-files/{}/{}?expires=99999999999&signature=x",
            api.team,
            "0".repeat(64)
        ));
        let request = request.body(Body::empty()).expect("a request");
        statuses.push(api.send(request).await.status.as_u16());
    }
    assert_eq!(statuses[0], 403);
    assert!(statuses.contains(&429), "{statuses:?}");
}

#[tokio::test]
async fn guesses_of_keys_keep_no_upload_from_the_same_address() {
    let api = api(RateLimits {
        unauthenticated: rate(3),
        ..RateLimits::unlimited()
    })
    .await;
    let refused = flood(&api, "e2b_wrong", "/v2/sandboxes").await;
    assert_eq!(refused.expect("a limit").error(429), "Rate limit exceeded");
    let request = Request::put(format!(
        "/template-files/{}/{}?expires=99999999999&signature=x",
        api.team,
        "0".repeat(64)
    ));
    let request = request.body(Body::empty()).expect("a request");
    assert_eq!(api.send(request).await.status, StatusCode::FORBIDDEN);
}
