//! The page that a browser shows when a sandbox cannot be visited. One document,
//! nothing loaded from elsewhere, readable in light and dark.

use crate::Refusal;

/// Renders the page. All text that came with the request is escaped.
pub(crate) fn render(refusal: &Refusal) -> String {
    let status = refusal.status();
    let advice = match refusal {
        Refusal::NotFound(_) => {
            "It was stopped, has reached the end of its life, or never existed. Start a new \
             sandbox, or check the address."
        }
        Refusal::PortClosed { .. } => {
            "Nothing listens there. Start the server inside the sandbox, then load this page \
             again."
        }
        Refusal::TrafficTokenMissing(_) | Refusal::TrafficTokenInvalid(_) => {
            "Its owner closed it to public traffic. A request needs the sandbox's traffic \
             access token."
        }
        Refusal::Broken { .. } => {
            "The program that listens there hung up without an answer. Its own log, inside \
             the sandbox, may say why."
        }
        Refusal::ResumeDenied(_) => {
            "It is paused, and only who has its access token may wake it by a visit."
        }
        Refusal::Transitioning(_) => {
            "It is being started, resumed or kept as a snapshot. Load this page again in a moment."
        }
        Refusal::TooManyConnections { .. } | Refusal::TeamLimit(_) => {
            "Try again when less is going on."
        }
        Refusal::InternalRoute(_) => "Programs inside and outside never need it.",
        _ => "Addresses look like 8080-<sandbox>.<domain>: a port, a hyphen, a sandbox's id.",
    };
    let advice = escape(advice);
    let mut details = String::new();
    if let Some(id) = refusal.sandbox() {
        details.push_str(&format!("<dt>Sandbox</dt><dd>{id}</dd>"));
    }
    if let Some(port) = refusal.port() {
        details.push_str(&format!("<dt>Port</dt><dd>{port}</dd>"));
    }
    details.push_str(&format!("<dt>Status</dt><dd>{status}</dd>"));
    let message = escape(&refusal.to_string());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{message}</title><style>{STYLE}</style></head><body><main>\
         <p class=\"code\">{code}</p><h1>{message}</h1><p>{advice}</p>\
         <dl>{details}</dl></main></body></html>\n",
        code = status.as_u16(),
    )
}

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c1917;--soft:#78716c;--line:#e7e5e4;--paper:#fafaf9;--fire:#ea580c}\
@media(prefers-color-scheme:dark){:root{--ink:#f5f5f4;--soft:#a8a29e;--line:#44403c;--paper:#1c1917;--fire:#fb923c}}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:var(--paper);color:var(--ink);\
font:16px/1.6 system-ui,sans-serif}\
main{max-width:34rem;padding:2rem}\
.code{margin:0;color:var(--fire);font-weight:700;letter-spacing:.08em}\
h1{margin:.2rem 0 .8rem;font-size:1.6rem;line-height:1.25}\
dl{display:grid;grid-template-columns:auto 1fr;gap:.3rem 1.5rem;margin:1.6rem 0 0;padding-top:1.2rem;\
border-top:1px solid var(--line);font-size:.9rem}\
dt{color:var(--soft)}dd{margin:0;font-family:ui-monospace,monospace;overflow-wrap:anywhere}";

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_sent_is_escaped() {
        let page = render(&Refusal::InvalidPort("<script>".to_owned()));
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;"));
    }
}
