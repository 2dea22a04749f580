//! What handlers take from a request: the caller, ids in the path, bodies.

use crate::error::{Failure, Result};
use crate::guard;
use crate::state::AppState;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode};
use hearth_control::{Access, Action, Caller, Error, Kind, Resource};
use hearth_ids::SandboxId;
use serde::de::DeserializeOwned;

const API_KEY: &str = "x-api-key";
/// Holds the operators' token.
pub(crate) const ADMIN_TOKEN: &str = "x-admin-token";
/// Names the team that an operator acts for.
pub(crate) const TEAM_ID: &str = "x-team-id";

/// Extractors of the caller, each for what its routes are about: behind a valid key, and
/// allowed to do there what the method says.
macro_rules! callers {
    ($($(#[$doc:meta])* $name:ident => $resource:ident),+ $(,)?) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name(pub(crate) Caller);

            impl FromRequestParts<AppState> for $name {
                type Rejection = Failure;

                async fn from_request_parts(
                    parts: &mut Parts,
                    _state: &AppState,
                ) -> Result<Self> {
                    let caller = guard::caller(&parts.extensions)?;
                    let access = access(&parts.method);
                    caller.may(Action { resource: Resource::$resource, access })?;
                    Ok(Self(caller))
                }
            }
        )+
    };
}

callers!(
    /// The caller of a route about sandboxes.
    ForSandboxes => Sandboxes,
    /// The caller of a route about templates.
    ForTemplates => Templates,
    /// The caller of a route about secrets.
    ForSecrets => Secrets,
    /// The caller of a route about API keys.
    ForApiKeys => ApiKeys,
    /// The caller of a route about webhooks.
    ForWebhooks => Webhooks,
    /// The caller of a route about its team.
    ForTeam => Team,
);

/// An operator, who may do everything to every team.
pub(crate) struct Operator;

impl FromRequestParts<AppState> for Operator {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self> {
        guard::operator(&parts.extensions).map(|()| Self)
    }
}

/// What a method does to what its route is about.
pub(crate) fn access(method: &Method) -> Access {
    match *method {
        Method::GET | Method::HEAD => Access::Read,
        Method::DELETE => Access::CleanUp,
        _ => Access::Change,
    }
}

/// The key itself, for the one answer that repeats it to its holder.
pub(crate) struct ApiKey(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for ApiKey {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self> {
        Ok(Self(api_key(&parts.headers)?.to_owned()))
    }
}

/// The one key that a request shows.
pub(crate) fn api_key(headers: &HeaderMap) -> std::result::Result<&str, Error> {
    only(headers, API_KEY)?.ok_or_else(|| {
        let message = "API key is missing: send it in the X-API-Key header";
        Error::new(Kind::Unauthenticated, message)
    })
}

/// The one value of a header that says who is asking, where there is one.
pub(crate) fn only<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> std::result::Result<Option<&'a str>, Error> {
    let (shown, what) = match name {
        ADMIN_TOKEN => ("X-Admin-Token", "operator's token"),
        TEAM_ID => ("X-Team-ID", "team ID"),
        _ => ("X-API-Key", "API key"),
    };
    let refuse = |message: String| Error::new(Kind::Unauthenticated, message);
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(refuse(format!("More than one {shown} header was sent")));
    }
    let text = value
        .to_str()
        .map_err(|_| refuse(format!("Invalid {what} format")))?;
    Ok(Some(text.trim()))
}

/// The sandbox id in the path. What is no id names no sandbox: 404.
pub(crate) struct SandboxPath(pub(crate) SandboxId);

impl<S: Send + Sync> FromRequestParts<S> for SandboxPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let SegmentPath(text) = SegmentPath::from_request_parts(parts, state).await?;
        sandbox_id(&text).map(Self)
    }
}

/// Reads a sandbox id, for handlers that have something to check before it.
pub(crate) fn sandbox_id(text: &str) -> Result<SandboxId> {
    SandboxId::parse_client(text).map_err(|_| Error::sandbox_not_found(text).into())
}

/// The one variable segment of the path, decoded after it was matched.
pub(crate) struct SegmentPath(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for SegmentPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => Ok(Self(text)),
            Err(_) => Err(Error::invalid("path", "is not valid percent-encoded UTF-8").into()),
        }
    }
}

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        parse(&read(request, state).await?).map(Self)
    }
}

/// A JSON body that may be left out.
pub(crate) struct OptionalBody<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self> {
        let bytes = read(request, state).await?;
        if bytes.trim_ascii().is_empty() {
            Ok(Self(T::default()))
        } else {
            parse(&bytes).map(Self)
        }
    }
}

async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes> {
    Bytes::from_request(request, state)
        .await
        .map_err(|rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Failure::http(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "request body is larger than {} bytes",
                    crate::layers::MAX_BODY_BYTES
                ),
            ),
            _ => Error::invalid("request body", "cannot be read to its end").into(),
        })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let field = if inner.is_data() && path != "." {
            path
        } else {
            "request body".to_owned()
        };
        if inner.is_data() {
            Error::invalid(&field, inner)
        } else {
            Error::invalid(&field, format_args!("malformed JSON: {inner}"))
        }
    })?;
    deserializer
        .end()
        .map_err(|error| Error::invalid("request body", format_args!("malformed JSON: {error}")))?;
    Ok(value)
}
