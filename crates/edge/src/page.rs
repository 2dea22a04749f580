//! The page that a browser shows when a sandbox cannot be visited. One document,
//! nothing loaded from elsewhere, readable in light and dark.

use crate::Refusal;

/// Renders the page. All text that came with the request is escaped.
pub(crate) fn render(refusal: &Refusal) -> String {
    let status = refusal.status();
    let title = title(refusal);
    let advice = match refusal {
        Refusal::NotFound(_) => {
            "It was stopped, has reached the end of its life, or never existed. Start a new \
             sandbox, or check the address."
        }
        Refusal::PortClosed { .. } => {
            "Start the server inside the sandbox, then load this page again."
        }
        Refusal::TrafficTokenMissing(_) | Refusal::TrafficTokenInvalid(_) => {
            "Its owner closed it to public traffic; whoever made the sandbox was given its token."
        }
        Refusal::Broken { .. } => {
            "The program that listens there hung up without an answer. Its own log, inside \
             the sandbox, may say why."
        }
        Refusal::RulesDeny(_) => "Whoever made that sandbox can change what it may reach.",
        Refusal::NoTls { .. } => {
            "Start it with a certificate of any kind, or make the sandbox without the port in \
             httpsPorts."
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
    let message = escape(&message(refusal));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>\
         <p class=\"code\">{code}</p><h1>{title}</h1><p>{message}. {advice}</p>\
         <dl>{details}</dl></main></body></html>\n",
        code = status.as_u16(),
    )
}

/// What the page is about, in a few words. Those of a missing sandbox and of the two
/// tokens are E2B's, which tests and monitors look for.
fn title(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound(_) => "Sandbox Not Found",
        Refusal::PortClosed { .. } => "Closed Port",
        Refusal::Broken { .. } | Refusal::NoTls { .. } => "No Answer",
        Refusal::TrafficTokenMissing(_) => "Missing Traffic Access Token",
        Refusal::TrafficTokenInvalid(_) => "Invalid Traffic Access Token",
        Refusal::RulesDeny(_) => "Denied By Network Rules",
        Refusal::ResumeDenied(_) => "Sandbox Paused",
        Refusal::ResumeFailed(_) => "Sandbox Not Resumed",
        Refusal::Transitioning(_) => "Sandbox Changing State",
        Refusal::TooManyConnections { .. } | Refusal::TeamLimit(_) => "Limit Reached",
        Refusal::InternalRoute(_) => "Reserved Route",
        Refusal::UnknownSignature => "Unknown Signature",
        Refusal::UnsupportedMethod(_) => "Unsupported Method",
        Refusal::InvalidHost
        | Refusal::InvalidSandboxId(_)
        | Refusal::InvalidPort(_)
        | Refusal::MissingHeader(_)
        | Refusal::RepeatedHeader(_)
        | Refusal::NoSandbox => "Invalid Address",
    }
}

/// The sentence below the title: that of the JSON form, but for a closed port.
fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::PortClosed { port, .. } => {
            format!("The sandbox is running but there is no service running on port {port}")
        }
        other => other.to_string(),
    }
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
    fn titles_and_texts_are_those_that_clients_look_for() {
        let id = hearth_ids::SandboxId::random();
        let page = render(&Refusal::NotFound(id.clone()));
        assert!(page.contains("<title>Sandbox Not Found</title>"), "{page}");
        assert!(page.contains("The sandbox was not found"), "{page}");
        let page = render(&Refusal::TrafficTokenMissing(id.clone()));
        assert!(page.contains("<title>Missing Traffic Access Token</title>"));
        let page = render(&Refusal::TrafficTokenInvalid(id.clone()));
        assert!(page.contains("<title>Invalid Traffic Access Token</title>"));
        let page = render(&Refusal::PortClosed { id, port: 8080 });
        assert!(page.contains("no service running on port 8080"), "{page}");
    }

    #[test]
    fn what_the_client_sent_is_escaped() {
        let page = render(&Refusal::InvalidPort("<script>".to_owned()));
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;"));
    }
}
