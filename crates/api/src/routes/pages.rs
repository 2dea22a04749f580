//! Pages for people who follow a link of E2B's tools to this server. The command line
//! prints links into E2B's dashboard and opens E2B's documentation to sign in; with
//! Hearth's domain they lead here, where there is neither. One document each, nothing
//! loaded from elsewhere, and nothing in it that needs a key.

use crate::error::{Failure, Result};
use crate::extract::SegmentPath;
use crate::state::AppState;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Html;
use axum::routing::get;
use hearth_ids::SandboxId;
use utoipa_axum::router::OpenApiRouter;

/// Not part of the documented API.
pub(crate) fn add(routes: OpenApiRouter<AppState>) -> OpenApiRouter<AppState> {
    routes
        .route("/", get(home))
        .route("/dashboard", get(dashboard))
        .route("/dashboard/", get(dashboard))
        .route("/dashboard/{*page}", get(dashboard))
        .route("/dashboard/inspect/sandbox/{sandboxID}", get(sandbox))
        .route("/docs", get(docs))
        .route("/docs/", get(docs))
        .route("/docs/{*page}", get(docs))
}

type Page = ([(HeaderName, HeaderValue); 2], Html<String>);

/// For people alone: to a program nothing is here.
async fn home(headers: HeaderMap) -> Result<Page> {
    let accepts = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    if !accepts.is_some_and(|accepts| accepts.contains("text/html")) {
        return Err(Failure::http(StatusCode::NOT_FOUND, "Not found"));
    }
    Ok(page(
        "This is a Hearth server",
        "It runs sandboxes for E2B's SDKs and command line. Programs use it through its API; \
         for people there are these commands:",
        &COMMANDS,
    ))
}

async fn dashboard() -> Page {
    page(
        "Hearth has no dashboard",
        "E2B's tools link to E2B's dashboard, which this server does not have. What it would \
         show is told by these commands:",
        &COMMANDS,
    )
}

/// The link that `e2b sandbox create` and `connect` print. Whether there is such a
/// sandbox is for its owner to know, so nobody is told here.
async fn sandbox(SegmentPath(text): SegmentPath) -> Page {
    let Ok(id) = SandboxId::parse_client(&text) else {
        return dashboard().await;
    };
    let commands = [
        (
            format!("e2b sandbox info {id}"),
            "its state, template and end",
        ),
        (
            format!("e2b sandbox logs {id}"),
            "what runs in it, and its output",
        ),
        (
            format!("e2b sandbox metrics {id}"),
            "processor, memory and disk",
        ),
        (format!("e2b sandbox connect {id}"), "a terminal in it"),
        (
            "hearth sandbox ls".to_owned(),
            "all sandboxes, on the server",
        ),
    ];
    let commands: Vec<(&str, &str)> = commands
        .iter()
        .map(|(command, what)| (command.as_str(), *what))
        .collect();
    page(
        &format!("Sandbox {id}"),
        "The link is one into E2B's dashboard, which this server, a Hearth, does not have. \
         What it would show of the sandbox is told by these commands:",
        &commands,
    )
}

async fn docs() -> Page {
    page(
        "Hearth has its documentation elsewhere",
        "E2B's tools open E2B's documentation here, which this server does not have. Callers \
         show an API key: e2b auth login asks for it, or these commands give it to the shell, \
         and E2B's tools take it from there:",
        &[
            (
                "eval \"$(sudo hearth env)\"",
                "on the server: key, domain, certificates",
            ),
            ("hearth key --help", "keys for others"),
        ],
    )
}

const COMMANDS: [(&str, &str); 3] = [
    ("hearth sandbox ls", "sandboxes, on the server"),
    ("hearth template ls", "templates, on the server"),
    (
        "e2b sandbox list",
        "sandboxes, from wherever the API key is",
    ),
];

/// `title` and `text` hold nothing that a request said but a checked id.
fn page(title: &str, text: &str, commands: &[(&str, &str)]) -> Page {
    let mut rows = String::new();
    for (command, what) in commands {
        let command = command.replace('&', "&amp;").replace('<', "&lt;");
        rows.push_str(&format!("<dt><code>{command}</code></dt><dd>{what}</dd>"));
    }
    let headers = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            ),
        ),
    ];
    let document = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\
         <h1>{title}</h1><p>{text}</p><dl>{rows}</dl></main></body></html>\n"
    );
    (headers, Html(document))
}

pub(super) const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.6 system-ui,sans-serif}\
main{max-width:38rem;padding:2rem}\
h1{font-size:1.5rem;line-height:1.25;overflow-wrap:anywhere}\
dt{margin-top:.9rem;overflow-wrap:anywhere}dd{margin:0;opacity:.75}\
code{font-family:ui-monospace,monospace}";
