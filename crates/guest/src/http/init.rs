//! `POST /init`: what the orchestrator tells the agent after every start.
//!
//! The order matters: clock and entropy come first, so that no program of the
//! sandbox can run on stale ones once the new settings are in force. Each field
//! is optional, and what is absent stays as it is.
//!
//! Admission: free while no token is set; afterwards the request must present
//! the current token, either as its own `accessToken` or in the header. In the
//! second case `accessToken` may be a new one, which is how a copy of a sandbox
//! gets a token of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::{HttpError, Response, caller};
use crate::Agent;
use crate::boot::volumes::{self, VolumeMount};
use crate::settings::Settings;
use crate::sys::{clock, entropy};

/// The greatest body that is read. A bundle of certificates fits.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Body of `POST /init`. Unknown fields are ignored: newer orchestrators may
/// send more.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitRequest {
    /// Replaces the sandbox's variables as a whole.
    pub env_vars: Option<BTreeMap<String, String>>,
    pub access_token: Option<String>,
    /// RFC 3339.
    pub timestamp: Option<String>,
    pub default_user: Option<String>,
    pub default_workdir: Option<String>,
    /// Base64 of random bytes that nobody else was given.
    pub entropy: Option<String>,
    pub hostname: Option<String>,
    pub sandbox_id: Option<String>,
    pub template_id: Option<String>,
    /// 32 hexadecimal digits.
    pub machine_id: Option<String>,
    /// Where events go: the address of `events.e2b.local`.
    #[serde(rename = "hyperloopIP")]
    pub hyperloop_ip: Option<IpAddr>,
    /// Certificates, in PEM, that programs shall trust beside the usual ones.
    pub ca_bundle: Option<String>,
    /// Names one life of the sandbox. Nothing depends on it here.
    #[serde(rename = "lifecycleID")]
    pub lifecycle_id: Option<String>,
    /// All volumes that the sandbox is to have mounted. The answer waits for them.
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// Applies a request. The result has no body.
pub async fn handle(
    agent: &Agent,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response, HttpError> {
    let request = parse(body)?;
    let current = agent.settings.snapshot();
    if !admitted(&current, headers, &request) {
        return Err(HttpError::unauthorized(
            "access token is missing or does not match",
        ));
    }
    let entropy = request
        .entropy
        .as_deref()
        .map(|text| STANDARD.decode(text))
        .transpose()
        .map_err(|_| HttpError::bad_request("entropy is not base64"))?;
    let time = request
        .timestamp
        .as_deref()
        .map(|text| {
            clock::parse_rfc3339(text)
                .ok_or_else(|| HttpError::bad_request("timestamp is not an RFC 3339 time"))
        })
        .transpose()?;

    let volumes = request.volume_mounts.clone();
    if agent.config.manage_system {
        set_system(&request, time, entropy.as_deref());
        if let Some(volumes) = volumes {
            mount(volumes).await?;
        }
    } else if volumes.is_some_and(|volumes| !volumes.is_empty()) {
        return Err(HttpError::new(
            http::StatusCode::NOT_IMPLEMENTED,
            "volumes are mounted in guests alone",
        ));
    }
    agent.settings.change(|settings| -> Result<(), HttpError> {
        // Again under the lock: another request may have set a token meanwhile.
        if !admitted(settings, headers, &request) {
            return Err(HttpError::unauthorized(
                "access token is missing or does not match",
            ));
        }
        apply(settings, request);
        Ok(())
    })?;
    agent.begin_life();
    // Last: whatever was frozen goes on only under the new settings.
    super::internal::thaw(agent);
    let mut response = super::no_content();
    response.headers_mut().insert(
        "x-envd-version",
        http::HeaderValue::from_static(crate::ENVD_VERSION),
    );
    // How often the agent was replaced while it ran.
    response
        .headers_mut()
        .insert("x-envd-handover", agent.generation.into());
    Ok(response)
}

/// Mounts volumes before any program of the sandbox may look for them.
async fn mount(volumes: Vec<VolumeMount>) -> Result<(), HttpError> {
    let mounting = tokio::task::spawn_blocking(move || volumes::ensure(&volumes));
    match tokio::time::timeout(volumes::LIMIT, mounting).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) if error.kind() == std::io::ErrorKind::Unsupported => Err(
            HttpError::new(http::StatusCode::NOT_IMPLEMENTED, error.to_string()),
        ),
        Ok(Ok(Err(error))) => Err(HttpError::internal(format!(
            "cannot mount volumes: {error}"
        ))),
        Ok(Err(error)) => Err(HttpError::internal(error.to_string())),
        Err(_) => Err(HttpError::internal(format!(
            "cannot mount volumes: the node does not answer within {} s",
            volumes::LIMIT.as_secs()
        ))),
    }
}

/// An absent body says nothing. Other JSON than an object is refused, although
/// the fields could be read from an array.
pub fn parse(body: &[u8]) -> Result<InitRequest, HttpError> {
    let body = body.trim_ascii();
    match body.first() {
        None => Ok(InitRequest::default()),
        Some(b'{') => serde_json::from_slice(body)
            .map_err(|error| HttpError::bad_request(format!("invalid body: {error}"))),
        Some(_) => Err(HttpError::bad_request("invalid body: not a JSON object")),
    }
}

fn admitted(settings: &Settings, headers: &HeaderMap, request: &InitRequest) -> bool {
    settings.token_accepts(request.access_token.as_deref())
        || settings.token_accepts(caller::presented_token(headers))
}

fn apply(settings: &mut Settings, request: InitRequest) {
    if let Some(token) = request.access_token {
        settings.set_access_token(Some(token));
    }
    if let Some(env) = request.env_vars {
        settings.env = env;
    }
    if let Some(user) = request.default_user.filter(|user| !user.is_empty()) {
        settings.default_user = user;
    }
    if let Some(workdir) = request.default_workdir {
        settings.default_workdir = Some(workdir).filter(|workdir| !workdir.is_empty());
    }
    if let Some(address) = request.hyperloop_ip {
        settings.set_system_env("E2B_EVENTS_ADDRESS", format!("http://{address}"));
    }
    if let Some(id) = request.sandbox_id {
        settings.set_system_env("E2B_SANDBOX_ID", id);
    }
    if let Some(id) = request.template_id {
        settings.set_system_env("E2B_TEMPLATE_ID", id);
    }
}

/// The parts that belong to the guest, not to the agent. None of them is worth
/// refusing the rest for; each failure is logged.
fn set_system(request: &InitRequest, time: Option<SystemTime>, entropy: Option<&[u8]>) {
    let report = |what: &str, result: std::io::Result<()>| {
        if let Err(error) = result {
            tracing::error!(%error, what, "set up the guest failed");
        }
    };
    if let Some(bytes) = entropy {
        report("entropy", entropy::feed(bytes));
    }
    if let Some(time) = time.filter(|time| clock::must_set(SystemTime::now(), *time)) {
        report("clock", clock::set(time));
    }
    if let Some(name) = request.hostname.as_deref().filter(|name| !name.is_empty()) {
        report("hostname", crate::boot::identity::set_hostname(name));
    }
    if let Some(id) = &request.machine_id {
        report("machine id", crate::boot::identity::set_machine_id(id));
    }
    if let Some(address) = request.hyperloop_ip {
        report(
            "events host",
            crate::boot::identity::set_events_host(address),
        );
    }
    if let Some(bundle) = request
        .ca_bundle
        .as_deref()
        .filter(|bundle| !bundle.is_empty())
    {
        report("certificates", crate::boot::certificates::install(bundle));
    }
    let markers = [
        (".E2B_SANDBOX", Some("true")),
        (".E2B_SANDBOX_ID", request.sandbox_id.as_deref()),
        (".E2B_TEMPLATE_ID", request.template_id.as_deref()),
    ];
    for (name, value) in markers {
        if let Some(value) = value {
            report(
                "marker file",
                crate::boot::identity::write_marker(name, value),
            );
        }
    }
}
