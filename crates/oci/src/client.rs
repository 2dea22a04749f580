//! HTTP to a registry: every answer bounded in size and in silence, redirects
//! followed without the credentials.

use crate::{
    Error, Registries,
    dial::{Dialer, Listed},
};
use bytes::Bytes;
use hearth_dial::RootsError;
use hearth_util::chain;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, USER_AGENT},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use std::{sync::Arc, time::Duration};

/// How long a registry may be silent, before its answer and within it.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;
/// The longest answer that is no layer, in bytes.
pub(crate) const MAX_ANSWER: usize = 8 << 20;
const AGENT: &str = concat!("hearth/", env!("CARGO_PKG_VERSION"));

type HttpsClient = Client<HttpsConnector<Dialer>, Full<Bytes>>;

/// Marks an answer that came from another host than the one that was asked first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elsewhere;

/// Speaks to registries. Clones share the connections.
#[derive(Clone)]
pub(crate) struct Http {
    /// For registries that anybody may name, and for those that the operator lists.
    public: HttpsClient,
    private: HttpsClient,
    listed: Arc<Listed>,
    silence: Duration,
}

impl Http {
    pub(crate) fn new(registries: &Registries) -> Result<Self, Error> {
        let file = registries.ca_file.as_deref();
        let roots = hearth_dial::trusted_roots(file).map_err(|error| {
            let path = file.unwrap_or(std::path::Path::new(""));
            match error {
                RootsError::Read(error) => Error::io("read", path)(error),
                RootsError::Damaged(why) => {
                    Error::Credentials(format!("{}: {why}", path.display()))
                }
            }
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Credentials(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listed = Arc::new(Listed::of(registries));
        let client = |trusted| {
            let connector = HttpsConnectorBuilder::new()
                .with_tls_config(tls.clone())
                .https_or_http()
                .enable_http1()
                .wrap_connector(Dialer::new(Arc::clone(&listed), trusted));
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(20))
                .build(connector)
        };
        Ok(Self {
            public: client(false),
            private: client(true),
            listed,
            silence: SILENCE_LIMIT,
        })
    }

    /// The same, less patient.
    #[cfg(test)]
    pub(crate) fn with_silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    pub(crate) fn silence(&self) -> Duration {
        self.silence
    }

    /// Asks, following redirects. Only the first host sees the authorization.
    pub(crate) async fn get(
        &self,
        registry: &str,
        url: &str,
        authorization: Option<&HeaderValue>,
        accept: &str,
        offset: u64,
    ) -> Result<Response<Incoming>, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Ok(accept) = HeaderValue::from_str(accept) {
            headers.insert(ACCEPT, accept);
        }
        if offset > 0 {
            headers.insert(RANGE, format_range(offset)?);
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let protocol = |what: String| Error::Protocol {
            registry: registry.to_owned(),
            what,
        };
        let mut uri: Uri = url
            .parse()
            .map_err(|error| protocol(format!("the address {url:?}: {error}")))?;
        for _ in 0..=REDIRECTS {
            let mut response = self
                .send(registry, Method::GET, &uri, &headers, Bytes::new())
                .await?;
            if !response.status().is_redirection() {
                if uri.authority().is_none_or(|at| at.as_str() != registry) {
                    response.extensions_mut().insert(Elsewhere);
                }
                return Ok(response);
            }
            let location = response
                .headers()
                .get(LOCATION)
                .and_then(|location| location.to_str().ok())
                .ok_or_else(|| protocol("a redirect to nowhere".to_owned()))?;
            let next = join(&uri, location)
                .ok_or_else(|| protocol(format!("a redirect to {location:?}")))?;
            if next.scheme() != uri.scheme() && next.scheme_str() != Some("https") {
                return Err(protocol("a redirect away from TLS".to_owned()));
            }
            if next.authority() != uri.authority() {
                headers.remove(AUTHORIZATION);
            }
            uri = next;
        }
        Err(protocol("too many redirects".to_owned()))
    }

    pub(crate) async fn send(
        &self,
        registry: &str,
        method: Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let unreachable = |why: String| Error::Unreachable {
            registry: registry.to_owned(),
            why,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        let client = match self.listed.has(registry).await {
            true => &self.private,
            false => &self.public,
        };
        match tokio::time::timeout(self.silence, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(unreachable(chain(&error))),
            Err(_) => Err(unreachable(format!(
                "no answer within {} s",
                self.silence.as_secs()
            ))),
        }
    }

    /// Reads an answer of a bounded length.
    pub(crate) async fn read(
        &self,
        registry: &str,
        response: Response<Incoming>,
    ) -> Result<Bytes, Error> {
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect();
        match tokio::time::timeout(self.silence, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => Err(Error::Protocol {
                registry: registry.to_owned(),
                what: format!("an answer that cannot be read: {error}"),
            }),
            Err(_) => Err(Error::Unreachable {
                registry: registry.to_owned(),
                why: format!("its answer stalled for {} s", self.silence.as_secs()),
            }),
        }
    }
}

fn format_range(offset: u64) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(&format!("bytes={offset}-"))
        .map_err(|error| Error::Credentials(error.to_string()))
}

/// An address as a redirect names it: whole, or a path on the same host.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = location.parse().ok()?;
    if next.authority().is_some() {
        return matches!(next.scheme_str(), Some("http" | "https")).then_some(next);
    }
    let path = next.path_and_query()?.clone();
    Uri::builder()
        .scheme(base.scheme()?.clone())
        .authority(base.authority()?.clone())
        .path_and_query(path)
        .build()
        .ok()
}

/// What a registry says in an error, in a few words. Of what another host says nothing
/// is repeated: its words are not the registry's to hand out.
pub(crate) fn message(status: StatusCode, body: &[u8], elsewhere: bool) -> String {
    if elsewhere {
        return format!("the place that it refers to answered with status {status}");
    }
    #[derive(serde::Deserialize)]
    struct Envelope {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let known = serde_json::from_slice::<Envelope>(body)
        .ok()
        .and_then(|envelope| envelope.errors.into_iter().next())
        .map(|error| format!("{} {}", error.code, error.message));
    let text = known.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let text: String = text.trim().chars().take(200).collect();
    if text.is_empty() {
        status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned()
    } else {
        text
    }
}
