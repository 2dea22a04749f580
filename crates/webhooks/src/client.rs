//! One request to a receiver: connected where it may lead, bounded in time and size.

use crate::{Config, Error};
use bytes::Bytes;
use hearth_dial::{is_foreign, resolve};
use hearth_util::chain;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use ipnet::IpNet;
use std::{
    collections::{BTreeMap, HashSet},
    error::Error as StdError,
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{net::TcpStream, time::Instant};

/// What is kept of an answer.
const MAX_BODY_BYTES: usize = 64 << 10;
const MAX_HEADER_BYTES: usize = 8 << 10;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// A word of the contract's.
    pub class: &'static str,
    pub message: String,
}

/// What a receiver answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    /// A JSON object.
    pub headers: String,
    /// Its beginning.
    pub body: String,
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("the host's name cannot be resolved")]
    Name(#[source] io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the receiver cannot be connected to")]
    Connect(#[source] io::Error),
}

/// What is not public and may be reached all the same.
#[derive(Debug, Default)]
struct Listed {
    names: HashSet<String>,
    networks: Vec<IpNet>,
}

impl Listed {
    fn of(private: &[String]) -> Self {
        let mut listed = Self::default();
        for text in private {
            match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
                (Ok(network), _) => listed.networks.push(network),
                (_, Ok(address)) => listed.networks.push(address.into()),
                _ => drop(listed.names.insert(text.clone())),
            }
        }
        listed
    }
}

#[derive(Debug, Clone)]
struct Dialer(Arc<Listed>);

impl Dialer {
    async fn dial(self, uri: Uri) -> Result<TokioIo<TcpStream>, DialError> {
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let by_name = self.0.names.contains(&authority)
            || uri.host().is_some_and(|host| self.0.names.contains(host));
        let may = |address: IpAddr| {
            let address = address.to_canonical();
            let listed = self.0.networks.iter().any(|net| net.contains(&address));
            by_name || listed || is_foreign(address)
        };
        let why = format!(
            "{authority} is at a private or local address, or this host's, which is not allowed"
        );
        let addresses = resolve(&uri).await.map_err(DialError::Name)?;
        let connected = hearth_dial::connect(addresses, may, &why).await;
        let stream = connected.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => DialError::Refused(error.to_string()),
            _ => DialError::Connect(error),
        })?;
        Ok(TokioIo::new(stream))
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// Speaks to receivers.
#[derive(Debug)]
pub(crate) struct Receivers {
    client: Client<HttpsConnector<Dialer>, Full<Bytes>>,
    limit: Duration,
}

impl Receivers {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let roots = hearth_dial::trusted_roots(config.ca_file.as_deref())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Dialer(Arc::new(Listed::of(&config.private))));
        // What a connection was checked for must hold for each request.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self {
            client,
            limit: config.attempt_limit,
        })
    }

    /// Posts a body. The answer's status counts as soon as it is there; its body is read
    /// as far as bounds of time and size let it.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, Unanswered> {
        let deadline = Instant::now() + self.limit;
        let malformed = |error: http::Error| Unanswered {
            class: "request_error",
            message: chain(&error),
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .body(Full::new(Bytes::from(body)))
            .map_err(malformed)?;
        request.headers_mut().extend(headers);
        let asked = tokio::time::timeout_at(deadline, self.client.request(request)).await;
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unanswered(&error)),
            Err(_) => {
                return Err(Unanswered {
                    class: "timeout",
                    message: format!("no answer within {} s", self.limit.as_secs_f32()),
                });
            }
        };
        Ok(read(response, deadline).await)
    }
}

fn unanswered(error: &hyper_util::client::legacy::Error) -> Unanswered {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = cause {
        let class = match found.downcast_ref::<DialError>() {
            Some(DialError::Name(_)) => Some("dns_error"),
            Some(DialError::Refused(_)) => Some("request_error"),
            Some(DialError::Connect(error)) if error.kind() == io::ErrorKind::TimedOut => {
                Some("timeout")
            }
            Some(DialError::Connect(_)) => Some("transport_error"),
            None => None,
        };
        if let Some(class) = class {
            let message = chain(found);
            return Unanswered { class, message };
        }
        cause = found.source();
    }
    Unanswered {
        class: "transport_error",
        message: chain(error),
    }
}

async fn read(response: Response<Incoming>, deadline: Instant) -> Answer {
    let (parts, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    while body.len() < MAX_BODY_BYTES {
        match tokio::time::timeout_at(deadline, incoming.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let room = MAX_BODY_BYTES - body.len();
                    body.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            // It has ended, was cut off, or takes too long: the status was said.
            Ok(Some(Err(_)) | None) | Err(_) => break,
        }
    }
    // A database need not take the character NUL.
    let body = String::from_utf8_lossy(&body).replace('\0', "\u{fffd}");
    Answer {
        status: parts.status.as_u16(),
        headers: headers_json(&parts.headers),
        body,
    }
}

/// Headers as a JSON object, as many as there is room for.
pub(crate) fn headers_json(headers: &HeaderMap) -> String {
    let mut shown: BTreeMap<&str, String> = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        bytes += name.as_str().len() + value.len();
        if bytes > MAX_HEADER_BYTES {
            break;
        }
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        shown
            .entry(name.as_str())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert(value);
    }
    serde_json::to_string(&shown).unwrap_or_else(|_| "{}".to_owned())
}
