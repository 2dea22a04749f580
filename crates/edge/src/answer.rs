//! Every answer that the edge gives instead of a guest, and its two looks: JSON for
//! programs, a page for people. Who gets which follows from the request alone
//! ([`Reader::wants_page`]).

use crate::body::EdgeBody;
use crate::page;
use crate::refusal::Refusal;
use bytes::Bytes;
use hearth_ids::SandboxId;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_id: Option<&'a SandboxId>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    code: u16,
}

impl Refusal {
    /// The reply, as a page when a person will read it.
    ///
    /// A CORS preflight gets a plain yes: only then does a browser send the request
    /// proper and let its page read why that is refused.
    pub(crate) fn into_response(self, client: &Client) -> Response<EdgeBody> {
        let mut response = if client.preflight {
            let mut response = Response::new(EdgeBody::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        } else if client.reader.wants_page() {
            self.reply("text/html; charset=utf-8", page::render(&self).into())
        } else {
            self.reply("application/json; charset=utf-8", self.json())
        };
        let headers = response.headers_mut();
        allow_any_origin(headers, client.asked_headers.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        harden(headers);
        response
    }

    fn reply(&self, content_type: &'static str, body: Bytes) -> Response<EdgeBody> {
        let mut response = Response::new(EdgeBody::full(body));
        *response.status_mut() = self.status();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    fn json(&self) -> Bytes {
        let body = ErrorBody {
            sandbox_id: self.sandbox(),
            message: self.to_string(),
            port: self.port(),
            code: self.status().as_u16(),
        };
        serde_json::to_vec(&body)
            .expect("strings and numbers always serialize")
            .into()
    }
}

/// What of a request decides how a refusal looks.
pub(crate) struct Client {
    preflight: bool,
    reader: Reader,
    /// The headers that a preflight asks about.
    asked_headers: Option<HeaderValue>,
}

impl Client {
    pub(crate) fn of(head: &request::Parts) -> Self {
        let headers = &head.headers;
        Self {
            preflight: head.method == Method::OPTIONS
                && headers.contains_key(header::ORIGIN)
                && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD),
            reader: Reader::of(headers),
            asked_headers: headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned(),
        }
    }
}

/// Words by which browsers name themselves, in lower case.
const BROWSERS: [&str; 7] = [
    "mozilla", "chrome", "safari", "firefox", "edge", "opera", "msie",
];
/// What `Sec-Fetch-Mode` says of requests that scripts and elements of a page make;
/// only `navigate` shows the answer to a person.
const NAVIGATION: &str = "navigate";
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What tells who will read an answer. Taken from every request, and looked at only
/// where one is refused.
struct Reader {
    agent: Option<HeaderValue>,
    fetch_mode: Option<HeaderValue>,
    accept: Option<HeaderValue>,
}

impl Reader {
    fn of(headers: &HeaderMap) -> Self {
        let value = |name: HeaderName| headers.get(name).cloned();
        Self {
            agent: value(header::USER_AGENT),
            fetch_mode: value(FETCH_MODE),
            accept: value(header::ACCEPT),
        }
    }

    /// Whether the answer is for a person: the client is a browser, and neither says
    /// that a script reads the answer nor that it would rather have JSON.
    fn wants_page(&self) -> bool {
        let browser = text(&self.agent).is_some_and(|agent| {
            let agent = agent.to_ascii_lowercase();
            BROWSERS.iter().any(|word| agent.contains(word))
        });
        let mode = text(&self.fetch_mode);
        let script = mode.is_some_and(|mode| !mode.eq_ignore_ascii_case(NAVIGATION));
        browser && !script && !text(&self.accept).is_some_and(prefers_json)
    }
}

fn text(value: &Option<HeaderValue>) -> Option<&str> {
    value.as_ref()?.to_str().ok()
}

/// Whether an `Accept` header ranks JSON above HTML. A range such as `*/*` ranks
/// both the same, unless the more precise one stands beside it (RFC 9110, 12.5.1).
fn prefers_json(accept: &str) -> bool {
    let json = quality(accept, "application", "json");
    json > 0 && json > quality(accept, "text", "html")
}

/// The weight of a media type in thousandths; zero where it is not acceptable.
fn quality(accept: &str, kind: &str, subtype: &str) -> u16 {
    let mut best = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_subtype)) = parts.next().and_then(|name| name.split_once('/'))
        else {
            continue;
        };
        let precision = match (range_kind, range_subtype) {
            ("*", "*") => 1,
            (one, "*") if one.eq_ignore_ascii_case(kind) => 2,
            (one, other)
                if one.eq_ignore_ascii_case(kind) && other.eq_ignore_ascii_case(subtype) =>
            {
                3
            }
            _ => continue,
        };
        let weight = parts
            .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
            .map_or(1000, thousandths);
        best = best.max((precision, weight));
    }
    best.1
}

/// A weight such as `0.8`; what is no number weighs nothing.
fn thousandths(weight: &str) -> u16 {
    match weight.trim().parse::<f32>() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the range is checked"
        )]
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0) as u16,
        _ => 0,
    }
}

/// Nothing in a refusal is to be run, whatever a browser takes it for. It may be shown
/// in a frame: so are the pages of guests that it stands for.
fn harden(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn allow_any_origin(headers: &mut HeaderMap, asked_headers: Option<HeaderValue>) {
    let any = HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any.clone());
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
    );
    // `*` does not cover `Authorization`, so the asked names are repeated.
    let allowed = asked_headers.unwrap_or_else(|| any.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, any);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contract_bodies() {
        let id = SandboxId::random();
        let closed = Refusal::PortClosed {
            id: id.clone(),
            port: 8080,
        };
        let text = format!(
            r#"{{"sandboxId":"{id}","message":"The sandbox is running but port is not open","port":8080,"code":502}}"#
        );
        assert_eq!(closed.json(), text);
        let text =
            format!(r#"{{"sandboxId":"{id}","message":"The sandbox was not found","code":502}}"#);
        assert_eq!(Refusal::NotFound(id).json(), text);
    }

    #[test]
    fn no_refusal_is_run_by_a_browser() {
        for agent in ["curl/8.5.0", "Mozilla/5.0"] {
            let request = http::Request::get("/").header("user-agent", agent);
            let (head, ()) = request.body(()).expect("a request").into_parts();
            let refusal = Refusal::NotFound(SandboxId::random());
            let response = refusal.into_response(&Client::of(&head));
            let headers = response.headers();
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            let policy = headers["content-security-policy"].to_str().expect("text");
            assert!(policy.starts_with("default-src 'none'"), "{policy}");
        }
    }

    fn page_for(pairs: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().expect("a value"));
        }
        Reader::of(&headers).wants_page()
    }

    const BROWSER: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)");

    #[test]
    fn browsers_get_a_page_unless_a_script_reads_it_or_json_is_preferred() {
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "*/*",
            "text/html;q=0.5, application/json;q=0.4",
            "application/json;q=x",
        ] {
            assert!(page_for(&[BROWSER, ("accept", accept)]), "{accept}");
        }
        assert!(page_for(&[BROWSER]));
        assert!(page_for(&[BROWSER, ("sec-fetch-mode", "navigate")]));
        for accept in [
            "application/json",
            "application/json, text/plain, */*;q=0.1",
            "text/html;q=0.4, Application/*;q=0.5",
            "application/json, text/html;q=0",
        ] {
            assert!(!page_for(&[BROWSER, ("accept", accept)]), "{accept}");
        }
        for mode in ["cors", "no-cors", "same-origin", "websocket"] {
            let asked = [BROWSER, ("accept", "*/*"), ("sec-fetch-mode", mode)];
            assert!(!page_for(&asked), "{mode}");
        }
        assert!(!page_for(&[
            ("user-agent", "curl/8.5.0"),
            ("accept", "text/html")
        ]));
        assert!(!page_for(&[("accept", "text/html")]));
    }
}
