//! What is answered where there is nothing: pages for people, and errors that say what
//! is missing.

mod support;

use axum::body::Body;
use axum::http::Request;
use hearth_ids::SandboxId;
use serde_json::json;
use support::Api;

#[tokio::test]
async fn links_of_the_command_line_lead_to_pages_that_explain_themselves() {
    let api = Api::start().await;
    let id = SandboxId::random();
    let inspect = format!("/dashboard/inspect/sandbox/{id}");
    for (path, says) in [
        ("/", "hearth sandbox ls"),
        ("/dashboard", "hearth sandbox ls"),
        ("/dashboard/", "no dashboard"),
        ("/dashboard/some/page", "no dashboard"),
        ("/dashboard/inspect/sandbox/%3Cscript%3E", "no dashboard"),
        (inspect.as_str(), id.as_str()),
        (inspect.as_str(), "e2b sandbox logs"),
        (
            "/docs/api/cli?next=http://localhost:1&cliVersion=2",
            "Sign in",
        ),
    ] {
        let browser = Request::get(path).header("accept", "text/html,*/*;q=0.8");
        let answer = api.send(browser.body(Body::empty()).expect("valid")).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(answer.text.contains(says), "{path}: {}", answer.text);
        for outside in ["src=", "href=", "<script", "url("] {
            assert!(!answer.text.contains(outside), "{path}: {outside}");
        }
    }
    api.anonymous("/dashboards").await.error(404);
    api.anonymous("/").await.error(404);
}

#[tokio::test]
async fn a_sandbox_that_there_is_not_does_not_exist_whatever_is_wanted_of_it() {
    let api = Api::with(|config| config.features.pause = true).await;
    let id = SandboxId::random();
    let expected = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
    for path in ["sandboxes", "v2/sandboxes"] {
        let path = format!("/{path}/{id}/connect");
        let answer = api.post(&path, &json!({"timeout": 60})).await;
        assert_eq!(answer.error(404), expected);
    }
    for what in ["resume", "pause", "snapshots", "fork", "timeout"] {
        let path = format!("/sandboxes/{id}/{what}");
        let answer = api.post(&path, &json!({"timeout": 60})).await;
        assert_eq!(answer.error(404), expected, "{what}");
    }
}

#[tokio::test]
async fn no_answer_is_run_by_a_browser() {
    let api = Api::start().await;
    let upload = format!("/template-files/{}/x", api.team);
    let answers = [
        api.get("/v2/sandboxes").await,
        api.get("/sandboxes/nothing").await,
        api.get("/nowhere").await,
        api.anonymous("/v2/sandboxes").await,
        api.anonymous("/health").await,
        api.anonymous("/dashboard").await,
        api.call(axum::http::Method::PUT, &upload, "x").await,
    ];
    let statuses: Vec<u16> = answers
        .iter()
        .map(|answer| answer.status.as_u16())
        .collect();
    assert_eq!(statuses[..4], [200, 404, 404, 401]);
    assert_eq!(statuses[5..], [200, 403]);
    for answer in &answers {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
        let policies: Vec<_> = answer
            .headers
            .get_all("content-security-policy")
            .iter()
            .collect();
        assert_eq!(policies.len(), 1, "{}", answer.text);
        let policy = policies[0].to_str().expect("text");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    }
}
