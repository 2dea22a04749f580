//! Authorization: what a registry asks for is told by its refusal, and asked for
//! at the place that it names.

use crate::{
    Credentials, Error, Mirror, Reference, Registries, aws,
    client::{Elsewhere, Http, message},
    login::{Login, header},
};
use http::{HeaderMap, HeaderValue, StatusCode, header::WWW_AUTHENTICATE};
use serde::Deserialize;

/// User name under which Google's registries take a key file.
const GCP_USER: &str = "_json_key";

impl Login {
    /// What the credentials amount to at a registry.
    pub(crate) async fn of(
        credentials: &Credentials,
        registries: &Registries,
        http: &Http,
    ) -> Result<Option<Self>, Error> {
        Ok(match credentials {
            Credentials::Anonymous => None,
            Credentials::Basic { username, password } => Some(Self {
                username: username.clone(),
                password: password.clone(),
            }),
            Credentials::Gcp {
                service_account_json,
            } => Some(Self {
                username: GCP_USER.to_owned(),
                password: service_account_json.clone(),
            }),
            Credentials::Aws {
                access_key_id,
                secret_access_key,
                region,
            } => {
                let endpoint = registries.aws_endpoint.as_deref();
                Some(aws::login(http, endpoint, access_key_id, secret_access_key, region).await?)
            }
        })
    }

    /// Ours at a mirror. The credentials for its registry are not its business.
    pub(crate) async fn at_mirror(mirror: &Mirror) -> Result<Option<Self>, Error> {
        let Some(username) = &mirror.username else {
            return Ok(None);
        };
        let password = match &mirror.password_file {
            Some(path) => tokio::fs::read_to_string(path)
                .await
                .map_err(Error::io("read", path))?,
            None => String::new(),
        };
        let password = password.lines().next().unwrap_or_default();
        Ok(Some(Self {
            username: username.clone(),
            password: password.into(),
        }))
    }
}

/// A challenge of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// The header that lets the reader in, after a refusal with these headers.
pub(crate) async fn answer(
    http: &Http,
    image: &Reference,
    registry: &str,
    refusal: &HeaderMap,
    login: Option<&Login>,
) -> Result<HeaderValue, Error> {
    let unauthorized = |why: String| Error::Unauthorized {
        registry: registry.to_owned(),
        image: image.repository.clone(),
        why,
    };
    let challenge = refusal
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| parse(value.to_str().ok()?))
        .next()
        .ok_or_else(|| unauthorized("it does not say how to log in".to_owned()))?;
    let (realm, service) = match challenge {
        Challenge::Basic => {
            let login =
                login.ok_or_else(|| unauthorized("it wants a name and a password".to_owned()))?;
            return login.basic();
        }
        Challenge::Bearer { realm, service } => (realm, service),
    };
    let url = token_url(&realm, service.as_deref(), image);
    let basic = login.map(Login::basic).transpose()?;
    let response = http
        .get(registry, &url, basic.as_ref(), "application/json", 0)
        .await?;
    let status = response.status();
    let elsewhere = response.extensions().get::<Elsewhere>().is_some();
    let body = http.read(registry, response).await?;
    if status != StatusCode::OK {
        return Err(unauthorized(message(status, &body, elsewhere)));
    }
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let token = serde_json::from_slice::<Answer>(&body)
        .ok()
        .and_then(|answer| answer.token.or(answer.access_token))
        .ok_or_else(|| unauthorized("its token service sent no token".to_owned()))?;
    header(&format!("Bearer {token}"))
}

/// Where to ask for a token that lets its bearer read the image.
fn token_url(realm: &str, service: Option<&str>, image: &Reference) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("scope", &format!("repository:{}:pull", image.repository));
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{separator}{}", query.finish())
}

/// Whether a registry's challenge is understood.
#[cfg(feature = "fuzzing")]
pub(crate) fn is_challenge(text: &str) -> bool {
    parse(text).is_some()
}

fn parse(text: &str) -> Option<Challenge> {
    let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = rest.trim();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, tail) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value.to_owned()),
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
        rest = tail.trim_start_matches([',', ' ']);
    }
    let realm = realm?;
    let http = realm.starts_with("https://") || realm.starts_with("http://");
    http.then_some(Challenge::Bearer { realm, service })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer =
            r#"Bearer realm="https://auth.example/token",service="r.example, x",scope="a:b:c""#;
        assert_eq!(
            parse(bearer),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: Some("r.example, x".to_owned()),
            })
        );
        assert_eq!(parse("basic realm=\"x\""), Some(Challenge::Basic));
        for text in [
            "Bearer",
            "Bearer realm=\"file:///etc/passwd\"",
            "Digest x=y",
            "Bearer realm=\"x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
